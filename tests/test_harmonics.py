"""Spherical harmonics against gsplat's torch implementation, and as an orthonormal basis."""

from __future__ import annotations

import math

import pytest
import torch
from gsplat.cuda._torch_impl import _eval_sh_bases_fast, _spherical_harmonics
from rasterization_scenes import orbit, world_scene
from torch.nn import functional

from invert3d_ns.scenes.rasterization import SH_C0, evaluate_harmonics, harmonic_basis, rasterization
from invert3d_ns.scenes.rasterization._projection import evaluate_sh

DEGREES = range(5)


@pytest.mark.parametrize("degree", DEGREES)
def test_values_and_gradients_are_gsplats(degree: int) -> None:
    generator = torch.Generator().manual_seed(degree)
    count = (degree + 1) ** 2
    directions = torch.randn(2, 40, 3, dtype=torch.float64, generator=generator).requires_grad_()
    coefficients = torch.randn(40, count + 3, 3, dtype=torch.float64, generator=generator).requires_grad_()
    weights = torch.randn(2, 40, 3, dtype=torch.float64, generator=generator)
    values = evaluate_harmonics(degree, directions, coefficients)
    expected = _spherical_harmonics(degree, directions, coefficients.expand(2, -1, -1, -1))
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-10)
    leaves = [coefficients] if degree == 0 else [coefficients, directions]
    gradients, theirs = (torch.autograd.grad((v * weights).sum(), leaves) for v in (values, expected))
    for gradient, reference in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-9)
    assert not gradients[0][:, count:].any(), "coefficients of higher degrees are not used"


@pytest.mark.parametrize("degree", DEGREES)
def test_pictures_keep_every_bit_of_gsplats_basis(degree: int) -> None:
    directions = functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(degree)), dim=-1)
    theirs = _eval_sh_bases_fast((degree + 1) ** 2, directions)
    mine = harmonic_basis(degree, directions)
    assert torch.equal(mine[:, :16], theirs[:, :16])
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


def test_basis_is_orthonormal_over_the_sphere() -> None:
    """By a quadrature that is exact for products of two functions of degree 4: Gauss in z, equal steps around."""
    import numpy as np

    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(6))
    around = torch.arange(12, dtype=torch.float64) * (2 * math.pi / 12)
    radius = (1 - nodes**2).sqrt()[:, None]
    z = nodes[:, None].expand(-1, 12)
    directions = torch.stack([radius * around.cos(), radius * around.sin(), z], dim=-1)
    basis = harmonic_basis(4, directions)
    products = torch.einsum("zai,zaj,z->ij", basis, basis, weights) * (2 * math.pi / 12)
    torch.testing.assert_close(products, torch.eye(25, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(basis[0, 0, 0]) == pytest.approx(SH_C0, abs=1e-15) == 0.5 / math.sqrt(math.pi)


def test_degrees_and_coefficients_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 4"):
        harmonic_basis(5, torch.zeros(1, 3))
    with pytest.raises(ValueError, match="takes 9 coefficients; there are 4"):
        evaluate_harmonics(2, torch.zeros(1, 3), torch.zeros(1, 4, 3))


def test_spherical_harmonics():
    means = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.1, -0.2]])
    cameras = orbit(2, 8, 8)["viewmats"]
    coefficients = torch.zeros(2, 4, 3)
    coefficients[:, 0] = torch.tensor([1.0, 0.0, -9.0])
    all_seen = torch.ones(2, 2, dtype=torch.bool)
    constant = evaluate_sh(0, means, coefficients, cameras, visible=all_seen)
    torch.testing.assert_close(constant, torch.tensor([0.5 + 0.28209479, 0.5, 0.0]).expand(2, 2, 3))
    coefficients[:, 2, 1] = 0.5  # the basis function of direction z
    directions = means - cameras.inverse()[:, None, :3, 3]
    expected = 0.5 + 0.5 * 0.48860251 * directions[..., 2] / directions.norm(dim=-1)
    torch.testing.assert_close(evaluate_sh(1, means, coefficients, cameras, visible=all_seen)[..., 1], expected)
    scene = {**world_scene(sh_bases=16), **orbit(1, 24, 24)}
    assert not torch.equal(rasterization(**scene, sh_degree=3)[0], rasterization(**scene, sh_degree=1)[0])
