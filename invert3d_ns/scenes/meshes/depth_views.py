"""Views of a scene with depths from all around it: all that the surface and the texture of a mesh are made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.scenes.cameras import PinholeCameras, orbit_camera_to_world, pinhole_cameras
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.rendering import rasterize_splats

DepthRenderer = Callable[
    [Float[Tensor, "F r 4"], int],
    tuple[Float[Tensor, "F 3 S S"], Float[Tensor, "F 1 S S"], Float[Tensor, "F 1 S S"]],
]
"""What draws a scene, be it splats or a radiance field: from camera-to-world matrices (OpenGL axes, object frame) and
the side of the views in pixels to RGB premultiplied by alpha (over black), alpha in [0, 1], and the depth of what is
seen: its distance along the camera's axis in world units, any number where alpha is 0. The vertical field of view is
:data:`~invert3d_ns.scenes.cameras.FOV_Y`."""

_HIGHEST = 80.0
"""Elevation in degrees of the views from highest above and lowest below."""
_SOLID = 0.5
"""Alpha from which on a pixel shows a surface."""
_AT_ONCE = 8
"""Views that are drawn in one call."""


@dataclass
class DepthViews:
    """Views of one scene, all on one device."""

    cameras: PinholeCameras
    """Where they were taken."""
    rgb: Float[Tensor, "F 3 S S"]
    """Straight colors in [0, 1] (not premultiplied), float16; 0 where nothing is seen."""
    solid: Float[Tensor, "F 1 S S"]
    """1 where a surface is seen, 0 elsewhere, float16."""
    depth: Float[Tensor, "F 1 S S"]
    """Distance along the camera's axis in world units."""
    facing: Float[Tensor, "F 1 S S"]
    """Squared cosine of the angle between the camera's axis and the normal of the surface, by the slope of the depth:
    near 1 where depth and color are certain, 0 where parts hide others and where nothing is seen; float16."""
    beside: Float[Tensor, "F 1 S S"]
    """Pixels from the outline of what is seen, float16; 0 where something is."""

    def __len__(self) -> int:
        return len(self.cameras)

    @property
    def size(self) -> int:
        """Side of the views in pixels."""
        return self.cameras.width


def splat_renderer(cloud: SplatCloud) -> DepthRenderer:
    """What draws splats, on their own device, the way that they were fitted."""

    def render(camera_to_world: Float[Tensor, "F r 4"], size: int) -> tuple[Tensor, Tensor, Tensor]:
        image, alpha, _ = rasterize_splats(cloud, pinhole_cameras(camera_to_world, size), with_depth=True)
        image = image.movedim(-1, 1)
        return image[:, :3], alpha.movedim(-1, 1), image[:, 3:]

    return render


def surrounding_poses(count: int) -> Float[Tensor, "F 4 4"]:
    """Camera-to-world matrices of orbit cameras spread evenly over the sphere, but for its poles: a spiral upwards
    whose neighbors differ by the golden angle.
    """
    index = torch.arange(count) + 0.5
    highest = torch.tensor(_HIGHEST).deg2rad().sin()
    elevations = torch.asin(highest * (2 * index / count - 1)).rad2deg()
    return orbit_camera_to_world(index * 180.0 * (3.0 - 5.0**0.5) % 360.0, elevations)


@torch.no_grad()
def depth_views(render: DepthRenderer, count: int, size: int) -> DepthViews:
    """Views of a scene from all around it.

    Args:
        render: draws the scene.
        count: number of views, from :func:`surrounding_poses`.
        size: side of each in pixels.
    """
    poses = surrounding_poses(count)
    focal = float(pinhole_cameras(poses, size).intrinsics[0, 0, 0])
    parts = [_view(*render(batch, size), focal) for batch in poses.split(_AT_ONCE)]
    rgb, solid, depth, facing, beside = (torch.cat(part) for part in zip(*parts, strict=True))
    return DepthViews(pinhole_cameras(poses, size).to(depth), rgb, solid, depth, facing, beside)


def _view(rgb: Tensor, alpha: Tensor, depth: Tensor, focal: float) -> tuple[Tensor, ...]:
    """What :class:`DepthViews` keeps of a few views."""
    from scipy.ndimage import distance_transform_edt

    solid = (alpha > _SOLID) & depth.isfinite() & (depth > 0)
    straight = torch.where(alpha > 0, rgb / alpha.clamp_min(1e-6), 0.0).nan_to_num(0.0).clamp(0, 1)
    depth = torch.where(solid, depth, 0.0)
    # How much the depth changes over one pixel, the larger one of both directions along each axis, by the width of a
    # pixel at that depth, is the tangent of the angle of incidence.
    slopes = []
    for axis in (-1, -2):
        length = solid.shape[axis] - 1
        both = solid.narrow(axis, 0, length) & solid.narrow(axis, 1, length)
        step = torch.where(both, depth.diff(dim=axis).abs(), 0.0)
        edge = torch.zeros_like(step.narrow(axis, 0, 1))
        padded = torch.cat([edge, step, edge], dim=axis)
        slopes.append(torch.maximum(padded.narrow(axis, 0, length + 1), padded.narrow(axis, 1, length + 1)))
    tangent = (slopes[0].square() + slopes[1].square()).sqrt() * focal / depth.clamp_min(1e-6)
    facing = torch.where(solid, 1 / (1 + tangent.square()), 0.0)
    empty = (~solid).cpu().numpy()
    outlines = [np.asarray(distance_transform_edt(mask)) if not mask.all() else mask * 1e4 for mask in empty[:, 0]]
    beside = torch.from_numpy(np.stack(outlines)[:, None] - 0.5).clamp_min(0).to(depth)
    return straight.half(), solid.half(), depth.float(), facing.half(), beside.half()
