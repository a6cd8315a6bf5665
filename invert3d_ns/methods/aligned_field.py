"""Several objects in one radiance field, as A3D has them: the field is trained, and aligned splats are fitted to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from invert3d_ns.base.metrics import ssim
from invert3d_ns.base.ranges import at_least
from invert3d_ns.methods.aligned import AlignedConfig, AlignedPipeline
from invert3d_ns.methods.aligned_phases import AlignedDistillPhase, AlignedReconstructPhase
from invert3d_ns.methods.aligned_settings import AlignedStartSettings, AlignedTrainerConfig
from invert3d_ns.methods.aligned_start_phase import AlignedStartPhase
from invert3d_ns.methods.distill_phase import Look
from invert3d_ns.methods.reconstruct_phase import RING
from invert3d_ns.runs.phase import Phase, Run, StepOutput
from invert3d_ns.runs.splat_fit import rates
from invert3d_ns.scenes.blending import SameEverywhere
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world
from invert3d_ns.scenes.field_regularizers import normal_smoothness, orientation_loss
from invert3d_ns.scenes.field_scene import FieldSceneModel, FieldSceneModelConfig
from invert3d_ns.scenes.rendering import render_splats
from invert3d_ns.scenes.shading import Lighting, random_lights, random_shading

if TYPE_CHECKING:
    from nerfstudio.engine.optimizers import Optimizers

    from invert3d_ns.prior.multiview import MultiViewPrior

ANCHOR = 100.0
"""Weight of the error of an object that is given: beside a gradient that is summed over latents."""


@dataclass
class FieldSettings:
    """What a radiance field needs besides."""

    shade_from: Annotated[float, at_least(0, 1)] = 1.0
    """Share of the steps after which views are lit at random; 1: never, since the bundled prior has seen little light.
    Official code: 0.5."""
    orientation: Annotated[float, at_least(0)] = 0.0
    """Weight of normals that turn away from the camera. Official code: 10, rising to 1000."""
    smooth_normals: Annotated[float, at_least(0)] = 0.0
    """Weight of differences between neighboring normals. Official code: 10 for a pair."""
    splats: Annotated[int, at_least(10)] = 3000
    """Splats that are fitted to the finished field, for each object."""
    splat_steps: Annotated[int, at_least(1)] = 250
    """Steps of that fit."""


@dataclass
class AlignedFieldConfig(AlignedConfig):
    """Make several objects from as many prompts in one radiance field, part by part alike, and all between them."""

    _target: type = field(default_factory=lambda: AlignedFieldPipeline)
    model: FieldSceneModelConfig = field(default_factory=lambda: FieldSceneModelConfig(sh_degree=0, num_random=100))
    """The field, and the splats that are fitted to it."""
    start: AlignedStartSettings = field(default_factory=lambda: AlignedStartSettings(fit_steps=1200))
    """The first objects."""
    field: FieldSettings = field(default_factory=FieldSettings)
    """What the field needs besides."""


def aligned_field(method_name: str) -> AlignedTrainerConfig:
    """The configuration of a method that makes aligned objects as a radiance field."""
    return AlignedTrainerConfig(
        method_name=method_name, pipeline=AlignedFieldConfig(), optimizers=rates(features=1e-2, heads=1e-3)
    )


class AlignedFieldPipeline(AlignedPipeline):
    """A radiance field over places and weights, and the prompts that its objects follow."""

    config: AlignedFieldConfig
    model: FieldSceneModel
    least_prompts = 1

    def make_phases(self, prior: MultiViewPrior) -> list[Phase]:
        """See :meth:`AlignedPipeline.make_phases`; a last phase fits splats to the field."""
        phases: list[Phase] = []
        if self.has_start() or self.start_kind(prior) == "views":
            phases.append(AlignedStartPhase(self))
        if steps := self.guided_steps(prior):
            phases.append(FieldDistillPhase(self, steps))
        if self.fit_steps(prior):
            phases.append(FieldReconstructPhase(self))
        return [*phases, FieldSplatsPhase(self)] if phases else []

    def check_cameras(self, prior: MultiViewPrior) -> None:
        """Keep the given object at hand, besides what :meth:`AlignedPipeline.check_cameras` refuses."""
        super().check_cameras(prior)
        self.given = self.model.cloud() if self.has_start() else None


class FieldDistillPhase(AlignedDistillPhase):
    """Optimizes the field under guidance at one random point of the simplex a step; a given object is held by renders.

    Args:
        pipeline: the scene, and the prompts.
        steps: how many.
    """

    pipeline: AlignedFieldPipeline
    rolls_away_from_given = False

    def settings_key(self) -> dict[str, Any]:
        """As of splats, and what the field needs besides."""
        from invert3d_ns.runs.resume import flags_of

        return {**super().settings_key(), **flags_of(self.pipeline.config.field, "--pipeline.field")}

    def losses(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The guidance's terms and the field's regularizers, or the error of the object that is given."""
        pipeline = self.pipeline
        pipeline.model.begin_step(self._seed, index)
        weights = self.weights(index)
        if pipeline.given is not None and weights[0] == 1:
            return self._anchor(index), {}
        self._terms: dict[str, Tensor] = {}
        terms, metrics = super().losses(index)
        return {**terms, **self._terms}, metrics

    def look(self, index: int, *, densify: bool = False) -> Look:
        """Render the views of step ``index`` as :class:`DistillPhase` does, lit in its turn, and regularize normals."""
        settings = self.pipeline.config.field
        lit = index >= settings.shade_from * self.steps
        if not (lit or settings.orientation or settings.smooth_normals):
            return super().look(index)
        size = self.pipeline.view_size
        azimuths, elevations, generator = self.orbits(index)
        poses = orbit_camera_to_world(azimuths, elevations).flatten(0, 1)
        lighting = Lighting(random_shading(generator), random_lights(poses[:, :3, 3], generator)) if lit else None
        nerf = self.pipeline.model.nerf
        views = nerf.draw_to_train(poses, size, lighting=lighting, normals=True)
        found = views.drawn.sample_normals
        if settings.orientation and found is not None:
            seen = int((views.alpha > 0.01).sum())
            self._terms["orientation"] = settings.orientation * orientation_loss(
                views.drawn.weights, found, views.directions, seen
            )
        if settings.smooth_normals and views.normals is not None:
            self._terms["normals"] = settings.smooth_normals * normal_smoothness(views.normals)
        images = views.rgb.unflatten(0, azimuths.shape)
        return Look(images, views.depth, camera_condition(azimuths, elevations), generator)

    def _anchor(self, index: int) -> dict[str, Tensor]:
        """How far the first object is from the one that is given, in the views of this step."""
        given = self.pipeline.given
        assert given is not None
        poses = orbit_camera_to_world(*self.orbits(index)[:2]).flatten(0, 1)
        size = self.pipeline.view_size
        with torch.no_grad():
            truth = render_splats(given.to(self.pipeline.device), poses, size, supersampling=2)[0].clamp(0, 1)
        with self.pipeline.model.at(SameEverywhere.of(self.weights(index))):
            drawn = self.pipeline.model.render_to_train(poses, size)[0]
        return {"given": ANCHOR * ((drawn - truth).abs().mean() + 0.2 * (1 - ssim(drawn.clamp(0, 1), truth)))}


class FieldReconstructPhase(AlignedReconstructPhase):
    """Fits the field to denoised views of every object and every middle, in random rays, in one step."""

    pipeline: AlignedFieldPipeline

    def __init__(self, pipeline: AlignedFieldPipeline) -> None:
        super().__init__(pipeline, 1)
        self._seed = 0

    def begin(self, run: Run, state: dict[str, Any] | None) -> None:
        """See :meth:`ReconstructPhase.begin`."""
        self._seed = run.seed
        super().begin(run, state)

    def render(self, ring: int) -> Float[Tensor, "F 3 S S"]:
        """This ring's views of its blend."""
        poses = orbit_camera_to_world(self.azimuths[ring], self.elevations[ring])
        with self.pipeline.model.at(SameEverywhere.of(self.weights[ring])):
            rgb, alpha, _ = self.pipeline.model.nerf.renderer()(poses, 2 * self.pipeline.view_size)
        return functional.avg_pool2d(rgb + 1 - alpha, 2)

    def optimizers(self, configured: dict[str, Any]) -> Optimizers:
        """None: the fit has its own."""
        return Phase.optimizers(self, configured)

    def step(self, run: Run, index: int) -> StepOutput:
        """Fit the field to the views of all rings; views of a given object are its own."""
        from invert3d_ns.scenes.field_fitting import fit_field

        pipeline = self.pipeline
        assert self.targets is not None, "begin() comes first"
        targets = self.targets.unflatten(0, (-1, RING)).to(pipeline.device)
        poses = orbit_camera_to_world(self.azimuths, self.elevations)
        weights = self.weights
        if pipeline.given is not None:
            rings = torch.arange(self.rings) * (len(weights) // self.rings)
            given, turns = pipeline.given.to(pipeline.device), poses[rings]
            own = render_splats(given, turns.flatten(0, 1), targets.shape[-1], supersampling=2)[0].clamp(0, 1)
            targets = torch.cat([targets, own.unflatten(0, (-1, RING))])
            poses = torch.cat([poses, turns])
            first = torch.zeros(len(rings), weights.shape[1])
            first[:, 0] = 1
            weights = torch.cat([weights, first])
        with run.progress("Fitting the field to denoised views") as progress:
            fit_field(
                pipeline.model.nerf, targets, poses, weights,
                steps=pipeline.config.start.fit_steps, seed=self._seed + 1, progress=progress,
            )  # fmt: skip
        return StepOutput(torch.zeros(()))


class FieldSplatsPhase(Phase):
    """Fits aligned splats to the finished field: what every other command takes."""

    name, title, steps = "splats", "Fitting splats to the field", 1

    def __init__(self, pipeline: AlignedFieldPipeline) -> None:
        self.pipeline = pipeline

    def settings_key(self) -> dict[str, Any]:
        """How many splats, and how long."""
        settings = self.pipeline.config.field
        return {"--pipeline.field.splats": settings.splats, "--pipeline.field.splat-steps": settings.splat_steps}

    def step(self, run: Run, index: int) -> StepOutput:
        """Fit them."""
        pipeline, settings = self.pipeline, self.pipeline.config.field
        with run.progress("Fitting splats to the field") as progress:
            pipeline.model.fit_splats(
                torch.tensor(pipeline.config.blends()), size=pipeline.view_size, count=settings.splats,
                steps=settings.splat_steps, seed=run.seed, progress=progress,
            )  # fmt: skip
        return StepOutput(torch.zeros(()))
