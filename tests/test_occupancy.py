"""Cells that hold something of any object: what covers all blends, when it changes, and what checkpoints keep."""

from __future__ import annotations

import inspect
import sys

import pytest
import torch
from field_scenes import make_ball, make_cones, make_field
from nerfacc import OccGridEstimator

from invert3d_ns.scenes import occupancy as module
from invert3d_ns.scenes.occupancy import RESOLUTION, Occupancy, spread_weights
from invert3d_ns.scenes.ray_marching import Rays, place_samples


def _stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_points_of_the_simplex_are_vertices_and_what_lies_between() -> None:
    weights = spread_weights(4000, 3, _stream())
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 4000))
    assert torch.equal(weights[:3].sum(0), torch.ones(4000, 3))  # each vertex once
    inside = weights[3]
    assert inside.min() >= 0 and (inside.mean(0) - 1 / 3).abs().max() < 0.02
    # A quarter of an even triangle is nearer to its middle than to any corner: no weight above a half.
    assert abs((inside.amax(-1) < 0.5).float().mean() - 0.25) < 0.03
    many = spread_weights(4000, 6, _stream())
    assert len(many) == 5 and torch.equal(many[:4].sum(0).amax(-1), torch.ones(4000))
    assert (many[:4].mean((0, 1)) - 1 / 6).abs().max() < 0.02
    assert spread_weights(5, 1, _stream()).tolist() == [[[1.0]] * 5]


def test_everything_is_occupied_at_first_but_nothing_out_of_the_cube() -> None:
    occupancy = Occupancy(2)
    places = torch.tensor([[0.0, 0, 0], [0.99, -0.99, 0.99], [1.01, 0, 0], [0, 0, -1.01]])
    assert occupancy.holds(places).tolist() == [True, True, False, False]
    assert occupancy.holds(places.view(2, 2, 3)).shape == (2, 2)
    assert occupancy.share == 1


def test_cells_are_found_by_their_place() -> None:
    occupancy = Occupancy(1)
    occupancy.grid.binaries.fill_(False)
    occupancy.grid.binaries[0, 3, 20, 31] = True
    inside = (torch.tensor([3.0, 20.0, 31.0]) + 0.5) * 2 / RESOLUTION - 1
    assert occupancy.holds(inside)
    assert not occupancy.holds(inside.flip(-1)) and not occupancy.holds(inside + torch.tensor([0.07, 0, 0]))


@pytest.mark.parametrize("last", [0, 2000])
def test_cells_cover_every_object_and_leave_out_the_rest(last: int) -> None:
    field = make_field()
    make_cones(field)
    occupancy = Occupancy(2)
    for step in range(0, last + 1, 16):
        occupancy.update(step, field.density, _stream(step))
    axis = torch.linspace(0.3, 0.9, 30)[:, None] * torch.tensor([1.0, 0.05, 0.05])
    assert occupancy.holds(axis).all()
    assert occupancy.holds(-axis).all()
    beside = axis[:, [1, 0, 2]]
    assert not occupancy.holds(torch.cat([beside, -beside])[5:].clamp(-1, 1)).any()
    assert occupancy.share < 0.3


def test_a_blend_alone_would_miss_the_other_object() -> None:
    field = make_field()
    make_cones(field)
    occupancy = Occupancy(2)
    occupancy.update(0, lambda points, _: field.density(points, torch.tensor([1.0, 0.0])), _stream())
    assert occupancy.holds(torch.tensor([-0.5, 0.0, 0.0])) and not occupancy.holds(torch.tensor([0.5, 0.0, 0.0]))


def test_the_densest_object_counts() -> None:
    occupancy = Occupancy(3)
    occupancy.update(0, lambda points, weights: 8 * weights[:, 2], _stream())
    cell = (RESOLUTION // 2) * (RESOLUTION**2 + RESOLUTION + 1)
    assert float(occupancy.held[cell]) == 8 * 2 / RESOLUTION
    assert occupancy.held[0] == 0  # which no ray passes


def test_updates_happen_in_every_16th_step_and_repeat_by_their_generator() -> None:
    field = make_field()
    make_ball(field, 10.0)
    first, again, other = Occupancy(2), Occupancy(2), Occupancy(2)
    generator, before = _stream(), torch.random.get_rng_state()
    first.update(15, field.density, generator)
    assert first.share == 1 and torch.equal(generator.get_state(), _stream().get_state())
    first.update(16, field.density, generator)
    assert first.share < 1
    again.update(16, field.density, _stream())
    other.update(16, field.density, _stream(1))
    assert torch.equal(first.held, again.held) and not torch.equal(first.held, other.held)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_gone_is_forgotten_in_time() -> None:
    occupancy = Occupancy(1)
    occupancy.update(0, lambda points, _: 20.0 * (points[:, 0] > 0), _stream())
    assert occupancy.holds(torch.tensor([0.5, 0.0, 0.0])) and not occupancy.holds(torch.tensor([-0.5, 0.0, 0.0]))
    for step in range(16, 16 * 40, 16):
        occupancy.update(step, lambda points, _: 20.0 * (points[:, 0] < 0), _stream(step))
    assert occupancy.holds(torch.tensor([-0.5, 0.0, 0.0])) and not occupancy.holds(torch.tensor([0.5, 0.0, 0.0]))


def test_checkpoints_hold_the_cells() -> None:
    field = make_field()
    make_ball(field)
    occupancy, other = Occupancy(2), Occupancy(2)
    occupancy.update(0, field.density, _stream())
    other.load_state_dict(occupancy.state_dict())
    assert torch.equal(other.binaries, occupancy.binaries) and 0 < other.share < 1
    for each in (occupancy, other):
        each.update(512, field.density, _stream(1))
    assert torch.equal(other.held, occupancy.held)


def test_a_gpu_marches_by_nerfacc(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as can be seen without one: what nerfacc is given, and what becomes of what it returns."""
    occupancy = Occupancy(1)
    rays = Rays(torch.tensor([[0.0, -3, 9], [0, -3, 0], [0, -2, 0]]), torch.tensor([[0.0, 1, 0]] * 3), torch.ones(3))
    given = {}

    def sampling(origins, directions, **options):
        inspect.signature(OccGridEstimator.sampling).bind(occupancy.grid, origins, directions, **options)
        given.update(options, origins=origins)
        starts = options["t_min"].repeat_interleave(2) + torch.tensor([0.0, 0.5, 0.0, 0.5])
        return torch.tensor([0, 0, 1, 1]), starts, starts + 0.5

    monkeypatch.setattr(occupancy, "marches_on_gpu", lambda device: True)
    monkeypatch.setattr(occupancy.grid, "sampling", sampling)
    samples = place_samples(rays, occupancy, 4, torch.tensor([0.5, 0.5, 0.75]))
    torch.testing.assert_close(given["origins"], rays.origins[1:])
    torch.testing.assert_close(given["t_min"], torch.tensor([2.0, 1.125]))
    torch.testing.assert_close(given["t_max"], torch.tensor([4.0, 3.0]))
    assert given["render_step_size"] == 0.5
    assert samples.rays.tolist() == [1, 1, 2, 2]
    torch.testing.assert_close(samples.distances, torch.tensor([2.25, 2.75, 1.375, 1.875]))
    torch.testing.assert_close(samples.lengths, torch.full((4,), 0.5))


def test_without_kernels_rays_are_marched_in_torch(monkeypatch, capsys) -> None:
    assert not Occupancy(1).marches_on_gpu(torch.device("cpu"))
    module._has_kernels.cache_clear()
    monkeypatch.setitem(sys.modules, "nerfacc.cuda._backend", None)
    assert not Occupancy(1).marches_on_gpu(torch.device("cuda"))
    assert "nerfacc's kernels cannot be compiled" in capsys.readouterr().err
    module._has_kernels.cache_clear()
