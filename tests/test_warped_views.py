"""Views warped into each other: nothing is left of colors that lie on the surface, something of those that do not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from invert3d_ns.metrics.warped_views import warped_difference
from invert3d_ns.scenes.cameras import FOV_Y, orbit_camera_to_world

SIZE, RADIUS = 48, 0.8
NEIGHBORS = torch.tensor([1, 2, 0])
POSES = orbit_camera_to_world(torch.tensor([0.0, 15.0, 30.0]), torch.tensor(10.0))


def _ball() -> tuple[Tensor, Tensor, Tensor]:
    """Exact depths and coverage of a ball from three sides, and where its points lie, [F, S, S, 3]."""
    tangent = math.tan(math.radians(FOV_Y) / 2)
    steps = (torch.arange(SIZE) + 0.5) * (2 / SIZE) - 1
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    rays = torch.stack([u * tangent, -v * tangent, -torch.ones_like(u)], -1) @ POSES[:, None, :3, :3].mT
    origins = POSES[:, None, None, :3, 3]
    a, b = (rays * rays).sum(-1), (rays * origins).sum(-1)
    inside = b * b - a * ((origins * origins).sum(-1) - RADIUS**2)
    depths = torch.where(inside > 0, (-b - inside.clamp_min(0).sqrt()) / a, 0.0)
    return depths[:, None], (inside > 0).float()[:, None], origins + rays * depths[..., None]


def test_colors_of_the_surface_are_the_same_from_everywhere() -> None:
    depths, coverage, points = _ball()
    images = (points.permute(0, 3, 1, 2) / 2 + 0.5) * coverage
    assert warped_difference(images, depths, coverage, POSES, NEIGHBORS) < 0.002


def test_colors_that_turn_with_the_camera_differ_by_what_they_turn() -> None:
    depths, coverage, points = _ball()
    shades = torch.tensor([0.2, 0.5, 0.6]).view(3, 1, 1, 1)
    found = warped_difference(shades * torch.ones(3, 3, SIZE, SIZE), depths, coverage, POSES, NEIGHBORS)
    assert 0.1 < found < 0.4  # 0.3, 0.1 and 0.4, weighed by the pixels that count
    same = warped_difference(0.5 * torch.ones(3, 3, SIZE, SIZE), depths, coverage, POSES, NEIGHBORS)
    assert same < 1e-6
    lit = (points.permute(0, 3, 1, 2) / 2 + 0.5) * coverage * (0.8 + 0.4 * shades)
    assert warped_difference(lit, depths, coverage, POSES, NEIGHBORS) > 0.02


def test_what_a_neighbor_cannot_see_does_not_count() -> None:
    depths, coverage, points = _ball()
    images = (points.permute(0, 3, 1, 2) / 2 + 0.5) * coverage
    screen = slice(None, SIZE // 2)  # something nearer, in a color of its own, before half of the second view
    images[1, :, :, screen] = torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1)
    hidden, seen = depths.clone(), depths
    hidden[1, :, :, screen] = 1.0
    found = [
        warped_difference(images[[0, 1]], some[[0, 1]], coverage[[0, 1]], POSES[[0, 1]], torch.tensor([1, 1]))
        for some in (hidden, seen)
    ]
    assert found[0] < 0.01 < 0.1 < found[1]


@pytest.mark.parametrize("covered", [0.0, 0.5])
def test_where_nothing_is_solid_there_is_nothing_to_compare(covered: float) -> None:
    depths, coverage, _ = _ball()
    images = torch.ones(3, 3, SIZE, SIZE)
    assert math.isnan(warped_difference(images, depths, covered * coverage, POSES, NEIGHBORS))
