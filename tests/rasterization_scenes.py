"""Small scenes for rasterizers, as they take them, and how two rasterizers are compared."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from invert3d_ns.scenes.cameras import gsplat_viewmats, intrinsics, orbit_camera_to_world
from invert3d_ns.scenes.rasterization import kernel_available

needs_kernel = pytest.mark.skipif(not kernel_available(), reason="the kernel was not built")
NAMES = ("means2d", "conics", "colors", "opacities")


def flat_scene(cameras: int, count: int, channels: int, width: int, height: int, seed: int = 0) -> dict[str, Tensor]:
    """Random projected Gaussians, float32: some off the image, invisible, opaque, faint, thin or equally deep."""
    g = torch.Generator().manual_seed(seed)
    shape = (cameras, count)
    size = torch.tensor([width, height])
    angle = torch.rand(shape, generator=g) * math.pi
    spread = torch.exp(torch.randn(*shape, 2, generator=g) + 0.7)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(*shape, 2, 2)
    covariance = rotation @ torch.diag_embed(spread**2) @ rotation.mT + 0.3 * torch.eye(2)
    inverse = covariance.inverse()
    opacities = torch.rand(shape, generator=g)
    opacities[:, ::7] = 1.0
    opacities[:, 3::9] = 0.003
    radii = torch.ceil(3 * torch.linalg.eigvalsh(covariance)[..., -1].sqrt()).int()
    radii[:, 5::11] = 0
    return {
        "means2d": (torch.rand(*shape, 2, generator=g) * 1.4 - 0.2) * size,
        "conics": torch.stack([inverse[..., 0, 0], inverse[..., 0, 1], inverse[..., 1, 1]], -1),
        "colors": torch.randn(*shape, channels, generator=g),
        "opacities": opacities,
        "radii": radii,
        "depths": torch.rand(shape, generator=g).mul(20).round().add(1),
    }


def decided(scene: dict[str, Tensor], width: int, height: int) -> Tensor:
    """Pixels [C, height, width, 1] where no threshold is so near that float32 might decide otherwise than float64."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    masks = []
    for camera in range(len(scene["depths"])):
        order = torch.argsort(scene["depths"][camera], stable=True)
        mean, conic, opacity, radius = (
            scene[k][camera][order].double() for k in ("means2d", "conics", "opacities", "radii")
        )
        dx, dy = mean[:, 0] - x[..., None], mean[:, 1] - y[..., None]
        raw = opacity * torch.exp(-0.5 * (conic[:, 0] * dx * dx + conic[:, 2] * dy * dy) - conic[:, 1] * dx * dy)
        alpha = raw.clamp_max(0.999) * (raw >= 1 / 255) * (radius > 0)
        passed = torch.cumprod(1 - alpha, -1)
        close = ((255 * raw - 1).abs() < 1e-4) | ((raw - 0.999).abs() < 1e-4) | ((1e4 * passed - 1).abs() < 1e-3)
        masks.append(~close.any(-1))
    return torch.stack(masks)[..., None]


def values_and_gradients(
    composite, scene: dict[str, Tensor], mask: Tensor, dtype: torch.dtype, **options
) -> dict[str, Any]:
    """Image, alphas, gradients of a random function of both on the pixels of ``mask``, and absgrad."""
    _, height, width, _ = mask.shape
    inputs: dict[str, Any] = {name: scene[name].detach().to(dtype).requires_grad_() for name in NAMES}
    cameras, count = scene["depths"].shape
    offsets = [camera * count for camera in range(cameras + 1)]
    image, alphas = composite(
        *inputs.values(), scene["radii"], scene["depths"].to(dtype), offsets, width, height, absgrad=True, **options
    )
    g = torch.Generator().manual_seed(1)
    loss = image * torch.randn(image.shape, generator=g) + alphas * torch.randn(alphas.shape, generator=g)
    (loss * mask).sum().backward()
    gradients = {name: leaf.grad for name, leaf in inputs.items()}
    return {
        "image": image.detach() * mask,
        "alphas": alphas.detach() * mask,
        **gradients,
        "absgrad": inputs["means2d"].absgrad,
    }


def assert_agree(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, reference in expected.items():
        error = (actual[name].double() - reference).abs().max().item()
        assert error <= 1e-4 * max(1.0, reference.abs().max().item()), name
        if name not in ("image", "alphas"):
            assert (actual[name].double() - reference).norm() <= 1e-4 * reference.norm(), name


def world_scene(count: int = 60, sh_bases: int | None = None, seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    return {
        "means": 0.5 * torch.randn(count, 3, generator=g),
        "quats": torch.randn(count, 4, generator=g),
        "scales": torch.exp(0.5 * torch.randn(count, 3, generator=g) - 2.5),
        "opacities": torch.rand(count, generator=g) * 0.9 + 0.05,
        "colors": 0.4 * torch.randn(count, sh_bases, 3, generator=g) if sh_bases else torch.rand(count, 3, generator=g),
    }


def orbit(cameras: int, width: int, height: int) -> dict[str, Any]:
    azimuths = torch.arange(cameras) * 70.0 + 10
    k = intrinsics(height)
    k[0, 2] = width / 2
    return {
        "viewmats": gsplat_viewmats(orbit_camera_to_world(azimuths, torch.full((cameras,), 15.0))),
        "Ks": k.expand(cameras, 3, 3),
        "width": width,
        "height": height,
    }


def to(tensors: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {k: v.detach().to(dtype).requires_grad_() if isinstance(v, Tensor) else v for k, v in tensors.items()}
