"""Phases in which aligned objects follow their prompts: at random points of the simplex, and in the last fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.random import random_stream
from invert3d_ns.methods.distill_phase import DistillPhase
from invert3d_ns.methods.reconstruct_phase import ReconstructPhase
from invert3d_ns.scenes.blending import SameEverywhere, draw_weights

if TYPE_CHECKING:
    from invert3d_ns.methods.aligned import AlignedPipeline


class AlignedDistillPhase(DistillPhase):
    """Optimizes the scene under guidance at one random point of the simplex a step, under prompts mixed alike.

    Args:
        pipeline: the scene, and the prompts.
        steps: how many.
    """

    title = "Following the prompts"
    pipeline: AlignedPipeline
    rolls_away_from_given = True
    """Whether a given object, which stays in any case, is never looked at by itself."""

    def settings_key(self) -> dict[str, Any]:
        """As of one object, and where on the simplex it looks."""
        config = self.pipeline.config
        own = {"--pipeline.interior": config.interior, "--pipeline.moved": config.moved}
        return {**super().settings_key(), **own}

    def weights(self, index: int) -> Float[Tensor, " K"]:
        """The point of the simplex of step ``index``."""
        config, objects = self.pipeline.config, len(self.pipeline.prompts)
        generator = random_stream("points of the simplex", self._seed, index)
        weights = draw_weights(objects, generator, edge=config.edge, interior=config.interior)
        if self.rolls_away_from_given and self.pipeline.has_start() and weights[0] == 1:
            weights = weights.roll(1 + index % (objects - 1))
        return weights

    def losses(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The guidance's terms at step ``index``, and how far splats lie from where they are in all objects."""
        pipeline = self.pipeline
        weights = self.weights(index)
        with pipeline.prior.use() as prior:
            self._guide().follow(pipeline.conditions(prior, weights=weights[None]))
        with pipeline.model.at(SameEverywhere.of(weights)):
            terms, metrics = super().losses(index)
        if pipeline.config.moved:
            terms["moved"] = pipeline.config.moved * pipeline.model.moved()
        return terms, metrics

    def status(self) -> Sequence[str]:
        """What it follows."""
        return tuple(f"Prompt {number}: {prompt}" for number, prompt in enumerate(self.pipeline.prompts, 1))


class AlignedReconstructPhase(ReconstructPhase):
    """Fits the scene to views of every object, and of the middle of every edge, that the prior has denoised.

    Args:
        pipeline: the scene, and the prompts.
        steps: of the fit.
    """

    title = "Fitting the objects to denoised views"
    pipeline: AlignedPipeline

    def __init__(self, pipeline: AlignedPipeline, steps: int) -> None:
        super().__init__(pipeline, steps)
        blends = torch.tensor(pipeline.config.blends())
        if pipeline.has_start():
            blends = blends[blends[:, 0] < 1]
        self.rings = len(self.azimuths)
        self.weights = blends.repeat(self.rings, 1)
        self.azimuths = self.azimuths.repeat_interleave(len(blends), 0)
        self.elevations = self.elevations.repeat_interleave(len(blends), 0)

    def conditions_of(self, prior: Any, ring: int) -> Any:
        """The prompts, mixed as this ring's object is."""
        scale = self.pipeline.config.reconstruct.guidance_scale
        return self.pipeline.conditions(prior, scale, self.weights[ring][None])

    def render(self, ring: int) -> Float[Tensor, "F 3 S S"]:
        """This ring's views of its blend."""
        with self.pipeline.model.at(SameEverywhere.of(self.weights[ring])):
            return super().render(ring)
