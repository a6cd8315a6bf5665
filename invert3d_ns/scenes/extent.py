"""How much room an object takes: from where cameras see all of it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.cameras import FOV_Y, orbit_camera_to_world
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.normalization import within_object
from invert3d_ns.scenes.rasterization import scaled_axes

_FILLED = 0.9
"""Share of half a picture that the object fills at most."""
_FAINT = 0.02
"""A splat reaches as far as it covers more than this of a pixel: 2.8 standard deviations where it is opaque."""
_DIRECTIONS = 24


@torch.no_grad()
def framing_distance(cloud: SplatCloud, elevation: float, *, fov_y: float = FOV_Y) -> float:
    """How far cameras of a turn around the origin have to stand so that the whole object is in every square picture.

    Of each splat, all that can be seen counts, by its own shape (between 0 and 2.8 standard deviations, as its opacity
    says); the 0.1 % of the splats (by opacity) that would want the greatest distance do not, nor those whose centers
    are outside the object's sphere: floaters.

    Args:
        cloud: in the object frame.
        elevation: of the cameras, degrees in (-90, 90).
        fov_y: vertical field of view in degrees.

    Raises:
        InputError: no splat can be seen.
    """
    opacities = cloud.opacities[:, 0].sigmoid()
    seen = (opacities > _FAINT) & within_object(cloud.means) & _is_finite(cloud)
    if not seen.any():
        raise InputError("the scene has no splat that can be seen near its center; there is nothing to turn around")
    shown, opacities = cloud.select(seen), opacities[seen]
    reach = (2 * (opacities / _FAINT).log()).sqrt()
    axes = torch.stack([torch.stack(axis, dim=-1) for axis in scaled_axes(shown.quats, shown.scales.exp())], dim=1)
    axes = reach[:, None, None] * axes  # [N, axis, 3]
    half = math.tan(math.radians(fov_y) / 2)
    needed = torch.zeros_like(reach)
    azimuths = torch.arange(_DIRECTIONS) * (360.0 / _DIRECTIONS)
    for pose in orbit_camera_to_world(azimuths, torch.tensor(elevation)).to(shown.means):
        across, towards = pose[:3, :2], pose[:3, 2]
        depth = shown.means @ towards + (axes @ towards).norm(dim=-1)  # of the nearest point
        size = (shown.means @ across).abs() + (axes @ across).norm(dim=1)
        needed = torch.maximum(needed, depth + size.amax(dim=1) / (half * _FILLED))
    order = needed.argsort()
    share = opacities[order].double().cumsum(0)
    return float(needed[order[int(torch.searchsorted(share, 0.999 * share[-1]).clamp_max(len(order) - 1))]])


def _is_finite(cloud: SplatCloud) -> Bool[Tensor, " N"]:
    tensors = (cloud.means, cloud.scales.exp(), cloud.quats)
    return torch.stack([tensor.isfinite().all(dim=1) for tensor in tensors]).all(dim=0)
