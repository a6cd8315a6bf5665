"""Regions of a scene as masks of its splats, and what they cover in views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import check_box
from invert3d_ns.scenes.cameras import FOV_Y
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.rendering import render_channels


def inside_box(cloud: SplatCloud, box: Sequence[float]) -> Bool[Tensor, " N"]:
    """The splats whose centers lie in a box (its faces included).

    Raises:
        InputError: the box is none (see :func:`~invert3d_ns.editing.edit.check_box`), or no splat that can be seen lies
            in it.
    """
    box = check_box(box)
    low, high = cloud.means.new_tensor(box[:3]), cloud.means.new_tensor(box[3:])
    inside = ((cloud.means >= low) & (cloud.means <= high)).all(dim=-1)
    if not (inside & (cloud.opacities[:, 0].sigmoid() > 0.05)).any():
        found = cloud.means.aminmax(dim=0)
        extent = " ".join(f"{value:.2f}" for value in (*found.min.tolist(), *found.max.tolist()))
        raise InputError(f"the region holds no splats; those of the scene lie within {extent}")
    return inside


def to_frame(cloud: SplatCloud) -> Float[Tensor, "4 4"]:
    """The similarity, without a turn, that centers splats and scales them to the object frame's radius."""
    return to_object_frame(cloud, "z")[1]


@torch.no_grad()
def coverage_masks(
    cloud: SplatCloud,
    rows: Bool[Tensor, " N"],
    camera_to_world: Float[Tensor, "F r 4"],
    size: int,
    *,
    supersampling: int = 1,
    dilation: int = 1,
    threshold: float = 0.25,
    fov_y: float = FOV_Y,
) -> Float[Tensor, "F 1 H W"]:
    """Where views show the splats of a mask, occluded by all others: 1 there and 0 elsewhere.

    Args:
        dilation: pixels by which what is covered grows, so that splats that spill over it are seen to their rims.
        threshold: share of a pixel's color that comes from the mask's splats from which on it counts as covered.
    """
    drawn, _ = render_channels(
        cloud, rows.float()[:, None], camera_to_world, size, supersampling=supersampling, fov_y=fov_y
    )
    covered = (drawn > threshold).float()
    return functional.max_pool2d(covered, 2 * dilation + 1, stride=1, padding=dilation)
