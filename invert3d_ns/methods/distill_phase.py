"""The phase in which splats follow a prompt: rendered from random cameras, pulled to what the prior makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from torch import Tensor
from torch.nn import functional

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.pictures import tile
from invert3d_ns.base.random import global_stream, random_stream
from invert3d_ns.guidance.configs import guidance_name
from invert3d_ns.prior.out_of_memory import explain_out_of_memory
from invert3d_ns.runs.phase import Phase, Run, StepOutput
from invert3d_ns.runs.resume import flags_of
from invert3d_ns.runs.splat_fit import falling_optimizers
from invert3d_ns.scenes.cameras import FOV_Y, camera_condition, orbit_camera_to_world, random_orbit

if TYPE_CHECKING:
    from invert3d_ns.guidance.base import Guidance
    from invert3d_ns.methods.text_to_splats import TextToSplatsPipeline
    from invert3d_ns.scenes.training_views import RendersToTrain

PICTURE = "Guidance (views above, what they are pulled towards below)"
"""What a run's events call pictures of what guides."""


@dataclass(frozen=True)
class Look:
    """Views of the splats from the random cameras of one step."""

    images: Float[Tensor, "B F 3 S S"]
    """RGB over the background, at the size that the prior encodes."""
    depths: Float[Tensor, "N 1 s s"]
    """World units; 0 where nothing is seen."""
    cameras: Float[Tensor, "B F 16"]
    generator: torch.Generator
    """For whatever else the step draws."""


class DistillPhase(Phase):
    """Optimizes the pipeline's splats under guidance.

    Args:
        pipeline: the scene, and the words, which may change meanwhile.
        steps: how many.
    """

    name, title = "distill", "Following the prompt"

    def __init__(self, pipeline: TextToSplatsPipeline, steps: int) -> None:
        self.pipeline, self.steps = pipeline, steps
        self.guidance: Guidance | None = None
        self._look: Look | None = None
        self._words: tuple[str, str] = ("", "")
        self._seed = 0

    def settings_key(self) -> dict[str, Any]:
        """The words that it began with, the prior, the guidance, and how splats are looked at."""
        config = self.pipeline.config
        return {
            **self.pipeline.words_settings(),
            "--pipeline.steps": self.steps,
            "the guidance": guidance_name(config.guidance),
            **flags_of(config.guidance, "--pipeline.guidance"),
            **flags_of(config.cameras, "--pipeline.cameras"),
            **flags_of(config.regularize, "--pipeline.regularize"),
            "--pipeline.densify": config.densify,
        }

    def begin(self, run: Run, state: dict[str, Any] | None) -> None:
        """Make the guidance; a resumed run goes on with the words and the densification that it had come to."""
        pipeline = self.pipeline
        self._seed = run.seed
        if state is not None:
            pipeline.change_words(state["prompt"], state["negative_prompt"])
            pipeline.model.restore_densification(state["densification"])
        # Splatfacto waits for a turn of all its images, and there are none.
        pipeline.model.strategy.pause_refine_after_reset = pipeline.config.model.refine_every
        with run.lock, pipeline.prior.use() as prior:
            self.guidance = pipeline.config.guidance.setup(prior=prior, conditions=pipeline.conditions(prior))
            self._words = pipeline.words

    def optimizers(self, configured: dict[str, Any]) -> Optimizers:
        """The configured optimizer of each group of the splats' parameters; its rate falls to a tenth."""
        return optimizers_of_splats(self.pipeline, configured, self.steps)

    def losses(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The guidance's terms and the regularizers' at step ``index``."""
        guidance, pipeline, weights = self._guide(), self.pipeline, self.pipeline.config.regularize
        look = self._look = self.look(index, densify=pipeline.config.densify)
        with pipeline.prior.use():
            terms = guidance.loss(look.images, look.cameras, look.generator, progress=index / max(self.steps, 1))
        if weights.tv:
            terms["tv"] = weights.tv * total_variation(look.images.flatten(0, 1))
        if weights.depth_tv:
            inverse = torch.where(look.depths > 0, 1 / look.depths.clamp_min(1e-3), 0.0)
            terms["depth_tv"] = weights.depth_tv * total_variation(inverse)
        if weights.scale:
            terms["scale"] = weights.scale * pipeline.model.scales.exp().mean()
        report = guidance.report
        return terms, {} if report is None else {"timestep": report.timesteps.float().mean()}

    def orbits(self, index: int) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F"], torch.Generator]:
        """Azimuths and elevations of the cameras of step ``index``, and what else is drawn for it."""
        settings = self.pipeline.config.cameras
        generator = random_stream("views of a distillation", self._seed, index)
        return *random_orbit(settings.groups, settings.views, generator=generator), generator

    def look(self, index: int, *, densify: bool = False) -> Look:
        """Render the views of step ``index``: everything random in it is of its own stream."""
        settings = self.pipeline.config.cameras
        scene: RendersToTrain = self.pipeline.model
        azimuths, elevations, generator = self.orbits(index)
        share, dice = torch.rand(2, generator=generator).tolist()
        zoom = settings.zoom[0] + share * (settings.zoom[1] - settings.zoom[0])
        color = torch.rand(3, generator=generator)
        normal = float(torch.randn((), generator=generator))
        size = fine = self.pipeline.view_size
        if index < settings.coarse * self.steps:
            size = fine // 2
        samples = settings.supersampling
        images, _, depths = scene.render_to_train(
            orbit_camera_to_world(azimuths, elevations).flatten(0, 1),
            size * samples,
            background=color if dice < settings.background else 1.0,
            scale_factor=max(1 + settings.scale_noise * normal, 0.3),
            fov_y=math.degrees(2 * math.atan(math.tan(math.radians(FOV_Y) / 2) / zoom)),
            densify=densify,
        )
        images = functional.avg_pool2d(images, samples)
        if size != fine:
            images = functional.interpolate(images, size=fine, mode="bilinear", antialias=True)
        cameras = camera_condition(azimuths, elevations)
        return Look(images.unflatten(0, azimuths.shape), depths, cameras, generator)

    def step(self, run: Run, index: int) -> StepOutput:
        """One of nerfstudio's iterations, between the model's callbacks, which densify and prune.

        Raises:
            InputError: the loss is not a number any more; the last checkpoint stays.
        """
        pipeline = self.pipeline
        pipeline.train()
        if pipeline.words != self._words:  # somebody changed them in the viewer
            with pipeline.prior.use() as prior:
                self._guide().follow(pipeline.conditions(prior))
            self._words = pipeline.words
        self._call(run, index, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        with explain_out_of_memory("sampling", pipeline.config.prior_options):
            output = run.iterate(index)
        if not bool(torch.as_tensor(output.loss).isfinite()):
            raise self._no_number(index)
        if pipeline.config.densify:
            with global_stream("splats that are split", torch.device(pipeline.device), self._seed, index):
                self._call(run, index, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
        return output

    def _call(self, run: Run, index: int, where: TrainingCallbackLocation) -> None:
        # Counted from 1: at step 0 the strategy takes the opacity of splats that are good already.
        for callback in run.callbacks:
            callback.run_callback_at_location(index + 1, where)

    def _no_number(self, index: int) -> InputError:
        return InputError(
            f"the loss is not a number at step {index + 1} of {self.title.lower()}; the last checkpoint is as it was: "
            "start again with less --pipeline.guidance.guidance-scale, or with lower learning rates (--optimizers)"
        )

    def observe(self, run: Run, index: int) -> None:
        """Show the splats, and now and then what guides them."""
        run.update_viewer()
        run.redraw()
        every = self.pipeline.config.preview_every
        if every and (index + 1) % every == 0:
            run.show_picture(PICTURE, self.picture())

    @torch.no_grad()
    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """The views of the latest step above what they were pulled towards; the UNet is not asked again."""
        look, report = self._look, self._guide().report
        assert look is not None and report is not None
        with self.pipeline.prior.use() as prior:
            target = prior.decode_latents(report.target_latents[:1])
        return tile(torch.cat([look.images[0].detach().clamp(0, 1), target[0].to(look.images)]), look.images.shape[1])

    def status(self) -> Sequence[str]:
        """What it follows."""
        return (f"Prompt: {self.pipeline.prompt}",)

    def _guide(self) -> Guidance:
        assert self.guidance is not None, "begin() comes first"
        return self.guidance

    def state_dict(self) -> dict[str, Any]:
        """The words as they are now, and densification.

        Raises:
            InputError: a splat is not a number any more: no such checkpoint is written.
        """
        parameters = self.pipeline.model.gauss_params.values()
        if not all(bool(parameter.isfinite().all()) for parameter in parameters):
            raise self._no_number(self.steps - 1)
        prompt, negative = self.pipeline.words
        return {
            "prompt": prompt,
            "negative_prompt": negative,
            "densification": dict(self.pipeline.model.strategy_state),
        }


def total_variation(images: Float[Tensor, "N c H W"]) -> Float[Tensor, ""]:
    """Mean absolute difference of neighboring pixels, along rows and columns."""
    return images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()


def optimizers_of_splats(pipeline: TextToSplatsPipeline, configured: dict[str, Any], steps: int) -> Optimizers:
    """The configured optimizers of a pipeline's splats, with rates that fall over ``steps``."""
    groups = {name: list(group) for name, group in pipeline.get_param_groups().items() if name != "camera_opt"}
    return falling_optimizers(groups, configured, steps)
