"""How evenly one object turns into another along an edge of the simplex, as its views show it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError

if TYPE_CHECKING:
    from invert3d_ns.alignment.clip import ClipTowers

CLIP, PIXELS = "clip", "pixels"
"""Where paths are measured."""


@dataclass(frozen=True)
class PathSmoothness:
    """A path through a space of features, mean over views."""

    length: float
    """Sum of its steps."""
    detour: float
    """Length over the distance of its ends: 1 if it is straight. NaN if the ends are one point."""
    unevenness: float
    """The largest step over the mean step: 1 if all are as long, their number if all happens in one. NaN if there are
    none."""


def path_smoothness(features: Float[Tensor, "T F D"]) -> PathSmoothness:
    """The path of F views through T points of a Euclidean space; a step is the mean over views.

    Raises:
        InputError: fewer than three points, between which nothing can be uneven.

    Example:
        >>> path_smoothness(torch.tensor([0.0, 1.0, 4.0]).reshape(3, 1, 1))
        PathSmoothness(length=4.0, detour=1.0, unevenness=1.5)
    """
    if features.ndim != 3 or len(features) < 3 or 0 in features.shape:
        raise InputError(f"a path of shape {tuple(features.shape)} has no steps to compare; give 3 points or more")
    steps = (features[1:] - features[:-1]).norm(dim=-1).mean(-1)
    length, direct = float(steps.sum()), float((features[-1] - features[0]).norm(dim=-1).mean())
    return PathSmoothness(
        length,
        length / direct if direct > 0 else math.nan,
        float(steps.max() / steps.mean()) if length > 0 else math.nan,
    )


@torch.no_grad()
def edge_smoothness(views: Float[Tensor, "T F 3 S S"], towers: ClipTowers) -> dict[str, PathSmoothness]:
    """How views change along an edge in T even steps of its weights.

    In :data:`CLIP`, steps are between unit vectors of a CLIP image tower (so 2 at most); in :data:`PIXELS`, root mean
    squares over pixels and channels, in the views' own range. LPIPS, whose weights are a download, is not among them.

    Args:
        views: RGB in [0, 1] of F views at each of T >= 3 points, from the same cameras.
        towers: such as the bundled ones.

    Raises:
        InputError: fewer than three points, or no views.
    """
    if views.ndim != 5 or len(views) < 3:
        raise InputError(
            f"views of shape {tuple(views.shape)} are no edge; give (steps, views, 3, height, width), 3 steps or more"
        )
    clip = torch.stack([towers.encode_image(some.to(towers.mean.device)) for some in views])
    pixels = views.float().flatten(2)
    return {CLIP: path_smoothness(clip), PIXELS: path_smoothness(pixels / math.sqrt(pixels.shape[-1]))}
