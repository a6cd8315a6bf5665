"""The last phase of a text to splats: views of them are edited in several steps, and they are fitted to these.

GE3D, section 7.2. Distillation moves splats by one gradient at a time and leaves edges soft; views that were denoised
to the end have them, and agree as far as the splats that they come from do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from nerfstudio.engine.optimizers import Optimizers
from torch import Tensor

from invert3d_ns.base.cancellation import Cancelled
from invert3d_ns.base.metrics import ssim
from invert3d_ns.base.pictures import tile
from invert3d_ns.base.random import random_stream
from invert3d_ns.methods.distill_phase import optimizers_of_splats
from invert3d_ns.runs.phase import Phase, Run, StepOutput
from invert3d_ns.runs.resume import flags_of
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world

if TYPE_CHECKING:
    from invert3d_ns.methods.text_to_splats import TextToSplatsPipeline
    from invert3d_ns.prior.conditions import Conditions
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.prior.view_prompts import ViewPrompts
    from invert3d_ns.scenes.training_views import RendersToTrain

PICTURE = "Reconstruction (splats above, denoised views below)"
"""What a run's events call the views that the splats are fitted to."""
RING = 8
"""Views of a ring, which are denoised together."""
ELEVATIONS = (0.0, 20.0, -15.0, 35.0)
"""Degrees from which rings look down, one after the other."""
SSIM_WEIGHT = 0.2


class ReconstructPhase(Phase):
    """Fits the pipeline's splats to views of themselves that the prior has denoised.

    Args:
        pipeline: the scene, and the words.
        steps: of the fit.
    """

    name, title = "reconstruct", "Fitting splats to denoised views"

    def __init__(self, pipeline: TextToSplatsPipeline, steps: int) -> None:
        self.pipeline, self.steps = pipeline, steps
        self.targets: Float[Tensor, "V 3 S S"] | None = None
        azimuths, elevations = _rings(pipeline.config.reconstruct.views)
        self.azimuths, self.elevations = azimuths, elevations

    def settings_key(self) -> dict[str, Any]:
        """The words, the prior, and how the views are denoised."""
        return {
            **self.pipeline.words_settings(),
            **flags_of(self.pipeline.config.reconstruct, "--pipeline.reconstruct"),
            "--pipeline.reconstruct.steps": self.steps,
        }

    def begin(self, run: Run, state: dict[str, Any] | None) -> None:
        """Render and denoise the views, unless that is done.

        Raises:
            Cancelled: the run was asked to stop meanwhile.
        """
        if state is not None:
            self.targets = state["targets"].to(self.pipeline.device)
            return
        before, after = [], []
        with run.timed("views"), run.progress("Denoising views of the splats") as progress:
            for index in range(len(self.azimuths)):
                with run.lock:
                    views = self.render(index).detach().clamp(0, 1)
                before.append(views)
                after.append(self.denoise(views, index, run.seed))
                progress(index + 1, len(self.azimuths))
                if run.should_stop():
                    raise Cancelled
        self.targets = torch.cat(after)
        run.show_picture(PICTURE, tile(torch.cat([before[0], after[0]]), len(before[0])))

    @torch.no_grad()
    def denoise(self, views: Float[Tensor, "F 3 S S"], ring: int, seed: int) -> Float[Tensor, "F 3 S S"]:
        """Views of a ring after a trajectory up without guidance and down with it, RGB in [0, 1]."""
        from invert3d_ns.guidance.trajectories import edit_along, start_noise

        settings = self.pipeline.config.reconstruct
        cameras = camera_condition(self.azimuths[ring], self.elevations[ring])[None]
        with self.pipeline.prior.use() as prior:
            top = min(round(settings.strength * prior.num_timesteps), prior.num_timesteps - 1)
            nodes = torch.linspace(0, top, settings.jumps + 1).round().int().unique().tolist()
            latents = prior.encode_images(views[None])
            noise = start_noise(latents, random_stream("views to reconstruct", seed, ring))
            conditions = self.conditions_of(prior, ring)
            unguided, cameras = conditions.unguided(), cameras.to(latents.device)
            _, edited = edit_along(prior, unguided, conditions, latents, noise, nodes, cameras)
            return prior.decode_latents(edited[0])[0].to(views)

    def optimizers(self, configured: dict[str, Any]) -> Optimizers:
        """The configured optimizer of each group of the splats' parameters; its rate falls to a tenth."""
        return optimizers_of_splats(self.pipeline, configured, self.steps)

    def losses(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Absolute error and structural dissimilarity of one ring of views."""
        assert self.targets is not None, "begin() comes first"
        ring = index % len(self.azimuths)
        drawn = self.render(ring)
        target = self.targets[ring * RING : (ring + 1) * RING]
        error = (drawn - target).abs().mean()
        return {"l1": (1 - SSIM_WEIGHT) * error, "ssim": SSIM_WEIGHT * (1 - ssim(drawn.clamp(0, 1), target))}, {}

    def conditions_of(self, prior: MultiViewPrior, ring: int) -> Conditions | ViewPrompts:
        """The words that a ring is denoised under."""
        return self.pipeline.conditions(prior, self.pipeline.config.reconstruct.guidance_scale)

    def render(self, ring: int) -> Float[Tensor, "F 3 S S"]:
        """Views of a ring as the splats are now, at the size that the prior sees."""
        from torch.nn.functional import avg_pool2d

        samples, size = self.pipeline.config.cameras.supersampling, self.pipeline.view_size
        poses = orbit_camera_to_world(self.azimuths[ring], self.elevations[ring])
        scene: RendersToTrain = self.pipeline.model
        return avg_pool2d(scene.render_to_train(poses, size * samples)[0], samples)

    def step(self, run: Run, index: int) -> StepOutput:
        """One of nerfstudio's iterations; splats are neither added nor removed."""
        self.pipeline.train()
        return run.iterate(index)

    def observe(self, run: Run, index: int) -> None:
        """Show the splats."""
        run.update_viewer()
        run.redraw()

    def state_dict(self) -> dict[str, Any]:
        """The denoised views."""
        assert self.targets is not None, "begin() comes first"
        return {"targets": self.targets.cpu()}


def _rings(views: int) -> tuple[Float[Tensor, "R F"], Float[Tensor, "R F"]]:
    """Azimuths and elevations of rings of eight views, each turned against the one before."""
    rings = max(round(views / RING), 1)
    turns = torch.arange(rings)[:, None] * (180.0 / RING)
    azimuths = torch.arange(RING) * (360.0 / RING) + turns
    heights = torch.tensor(ELEVATIONS)[torch.arange(rings) % len(ELEVATIONS)]
    return azimuths, heights[:, None].expand(rings, RING)
