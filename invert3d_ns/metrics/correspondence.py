"""How well two objects correspond in the same views: DIFT distance (A3D, Ignatyev et al. 2024) and silhouettes.

Both say how far the objects are from each other, not whether they are what was asked for: an object and itself are at
distance 0. Text alignment must stand beside them (:mod:`invert3d_ns.metrics.text_alignment`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from invert3d_ns.base.errors import InputError

GRID = 32
"""Places along each side of a view between which correspondences are looked for."""
_TIE = 1e-4
"""Cosine that the width of a view is worth, so that of places that look the same the nearest is taken: between places
beside each other more than the rounding of float32, far less than what tells them apart."""


@dataclass(frozen=True)
class Matches:
    """Which places of two objects correspond in one view."""

    places_a: Float[Tensor, "P 2"]
    """Middles (x, y) of the places of object A, in widths of the view from its upper left corner."""
    places_b: Float[Tensor, "Q 2"]
    """The same of object B."""
    a_to_b: Int[Tensor, " P"]
    """For each place of A, the index of its nearest neighbor among the places of B."""
    b_to_a: Int[Tensor, " Q"]
    """The other way round."""

    def distances(self) -> tuple[Float[Tensor, " P"], Float[Tensor, " Q"]]:
        """How far each place of A, and of B, is from its neighbor, in widths of the view."""
        there = (self.places_a - self.places_b[self.a_to_b]).norm(dim=-1)
        back = (self.places_b - self.places_a[self.b_to_a]).norm(dim=-1)
        return there, back


def correspondence_distance(
    features_a: Float[Tensor, "F C h w"],
    features_b: Float[Tensor, "F C h w"],
    mask_a: Float[Tensor, "F 1 S S"],
    mask_b: Float[Tensor, "F 1 S S"],
    *,
    grid: int = GRID,
) -> float:
    """DIFT distance: how far, in widths of the view, a place of one object is from the place that corresponds to it.

    For each place p of A its nearest neighbor q by cosine among those of B in the same view; the mean of |p - q| over
    places, then of both directions, then over views. The definition is this package's, since A3D's own is not
    published; it is what its text says. Views in which either object is not seen are left out: silhouettes stand
    beside it.

    Args:
        features_a: of F views of A, such as :func:`~invert3d_ns.metrics.diffusion_features.diffusion_features`'; 8
            azimuths or more say something about the object.
        features_b: of B, from the same cameras.
        mask_a: coverage of A in [0, 1], at any resolution; half or more is the object.
        mask_b: coverage of B.
        grid: places along each side.

    Returns:
        0 to sqrt(2); 0 for an object and itself. NaN if no view shows both.

    Raises:
        InputError: features and masks do not belong together, or features are not finite.

    Example:
        >>> features, mask = torch.eye(16).reshape(1, 16, 4, 4), torch.ones(1, 1, 4, 4)
        >>> round(correspondence_distance(features, features.roll(1, -1), mask, mask, grid=4), 3)  # 1/4, or 3/4 back
        0.375
    """
    found = match_places(features_a, features_b, mask_a, mask_b, grid=grid)
    means = [fmean(float(side.mean()) for side in matches.distances()) for matches in found if matches is not None]
    return fmean(means) if means else math.nan


def match_places(
    features_a: Float[Tensor, "F C h w"],
    features_b: Float[Tensor, "F C h w"],
    mask_a: Float[Tensor, "F 1 S S"],
    mask_b: Float[Tensor, "F 1 S S"],
    *,
    grid: int = GRID,
) -> list[Matches | None]:
    """Nearest neighbors by cosine, view by view; None for a view that does not show both objects.

    See :func:`correspondence_distance`. Features are interpolated bilinearly to the grid, then compared; where several
    places look the same, the nearest is the neighbor.
    """
    if features_a.shape != features_b.shape or features_a.ndim != 4:
        raise InputError(
            f"features of shapes {tuple(features_a.shape)} and {tuple(features_b.shape)} cannot be compared; give "
            "those of the same layer and of as many views (views, channels, height, width)"
        )
    for features in (features_a, features_b):
        if not bool(features.isfinite().all()):
            raise InputError("features are not finite; take them from a prior in bfloat16 or float32")
    if grid < 1:
        raise InputError(f"the grid has {grid} places along a side; give 1 or more")
    _check_masks(mask_a, mask_b, len(features_a))
    ours, theirs = (_on_grid(features, grid) for features in (features_a, features_b))
    seen_a, seen_b = (_seen(mask.to(features_a.device), grid) for mask in (mask_a, mask_b))
    middles = (torch.arange(grid, device=features_a.device) + 0.5) / grid
    places = torch.stack(torch.meshgrid(middles, middles, indexing="xy"), -1).flatten(0, 1)
    found: list[Matches | None] = []
    for a, b, rows, columns in zip(ours, theirs, seen_a, seen_b, strict=True):
        if not bool(rows.any()) or not bool(columns.any()):
            found.append(None)
            continue
        places_a, places_b = places[rows], places[columns]
        likeness = a[rows] @ b[columns].T - _TIE * torch.cdist(places_a, places_b)
        found.append(Matches(places_a, places_b, likeness.argmax(1), likeness.argmax(0)))
    return found


def silhouette_iou(mask_a: Float[Tensor, "F 1 S S"], mask_b: Float[Tensor, "F 1 S S"], *, hard: bool = False) -> float:
    """Intersection over union of two objects' silhouettes in the same views, mean over views that show either.

    Args:
        mask_a: coverage in [0, 1].
        mask_b: coverage of the other object, from the same cameras.
        hard: half or more is the object; else the intersection of two coverages is the smaller, the union the larger
            one (Ruzicka similarity), so that a silhouette with soft edges and itself overlap fully.

    Returns:
        0 to 1; NaN if no view shows either.

    Raises:
        InputError: masks of different shapes.
    """
    _check_masks(mask_a, mask_b, len(mask_a))
    if mask_a.shape != mask_b.shape:
        raise InputError(
            f"masks of {mask_a.shape[-2]}x{mask_a.shape[-1]} and {mask_b.shape[-2]}x{mask_b.shape[-1]} pixels have no "
            "overlap; render them at one size"
        )
    a, b = mask_a.float(), mask_b.to(mask_a.device).float()
    if hard:
        a, b = (a >= 0.5).float(), (b >= 0.5).float()
    both, either = torch.minimum(a, b).flatten(1).sum(1), torch.maximum(a, b).flatten(1).sum(1)
    shown = either > 0
    return float((both[shown] / either[shown]).mean()) if bool(shown.any()) else math.nan


def _on_grid(features: Float[Tensor, "F C h w"], grid: int) -> Float[Tensor, "F P C"]:
    resized = functional.interpolate(
        features.float(), (grid, grid), mode="bilinear", align_corners=False, antialias=True
    )
    return functional.normalize(resized.flatten(2).transpose(1, 2), dim=-1)


def _seen(mask: Float[Tensor, "F 1 S S"], grid: int) -> Tensor:
    return functional.adaptive_avg_pool2d(mask.float(), grid).flatten(1) >= 0.5


def _check_masks(mask_a: Tensor, mask_b: Tensor, views: int) -> None:
    for mask in (mask_a, mask_b):
        if mask.ndim != 4 or mask.shape[1] != 1 or len(mask) != views or 0 in mask.shape:
            raise InputError(
                f"masks of shape {tuple(mask.shape)} do not belong to {views} views; give (views, 1, height, width)"
            )
