"""What people are shown of a scene besides itself: small views of it, before above after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

if TYPE_CHECKING:
    from invert3d_ns.scenes.cloud import SplatCloud

ELEVATION = 15.0
"""Elevation of the views, in degrees."""


def render_sides(splats: SplatCloud, size: int) -> tuple[Float[Tensor, "1 4 3 S S"], Float[Tensor, "1 4 16"]]:
    """Four sides of a scene in the object frame, RGB in [0, 1] on white, and the prior's camera vectors."""
    from invert3d_ns.scenes.cameras import camera_condition
    from invert3d_ns.scenes.rendering import render_orbit

    azimuths = torch.arange(4) * 90.0
    elevations = torch.full((4,), ELEVATION)
    return render_orbit(splats, azimuths, elevations, size)[None], camera_condition(azimuths, elevations)[None]


def before_and_after(
    before: Float[Tensor, "1 4 3 S S"], after: Float[Tensor, "1 4 3 S S"], least: int = 192
) -> UInt8[np.ndarray, "h w 3"]:
    """Four small views in a row above the same four, twice as large, in two rows.

    Args:
        before: RGB in [0, 1].
        after: the same.
        least: smaller views are enlarged by a whole factor to at least so many pixels.
    """
    from invert3d_ns.base.pictures import to_pixels

    small = to_pixels(before[0], least)
    large = to_pixels(after[0], least).repeat(2, axis=1).repeat(2, axis=2)
    rows = [np.concatenate(list(small), axis=1)]
    rows += [np.concatenate(list(large[first : first + 2]), axis=1) for first in (0, 2)]
    return np.concatenate(rows)
