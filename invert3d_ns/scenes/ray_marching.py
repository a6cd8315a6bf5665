"""Rays through a sphere: where samples of a field lie along them, and what these come to in a picture.

Samples are packed, one row each, sorted by ray and then by distance, so that empty space costs nothing. nerfacc places
them on a GPU. Its kernels have no version for CPUs, and what it sums along packed rays has none either; here both are
written in plain torch, and the sums are the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invert3d_ns.scenes.cameras import PinholeCameras

if TYPE_CHECKING:
    from invert3d_ns.scenes.occupancy import Occupancy

SPHERE = 1.0
"""Radius of the sphere that rays are sampled in: an object's is 0.9, and splats spill over it a little."""
_RAYS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Rays:
    """Rays from cameras, all tensors on one device."""

    origins: Float[Tensor, "R 3"]
    """In the object frame."""
    directions: Float[Tensor, "R 3"]
    """Of length 1."""
    cosines: Float[Tensor, " R"]
    """Depth, which is along the camera's axis, of a distance of 1 along the ray."""

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, rows: Tensor | slice) -> Rays:
        return Rays(self.origins[rows], self.directions[rows], self.cosines[rows])

    def span(self) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
        """Distances at which rays enter and leave the sphere, never behind their origins; equal where they miss it."""
        closest = -(self.origins * self.directions).sum(-1)
        half = (SPHERE**2 - self.origins.square().sum(-1) + closest.square()).clamp_min(0).sqrt()
        return (closest - half).clamp_min(0), (closest + half).clamp_min(0)


@dataclass(frozen=True)
class Samples:
    """Pieces of rays, sorted by ray, then by distance."""

    rays: Int[Tensor, " M"]
    """Which ray each is a piece of."""
    distances: Float[Tensor, " M"]
    """Of the middles of the pieces from the origins of their rays."""
    lengths: Float[Tensor, " M"]
    """Of the pieces, in world units."""

    def __len__(self) -> int:
        return len(self.rays)

    def rows(self, rows: Int[Tensor, " N"]) -> Samples:
        """Some of them."""
        return Samples(*(tensor.index_select(0, rows) for tensor in (self.rays, self.distances, self.lengths)))

    def points(self, rays: Rays) -> Float[Tensor, "M 3"]:
        """The middles of the pieces."""
        origins, directions = rays.origins.index_select(0, self.rays), rays.directions.index_select(0, self.rays)
        return torch.addcmul(origins, self.distances[:, None], directions)


def camera_rays(cameras: PinholeCameras) -> Rays:
    """The rays through the centers of all pixels, camera by camera, row by row; differentiable in the poses."""
    poses = cameras.camera_to_world
    k = cameras.intrinsics.to(poses)
    columns = torch.arange(cameras.width, device=poses.device, dtype=poses.dtype) + 0.5
    rows = torch.arange(cameras.height, device=poses.device, dtype=poses.dtype) + 0.5
    x = ((columns - k[:, 0, 2, None]) / k[:, 0, 0, None])[:, None, :].expand(-1, len(rows), -1)
    y = ((rows - k[:, 1, 2, None]) / k[:, 1, 1, None])[:, :, None].expand(-1, -1, len(columns))
    local = torch.stack([x, -y, -torch.ones_like(x)], dim=-1).flatten(1, 2)  # [F, H W, 3], of depth 1
    lengths = local.norm(dim=-1, keepdim=True)
    directions = (local / lengths) @ poses[:, :3, :3].mT
    origins = poses[:, None, :3, 3].expand_as(directions)
    return Rays(origins.flatten(0, 1), directions.flatten(0, 1), lengths.reciprocal().flatten())


@torch.no_grad()
def place_samples(rays: Rays, occupancy: Occupancy, count: int, offsets: Float[Tensor, " R"] | float = 0.5) -> Samples:
    """Evenly spaced samples along rays, where they pass occupied cells within the sphere.

    Args:
        rays: on the device of ``occupancy``.
        occupancy: the cells.
        count: samples along the diameter of the sphere; no ray has more.
        offsets: of the first sample of each ray from where it enters the sphere, as a share of the spacing, in [0, 1].
    """
    step = 2 * SPHERE / count
    near, far = rays.span()
    first = near + torch.as_tensor(offsets, dtype=near.dtype, device=near.device) * step
    hits = (far > near).nonzero()[:, 0]
    found = []
    for chosen in hits.split(_RAYS_AT_ONCE):
        if occupancy.marches_on_gpu(near.device):
            found.append(occupancy.march_on_gpu(rays, chosen, first[chosen] - step / 2, far[chosen], step))
            continue
        distances = first[chosen, None] + torch.arange(count, dtype=near.dtype, device=near.device) * step
        points = rays.origins[chosen, None] + distances[..., None] * rays.directions[chosen, None]
        row, column = (occupancy.holds(points) & (distances < far[chosen, None])).nonzero(as_tuple=True)
        distances = distances[row, column]
        found.append(Samples(chosen[row], distances, torch.full_like(distances, step)))
    if not found:
        return Samples(hits, near[hits], near[hits])
    return Samples(*(torch.cat([getattr(part, name) for part in found]) for name in ("rays", "distances", "lengths")))


@torch.no_grad()
def visible(
    samples: Samples,
    density: Callable[[Int[Tensor, " N"]], Float[Tensor, " N"]],
    least_weight: float,
    *,
    first_look: int = 4,
) -> tuple[Int[Tensor, " V"], Float[Tensor, " V"]]:
    """Which samples matter to their rays' pictures, found from front to back: what lies behind is not evaluated.

    Args:
        samples: of any rays.
        density: evaluates the samples of these rows.
        least_weight: of the samples that matter, as a share of the picture. Behind what lets less light through,
            nothing is looked at.
        first_look: samples of each ray that are evaluated at first; then twice as many each time.

    Returns:
        The rows of these samples, in order, and their densities.
    """
    rank = torch.arange(len(samples), device=samples.rays.device) - _first_of_ray(samples.rays)
    found = torch.zeros_like(samples.distances)
    known = torch.zeros_like(rank, dtype=torch.bool)
    opaque = -math.log(least_weight) if least_weight > 0 else math.inf
    behind = found.new_zeros(int(samples.rays.max()) + 1 if len(samples) else 0)  # optical depth of what was evaluated
    begin, look = 0, first_look
    while True:
        open_to_light = (behind < opaque).index_select(0, samples.rays)
        rows = ((rank >= begin) & (rank < begin + look) & open_to_light).nonzero()[:, 0]
        if not len(rows):
            break
        part, theirs = samples.rows(rows), density(rows)
        found.index_copy_(0, rows, theirs)
        known.index_fill_(0, rows, True)
        behind.index_add_(0, part.rays, theirs * part.lengths)
        begin, look = begin + look, 2 * look
    rows = (known & (weights_of(found, samples) >= least_weight)).nonzero()[:, 0]
    return rows, found.index_select(0, rows)


def optical_depth_before(optical: Float[Tensor, " M"], rays: Int[Tensor, " M"]) -> Float[Tensor, " M"]:
    """The sums of all that lies in front of each sample on its ray; differentiable.

    All rays are summed at once, in double precision, and what the rays before have come to is taken off.
    """
    summed = optical.double().cumsum(0) - optical
    return (summed - summed.index_select(0, _first_of_ray(rays))).to(optical.dtype)


def weights_of(density: Float[Tensor, " M"], samples: Samples) -> Float[Tensor, " M"]:
    """The share of each sample in its ray's picture (NeRF, equation 3); differentiable in ``density``."""
    optical = density * samples.lengths
    return (-optical_depth_before(optical, samples.rays)).exp() * -torch.expm1(-optical)


def along_rays(values: Float[Tensor, "M C"], rays: Int[Tensor, " M"], count: int) -> Float[Tensor, "R C"]:
    """Sums of values over the samples of each of ``count`` rays; differentiable."""
    return values.new_zeros(count, values.shape[-1]).index_add(0, rays, values)


def _first_of_ray(rays: Int[Tensor, " M"]) -> Int[Tensor, " M"]:
    """For each sample, the row of the first one of its ray."""
    begins = torch.ones_like(rays, dtype=torch.bool)
    begins[1:] = rays[1:] != rays[:-1]
    return begins.nonzero()[:, 0].index_select(0, begins.cumsum(0) - 1)
