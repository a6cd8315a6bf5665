"""Textures: triangles in a picture against plain loops, flat maps, and colors of a scene whose colors are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import trimesh as _trimesh
from mesh_views import draw_mesh
from solid_views import box, cast, position_color, sphere

from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.scenes.meshes.depth_views import depth_views
from invert3d_ns.scenes.meshes.mesh import Mesh, vertex_normals
from invert3d_ns.scenes.meshes.texturing import _CHUNK, _colors, textured, unwrapped
from invert3d_ns.scenes.meshes.triangles import covered_pixels

trimesh: Any = _trimesh  # whose own annotations know less than it does


def ball(subdivisions=3, radius=0.5) -> Mesh:
    solid = trimesh.creation.icosphere(subdivisions, radius)
    vertices = solid.vertices.astype(np.float32)
    return Mesh(vertices, solid.faces.astype(np.int32), vertex_normals(vertices, solid.faces))


@pytest.fixture(scope="module")
def views():
    return depth_views(cast(sphere(0.5)), 24, 128)


def test_covered_pixels_are_those_of_a_plain_loop():
    corners = np.random.default_rng(0).uniform(-5, 25, (40, 3, 2))
    corners[:20, :, :] = corners[:20, :1, :] + (corners[:20] - corners[:20, :1]) * 0.1
    corners[3] = corners[3, :1]  # a point
    corners[4, 1] = np.nan
    expected = {}
    for face, triangle in enumerate(corners):
        matrix = np.concatenate([triangle.T, np.ones((1, 3))])
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
            continue
        for row in range(20):
            for column in range(20):
                parts = np.linalg.solve(matrix, [column + 0.5, row + 0.5, 1])
                if (parts >= 0).all():
                    expected[row * 20 + column, face] = parts
    found = {}
    for pixels, faces, parts in covered_pixels(corners, 20):
        found.update(zip(zip(pixels.tolist(), faces.tolist(), strict=True), parts, strict=True))
    assert found.keys() == expected.keys() and len(expected) > 300
    assert all(found[key] == pytest.approx(expected[key], abs=1e-9) for key in expected)


def test_covered_pixels_come_in_batches_that_fit(monkeypatch):
    corners = np.random.default_rng(1).uniform(0, 50, (30, 3, 2))
    whole = [np.concatenate(part) for part in zip(*covered_pixels(corners, 50), strict=True)]
    monkeypatch.setattr("invert3d_ns.scenes.meshes.triangles._AT_ONCE", 500)
    batches = list(covered_pixels(corners, 50))
    assert len(batches) > 5
    for one, other in zip(whole, (np.concatenate(part) for part in zip(*batches, strict=True)), strict=True):
        assert (one == other).all()


@pytest.mark.parametrize("subdivisions", [2, 4], ids=["one piece", "several pieces"])
def test_a_flat_map_has_all_triangles_side_by_side(subdivisions):
    mesh = ball(subdivisions)
    assert (len(mesh.faces) > _CHUNK) == (subdivisions == 4)
    flat = unwrapped(mesh, 256)
    assert flat.uvs is not None and len(flat.faces) == len(mesh.faces)
    assert flat.uvs.min() >= 0 and flat.uvs.max() <= 1

    def as_set(part):
        return {tuple(sorted(map(tuple, triangle))) for triangle in part.vertices[part.faces].round(5).tolist()}

    assert as_set(flat) == as_set(mesh)
    a, b, c = (flat.vertices[flat.faces[:, i]] for i in range(3))
    outwards = (np.cross(b - a, c - a) * a).sum(axis=1)
    assert (outwards > 0).all(), "triangles still wind counterclockwise"
    assert (flat.normals * flat.vertices / 0.5).sum(axis=1).min() > 0.99
    # Charts do not overlap: but for borders, pixels belong to one triangle each.
    pixels = np.concatenate([found[0] for found in covered_pixels(flat.uvs[flat.faces] * 1024.0, 1024)])
    assert len(np.unique(pixels)) > 0.995 * len(pixels) and len(pixels) > 0.4 * 1024**2


def test_a_texture_has_the_colors_of_the_scene_up_to_its_seams(views):
    mesh = textured(ball(), views, 256)
    assert mesh.texture is not None and mesh.texture.shape == (256, 256, 3) and mesh.texture.dtype == np.uint8
    assert mesh.colors is not None
    assert np.abs(mesh.colors - position_color(torch.from_numpy(mesh.vertices)).numpy()).max() < 0.02
    poses = orbit_camera_to_world(torch.arange(3) * 120.0, torch.tensor([50.0, 0.0, -50.0]))
    truth, alpha, _ = cast(sphere(0.5))(poses, 160)
    shown, mask = draw_mesh(mesh, poses, 160)
    both = (alpha * mask).expand(-1, 3, -1, -1) > 0
    assert both[:, :1].sum() > 0.97 * alpha.sum()
    wrong = (shown - truth)[both].abs()
    assert wrong.max() < 0.06 and wrong.mean() < 0.005, "no seam shows anything else"


def test_what_hides_gives_no_color_to_what_is_hidden():
    """A small ball before a board, both colored by position: the board behind the ball keeps its own color."""
    views = depth_views(cast(box(0.6, 0.02, 0.6), sphere(0.15, (0.0, -0.4, 0.0))), 36, 192)
    x, z = torch.meshgrid(torch.linspace(-0.3, 0.3, 21), torch.linspace(-0.3, 0.3, 21), indexing="ij")
    points = torch.stack([x, torch.full_like(x, -0.02), z], dim=-1).view(-1, 3)
    colors, seen = _colors(views, points.numpy(), np.tile(np.array([[0, -1, 0]], dtype=np.float32), (len(points), 1)))
    assert seen.mean() > 0.99
    assert np.abs(colors - position_color(points).numpy())[seen].max() < 0.02
    _, seen = _colors(views, points.numpy(), np.tile(np.array([[0, 1, 0]], dtype=np.float32), (len(points), 1)))
    assert not seen.any(), "a surface is not seen from behind"


def test_a_mesh_that_no_view_shows_is_gray():
    views = depth_views(cast(sphere(0.2, (0.0, 0.0, 0.6))), 4, 64)
    views.facing.zero_()
    mesh = textured(ball(1), views, 64)
    assert mesh.colors is not None and (mesh.colors == 0.5).all()
    assert mesh.texture is not None and (mesh.texture == 128).all()


def test_the_inside_of_a_shell_is_colored_too(views):
    """Nobody sees it, and no texel of it is black."""
    mesh, inner = ball(2), ball(2, 0.3)
    both = Mesh(
        np.concatenate([mesh.vertices, inner.vertices]),
        np.concatenate([mesh.faces, inner.faces[:, ::-1] + len(mesh.vertices)]),
        np.concatenate([mesh.normals, -inner.normals]),
    )
    made = textured(both, views, 128)
    assert made.colors is not None and made.texture is not None
    hidden = np.linalg.norm(made.vertices, axis=1) < 0.4
    near = 0.5 + 0.45 * made.vertices[hidden] / 0.6
    assert hidden.any() and np.abs(made.colors[hidden] - near).max() < 0.15
    assert made.texture.min() > 50
