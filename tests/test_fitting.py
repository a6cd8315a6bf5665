"""Splats fitted to a few small views."""

from __future__ import annotations

import pytest
import torch
from synthetic import make_cloud
from torch._subclasses.fake_tensor import FakeTensorMode

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.metrics import psnr
from invert3d_ns.scenes import fitting
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.fitting import WIDEST, fit_splats, lift_to_splats
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.rendering import render_channels, render_splats
from invert3d_ns.world.splats import demo_object, splats_of


def _orbit(count: int, elevation: float = 15.0) -> torch.Tensor:
    return orbit_camera_to_world(torch.arange(count) * 360.0 / count + 20, torch.tensor(elevation))


@torch.no_grad()
def _drawn(cloud: SplatCloud, poses: torch.Tensor) -> torch.Tensor:
    return render_splats(cloud, poses, 64)[0].clamp(0, 1)


def test_unseen_views_of_a_splat_object_are_recovered() -> None:
    poses = _orbit(12)
    truth = _drawn(splats_of(demo_object(), spacing=0.03, size=96, views=6), poses)
    cloud = fit_splats(truth[::2], poses[::2], steps=120)
    drawn = _drawn(cloud, poses)
    assert len(cloud) == 1000 and cloud.sh_degree == 0
    assert psnr(drawn[::2], truth[::2]) > 24
    assert psnr(drawn[1::2], truth[1::2]) > 20
    assert psnr(torch.ones_like(truth), truth) < 16
    assert cloud.scales.exp().max() <= WIDEST * 1.001
    torch.testing.assert_close(cloud.quats.norm(dim=-1), torch.ones(1000))


def test_views_that_share_no_object_are_fitted_from_a_ball() -> None:
    images = torch.ones(4, 3, 32, 32)
    # Each view shows something, but nothing lies where all four show it.
    for index, image in enumerate(images):
        image[:, 4:10, 2 + 7 * index : 8 + 7 * index] = 0.0
    cloud = fit_splats(images, _orbit(4), count=200, steps=3)
    assert len(cloud) == 200 and all(torch.isfinite(t).all() for t in (cloud.means, cloud.scales, cloud.features_dc))


def test_fits_repeat_by_seed_and_leave_gradients_alone() -> None:
    images = torch.ones(4, 3, 32, 32)
    images[:, 0, 10:22, 10:22] = 0.2
    with torch.no_grad():
        first, again, other = (fit_splats(images, _orbit(4), count=50, steps=2, seed=s) for s in (1, 1, 2))
    torch.testing.assert_close(first.means, again.means, rtol=0, atol=0)
    assert not torch.equal(first.means, other.means) and not first.means.requires_grad


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (4, 3, 32, 48), (3, 3, 32, 32)])
def test_views_that_cannot_be_fitted_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="two or more square views"):
        fit_splats(torch.ones(shape), _orbit(4), count=10, steps=1)


def test_splats_are_fitted_where_the_views_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the steps themselves: fake tensors of a GPU, which there need be none for, cannot be differentiated."""
    with FakeTensorMode():
        images, start, alpha = torch.ones(4, 3, 16, 16, device="cuda"), make_cloud(10), torch.ones(16, 16)

    def begin(images: torch.Tensor, alphas: torch.Tensor, poses: torch.Tensor, *rest: object) -> SplatCloud:
        assert images.device == alphas.device == poses.device == torch.device("cpu")
        return start

    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(fitting, "_start", begin)
    monkeypatch.setattr(fitting, "alpha_from_background", lambda image, background: alpha)
    cloud = fit_splats(images, _orbit(4), count=10, steps=0)
    assert {tensor.device.type for tensor in cloud.tensors().values()} == {"cuda"}


def test_lifting_weighs_pixels_by_what_each_splat_adds_to_them() -> None:
    cloud = to_object_frame(make_cloud(40))[0]
    poses, maps = _orbit(3), torch.rand(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    lifted, weight = lift_to_splats(cloud, maps, poses, supersampling=2)
    each = torch.stack(
        [
            render_channels(cloud, torch.eye(40)[:, index : index + 1], poses, 16, supersampling=2)[0]
            for index in range(40)
        ]
    )
    shares = each[:, :, 0].flatten(1)
    torch.testing.assert_close(weight, shares.sum(dim=1), rtol=1e-4, atol=1e-5)
    expected = shares @ maps.transpose(0, 1).flatten(1).T / shares.sum(dim=1, keepdim=True)
    seen = weight > 1e-3
    torch.testing.assert_close(lifted[seen], expected[seen], rtol=1e-3, atol=1e-5)
    assert seen.sum() > 30


def test_hidden_splats_take_nothing_from_a_map() -> None:
    cloud = to_object_frame(make_cloud(30))[0]
    cloud.means[:10], cloud.opacities[:10], cloud.scales[:10] = torch.tensor([0.0, -0.5, 0.0]), 20.0, -1.0
    cloud.means[10:] = torch.tensor([0.0, 0.7, 0.0])
    cloud.scales[10:] = -4.0
    lifted, weight = lift_to_splats(
        cloud, torch.ones(1, 1, 32, 32), orbit_camera_to_world(torch.zeros(1), torch.zeros(1))
    )
    assert weight[:10].sum() > 20 and weight[10:].max() < 1e-3
    assert lifted[:10].max() > 0.999 and lifted.max() <= 1.0001
