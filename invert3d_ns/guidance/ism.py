"""Interval score matching (Liang et al. 2024, LucidDreamer): two predictions on one deterministic trajectory differ.

The rendered views are noised along DDIM, not by random noise, so that what they are pulled towards is the same from
step to step. With x_s, x_t on the trajectory under the negative words alone, the gradient on the latents is
w(t) (eps_hat(x_t, t) - eps_negative(x_s, s)), without the UNet's Jacobian.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import above, at_least
from invert3d_ns.guidance.base import AnnealedGuidanceConfig, Guidance, GuidanceReport
from invert3d_ns.guidance.schedules import annealed, timestep_range
from invert3d_ns.guidance.trajectories import start_noise, walk

if TYPE_CHECKING:
    from invert3d_ns.prior.unet import Latents


@dataclass
class IntervalScoreMatchingConfig(AnnealedGuidanceConfig):
    """Interval score matching, ISM (LucidDreamer): one interval of a deterministic trajectory."""

    _target: type = field(default_factory=lambda: IntervalScoreMatching)
    warm_up: Annotated[float, at_least(0, 1)] = 0.3
    """Share of the guidance over which the greatest timestep, and the interval, fall to what they stay. LucidDreamer:
    1,500 of 5,000 steps."""
    interval: Annotated[float, at_least(0, 1)] = 0.05
    """Length of the interval, as a fraction of the diffusion. LucidDreamer: 0.05."""
    interval_start: Annotated[float, at_least(0, 1)] = 0.1
    """The same at the start. LucidDreamer: 0.1."""
    stride: Annotated[float, above(0)] = 0.2
    """Length of the steps up to the interval, as a fraction of the diffusion. LucidDreamer: 0.2."""
    strength: Annotated[float, above(0)] = 0.1
    """Factor on the gradient. LucidDreamer: 0.1."""

    def check(self) -> None:
        """Refuse settings that are out of range, by name.

        Raises:
            InputError: see :meth:`AnnealedGuidanceConfig.check`; or the stride is no step.
        """
        super().check()
        if not 0.0 < self.stride <= 1.0:
            raise InputError(f"the stride {self.stride:g} is no step of a diffusion; give more than 0, 1 at most")

    def timestep_range(self, progress: float, length: int) -> tuple[int, int]:
        """First and last timestep that may be drawn: the upper end has fallen once the warm-up is over."""
        t_max = annealed(self.t_max, self.t_max_end, self._warmed(progress))
        return timestep_range(self.t_min, t_max, length)

    def interval_steps(self, progress: float, length: int) -> int:
        """Timesteps of the interval when ``progress`` of the guidance is done."""
        return round(annealed(self.interval_start, self.interval, self._warmed(progress)) * length)

    def _warmed(self, progress: float) -> float:
        return progress / self.warm_up if self.warm_up else 1.0


class IntervalScoreMatching(Guidance):
    """The loss of groups of views; for the arguments see :class:`~invert3d_ns.guidance.base.Guidance`."""

    config: IntervalScoreMatchingConfig

    def gradient(
        self, latents: Latents, cameras: Float[Tensor, "B F 16"], generator: torch.Generator, progress: float
    ) -> tuple[Latents, GuidanceReport]:
        """:meth:`interval_error` of one timestep for all groups, as their steps up are made together."""
        t = int(self.config.draw(1, self.prior.num_timesteps, generator, progress))
        s = max(t - self.config.interval_steps(progress, self.prior.num_timesteps), 0)
        return self.interval_error(latents, start_noise(latents, generator), s, t, cameras)

    def nodes(self, s: int) -> list[int]:
        """Timesteps on the way up to s, in strides that end there; the first is 0."""
        return strides(self.config, s, self.prior.num_timesteps)

    def interval_error(
        self, latents: Latents, noise: Latents, s: int, t: int, cameras: Float[Tensor, "B F 16"]
    ) -> tuple[Latents, GuidanceReport]:
        """w(t) (eps_hat(x_t, t) - eps_negative(x_s, s)), 0 where it is not finite; and what it came from.

        w(t) = strength sqrt((1 - alpha_bar_t) / alpha_bar_t).
        """
        from invert3d_ns.prior.sampling import ALPHA_BAR_FLOOR, ddim_step

        prior, unguided = self.prior, self.conditions.unguided()
        first, at_s, at_t = (torch.full((len(latents),), step, device=latents.device) for step in (0, s, t))
        below = walk(prior, unguided, prior.add_noise(latents, noise, first), self.nodes(s), cameras)[0][-1]
        prediction = unguided.predict(prior, below, at_s, cameras)
        above_it = ddim_step(prior, below, prediction, at_s, at_t)
        error = self.conditions.predict_noise(prior, above_it, at_t, cameras)
        error = error - prior.noise_from(prediction, below, at_s)
        alpha_bar = prior.alpha_bar(at_t)
        weight = self.config.strength * ((1 - alpha_bar) / alpha_bar.clamp_min(ALPHA_BAR_FLOOR)).sqrt()
        gradient = (weight * error).nan_to_num(0.0, 0.0, 0.0)
        return gradient, GuidanceReport(at_t, weight.flatten(), latents - gradient / self.config.strength)


def strides(config: IntervalScoreMatchingConfig, s: int, length: int) -> list[int]:
    """Timesteps on the way from 0 up to s, in the config's strides, which end there.

    Args:
        length: timesteps of the prior's noise schedule.
    """
    stride = max(round(config.stride * length), 1)
    return [0, *range(s - (s - 1) // stride * stride, s + 1, stride)] if s else [0]
