"""Features of points in the cube from -1 to 1 that are learnt: what a radiance field's networks read.

Two kinds: a hash grid (instant-ngp), made for GPUs, and planes with a coarse grid, read by torch's ``grid_sample``,
forty times as fast on a CPU as the hash grid in torch. The README of this room compares layouts of planes and grids.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from invert3d_ns.base.errors import InputError

Kind = Literal["planes", "hash"]
"""Planes with a grid, or a hash grid."""
HASH_LEVELS, HASH_FEATURES, HASH_LOG2_SIZE, HASH_BASE, HASH_GROWTH = 16, 2, 19, 16, 1.4473
"""The hash grid of A3D's official code: levels, features of each, entries, resolution of the first level, and how much
finer each next one is."""


class PlaneFeatures(nn.Module):
    """Features read off three planes (xy, xz, yz) and a coarse grid, by linear interpolation.

    Args:
        planes: texels along the edges of the planes, and features of each.
        grid: the same of the grid.
    """

    def __init__(self, planes: tuple[int, int], grid: tuple[int, int]) -> None:
        super().__init__()
        (edge, features), (coarse, more) = planes, grid
        self.planes = nn.Parameter(0.1 * torch.randn(3, features, edge, edge))
        self.grid = nn.Parameter(0.1 * torch.randn(1, more, coarse, coarse, coarse))
        self.size = 3 * features + more

    def forward(self, points: Float[Tensor, "M 3"]) -> Float[Tensor, "M F"]:
        """Outside of the cube, features are those of its surface."""
        flat = torch.stack([points[:, :2], points[:, ::2], points[:, 1:]])[:, None]  # [3, 1, M, 2]
        found = [
            functional.grid_sample(table, places, padding_mode="border", align_corners=True).flatten(0, -2)
            for table, places in ((self.planes, flat), (self.grid, points[None, None, None]))
        ]
        return torch.cat(found).T


class HashFeatures(nn.Module):
    """A hash grid: nerfstudio's, by tiny-cuda-nn if that is installed, else in torch.

    Args:
        on_gpu: whether tiny-cuda-nn can be used.
    """

    def __init__(self, *, on_gpu: bool) -> None:
        super().__init__()
        from nerfstudio.field_components.encodings import HashEncoding
        from nerfstudio.utils.external import TCNN_EXISTS

        finest = round(HASH_BASE * HASH_GROWTH ** (HASH_LEVELS - 1))
        self.encoding = HashEncoding(
            num_levels=HASH_LEVELS,
            min_res=HASH_BASE,
            max_res=finest,
            log2_hashmap_size=HASH_LOG2_SIZE,
            features_per_level=HASH_FEATURES,
            implementation="tcnn" if on_gpu and TCNN_EXISTS else "torch",
        )
        self.size = HASH_LEVELS * HASH_FEATURES

    def forward(self, points: Float[Tensor, "M 3"]) -> Float[Tensor, "M F"]:
        """Outside of the cube, features are those of its surface."""
        return self.encoding(((points + 1) / 2).clamp(0, 1)).float()


def check_twice_differentiable() -> None:
    """Refuse a torch that cannot differentiate ``grid_sample`` twice, which normals by autograd need in training.

    Raises:
        InputError: it is too old.
    """
    points = torch.zeros(1, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(PlaneFeatures((2, 1), (2, 1))(points).sum(), points, create_graph=True)
    try:
        slope.sum().backward()
    except RuntimeError as error:
        raise InputError(
            f"torch {torch.__version__} cannot train through normals by autograd where features come from planes; "
            "take a newer one, normals by differences, or a hash grid"
        ) from error
