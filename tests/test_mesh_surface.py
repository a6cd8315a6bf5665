"""The surface of a scene: from the depths of its views, against solids that are known, and from a density."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import trimesh as _trimesh
from solid_views import box, cast, sphere

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.cameras import ORBIT_RADIUS
from invert3d_ns.scenes.meshes.depth_views import depth_views, surrounding_poses
from invert3d_ns.scenes.meshes.mesh import Mesh, moved, vertex_normals
from invert3d_ns.scenes.meshes.surface import _fused, project, surface_from_density, surface_from_views

trimesh: Any = _trimesh  # whose own annotations know less than it does


def as_solid(mesh: Mesh) -> Any:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def ball(radius, center=(0.0, 0.0, 0.0)):
    return lambda points: radius - (points - torch.tensor(center)).norm(dim=-1)


@pytest.fixture(scope="module")
def sphere_views():
    return depth_views(cast(sphere(0.5)), 24, 128)


def test_a_density_becomes_the_surface_of_its_threshold():
    mesh = surface_from_density(lambda points: 10 * ball(0.5, (0.2, 0.0, 0.0))(points), 1.0, 4000)
    offset = mesh.vertices - np.array([0.2, 0.0, 0.0])
    assert np.abs(np.linalg.norm(offset, axis=1) - 0.4).max() < 0.003
    assert ((offset / 0.4 * mesh.normals).sum(axis=1) > 0.98).all(), "normals point outwards"
    solid = as_solid(mesh)
    assert solid.is_watertight and solid.is_winding_consistent
    assert solid.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.03), "and so do the faces"


@pytest.mark.parametrize("faces", [1000, 3000, 30_000])
def test_the_number_of_triangles_is_near_the_budget_and_below(sphere_views, faces):
    for mesh in (surface_from_density(ball(0.8), 0.0, faces), surface_from_views(sphere_views, faces)):
        assert 0.75 * faces < len(mesh.faces) <= faces


def test_small_loose_pieces_are_left_out_and_large_ones_stay():
    def three(points):
        near = [ball(0.4), ball(0.1, (0.7, 0, 0)), ball(0.03, (-0.7, 0, 0))]
        return torch.stack([density(points) for density in near]).amax(dim=0)

    mesh = surface_from_density(three, 0.0, 20_000)
    assert as_solid(mesh).body_count == 2
    assert mesh.vertices[:, 0].max() > 0.75 and mesh.vertices[:, 0].min() > -0.45


def test_what_reaches_out_of_the_volume_is_closed():
    assert as_solid(surface_from_density(lambda points: points[:, 2] + 0.5, 0.0, 2000)).is_watertight


def test_densities_that_are_no_numbers_are_empty():
    values = ball(0.4)
    mesh = surface_from_density(lambda p: torch.where(p[:, 0] > 0.2, torch.nan, values(p)), 0.0, 2000)
    assert mesh.vertices[:, 0].max() < 0.25


@pytest.mark.parametrize("density", [lambda p: torch.zeros(len(p)), lambda p: torch.full((len(p),), torch.nan)])
def test_a_density_without_a_surface_is_refused(density):
    with pytest.raises(InputError, match=r"no surface is seen in the scene.*; look at it"):
        surface_from_density(density, 1.0, 2000)


def test_a_sphere_is_found_by_its_views(sphere_views):
    mesh = surface_from_views(sphere_views, 8000)
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert np.abs(radius - 0.5).max() < 0.008 and abs(radius.mean() - 0.5) < 0.003
    assert (mesh.normals * mesh.vertices / radius[:, None]).sum(axis=1).min() > 0.99
    assert as_solid(mesh).is_watertight and as_solid(mesh).volume > 0
    assert as_solid(mesh).body_count == 1, "what nobody sees is inside, not a hole"


def test_a_board_thinner_than_a_cell_is_not_made_thick():
    mesh = surface_from_views(depth_views(cast(box(0.5, 0.02, 0.6)), 32, 192), 3000)
    assert as_solid(mesh).is_watertight
    assert as_solid(mesh).extents == pytest.approx([1.0, 0.04, 1.2], abs=0.05)
    assert np.median(np.abs(mesh.vertices[:, 1])) == pytest.approx(0.02, abs=0.015), "the cells are 0.05 wide"


def test_a_finer_grid_is_filled_near_the_surface_as_it_would_be_everywhere(sphere_views):
    everywhere = _fused(sphere_views, 90)
    near = _fused(sphere_views, 90, _fused(sphere_views, 64))
    assert (near - everywhere)[everywhere.abs() < 0.6].abs().max() == 0
    assert (near.sign() == everywhere.sign()).all() and (near != everywhere).any()


def test_depths_in_the_middle_of_thick_splats_give_the_whole_outline():
    views = depth_views(cast(sphere(0.5), deeper=0.006), 24, 256)
    radius = np.linalg.norm(surface_from_views(views, 8000).vertices, axis=1)
    assert abs(radius.mean() - 0.5) < 0.003


def test_one_view_into_a_gap_cuts_no_tunnel():
    views = depth_views(cast(sphere(0.5)), 48, 128)
    hole = 5, 0, slice(56, 72), slice(56, 72)
    views.solid[hole], views.depth[hole], views.beside[hole] = 0, 0, 8
    mesh = surface_from_views(views, 8000)
    assert np.linalg.norm(mesh.vertices, axis=1).min() > 0.45 and as_solid(mesh).body_count == 1


def test_views_of_nothing_are_refused():
    def nothing(poses, size):
        return (
            torch.zeros(len(poses), 3, size, size),
            torch.zeros(len(poses), 1, size, size),
            torch.nan * torch.ones(len(poses), 1, size, size),
        )

    with pytest.raises(InputError, match="no surface is seen"):
        surface_from_views(depth_views(nothing, 9, 32), 2000)


def test_views_know_colors_slopes_and_outlines(sphere_views):
    views = sphere_views
    assert len(views) == 24 and views.size == 128
    seen = views.solid[0, 0] > 0
    back = views.cameras.camera_to_world[0, :3, 2]
    # Depths lead back to points of the sphere, whose colors and normals are known.
    row, column = seen.nonzero().unbind(1)
    k, depth = views.cameras.intrinsics[0], views.depth[0, 0][seen]
    axes = torch.stack([(column + 0.5 - k[0, 2]) / k[0, 0], -(row + 0.5 - k[1, 2]) / k[1, 1], -torch.ones(len(row))], 1)
    points = (
        views.cameras.camera_to_world[0, :3, 3] + (axes * depth[:, None]) @ views.cameras.camera_to_world[0, :3, :3].T
    )
    assert (points.norm(dim=1) - 0.5).abs().max() < 1e-4
    assert (views.rgb[0, :, seen].float().T - (0.5 + 0.45 * points)).abs().max() < 2e-3
    cosine = (points / 0.5) @ back
    inner = cosine > 0.85
    assert (views.facing[0, 0][seen][inner].float() - cosine[inner] ** 2).abs().max() < 0.1
    assert views.facing[0, 0][~seen].max() == 0 and views.depth[0, 0][~seen].max() == 0
    middle = views.beside[0, 0, 64].float()
    edge = int(seen[64].nonzero()[0])
    assert middle[edge] == 0 and middle[edge - 1] == 0.5 and middle[edge - 11] == pytest.approx(10.5, abs=0.2)


def test_projections_are_those_of_the_cameras(sphere_views):
    points = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 50.0], [0.1, 0.2, 0.3]])
    z, pixel, within = project(sphere_views, 7, points)
    assert z[0] == pytest.approx(ORBIT_RADIUS, abs=1e-5) and int(pixel[0]) in {
        a * 128 + b for a in (63, 64) for b in (63, 64)
    }
    assert within.tolist() == [True, False, True]
    local = torch.linalg.inv(surrounding_poses(24)[7]) @ torch.tensor([0.1, 0.2, 0.3, 1.0])
    focal = float(sphere_views.cameras.intrinsics[0, 0, 0])
    assert int(pixel[2]) == int(64 - local[1] / -local[2] * focal) * 128 + int(64 + local[0] / -local[2] * focal)


def test_surrounding_cameras_see_all_sides():
    back = surrounding_poses(48)[:, :3, 2]
    directions = torch.nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    assert (directions @ back.T).amax(dim=1).min() > 0.85, "every direction is within 32 degrees of a view"


def test_normals_and_moves_are_those_of_plain_formulas():
    solid = trimesh.creation.icosphere(2, 0.5)
    normals = vertex_normals(solid.vertices, solid.faces)
    assert (normals * solid.vertices / 0.5).sum(axis=1).min() > 0.999
    assert vertex_normals(np.zeros((4, 3)), solid.faces[:0]).tolist() == [[0, 0, 1]] * 4
    transform = np.eye(4)
    transform[:3, :3] = 3 * np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    transform[:3, 3] = 5e6, 0, 1
    there = moved(Mesh(solid.vertices, solid.faces, normals), transform)
    assert there.vertices == pytest.approx(solid.vertices @ transform[:3, :3].T + transform[:3, 3], abs=1e-8)
    assert there.normals == pytest.approx(vertex_normals(there.vertices - transform[:3, 3], solid.faces), abs=1e-6)
