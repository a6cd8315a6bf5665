"""Splats fitted to a few small views."""

from __future__ import annotations

import pytest
import torch

from invert3d_ns.errors import InputError
from invert3d_ns.inversion.report import psnr
from invert3d_ns.prior.training.splats import demo_object, splats_of
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.scenes.fitting import WIDEST, draw_splats, fit_splats


def _orbit(count: int, elevation: float = 15.0) -> torch.Tensor:
    return orbit_camera_to_world(torch.arange(count) * 360.0 / count + 20, torch.tensor(elevation))


def test_unseen_views_of_a_splat_object_are_recovered() -> None:
    poses = _orbit(12)
    truth = draw_splats(splats_of(demo_object(), spacing=0.03, size=96, views=6), poses, 64)
    cloud = fit_splats(truth[::2], poses[::2], steps=120)
    drawn = draw_splats(cloud, poses, 64)
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
