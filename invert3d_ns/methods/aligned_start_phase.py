"""The phase in which the first aligned objects are made: from views of all of them that the prior samples as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.cancellation import Cancelled
from invert3d_ns.base.pictures import tile
from invert3d_ns.methods.start_phase import StartPhase
from invert3d_ns.runs.phase import Run, StepOutput
from invert3d_ns.scenes.blending import SameEverywhere
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world

if TYPE_CHECKING:
    from invert3d_ns.methods.aligned import AlignedPipeline
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.prior.unet import Latents, Timesteps

PICTURE = "Sampled views (a row for each object, then what lies between)"
"""What a run's events call the views that the first objects are fitted to."""
_SHOWN = 4


class AlignedStartPhase(StartPhase):
    """Samples views of every object, and of the middle of every edge, in one pass, and fits the scene in one step.

    All start from one noise, and settle on one structure before each becomes what it is: of a prior that drafts what
    words say, every object gets the draft of all prompts mixed; of another, every object's words are drawn to the mean
    of all, less and less, in the first part of the denoising. (The successor of A3D pulls the velocities of both
    objects to that of their middle, strongly at first, for the same end.) Views of an object that is given start from
    its own instead, noised.

    Args:
        pipeline: the scene, and the prompts.
    """

    title = "Making the first objects"
    pipeline: AlignedPipeline

    def __init__(self, pipeline: AlignedPipeline) -> None:
        super().__init__(pipeline)
        self._given: Float[Tensor, "F 3 H W"] | None = None
        self._weights = torch.tensor(pipeline.config.blends())

    def begin(self, run: Run, state: dict[str, Any] | None) -> None:
        """Sample the views.

        Raises:
            Cancelled: the run was asked to stop meanwhile.
        """
        settings = self.pipeline.config.start
        title = f"Sampling {settings.views} views of {len(self._weights)} objects and what lies between them"
        with run.timed("views"), run.progress(title) as progress, self.pipeline.prior.use() as prior:
            steps = settings.sampling_steps or prior.info.sampling_steps

            def report(index: int, latents: Tensor) -> None:
                progress(index + 1, steps)
                if run.should_stop():
                    raise Cancelled

            self._views = self._sample(prior, steps, run, report)
        shown = self._views[:, :: max(self._views.shape[1] // _SHOWN, 1)][:, :_SHOWN]
        run.show_picture(PICTURE, tile(shown.flatten(0, 1), shown.shape[1], least=96))

    @torch.no_grad()
    def _sample(self, prior: MultiViewPrior, steps: int, run: Run, report: Any) -> Float[Tensor, "P F 3 H W"]:
        from invert3d_ns.prior.sampling import count_steps, denoise, start_noise

        settings, count = self.pipeline.config.start, len(self._weights)
        azimuths, elevations = self.orbit()
        cameras = camera_condition(azimuths, elevations).to(prior.device).expand(count, -1, -1)
        noise = start_noise(prior, settings.views, [run.seed] * count)
        given = self._given_latents(prior)
        strength = settings.strength if given is not None else 1.0
        taken, done = count_steps(steps, strength), 0

        def predict(noisy: Latents, t: Timesteps) -> Latents:
            drawn = self.pipeline.drawn_together(prior, done / taken)
            conditions = self.pipeline.conditions(prior, settings.guidance_scale, self._weights, drawn=drawn)
            return conditions.predict(prior, noisy, t, cameras)

        def count_and_report(index: int, latents: Tensor) -> None:
            nonlocal done
            done = index + 1
            report(index, latents)

        start = None
        if given is not None:
            start = lambda t: prior.add_noise(given.expand(count, -1, -1, -1, -1), noise, t)  # noqa: E731
        latents = denoise(prior, noise, predict, steps=steps, strength=strength, start=start, callback=count_and_report)
        found = torch.stack([prior.decode_latents(some) for some in latents])
        if self._given is not None:  # it is what it is
            found[self._weights[:, 0] == 1] = self._given.to(found)
        return found

    def _given_latents(self, prior: MultiViewPrior) -> Latents | None:
        """Latents of the views of the object that is given; None where there is none."""
        if not self.pipeline.has_start():
            return None
        from invert3d_ns.scenes.rendering import render_orbit

        azimuths, elevations = self.orbit()
        cloud = self.pipeline.model.cloud().to(self.pipeline.device)
        self._given = render_orbit(cloud, azimuths, elevations, self.pipeline.view_size)
        return prior.encode_images(self._given[None].to(prior.device))

    def step(self, run: Run, index: int) -> StepOutput:
        """Fit the objects."""
        from invert3d_ns.base.metrics import psnr

        assert self._views is not None, "begin() comes first"
        pipeline, settings = self.pipeline, self.pipeline.config.start
        poses = orbit_camera_to_world(*self.orbit())
        views = self._views.to(pipeline.device)
        with run.progress("Fitting all objects together") as progress:
            pipeline.model.fit_views(
                views,
                self._weights,
                poses,
                count=settings.splats,
                steps=settings.fit_steps,
                seed=run.seed,
                keep_first=pipeline.has_start(),
                progress=progress,
            )
        with torch.no_grad():
            drawn = []
            for weights in self._weights:
                with pipeline.model.at(SameEverywhere.of(weights)):
                    drawn.append(pipeline.model.render_to_train(poses, views.shape[-1])[0].clamp(0, 1))
        found = torch.stack(drawn)
        return StepOutput((found - views).square().mean(), metrics={"psnr": psnr(found, views)})
