"""Rays, samples along them and what they sum to, against loops in which nothing is skipped."""

from __future__ import annotations

import math

import pytest
import torch
from field_scenes import RADIUS, all_samples, make_ball, make_cones, make_field, plain_render, show_analytic_normals

from invert3d_ns.scenes.cameras import orbit_camera_to_world, pinhole_cameras
from invert3d_ns.scenes.field_drawing import draw_rays
from invert3d_ns.scenes.occupancy import Occupancy
from invert3d_ns.scenes.ray_marching import (
    Rays,
    Samples,
    along_rays,
    camera_rays,
    optical_depth_before,
    place_samples,
    visible,
    weights_of,
)

SIZE = 9


@pytest.fixture
def rays() -> Rays:
    poses = orbit_camera_to_world(torch.tensor([20.0, 130.0]), torch.tensor([10.0, -20.0]))
    return camera_rays(pinhole_cameras(poses, SIZE))


@pytest.fixture
def packed() -> Samples:
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(20, (60,), generator=generator).sort().values
    return Samples(index, torch.rand(60, generator=generator), torch.rand(60, generator=generator))


def _updated(field, objects: int) -> Occupancy:
    occupancy = Occupancy(objects)
    for step in (0, 16, 32):
        occupancy.update(step, field.density, torch.Generator().manual_seed(step))
    return occupancy


def test_rays_go_through_the_centers_of_pixels(rays: Rays) -> None:
    poses = orbit_camera_to_world(torch.tensor([20.0, 130.0]), torch.tensor([10.0, -20.0]))
    cameras = pinhole_cameras(poses, SIZE)
    assert len(rays) == 2 * SIZE**2
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(len(rays)))
    for camera, row, column in ((0, 0, 0), (0, 2, 7), (1, 8, 3)):
        ray = camera * SIZE**2 + row * SIZE + column
        point = torch.cat([rays.origins[ray] + 1.7 * rays.directions[ray], torch.ones(1)])
        seen = (cameras.viewmats[camera] @ point)[:3]
        projected = cameras.intrinsics[camera] @ seen
        torch.testing.assert_close(projected[:2] / projected[2], torch.tensor([column + 0.5, row + 0.5]))
        torch.testing.assert_close(seen[2], 1.7 * rays.cosines[ray])


def test_rays_enter_and_leave_the_sphere() -> None:
    origins = torch.tensor([[0.0, -3.0, 0.0], [0.0, -3.0, 1.5], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    along = torch.tensor([[0.0, 1.0, 0.0]]).expand(4, 3)
    near, far = Rays(origins, along, torch.ones(4)).span()
    torch.testing.assert_close(near, torch.tensor([2.0, 3.0, 0.0, 0.0]))
    torch.testing.assert_close(far - near, torch.tensor([2.0, 0.0, 1.0, 0.0]))


@pytest.mark.parametrize("offset", [0.0, 0.5, 1.0])
def test_samples_are_evenly_spaced_and_bounded(rays: Rays, offset: float) -> None:
    samples = place_samples(rays, Occupancy(1), 12, offset)
    near, far = rays.span()
    assert (samples.rays.diff() >= 0).all()
    assert torch.bincount(samples.rays).max() <= 12
    within = samples.rays[1:] == samples.rays[:-1]
    torch.testing.assert_close(samples.distances.diff()[within], torch.full((int(within.sum()),), 2 / 12))
    first = torch.cat([torch.tensor([True]), ~within])
    start = samples.distances[first] - near[samples.rays[first]]
    torch.testing.assert_close(start, torch.full_like(start, offset * 2 / 12), atol=1e-5, rtol=0)
    assert (samples.distances < far[samples.rays]).all()
    assert samples.points(rays).norm(dim=-1).max() < 1 + 1e-5
    missed = (far == near).nonzero()[:, 0]
    assert len(missed) and not torch.isin(missed, samples.rays).any()


def test_empty_cells_have_no_samples(rays: Rays) -> None:
    occupancy = Occupancy(1)
    occupancy.grid.binaries[0, :10] = False
    kept, every = place_samples(rays, occupancy, 12), place_samples(rays, Occupancy(1), 12)
    inside = occupancy.holds(every.points(rays))
    assert 0.2 < inside.float().mean() < 0.9
    torch.testing.assert_close(kept.distances, every.distances[inside], rtol=0, atol=0)


def test_rays_are_taken_in_pieces_without_a_seam(rays: Rays, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = place_samples(rays, Occupancy(1), 12)
    monkeypatch.setattr("invert3d_ns.scenes.ray_marching._RAYS_AT_ONCE", 7)
    pieces = place_samples(rays, Occupancy(1), 12)
    torch.testing.assert_close(vars(pieces), vars(whole), rtol=0, atol=0)


def test_rays_that_see_nothing_have_no_samples_and_draw_nothing() -> None:
    away = Rays(torch.tensor([[0.0, -3.0, 2.0]]), torch.tensor([[0.0, 1.0, 0.0]]), torch.ones(1))
    for training in (True, False):
        with torch.set_grad_enabled(training):
            drawn = draw_rays(make_field(), Occupancy(2), away, lambda points, _: torch.tensor([1.0, 0.0]), count=8)
        assert len(drawn.samples) == 0
        assert drawn.color.tolist() == [[0, 0, 0]] and drawn.alpha.tolist() == drawn.depth.tolist() == [[0]]


def test_optical_depths_and_weights_are_those_of_a_loop(packed: Samples) -> None:
    density = (5 * torch.rand(60, generator=torch.Generator().manual_seed(1))).requires_grad_()
    weights, expected, lights = weights_of(density, packed), [], {}
    for row, ray in enumerate(packed.rays.tolist()):
        light = lights.get(ray, torch.ones(()))
        through = torch.exp(-density[row] * packed.lengths[row])
        expected.append(light * (1 - through))
        lights[ray] = light * through
    torch.testing.assert_close(weights, torch.stack(expected))
    pull = torch.rand(60, generator=torch.Generator().manual_seed(2))
    ours, theirs = (torch.autograd.grad((w * pull).sum(), density) for w in (weights, torch.stack(expected)))
    torch.testing.assert_close(ours, theirs)
    summed = along_rays(weights[:, None].detach(), packed.rays, 21)[:, 0]
    left = torch.stack([lights.get(ray, torch.ones(())) for ray in range(21)])
    torch.testing.assert_close(summed, 1 - left.detach())


def test_optical_depths_stay_exact_behind_opaque_rays() -> None:
    optical = torch.tensor([3e7, 0.001, 0.002])
    torch.testing.assert_close(optical_depth_before(optical, torch.tensor([0, 1, 1])), torch.tensor([0.0, 0.0, 0.001]))


@pytest.mark.parametrize("weights", [torch.tensor([1.0, 0.0]), torch.tensor([0.4, 0.6])])
def test_pictures_and_gradients_are_those_of_plain_marching(rays: Rays, weights: torch.Tensor) -> None:
    field, weights = make_field().double(), weights.double()
    part = Rays(*(tensor[20:60].double() for tensor in vars(rays).values()))
    expected = plain_render(field, part, weights, 10, 0.3)
    drawn = draw_rays(field, Occupancy(2), part, lambda *_: weights, count=10, offsets=0.3, least_weight=0.0)
    pulls = [torch.rand(len(part), n, generator=torch.Generator().manual_seed(n)).double() for n in (3, 1, 1)]
    gradients = []
    for pictures in ((drawn.color, drawn.alpha, drawn.depth), expected):
        loss = sum((picture * pull).sum() for picture, pull in zip(pictures, pulls, strict=True))
        assert isinstance(loss, torch.Tensor)
        gradients.append(torch.autograd.grad(loss, list(field.parameters())))
    for ours, theirs in zip((drawn.color, drawn.alpha, drawn.depth), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        quiet = draw_rays(field, Occupancy(2), part, lambda *_: weights, count=10, offsets=0.3, least_weight=0.0)
    torch.testing.assert_close(quiet.color, drawn.color)


def test_what_is_skipped_changes_little(rays: Rays) -> None:
    field, weights = make_field(), torch.tensor([1.0, 0.0])
    make_cones(field)
    occupancy = _updated(field, 2)
    assert 0.02 < occupancy.share < 0.5
    options = {"weights_at": lambda *_: weights, "count": 48}
    plain = draw_rays(field, Occupancy(2), rays, **options, least_weight=0.0)
    skipped = draw_rays(field, occupancy, rays, **options)
    assert len(skipped.samples) < len(plain.samples) / 8
    assert plain.alpha.max() > 0.99
    torch.testing.assert_close(skipped.color, plain.color, atol=3e-3, rtol=0)
    torch.testing.assert_close(skipped.alpha, plain.alpha, atol=3e-3, rtol=0)
    bias = field.albedo_head.out.bias
    ours, theirs = (torch.autograd.grad(drawn.color.square().sum(), bias)[0] for drawn in (skipped, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_what_lies_behind_is_not_evaluated(rays: Rays) -> None:
    samples = all_samples(rays, 64)
    field = make_field()
    make_ball(field)
    points, looked = samples.points(rays), []

    def density(rows: torch.Tensor) -> torch.Tensor:
        looked.append(rows)
        return field.density(points[rows], torch.tensor([1.0, 0.0]))

    rows, found = visible(samples, density, 1e-4)
    every = weights_of(field.density(points, torch.tensor([1.0, 0.0])), samples)
    assert set((every > 1.001e-4).nonzero()[:, 0].tolist()) <= set(rows.tolist())
    assert (every[rows] > 0.999e-4).all() and (rows.diff() > 0).all()
    torch.testing.assert_close(found, field.density(points[rows], torch.tensor([1.0, 0.0])).detach())
    evaluated = torch.cat(looked)
    assert len(evaluated) == len(set(evaluated.tolist()))
    directions = rays.directions[samples.rays]
    middle = torch.linalg.cross(points, directions).norm(dim=-1) < RADIUS / 2  # rays that cross much of the ball
    behind = middle & ((points * directions).sum(-1) > RADIUS / 2)
    assert behind.sum() > 40 and not behind[evaluated].any()
    assert middle[evaluated].sum() < 0.6 * middle.sum()


def test_the_depth_of_a_ball_is_where_rays_meet_it() -> None:
    poses = orbit_camera_to_world(torch.tensor([70.0]), torch.tensor([25.0]))
    rays = camera_rays(pinhole_cameras(poses, 15))
    field = make_field()
    show_analytic_normals(field)
    make_ball(field, 1e6)
    drawn = draw_rays(field, Occupancy(2), rays, lambda *_: torch.tensor([0.5, 0.5]), count=256, normals=True)
    closest = -(rays.origins * rays.directions).sum(-1)
    inside = RADIUS**2 - (rays.origins.square().sum(-1) - closest.square())
    hit = inside > 0.02
    expected = ((closest - inside.clamp_min(0).sqrt()) * rays.cosines)[hit]
    assert 20 < hit.sum() < 60
    assert (drawn.alpha[hit] > 0.999).all() and (drawn.alpha[inside < 0] < 0.1).all()
    assert (drawn.depth[hit, 0] - expected).abs().max() < 1.5 * 2 / 256
    assert (drawn.depth[drawn.alpha == 0] == 0).all()
    assert drawn.normals is not None
    surface = rays.origins + (drawn.depth / rays.cosines[:, None]) * rays.directions
    cosine = (drawn.normals * surface).sum(-1)[hit] / RADIUS
    assert cosine.min() > 0.98


def test_offsets_move_samples_by_a_share_of_their_spacing(rays: Rays) -> None:
    offsets = torch.rand(len(rays), generator=torch.Generator().manual_seed(0))
    moved, middle = (place_samples(rays, Occupancy(1), 12, given) for given in (offsets, 0.5))
    for ray in (40, 41):
        shift = moved.distances[moved.rays == ray][0] - middle.distances[middle.rays == ray][0]
        assert math.isclose(float(shift), (float(offsets[ray]) - 0.5) * 2 / 12, abs_tol=1e-5)
