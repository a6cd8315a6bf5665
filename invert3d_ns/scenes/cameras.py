"""Orbit cameras: the one place where the conventions of nerfstudio, gsplat and MVDream meet.

Object frame (also nerfstudio's world): z up, the object centered at the origin and scaled to :data:`OBJECT_RADIUS`.
A camera at azimuth ``a`` and elevation ``e`` stands at ``r (cos e sin a, -cos e cos a, sin e)`` and looks at the
origin, so azimuth 0 sees the front and azimuth 90 the side that faces +x. Camera-to-world matrices use OpenGL camera
axes (x right, y up, looking along -z). That is MVDream's own frame after its change from y-up to z-up, ``(x, -z, y)``;
its conditioning vector needs no further conversion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras

OBJECT_RADIUS = 0.9
"""Radius of the bounding sphere that scenes are normalized to, in world units."""
ORBIT_RADIUS = 2.5
"""Distance of orbit cameras from the origin, in world units (Invert3D, official code)."""
FOV_Y = 49.1
"""Vertical field of view of orbit cameras, in degrees (Invert3D, official code)."""
ELEVATION_RANGE = (-30.0, 30.0)
"""Elevations that are drawn for training, in degrees (Invert3D, official code)."""


def orbit_camera_to_world(
    azimuths: Float[Tensor, "*F"], elevations: Float[Tensor, "*F"], radius: float = ORBIT_RADIUS
) -> Float[Tensor, "*F 4 4"]:
    """Camera-to-world matrices (OpenGL axes, z-up world) of cameras on a sphere, looking at the origin.

    Args:
        azimuths: degrees, any range; broadcast against ``elevations``.
        elevations: degrees in (-90, 90).
        radius: distance from the origin in world units.
    """
    azimuths, elevations = torch.broadcast_tensors(azimuths, elevations)
    a, e = torch.deg2rad(azimuths), torch.deg2rad(elevations)
    zero = torch.zeros_like(a)
    back = torch.stack([e.cos() * a.sin(), -e.cos() * a.cos(), e.sin()], dim=-1)
    right = torch.stack([a.cos(), a.sin(), zero], dim=-1)
    up = torch.linalg.cross(back, right)
    upper = torch.stack([right, up, back, radius * back], dim=-1)  # [..., 3, 4]
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=upper.dtype, device=upper.device)
    return torch.cat([upper, bottom.expand(*upper.shape[:-2], 1, 4)], dim=-2)


def camera_condition(azimuths: Float[Tensor, "*F"], elevations: Float[Tensor, "*F"]) -> Float[Tensor, "*F 16"]:
    """MVDream's camera vector: the camera-to-world matrix, its translation scaled to unit length, flattened by rows."""
    return orbit_camera_to_world(azimuths, elevations, radius=1.0).flatten(-2)


def camera_condition_from_matrices(camera_to_world: Float[Tensor, "*F r 4"]) -> Float[Tensor, "*F 16"]:
    """MVDream's camera vector of any object-frame camera-to-world matrices (3x4 or 4x4, OpenGL axes)."""
    upper = camera_to_world[..., :3, :]
    position = upper[..., 3:]
    unit = position / position.norm(dim=-2, keepdim=True).clamp_min(1e-8)
    upper = torch.cat([upper[..., :3], unit], dim=-1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=upper.dtype, device=upper.device)
    return torch.cat([upper, bottom.expand(*upper.shape[:-2], 1, 4)], dim=-2).flatten(-2)


def random_orbit(
    groups: int, views: int = 4, *, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "G F"], Float[Tensor, "G F"]]:
    """Azimuths and elevations (degrees) of ``groups`` sets of evenly spaced views with one random start and elevation.

    The start is uniform over the circle, the elevation uniform over :data:`ELEVATION_RANGE` (Invert3D, official code).
    """
    start = torch.rand(groups, 1, generator=generator) * 360.0 - 180.0
    low, high = ELEVATION_RANGE
    elevations = (low + (high - low) * torch.rand(groups, 1, generator=generator)).expand(groups, views)
    return start + torch.arange(views) * (360.0 / views), elevations


def intrinsics(size: int, fov_y: float = FOV_Y) -> Float[Tensor, "3 3"]:
    """Pinhole intrinsics (pixels) of a square image of ``size`` pixels; ``fov_y``, vertical, is in degrees."""
    focal = 0.5 * size / math.tan(math.radians(fov_y) / 2)
    return torch.tensor([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])


def orbit_cameras(
    azimuths: Float[Tensor, " F"],
    elevations: Float[Tensor, " F"],
    size: int,
    *,
    radius: float = ORBIT_RADIUS,
    fov_y: float = FOV_Y,
) -> Cameras:
    """The same orbit as nerfstudio ``Cameras`` of ``size`` by ``size`` pixels."""
    from nerfstudio.cameras.cameras import Cameras

    k = intrinsics(size, fov_y)
    matrices = orbit_camera_to_world(azimuths, elevations, radius)[:, :3]
    return Cameras(
        camera_to_worlds=matrices,
        fx=k[0, 0].item(),
        fy=k[1, 1].item(),
        cx=k[0, 2].item(),
        cy=k[1, 2].item(),
        width=size,
        height=size,
    )


def gsplat_viewmats(camera_to_world: Float[Tensor, "*F r 4"]) -> Float[Tensor, "*F 4 4"]:
    """World-to-camera matrices with OpenCV axes (y down, z forward), as gsplat takes them."""
    rotation = camera_to_world[..., :3, :3] * torch.tensor(
        [1.0, -1.0, -1.0], dtype=camera_to_world.dtype, device=camera_to_world.device
    )
    inverse = rotation.transpose(-1, -2)
    translation = -inverse @ camera_to_world[..., :3, 3:]
    upper = torch.cat([inverse, translation], dim=-1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=upper.dtype, device=upper.device)
    return torch.cat([upper, bottom.expand(*upper.shape[:-2], 1, 4)], dim=-2)


@dataclass(frozen=True)
class PinholeCameras:
    """Undistorted cameras of one common image size, as rasterizers take them. All tensors are on one device."""

    camera_to_world: Float[Tensor, "F 3 4"]
    """Poses: OpenGL axes (x right, y up, looking along -z), translation in world units."""
    intrinsics: Float[Tensor, "F 3 3"]
    """Focal lengths and principal points in pixels; the center of the first pixel is (0.5, 0.5)."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""

    def __len__(self) -> int:
        return len(self.camera_to_world)

    @property
    def viewmats(self) -> Float[Tensor, "F 4 4"]:
        """World-to-camera matrices with OpenCV axes (y down, z forward)."""
        return gsplat_viewmats(self.camera_to_world)

    def to(self, like: Tensor) -> PinholeCameras:
        """The same cameras on the device, and in the floating-point type, of a tensor."""
        return replace(self, camera_to_world=self.camera_to_world.to(like), intrinsics=self.intrinsics.to(like))


def pinhole_cameras(
    cameras: Float[Tensor, "F r 4"] | Cameras,
    size: int | None = None,
    *,
    fov_y: float = FOV_Y,
    supersampling: int = 1,
) -> PinholeCameras:
    """Cameras in either form that the package has, as :class:`PinholeCameras` on the device that they are on.

    Args:
        cameras: camera-to-world matrices of square views (3x4 or 4x4, OpenGL axes), or nerfstudio cameras (shape (F,),
            one common size), whose distortion is ignored.
        size: side of the views in pixels; with matrices only, which need it.
        fov_y: vertical field of view in degrees; with matrices only.
        supersampling: images get this many times as many rows and columns.

    Raises:
        ValueError: matrices come without a size, nerfstudio cameras with one, or of several sizes.
    """
    if isinstance(cameras, Tensor):
        if size is None:
            raise ValueError("camera-to-world matrices say nothing about the size of the views; give one")
        fine = size * supersampling
        poses = cameras[..., :3, :]
        return PinholeCameras(poses, intrinsics(fine, fov_y).to(poses).expand(len(poses), 3, 3), fine, fine)
    if size is not None:
        raise ValueError("nerfstudio cameras have sizes of their own; rescale them instead of giving one")
    widths, heights = cameras.width.flatten(), cameras.height.flatten()
    width, height = int(widths[0]), int(heights[0])
    if (widths != width).any() or (heights != height).any():
        raise ValueError("cameras of several sizes cannot be drawn at once; draw them one by one")
    k = cameras.get_intrinsics_matrices()
    if supersampling != 1:
        k = k * torch.tensor([supersampling, supersampling, 1.0], device=k.device)[:, None]
    return PinholeCameras(cameras.camera_to_worlds, k, width * supersampling, height * supersampling)
