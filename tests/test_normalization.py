from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gsplat.cuda._torch_impl import _eval_sh_bases_fast
from gsplat.utils import normalized_quat_to_rotmat
from scipy.spatial.transform import Rotation
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.assets import DEMO_SCENE
from invert3d_ns.scenes.cameras import OBJECT_RADIUS, orbit_camera_to_world
from invert3d_ns.scenes.normalization import (
    robust_sphere,
    rotate_harmonics,
    rotation_about_z,
    to_object_frame,
    transform_splats,
)
from invert3d_ns.scenes.rendering import render_splats
from invert3d_ns.scenes.splat_files import read_splat_file


def rotation_matrix(seed: int) -> torch.Tensor:
    quaternion = np.random.default_rng(seed).normal(size=4)
    return torch.from_numpy(Rotation.from_quat(quaternion).as_matrix()).float()


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_rotated_harmonics_are_the_old_ones_at_the_direction_turned_back(degree):
    bases = (degree + 1) ** 2
    coefficients = torch.randn(4, bases - 1, 3, generator=torch.Generator().manual_seed(degree))
    directions = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    rotation = rotation_matrix(degree)
    rotated = rotate_harmonics(coefficients, rotation)
    new = torch.einsum("dk,nkc->dnc", _eval_sh_bases_fast(bases, directions)[:, 1:], rotated)
    old = torch.einsum("dk,nkc->dnc", _eval_sh_bases_fast(bases, directions @ rotation)[:, 1:], coefficients)
    assert (new - old).abs().max() < 1e-5


def test_a_similarity_moves_covariances_as_matrices_move():
    cloud = make_cloud(30, 2)
    transform = torch.eye(4)
    transform[:3, :3], transform[:3, 3] = 1.7 * rotation_matrix(3), torch.tensor([1.0, -2.0, 0.5])

    def covariance(c):
        half = normalized_quat_to_rotmat(torch.nn.functional.normalize(c.quats, dim=-1)) * c.scales.exp()[:, None]
        return half @ half.transpose(-1, -2)

    moved = transform_splats(cloud, transform)
    expected = transform[:3, :3] @ covariance(cloud) @ transform[:3, :3].T
    assert torch.allclose(covariance(moved), expected, atol=1e-5)
    assert torch.allclose(moved.means, cloud.means @ transform[:3, :3].T + transform[:3, 3], atol=1e-6)


def test_object_frame_is_centered_sized_and_upright():
    cloud = make_cloud(2000)
    moved, transform = to_object_frame(cloud, up="y")
    assert torch.allclose(moved.means.amax(dim=0) + moved.means.amin(dim=0), torch.zeros(3), atol=0.05)
    assert math.isclose(float(moved.means.norm(dim=-1).max()), OBJECT_RADIUS, rel_tol=0.03)
    green = moved.features_dc[:, 1] > 0
    assert moved.means[green, 2].min() > 0.7  # the knob is on top
    red = (moved.features_dc[:, 0] > 0) & ~green
    camera = orbit_camera_to_world(torch.tensor([0.0]), torch.tensor([0.0]))[0, :3, 3]
    assert (moved.means[red] @ camera > -0.1).all()  # the front faces the azimuth-0 camera
    homogeneous = torch.cat([cloud.means, torch.ones(len(cloud), 1)], dim=-1)
    assert torch.allclose((homogeneous @ transform.T)[:, :3], moved.means, atol=1e-5)


def test_floaters_do_not_move_or_shrink_the_object():
    clean, _ = to_object_frame(make_cloud(2000))
    cloud = make_cloud(2000)
    cloud.means[:5] += 100.0
    cloud.means[5:100] -= 30.0
    cloud.opacities[5:100] = -6.0
    moved, _ = to_object_frame(cloud)
    assert (moved.means[100:] - clean.means[100:]).abs().max() < 0.03


@pytest.mark.parametrize("up", ["x", "-x", "y", "-y", "z", "-z"])
def test_every_up_axis_is_a_proper_rotation_to_z(up):
    axis = torch.zeros(3)
    axis["xyz".index(up[-1])] = -1.0 if up[0] == "-" else 1.0
    _, transform = to_object_frame(make_cloud(100), up=up)
    linear = transform[:3, :3] / torch.linalg.det(transform[:3, :3]).pow(1 / 3)
    assert torch.allclose(linear @ axis, torch.tensor([0.0, 0.0, 1.0]), atol=1e-6)
    assert torch.linalg.det(linear) > 0


def test_a_turn_moves_azimuths():
    before = orbit_camera_to_world(torch.tensor([20.0]), torch.tensor([10.0]))[0]
    after = orbit_camera_to_world(torch.tensor([65.0]), torch.tensor([10.0]))[0]
    assert torch.allclose(rotation_about_z(45.0) @ before, after, atol=1e-5)


def blobs(count: int, size: float, spread: float = 1.0):
    """Splats of one size at random places."""
    generator = torch.Generator().manual_seed(count)
    return replace(
        make_cloud(count),
        means=spread * torch.randn(count, 3, generator=generator),
        scales=torch.full((count, 3), math.log(size)),
    )


def stretched(cloud, factor: float):
    """Splats that are long along one axis of their own."""
    return replace(cloud, scales=cloud.scales + torch.tensor([math.log(factor), 0.0, 0.0]))


def join(a, b):
    return replace(a, **{name: torch.cat([tensor, b.tensors()[name]]) for name, tensor in a.tensors().items()})


@pytest.mark.parametrize(
    "cloud",
    [
        blobs(1, 0.3),
        blobs(2, 3.0),
        blobs(3, 0.8),
        blobs(50, 2.0),
        stretched(blobs(20, 0.1), 30.0),
        join(make_cloud(60), blobs(2, 0.5, 0.1)),
        replace(blobs(5, 900.0, 1000.0), opacities=torch.full((5, 1), -1.0)),
    ],
    ids=["one", "two huge", "three", "a cloud of large ones", "needles", "two large among small", "in millimeters"],
)
def test_what_is_seen_of_large_splats_is_not_cut_off_by_views(cloud):
    moved, transform = to_object_frame(cloud)
    poses = orbit_camera_to_world(torch.tensor([0.0, 80.0, 190.0]), torch.tensor([0.0, 30.0, -20.0]))
    alphas = render_splats(moved, poses, 64)[1]
    border = torch.cat([alphas[..., 0, :], alphas[..., -1, :], alphas[..., 0], alphas[..., -1]], dim=-1)
    assert border.max() < 0.1 and alphas.max() > 0.3
    assert alphas.gt(0.1).float().mean() > 0.03  # nor made tiny
    homogeneous = torch.cat([cloud.means, torch.ones(len(cloud), 1)], dim=-1)
    assert torch.allclose((homogeneous @ transform.T)[:, :3], moved.means, atol=1e-4)


def test_the_sphere_of_an_ordinary_scene_is_that_of_its_centers():
    cloud, _ = read_splat_file(DEMO_SCENE)
    center, extent = robust_sphere(cloud.means, cloud.opacities[:, 0].sigmoid())
    _, transform = to_object_frame(cloud)
    assert float(torch.linalg.det(transform[:3, :3]).pow(1 / 3)) == pytest.approx(OBJECT_RADIUS / extent, rel=1e-6)
    assert torch.allclose(transform[:3, :3] @ center + transform[:3, 3], torch.zeros(3), atol=1e-5)


@pytest.mark.parametrize(("change", "says"), [({"opacities": -9.0}, "no visible splat"), ({"means": 0.0}, "one point")])
def test_scenes_without_extent_are_refused(change, says):
    cloud = make_cloud(20)
    cloud = replace(cloud, **{name: torch.full_like(getattr(cloud, name), value) for name, value in change.items()})
    with pytest.raises(InputError, match=says):
        to_object_frame(cloud)
    with pytest.raises(InputError, match="up axis"):
        to_object_frame(cloud, up="w")  # type: ignore[arg-type]
