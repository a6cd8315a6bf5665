"""Gaussian splats as plain tensors: what files hold, edits change and the renderer draws."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from invert3d_ns.scenes.rasterization import SH_C0

RasterizeMode = Literal["classic", "antialiased"]
"""How splats were optimized to be drawn: as in 3DGS, or with Mip-Splatting's compensation of opacities."""
TENSORS = ("means", "scales", "quats", "opacities", "features_dc", "features_rest")
"""Names of the tensors of a :class:`SplatCloud`, in the order of its constructor."""


@dataclass
class SplatCloud:
    """Gaussian splats as nerfstudio's splatfacto and 3DGS store them, before any activation. All tensors are of one
    floating-point type (float32 in files) and on one device.
    """

    means: Float[Tensor, "N 3"]
    """Centers in world units."""
    scales: Float[Tensor, "N 3"]
    """Natural logarithm of the standard deviations along the splat's own axes."""
    quats: Float[Tensor, "N 4"]
    """Rotations as unit quaternions (w, x, y, z)."""
    opacities: Float[Tensor, "N 1"]
    """Opacity logits: opacity = sigmoid(opacities)."""
    features_dc: Float[Tensor, "N 3"]
    """Spherical-harmonic coefficients of degree 0 for R, G and B."""
    features_rest: Float[Tensor, "N K 3"]
    """Coefficients of degrees 1 to :attr:`sh_degree`, K = (sh_degree + 1)^2 - 1."""
    rasterize_mode: RasterizeMode = "classic"
    """How the splats must be drawn to look as they were fitted."""
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Where the origin of the centers lies in the coordinates of their file, in double precision: not at 0 of splats
    that lie far from it, as georeferenced ones do. Splats that were moved have none."""

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return math.isqrt(self.features_rest.shape[1] + 1) - 1

    @property
    def base_colors(self) -> Float[Tensor, "N 3"]:
        """RGB of degree 0, the mean over all directions, not clamped; 0 to 1 where it can be shown."""
        return 0.5 + SH_C0 * self.features_dc

    @property
    def device(self) -> torch.device:
        """Where the tensors are, and where the splats are drawn."""
        return self.means.device

    def __len__(self) -> int:
        return self.means.shape[0]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, in the constructor's order; no copies."""
        return {name: getattr(self, name) for name in TENSORS}

    def to(self, device: torch.device | str) -> SplatCloud:
        """The same splats on ``device``; tensors that are there already are shared."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def select(self, rows: Bool[Tensor, " N"] | Int[Tensor, " M"]) -> SplatCloud:
        """The splats of a mask, or of row numbers, drawn as before; differentiable.

        Args:
            rows: on the splats' device or the CPU.
        """
        return replace(self, **{name: tensor[rows] for name, tensor in self.tensors().items()})


def unit_quaternions(quats: Float[Tensor, "N 4"]) -> Float[Tensor, "N 4"]:
    """Quaternions of length 1. Those that have it, as far as float32 can tell, keep every bit."""
    length = quats.norm(dim=-1, keepdim=True)
    return torch.where((length - 1).abs() < 1e-6, quats, quats / length.clamp_min(1e-12))
