"""Rays: where each place of a view looks, against the package's own cameras."""

from __future__ import annotations

import math

import pytest
import torch

from invert3d_ns.prior import rays
from invert3d_ns.prior.rays import RAY_CHANNELS, project, ray_features, ray_maps
from invert3d_ns.prior.unet import run_unet, takes_drafts, takes_rays
from invert3d_ns.scenes import cameras
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world
from invert3d_ns.training.denoiser import with_drafts


@pytest.fixture()
def conditions() -> torch.Tensor:
    return camera_condition(torch.tensor([[0.0, 70.0, 200.0]]), torch.tensor([[15.0, -20.0, 5.0]]))


def test_rays_have_the_field_of_view_of_the_orbit_cameras() -> None:
    assert rays.FOV_Y == cameras.FOV_Y


def test_a_point_is_seen_where_its_ray_goes(conditions: torch.Tensor) -> None:
    origins, directions = rays.rays(conditions, 6)
    assert torch.allclose(directions.norm(dim=-1), torch.ones(1, 3, 36), atol=1e-6)
    for view in range(3):
        points = origins[0, view] + 0.8 * directions[0, view]
        places, depths, towards = project(points, conditions[0, view])
        x = (torch.arange(6) + 0.5) / 6 * 2 - 1
        expected = torch.stack(torch.meshgrid(x, x, indexing="ij"), -1).flip(-1).reshape(-1, 2)
        torch.testing.assert_close(places, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(towards, directions[0, view], atol=1e-5, rtol=0)
        assert (depths > 0).all()


def test_projection_agrees_with_the_renderer() -> None:
    """What the rasterizer draws of a small ball lies where its middle is projected to."""
    from invert3d_ns.scenes.cloud import SplatCloud
    from invert3d_ns.scenes.rendering import render_orbit

    point = torch.tensor([[0.4, -0.3, 0.35]])
    cloud = SplatCloud(
        means=point,
        scales=torch.full((1, 3), math.log(0.03)),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        opacities=torch.full((1, 1), 6.0),
        features_dc=torch.full((1, 3), -1.7),
        features_rest=torch.zeros(1, 0, 3),
    )
    azimuth, elevation = torch.tensor([50.0]), torch.tensor([10.0])
    image = 1 - render_orbit(cloud, azimuth, elevation, 64)[0].mean(0)
    weights = image / image.sum()
    axis = (torch.arange(64) + 0.5) / 32 - 1
    seen = torch.stack([(weights.sum(0) * axis).sum(), (weights.sum(1) * axis).sum()])
    place = project(point / cameras.ORBIT_RADIUS, camera_condition(azimuth, elevation)[0])[0][0]
    torch.testing.assert_close(seen, place, atol=0.02, rtol=0)
    assert orbit_camera_to_world(azimuth, elevation).shape == (1, 4, 4)


def test_distance_from_a_ray_is_linear_in_its_features(conditions: torch.Tensor) -> None:
    features = ray_features(conditions, 8)[0].flatten(0, 1).double()
    assert features.shape == (3 * 64, RAY_CHANNELS) and float(features.abs().max()) < 2.5
    origins, directions = (part[0].flatten(0, 1).double() for part in rays.rays(conditions, 8))
    for point in torch.tensor([[0.1, -0.2, 0.15], [-0.25, 0.05, -0.1]], dtype=torch.float64):
        squared = torch.linalg.cross(point - origins, directions).square().sum(-1, keepdim=True)
        design = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], 1)
        fitted = design @ torch.linalg.lstsq(design, squared, driver="gelsd").solution
        torch.testing.assert_close(fitted, squared, atol=1e-6, rtol=0)


def test_maps_lie_as_pictures_do(conditions: torch.Tensor) -> None:
    maps = ray_maps(conditions, 4)
    assert maps.shape == (1, 3, RAY_CHANNELS, 4, 4)
    torch.testing.assert_close(maps[0, 1, :, 2, 3], ray_features(conditions, 4)[0, 1, 11])


def test_a_unet_that_is_told_more_first_makes_nothing_of_it(tiny_v_prior, conditions: torch.Tensor) -> None:
    prior = tiny_v_prior
    wider = with_drafts(prior.unet)
    assert takes_rays(wider) and takes_drafts(wider) and with_drafts(wider) is wider
    assert not takes_rays(prior.unet) and not takes_drafts(prior.unet)
    from invert3d_ns.prior.attention import install_cross_view_attention

    install_cross_view_attention(wider)
    sample, context = torch.randn(1, 3, 4, 4, 4), prior.encode_prompt("a red mug")
    given = sample, torch.tensor([600]), context, conditions
    before, draft = run_unet(prior.unet, *given), torch.randn_like(sample)
    with torch.no_grad():
        torch.testing.assert_close(run_unet(wider, *given, draft=draft), before, rtol=0, atol=0)
        wider.conv_in.weight[:, 4:-4] = 0.1
        told = run_unet(wider, *given, draft=draft)
        assert float((told - before).abs().max()) > 1e-3
        wider.conv_in.weight[:, -4:] = 0.1
        assert float((run_unet(wider, *given, draft=draft) - told).abs().max()) > 1e-3
