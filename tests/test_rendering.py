"""The one way to draw splats: what it draws, from which cameras, and on which device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from synthetic import make_cloud
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from invert3d_ns.scenes import rendering
from invert3d_ns.scenes.cameras import (
    gsplat_viewmats,
    intrinsics,
    orbit_camera_to_world,
    orbit_cameras,
    pinhole_cameras,
)
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.fitting import lift_to_splats
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.rasterization import rasterization
from invert3d_ns.scenes.rendering import (
    rasterize_splats,
    render_channels,
    render_orbit,
    render_rgba,
    render_splats,
)

AZIMUTHS, ELEVATIONS = torch.tensor([20.0, 140.0, 260.0]), torch.full((3,), 15.0)
POSES = orbit_camera_to_world(AZIMUTHS, ELEVATIONS)


def scene(count: int = 200, sh_degree: int = 2) -> SplatCloud:
    return to_object_frame(make_cloud(count, sh_degree))[0]


def by_hand(cloud: SplatCloud, colors: torch.Tensor, size: int = 32, **options: Any) -> torch.Tensor:
    """What the rasterizer itself says, [F H W K+1] with alpha."""
    images, alphas, _ = rasterization(
        cloud.means,
        cloud.quats,
        cloud.scales.exp(),
        cloud.opacities[:, 0].sigmoid(),
        colors,
        gsplat_viewmats(POSES),
        intrinsics(size).expand(3, 3, 3),
        size,
        size,
        packed=False,
        **options,
    )
    return torch.cat([images, alphas], dim=-1)


def test_views_with_harmonics_are_what_the_rasterizer_draws() -> None:
    cloud = scene()
    coefficients = torch.cat([cloud.features_dc[:, None], cloud.features_rest], dim=1)
    expected = by_hand(cloud, coefficients, sh_degree=2, backgrounds=torch.ones(3, 3)).permute(0, 3, 1, 2)
    drawn = torch.cat(render_splats(cloud, POSES, 32), dim=1)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=2e-5)
    without = render_channels(cloud, cloud.base_colors, POSES, 32, background=1.0)[0]
    assert (without - drawn[:, :3]).abs().max() > 0.02


def test_splats_that_are_not_numbers_are_looked_for_once_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(rendering, "drawable", lambda cloud: looks.append(1) or cloud)
    cloud = scene()
    for draw in (
        lambda: render_splats(cloud, POSES, 32),
        lambda: render_channels(cloud, cloud.base_colors, POSES, 32),
        lambda: rasterize_splats(cloud, pinhole_cameras(POSES, 32)),
    ):
        looks.clear()
        draw()
        assert len(looks) == 1


@pytest.mark.parametrize("background", [0.0, 0.5, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])])
def test_any_channels_are_drawn_over_any_background(background) -> None:
    cloud, channels = scene(), torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    behind = torch.as_tensor(background).expand(3, 5)
    expected = by_hand(cloud, channels, backgrounds=behind).permute(0, 3, 1, 2)
    images, alphas = render_channels(cloud, channels, POSES, 32, background=background)
    assert torch.equal(torch.cat([images, alphas], dim=1), expected)
    per_view = torch.stack([channels, 2 * channels, 3 * channels])
    torch.testing.assert_close(
        render_channels(cloud, per_view, POSES, 32)[0][2:], 3 * render_channels(cloud, channels, POSES[2:], 32)[0]
    )


@pytest.mark.parametrize("sh_degree", [0, 2])
def test_antialiased_splats_are_drawn_so_by_everyone(sh_degree: int) -> None:
    classic = scene(sh_degree=sh_degree)
    cloud = replace(classic, scales=classic.scales - 2, rasterize_mode="antialiased")
    colors = torch.cat([cloud.features_dc[:, None], cloud.features_rest], dim=1)
    options: dict[str, Any] = {"sh_degree": sh_degree, "backgrounds": torch.ones(3, 3)}
    expected, other = (by_hand(cloud, colors, rasterize_mode=mode, **options) for mode in ("antialiased", "classic"))
    assert (expected - other).abs().max() > 0.1, "splats of less than a pixel tell the two apart"
    cameras = orbit_cameras(AZIMUTHS, ELEVATIONS, 32)
    for drawn in (
        torch.cat(render_splats(cloud, POSES, 32), dim=1).permute(0, 2, 3, 1),
        torch.cat(render_splats(cloud, cameras), dim=1).permute(0, 2, 3, 1),
        torch.cat(rasterize_splats(cloud, pinhole_cameras(cameras), background=1.0)[:2], dim=-1),
    ):
        torch.testing.assert_close(drawn, expected, rtol=0, atol=2e-5)
    alphas = expected[..., 3]
    torch.testing.assert_close(render_rgba(cloud, cameras)[..., 3], alphas, rtol=0, atol=2e-5)
    torch.testing.assert_close(
        render_channels(cloud, torch.ones(200, 1), POSES, 32)[0][:, 0], alphas, rtol=0, atol=2e-5
    )
    _, weight = lift_to_splats(cloud, torch.ones(3, 1, 32, 32), POSES)
    torch.testing.assert_close(weight.sum(), alphas.sum(), rtol=1e-3, atol=0)


def test_nerfstudio_cameras_and_matrices_see_the_same() -> None:
    cloud, cameras = scene(), orbit_cameras(AZIMUTHS, ELEVATIONS, 24)
    for supersampling in (1, 2, 3):
        ours = torch.cat(render_splats(cloud, POSES, 24, supersampling=supersampling), dim=1)
        theirs = torch.cat(render_splats(cloud, cameras, supersampling=supersampling), dim=1)
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
    wide = replace_size(cameras, width=40)
    images, alphas = render_splats(cloud, wide)
    assert images.shape == (3, 3, 24, 40) and alphas.shape == (3, 1, 24, 40)
    torch.testing.assert_close(images[..., :24], render_splats(cloud, cameras)[0], rtol=0, atol=1e-4)


def replace_size(cameras, width: int):
    from copy import deepcopy

    changed = deepcopy(cameras)
    changed.width = torch.full_like(cameras.width, width)
    return changed


def test_sizes_that_do_not_fit_cameras_are_refused() -> None:
    cloud, cameras = scene(), orbit_cameras(AZIMUTHS, ELEVATIONS, 24)
    with pytest.raises(ValueError, match="give one"):
        render_splats(cloud, POSES)
    with pytest.raises(ValueError, match="sizes of their own"):
        render_splats(cloud, cameras, 24)
    cameras.height = torch.tensor([[24], [20], [24]])
    with pytest.raises(ValueError, match="several sizes"):
        render_rgba(cloud, cameras)


def test_supersampled_views_are_means_of_finer_ones() -> None:
    cloud = scene()
    fine = torch.cat(render_splats(cloud, POSES, 64), dim=1)
    coarse = torch.cat(render_splats(cloud, POSES, 32, supersampling=2), dim=1)
    torch.testing.assert_close(coarse, functional.avg_pool2d(fine, 2), rtol=0, atol=1e-5)


def test_orbit_views_are_what_a_prior_is_shown() -> None:
    cloud = scene()
    cloud.features_dc = cloud.features_dc * 3  # beyond white
    views = render_orbit(cloud, AZIMUTHS[None], ELEVATIONS[None], 16)
    expected = render_splats(cloud, POSES, 16, supersampling=2)[0].clamp(0, 1)
    assert views.shape == (1, 3, 3, 16, 16) and torch.equal(views[0], expected)
    assert float(views.max()) <= 1 and not views.requires_grad


def test_colors_below_zero_are_drawn_black_and_can_come_back() -> None:
    cloud = scene(100, 0)
    cloud.features_dc = torch.full((100, 3), -5.0, requires_grad=True)
    drawn, alphas = render_splats(cloud, POSES, 32)
    torch.testing.assert_close(drawn, (1 - alphas).expand_as(drawn), rtol=0, atol=1e-5)
    drawn.sum().backward()
    assert cloud.features_dc.grad is not None
    assert (cloud.features_dc.grad.sum(dim=1) > 0).float().mean() > 0.5


@pytest.mark.parametrize("sh_degree", [0, 1])
def test_gradients_reach_every_tensor_and_are_those_of_differences(sh_degree: int) -> None:
    cloud = scene(30, sh_degree)
    cloud = replace(cloud, **{name: tensor.double() for name, tensor in cloud.tensors().items()})
    cloud.scales, poses = cloud.scales + 2, POSES[:1].double()
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in cloud.tensors().items() if tensor.numel()}
    weights = torch.randn(1, 4, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        return (torch.cat(render_splats(replace(cloud, **tensors), poses, 12, supersampling=2), 1) * weights).sum()

    gradients = torch.autograd.grad(loss(leaves), list(leaves.values()))
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        direction = torch.randn(leaf.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        direction[gradient == 0] = 0
        step = 1e-6 * direction
        plain = {n: t.detach() for n, t in leaves.items()}
        ahead, behind = (loss({**plain, name: plain[name] + sign * step}) for sign in (1, -1))
        expected = float((ahead - behind) / 2e-6)
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=2e-2, abs=1e-4), name
        assert gradient.any(), name


DEVICE = torch.device("cuda", 0)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A rasterizer that draws nothing, where its tensors are; what it was given last."""
    given: dict[str, Any] = {}

    def draw(**arguments: Any) -> Any:
        given.update(arguments)
        tensors = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
        assert {tensor.device for tensor in tensors} == {DEVICE}
        channels = 3 if arguments["sh_degree"] is not None else arguments["colors"].shape[-1]
        shape = len(arguments["viewmats"]), arguments["height"], arguments["width"]
        image = arguments["means"].new_zeros(*shape, channels) + arguments["colors"].sum()
        return image, image[..., :1], {}

    monkeypatch.setattr(rendering, "rasterization", draw)
    return given


@pytest.mark.parametrize("sh_degree", [0, 2])
def test_everything_is_drawn_on_the_splats_own_device(
    drawn: dict[str, Any], sh_degree: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Backward passes of CUDA tensors, even of fake ones, need a GPU.
    monkeypatch.setattr(torch.autograd, "grad", lambda output, leaf: (torch.zeros_like(leaf),))
    with FakeTensorMode():
        cloud = make_cloud(20, sh_degree).to(DEVICE)
        poses = orbit_camera_to_world(torch.arange(3.0), torch.zeros(3))  # on the CPU
        for supersampling in (1, 2):
            for result in (
                *render_splats(cloud, poses, 16, supersampling=supersampling),
                *render_channels(cloud, torch.ones(20, 2), poses, 16, supersampling=supersampling),
                render_orbit(cloud, torch.arange(3.0), torch.zeros(3), 16, supersampling=supersampling),
                *lift_to_splats(cloud, torch.ones(3, 2, 16, 16), poses, supersampling=supersampling),
            ):
                assert result.device == DEVICE
        render_splats(cloud.select(torch.arange(5)), poses, 16, background=torch.tensor([0.0, 0.5, 1.0]))
        assert len(drawn["means"]) == 5 and drawn["backgrounds"].shape == (3, 3)
        image, _, _ = rasterize_splats(cloud, pinhole_cameras(poses, 16), background=1.0)
        assert image.device == DEVICE and drawn["sh_degree"] == sh_degree
