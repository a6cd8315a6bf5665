"""Schedules of guidance: which timesteps are drawn while it proceeds, and how much each of them counts."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Weighting = Literal["sigma2", "uniform", "balanced"]
"""w(t) by name; see :func:`timestep_weights`."""


def annealed(start: float, end: float, progress: float) -> float:
    """Go linearly from ``start`` to ``end`` as ``progress`` goes from 0 to 1; progress outside of it is clamped."""
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def timestep_range(t_min: float, t_max: float, length: int) -> tuple[int, int]:
    """First and last timestep between two fractions of a diffusion process; at least one timestep lies between them.

    Args:
        t_min: fraction of the process, 0 (clean) to 1 (pure noise).
        t_max: likewise; ``t_max * length`` itself is excluded.
        length: number of timesteps of the noise schedule.

    Example:
        >>> timestep_range(0.02, 0.98, 1000), timestep_range(0.0, 1.0, 10)
        ((20, 979), (0, 9))
    """
    low = min(round(t_min * length), length - 1)
    return low, min(max(round(t_max * length) - 1, low), length - 1)


def timestep_weights(weighting: Weighting, alpha_bar: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """w(t), the weight of a timestep in a distillation gradient, from its cumulative signal share.

    Args:
        weighting: "sigma2": 1 - alpha_bar (DreamFusion). "uniform": 1. "balanced": sqrt(alpha_bar) (1 - alpha_bar)
            (Fantasia3D), which discounts the noisiest timesteps too.
        alpha_bar: in [0, 1].
    """
    if weighting == "uniform":
        return torch.ones_like(alpha_bar)
    weights = 1 - alpha_bar
    return weights * alpha_bar.sqrt() if weighting == "balanced" else weights
