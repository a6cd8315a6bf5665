"""Do views of one scene show the same colors in the same places: neighbors warped into each other by depth.

As the short-range consistency of stylized scenes is measured (SNeRF, Nguyen-Phuoc et al. 2022; Lai et al. 2018), but
with depth that is rendered from the scene in place of optical flow, which is estimated, and with the plain difference
of colors, which needs no weights. Own code: a dozen lines, where kornia's warp has no check for what is hidden.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from invert3d_ns.scenes.cameras import FOV_Y

SOLID = 0.95
"""Coverage from which on a pixel shows the object alone."""
SAME_PLACE = 0.03
"""World units by which the depth of a place may miss what a neighbor sees there, before it counts as hidden."""


def warped_difference(
    images: Float[Tensor, "F 3 S S"],
    depths: Float[Tensor, "F 1 S S"],
    coverage: Float[Tensor, "F 1 S S"],
    camera_to_world: Float[Tensor, "F 4 4"],
    neighbors: Int[Tensor, " F"],
    *,
    fov_y: float = FOV_Y,
) -> float:
    """Mean absolute difference of colors between each view and its neighbor, warped into it by depth.

    A pixel of view i counts if it shows the object alone, and if its place in space is the one that the neighbor j(i)
    sees there: inside of j's picture, wholly covered, and at a depth that misses by less than :data:`SAME_PLACE`.
    What a scene without any dependence of colors on the view comes to is the error of resampling, which grows with
    the contrast of what it shows.

    Args:
        images: square views in [0, 1].
        depths: along the optical axis, in world units.
        coverage: in [0, 1].
        camera_to_world: OpenGL axes.
        neighbors: for each view, which one is warped into it.
        fov_y: field of view in degrees.

    Returns:
        0 to 1, over all pixels that count; NaN if there are none.
    """
    tangent, size = math.tan(math.radians(fov_y) / 2), images.shape[-1]
    steps = (torch.arange(size, device=images.device) + 0.5) * (2 / size) - 1
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    rays = torch.stack([u * tangent, -v * tangent, -torch.ones_like(u)], -1)
    poses = camera_to_world.to(images)
    points = (rays * depths[:, 0, :, :, None]) @ poses[:, None, :3, :3].mT + poses[:, None, None, :3, 3]
    there = poses[neighbors]
    seen = (points - there[:, None, None, :3, 3]) @ there[:, None, :3, :3]
    away = -seen[..., 2:]
    grid = seen[..., :2] * seen.new_tensor([1.0, -1.0]) / (away.clamp_min(1e-6) * tangent)
    known = torch.cat([images, depths.nan_to_num(), coverage], 1)[neighbors]
    found = functional.grid_sample(known, grid, align_corners=False)  # beyond the edge is no coverage
    same = (found[:, 3:4] - away.permute(0, 3, 1, 2)).abs() < SAME_PLACE
    counts = same & (coverage > SOLID) & (found[:, 4:] > SOLID)
    difference = (found[:, :3] - images).abs().mean(1, keepdim=True)
    return float(difference[counts].mean()) if bool(counts.any()) else math.nan
