"""Where in space each place of a view's latent looks: channels that a UNet may take beside the latent.

A view's place in the world is a product of its camera and of the place in the picture; a small network that gets the
two apart, as one vector for the whole view, learns that product slowly. Rays say it outright. A prior has them or has
not: its UNet's first layer takes as many more channels, and MVDream's does not.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

FOV_Y = 49.1
"""Vertical field of view of the views that priors know, in degrees: that of the package's orbit cameras."""
OCTAVES = 3
"""Sines and cosines of the point that a ray passes nearest to the middle."""
RAY_CHANNELS = 18 + 6 * OCTAVES
"""Numbers that describe a ray."""
_SCALE = 3.0
"""Objects reach 0.36 from the middle, in units of the cameras' distance: about one after this."""


def rays(cameras: Float[Tensor, "*B 16"], size: int) -> tuple[Float[Tensor, "*B P 3"], Float[Tensor, "*B P 3"]]:
    """Origins and unit directions of the rays through the middles of ``size`` by ``size`` places, row by row.

    Args:
        cameras: MVDream's camera vectors, camera-to-world matrices; lengths are in units of the camera's distance from
            the middle.
        size: places P = size^2 of the square view.
    """
    matrices = cameras.unflatten(-1, (4, 4))
    half = math.tan(math.radians(FOV_Y) / 2)
    middles = ((torch.arange(size, device=cameras.device, dtype=cameras.dtype) + 0.5) / size * 2 - 1) * half
    y, x = torch.meshgrid(-middles, middles, indexing="ij")
    local = F.normalize(torch.stack([x, y, -torch.ones_like(x)], -1).reshape(-1, 3), dim=-1)
    # A sum of products, which stays in float32 where matrix products are in lower precision.
    directions = (matrices[..., None, :3, :3] * local[:, None]).sum(-1)
    return matrices[..., None, :3, 3].expand_as(directions), directions


def ray_features(cameras: Float[Tensor, "*B 16"], size: int) -> Float[Tensor, "*B P R"]:
    """Describe each ray by R = :data:`RAY_CHANNELS` numbers about one.

    They are the ray's nearest point to the middle and its direction, each with the products of its coordinates, and
    sines and cosines of the point. The squared distance of a point of space from the ray is linear in them, so that
    attention by place needs no more than a matrix.
    """
    origins, directions = rays(cameras, size)
    near = _SCALE * torch.linalg.cross(directions, torch.linalg.cross(origins, directions))
    waves = near[..., None] * (math.pi * 0.5 * 2.0 ** torch.arange(OCTAVES, device=near.device, dtype=near.dtype))
    return torch.cat(
        [*_with_products(directions), *_with_products(near), waves.sin().flatten(-2), waves.cos().flatten(-2)], -1
    )


def _with_products(vectors: Float[Tensor, "*B 3"]) -> tuple[Tensor, Tensor, Tensor]:
    return vectors, vectors * vectors, vectors[..., [1, 2, 0]] * vectors[..., [2, 0, 1]]


def ray_maps(cameras: Float[Tensor, "*B 16"], size: int) -> Float[Tensor, "*B R size size"]:
    """:func:`ray_features` as channels of a square map."""
    return ray_features(cameras, size).transpose(-1, -2).unflatten(-1, (size, size))


def project(
    points: Float[Tensor, "Q 3"], cameras: Float[Tensor, "*B 16"]
) -> tuple[Float[Tensor, "*B Q 2"], Float[Tensor, "*B Q"], Float[Tensor, "*B Q 3"]]:
    """Where points of space are seen: places as ``grid_sample`` counts them, depths, and directions from the camera.

    Lengths are in units of the camera's distance from the middle.
    """
    matrices = cameras.unflatten(-1, (4, 4))
    offsets = points - matrices[..., None, :3, 3]
    seen = (offsets[..., None] * matrices[..., None, :3, :3]).sum(-2)
    depths = -seen[..., 2]
    half = math.tan(math.radians(FOV_Y) / 2)
    places = torch.stack([seen[..., 0], -seen[..., 1]], -1) / (depths[..., None] * half)
    return places, depths, F.normalize(offsets, dim=-1)
