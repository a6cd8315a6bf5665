"""The camera paths of nerfstudio's own commands on the cameras that this package offers them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from nerfstudio.cameras import camera_paths

from invert3d_ns import compat
from invert3d_ns.scenes.assets import SceneDataParserConfig
from invert3d_ns.scenes.cameras import orbit_cameras
from invert3d_ns.scenes.posed_images import rising_orbit


def held_out(count: int = 8):
    return SceneDataParserConfig(num_eval_views=count).setup().get_dataparser_outputs("val").cameras


@pytest.fixture(scope="module")
def spiral():
    render = SimpleNamespace(get_spiral_path=camera_paths.get_spiral_path)
    compat.level_spirals(render)
    once = render.get_spiral_path
    compat.level_spirals(render)
    assert render.get_spiral_path is once
    return once


@pytest.mark.parametrize("radius", [0.1, 0.5])
@pytest.mark.parametrize("azimuth", [0.0, 22.5, 90.0, 180.0, 300.0])
def test_spirals_are_level_and_keep_the_object_in_the_middle(spiral, azimuth, radius):
    camera = orbit_cameras(torch.tensor([azimuth]), torch.tensor([20.0]), 48)
    before = camera.camera_to_worlds.clone(), camera.fx.clone()
    path = spiral(camera, steps=12, radius=radius)
    poses = path.camera_to_worlds
    assert len(path) == 12 and torch.equal(path.fx, camera.fx.expand(12, 1)) and torch.equal(path.cx[:1], camera.cx)
    assert torch.equal(camera.camera_to_worlds, before[0]) and torch.equal(camera.fx, before[1])
    assert poses[:, 2, 0].abs().max() < 1e-5, "the horizon is level"
    assert (poses[:, 2, 1] > 0.7).all(), "the right way up"
    assert ((poses[:, :, 3] - before[0][0, :, 3]).norm(dim=-1) <= 3**0.5 * radius).all()
    towards = -torch.einsum("fij,fi->fj", poses[:, :, :3], poses[:, :, 3])  # the origin in the camera's frame
    off = (towards[:, :2].norm(dim=-1) / -towards[:, 2]).max() * path.fx[0] / 48
    assert off < 0.01, "in shares of the picture"


def test_flights_between_held_out_cameras_go_round_the_object():
    cameras = held_out()
    path = camera_paths.get_interpolated_camera_path(cameras, steps=10, order_poses=False)
    positions = path.camera_to_worlds[:, :, 3]
    assert positions.norm(dim=-1).min() > 2.2, "no close-ups"
    assert path.camera_to_worlds[:, 2, 1].min() > 0.7
    azimuths = torch.atan2(positions[:, 0], -positions[:, 1]).rad2deg() % 360
    assert (azimuths.diff() > -1e-3).all() and azimuths[0] == pytest.approx(22.5) and azimuths[-1] > 330
    assert positions[:, 2].max() > 0.7 and positions[:, 2].min() < -0.7


def test_held_out_cameras_of_any_number():
    assert len(held_out(1)) == 1
    azimuths, elevations = rising_orbit(3)
    assert azimuths.tolist() == [60.0, 180.0, 300.0] and elevations.abs().max() < 30
