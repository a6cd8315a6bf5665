"""Real spherical harmonics of degrees 0 to 4 in the convention of 3D Gaussian splatting files and of gsplat.

Basis function ``l² + l + m`` (degree l, order m from -l to l) at a unit direction (x, y, z) is a polynomial in z times
the real (m >= 0) or imaginary (m < 0) part of (x + iy)^|m|, with the Condon-Shortley sign (-1)^m.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

SH_C0 = 0.28209479177387814
"""The constant basis function, 1 / (2 sqrt(pi)): color = 0.5 + SH_C0 * features_dc."""
MAX_SH_DEGREE = 4


def _norm(numerator: float, denominator: float) -> float:
    return math.sqrt(numerator / (denominator * math.pi))


def _zonal(degree: int, order: int, z: Tensor, zz: Tensor) -> Tensor | float:
    """The factor in z of a basis function of order >= 0, with its normalization."""
    match degree, order:
        case 1, 0:
            return _norm(3, 4) * z
        case 1, 1:
            return -_norm(3, 4)
        case 2, 0:
            return 3 * _norm(5, 16) * zz - _norm(5, 16)
        case 2, 1:
            return -_norm(15, 4) * z
        case 2, 2:
            return _norm(15, 16)
        case 3, 0:
            return z * (5 * _norm(7, 16) * zz - 3 * _norm(7, 16))
        case 3, 1:
            return -5 * _norm(21, 32) * zz + _norm(21, 32)
        case 3, 2:
            return _norm(105, 16) * z
        case 3, 3:
            return -_norm(35, 32)
        case 4, 0:
            return (35 * zz - 30) * zz * _norm(9, 256) + 3 * _norm(9, 256)
        case 4, 1:
            return z * (3 - 7 * zz) * _norm(45, 32)
        case 4, 2:
            return (7 * zz - 1) * _norm(45, 64)
        case 4, 3:
            return -_norm(315, 32) * z
        case 4, 4:
            return _norm(315, 256)
    raise ValueError(f"there is no spherical harmonic of degree {degree} and order {order} here")


def harmonic_basis(degree: int, directions: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B n"]:
    """All n = (degree + 1)² basis functions up to a degree, at unit directions.

    Differentiable in ``directions``, as polynomials: their length is taken as given.

    Raises:
        ValueError: the degree is not 0 to 4.
    """
    if not 0 <= degree <= MAX_SH_DEGREE:
        raise ValueError(f"spherical harmonics of degree {degree} are not known; use 0 to {MAX_SH_DEGREE}")
    x, y, z = directions.unbind(-1)
    zz = z * z
    basis = [torch.full_like(z, SH_C0)]
    powers = [(x, y)]  # real and imaginary part of (x + iy)^m, from m = 1
    for current in range(1, degree + 1):
        if current > 1:
            real, imaginary = powers[-1]
            powers.append((x * real - y * imaginary, x * imaginary + y * real))
        middle, *factors = (_zonal(current, order, z, zz) for order in range(current + 1))
        negative = [factor * imaginary for factor, (_, imaginary) in zip(factors, powers, strict=True)]
        positive = [factor * real for factor, (real, _) in zip(factors, powers, strict=True)]
        basis += [*reversed(negative), middle, *positive]  # type: ignore[list-item]
    return torch.stack(basis, dim=-1)


def evaluate_harmonics(
    degree: int, directions: Float[Tensor, "*B 3"], coefficients: Float[Tensor, "*B K 3"]
) -> Float[Tensor, "*B 3"]:
    """Functions on the sphere, given by their harmonics, at directions of any length.

    Args:
        degree: harmonics up to this one are used: the first (degree + 1)² of the K coefficients.
        directions: broadcast against ``coefficients``; normalized here.
        coefficients: one for each basis function and color channel.

    Raises:
        ValueError: the degree is not 0 to 4, or there are too few coefficients for it.
    """
    count = (degree + 1) ** 2
    if coefficients.shape[-2] < count:
        raise ValueError(f"degree {degree} takes {count} coefficients; there are {coefficients.shape[-2]}")
    basis = harmonic_basis(degree, functional.normalize(directions, dim=-1))
    return (basis[..., None] * coefficients[..., :count, :]).sum(dim=-2)
