"""Splats that are not numbers are not drawn, and spoil neither pictures nor gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from rasterization_scenes import needs_kernel, orbit, world_scene
from torch import Tensor

from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.rasterization import rasterization
from invert3d_ns.scenes.rendering import render_splats

GOOD, BAD = 40, 12
backends = pytest.mark.parametrize("backend", ["torch", pytest.param("kernel", marks=needs_kernel)])


def spoiled(sh_bases: int | None) -> dict[str, Tensor]:
    """A scene whose first splats are not numbers, or whose projection is not, each in another way."""
    scene = world_scene(BAD + GOOD, sh_bases)
    scene["means"][0, 0], scene["means"][1, 2], scene["means"][2] = math.nan, math.inf, 1e36
    scene["quats"][3, 1], scene["quats"][4] = math.nan, math.inf
    scene["scales"][5, 0], scene["scales"][6], scene["scales"][7] = math.nan, math.inf, 1e30
    scene["opacities"][8], scene["opacities"][9] = math.nan, math.inf
    scene["colors"][10, ..., 1], scene["colors"][11, ..., 0] = math.nan, -math.inf
    return scene


def drawn(scene: dict[str, Tensor], **options: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Pictures, gradients of a random function of them, and radii."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in scene.items()}
    cameras = orbit(2, 30, 24)
    viewmats = cameras.pop("viewmats").clone().requires_grad_()
    image, alphas, meta = rasterization(**leaves, viewmats=viewmats, **cameras, **options)
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    ((image * weights).sum() + alphas.square().sum()).backward()
    gradients = {name: leaf.grad for name, leaf in {**leaves, "viewmats": viewmats}.items() if leaf.grad is not None}
    return {"image": image.detach(), "alphas": alphas.detach()}, gradients, meta["radii"]


@backends
@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sh_degree", [None, 1])
def test_the_rest_is_drawn_as_if_they_were_not_there(backend, rasterize_mode, packed, sh_degree):
    options = {"rasterize_mode": rasterize_mode, "packed": packed, "sh_degree": sh_degree, "backend": backend}
    scene = spoiled(None if sh_degree is None else 4)
    clean = {name: tensor[BAD:] for name, tensor in scene.items()}
    pictures, gradients, radii = drawn(scene, render_mode="RGB+ED", **options)
    expected, expected_gradients, expected_radii = drawn(clean, render_mode="RGB+ED", **options)
    for name, picture in pictures.items():
        assert picture.isfinite().all() and picture.any()
        torch.testing.assert_close(picture, expected[name], rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys() == {*scene, "viewmats"}
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name
        own, bad = (gradient, gradient[:0]) if name == "viewmats" else (gradient[BAD:], gradient[:BAD])
        torch.testing.assert_close(own, expected_gradients[name], rtol=1e-4, atol=1e-4)
        assert own.any() and not bad.any(), name
    if packed:
        assert torch.equal(radii, expected_radii)
    else:
        assert torch.equal(radii[:, BAD:], expected_radii) and not radii[:, :BAD].any()


@backends
def test_colors_of_each_camera(backend):
    scene = world_scene(BAD + GOOD)
    scene["colors"] = scene["colors"].expand(2, -1, -1).clone()
    scene["colors"][1, 3, 0] = math.nan
    pictures, gradients, _ = drawn(scene, backend=backend)
    scene["opacities"][3] = 0.0
    scene["colors"][1, 3, 0] = 0.5
    torch.testing.assert_close(pictures["image"], drawn(scene, backend=backend)[0]["image"])
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_numbers_that_are_not_drawn_do_not_matter():
    scene = world_scene(GOOD)
    cameras = orbit(1, 30, 24)
    expected, *_ = rasterization(**scene, **cameras, render_mode="D")
    scene["colors"][0, 0] = math.nan
    assert torch.equal(rasterization(**scene, **cameras, render_mode="D")[0], expected)


@pytest.mark.parametrize("degree", [0, 1])
def test_views_of_splats_keep_the_gradient_of_the_cameras(degree):
    generator = torch.Generator().manual_seed(0)
    cloud = SplatCloud(
        means=0.4 * torch.randn(30, 3, generator=generator),
        scales=torch.full((30, 3), -2.5),
        quats=torch.randn(30, 4, generator=generator),
        opacities=torch.ones(30, 1),
        features_dc=torch.rand(30, 3, generator=generator),
        features_rest=0.1 * torch.rand(30, (degree + 1) ** 2 - 1, 3, generator=generator),
    )
    cloud.means[0], cloud.scales[1], cloud.opacities[2], cloud.features_dc[3] = (math.nan,) * 4
    cloud.scales[4], cloud.opacities[5], cloud.scales[6, 0] = 100.0, math.inf, -math.inf
    cloud = replace(cloud, **{name: tensor.requires_grad_() for name, tensor in cloud.tensors().items()})
    poses = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, -2.5], [0, 1, 0, 0]])[None].requires_grad_()
    views, alphas = render_splats(cloud, poses, 24)
    views.square().sum().backward()
    assert views.isfinite().all() and alphas.max() > 0.1
    assert poses.grad is not None and poses.grad.isfinite().all() and poses.grad.any()
    for name, tensor in cloud.tensors().items():
        if tensor.numel():
            assert tensor.grad is not None and tensor.grad.isfinite().all(), name
            assert not tensor.grad[:5].any() and tensor.grad[5:].any(), name
    assert cloud.features_dc.grad is not None and cloud.features_dc.grad[5].any()  # opacity 1 is a number
