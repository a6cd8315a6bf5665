"""The phase in which a prompt's first splats are made: from views that the prior samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.cancellation import Cancelled
from invert3d_ns.base.pictures import tile
from invert3d_ns.runs.phase import Phase, Run, StepOutput
from invert3d_ns.runs.resume import flags_of
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world

if TYPE_CHECKING:
    from invert3d_ns.methods.text_to_splats import TextToSplatsPipeline

PICTURE = "Sampled views"
"""What a run's events call the views that the first splats are fitted to."""


class StartPhase(Phase):
    """Samples views of the prompt in one pass, and fits the pipeline's splats to them in one step.

    Args:
        pipeline: the scene, and the words.
    """

    name, title, steps = "start", "Making the first splats", 1

    def __init__(self, pipeline: TextToSplatsPipeline) -> None:
        self.pipeline = pipeline
        self._views: Float[Tensor, "F 3 H W"] | None = None

    def settings_key(self) -> dict[str, Any]:
        """The words, the prior, and how the views are sampled."""
        return {**self.pipeline.words_settings(), **flags_of(self.pipeline.config.start, "--pipeline.start")}

    def begin(self, run: Run, state: dict[str, Any] | None) -> None:
        """Sample the views.

        Raises:
            Cancelled: the run was asked to stop meanwhile.
        """
        settings = self.pipeline.config.start
        azimuths, elevations = self.orbit()
        title = f"Sampling {settings.views} views of {self.pipeline.prompt!r}"
        with run.timed("views"), run.progress(title) as progress, self.pipeline.prior.use() as prior:
            steps = settings.sampling_steps or prior.info.sampling_steps

            def report(index: int, latents: Tensor) -> None:
                progress(index + 1, steps)
                if run.should_stop():
                    raise Cancelled

            conditions = self.pipeline.conditions(prior, settings.guidance_scale)
            cameras = camera_condition(azimuths, elevations)[None]
            views = prior.sample(conditions, cameras, steps=steps, seed=run.seed, callback=report)
        self._views = views[0]
        run.show_picture(PICTURE, tile(self._views))

    def step(self, run: Run, index: int) -> StepOutput:
        """Fit the splats."""
        from invert3d_ns.base.metrics import psnr
        from invert3d_ns.scenes.fitting import fit_splats
        from invert3d_ns.scenes.rendering import render_orbit

        assert self._views is not None, "begin() comes first"
        settings = self.pipeline.config.start
        azimuths, elevations = self.orbit()
        views = self._views.to(self.pipeline.device)
        poses = orbit_camera_to_world(azimuths, elevations)
        cloud = fit_splats(views, poses, count=settings.splats, steps=settings.fit_steps, seed=run.seed)
        self.pipeline.model.adopt(cloud)
        drawn = render_orbit(cloud, azimuths, elevations, views.shape[-1], supersampling=1)
        return StepOutput((drawn - views).square().mean(), metrics={"psnr": psnr(drawn, views)})

    def observe(self, run: Run, index: int) -> None:
        """Show the splats."""
        run.redraw(now=True)

    def orbit(self) -> tuple[Float[Tensor, " F"], Float[Tensor, " F"]]:
        """Azimuths and elevations of the views."""
        settings = self.pipeline.config.start
        count = settings.views
        elevations = torch.tensor(settings.elevations)[torch.arange(count) % 2]
        return torch.arange(count) * (360.0 / count), elevations
