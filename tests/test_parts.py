"""Parts of objects by signed distances, against the compiled renderer; and how consistently parts go with parts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.metrics.feature_evidence import turn_object
from invert3d_ns.metrics.parts import (
    AT_RANDOM,
    IN_SPACE,
    SAME,
    PartCorrespondence,
    compare_pairings,
    label_agreement,
    part_correspondence,
    part_labels,
)
from invert3d_ns.scenes.cameras import FOV_Y, orbit_camera_to_world
from invert3d_ns.world.distances import signed_distances
from invert3d_ns.world.objects import WorldObject, sample_object
from invert3d_ns.world.primitives import Primitive, Shape, pack_primitives
from invert3d_ns.world.rendering import render_objects
from invert3d_ns.world.shapes import CLASSES, UNSEEN_CLASSES


def surface(item: WorldObject, size: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Points of an object's surface that the renderer sees, float64, the parts that it says they show, and normals."""
    azimuths = torch.tensor([10.0, 130.0, 250.0, 60.0])
    poses = orbit_camera_to_world(azimuths, torch.tensor([20.0, 20.0, 20.0, -40.0]))
    renders = render_objects([item], poses[None], size, samples=1)
    middles = ((torch.arange(size) + 0.5) / size * 2 - 1) * math.tan(math.radians(FOV_Y) / 2)
    v, u = torch.meshgrid(-middles, middles, indexing="ij")
    rays = torch.stack([u, v, -torch.ones_like(u)], -1) * torch.from_numpy(renders.depth[0])[..., None]
    points = (poses[:, None, None, :3, :3] @ rays[..., None])[..., 0] + poses[:, None, None, :3, 3]
    solid = torch.from_numpy(renders.alpha[0] == 255)
    parts, normals = torch.from_numpy(renders.parts[0]), torch.from_numpy(renders.normals[0])
    return points[solid].double(), parts[solid].long(), normals[solid].double()


def thing(*primitives: Primitive) -> WorldObject:
    colors = {p.part: (0.5, 0.5, 0.5) for p in primitives}
    return WorldObject("thing", "red", "plain", None, None, pack_primitives(Shape(list(primitives)), colors))


@pytest.mark.parametrize("name", [*CLASSES, *UNSEEN_CLASSES])
def test_distances_and_parts_are_the_renderers(name: str) -> None:
    item = sample_object(np.random.default_rng(3), name=name, color="red", plain=True, split="any")
    points, parts, normals = surface(item)
    distances = signed_distances(item.primitives, points)
    assert len(points) > 300
    # A ray ends within 0.0015 of the surface, and is a float32.
    assert distances.min(1).values.abs().max() < 3e-3
    nearest, second = distances.sort(1).values[:, :2].T if distances.shape[1] > 1 else (distances[:, 0], None)
    clear = torch.ones(len(points), dtype=torch.bool) if second is None else second - nearest > 4e-3
    assert clear.float().mean() > 0.6 and torch.equal(part_labels(item, points)[clear], parts[clear])
    # A step along the normal leads as far out or in, but near the seams of parts.
    for step in (0.01, -0.01):
        found = signed_distances(item.primitives, points + step * normals).min(1).values
        assert (found - step).abs().quantile(0.9) < 3e-3


def test_distances_are_what_geometry_says() -> None:
    def row(kind, size, rounding=0.0, turn=(0.0, 0.0, 0.0)) -> np.ndarray:
        rows = thing(Primitive(kind, (0, 0, 0), size, turn=turn)).primitives.copy()
        rows[:, 1:4], rows[:, 13:17], rows[:, 17] = (0.1, 0.0, 0.0), (*size, *(0.0,) * (4 - len(size))), rounding
        return rows

    def distance(rows: np.ndarray, x: float, y: float, z: float) -> float:
        return float(signed_distances(rows, torch.tensor([[x + 0.1, y, z]], dtype=torch.float64)))

    ball, box = row("ellipsoid", (0.5, 0.5, 0.5)), row("box", (0.5, 0.4, 0.3))
    assert distance(ball, 0.0, 0.0, 0.8) == pytest.approx(0.3, abs=1e-6)
    assert distance(ball, 0.0, 0.0, 0.0) == pytest.approx(-0.5, abs=1e-6)
    assert distance(box, 0.8, 0.8, 0.3) == pytest.approx(0.5, abs=1e-6)
    assert distance(box, 0.0, 0.0, 0.1) == pytest.approx(-0.2, abs=1e-6)
    assert distance(row("box", (0.5, 0.4, 0.3), 0.1), 0.5, 0.4, 0.3) == pytest.approx(0.1 * (3**0.5 - 1), abs=1e-6)
    can = row("cone", (0.4, 0.4, 0.3))
    assert distance(can, 0.0, 0.7, 0.7) == pytest.approx(0.5, abs=1e-6)
    assert distance(can, 0.0, 0.3, 0.0) == pytest.approx(-0.1, abs=1e-6)
    assert distance(row("torus", (0.5, 0.1)), 0.0, 0.5, 0.3) == pytest.approx(0.2, abs=1e-6)
    # Turned by a quarter about x, the ring stands; its hole is along y.
    assert distance(row("torus", (0.5, 0.1), turn=(90.0, 0.0, 0.0)), 0.0, 0.3, 0.5) == pytest.approx(0.2, abs=1e-6)
    cup = row("cup", (0.4, 0.4, 0.5, 0.1))
    assert distance(cup, 0.0, 0.0, 0.2) > 0.2, "the cavity is outside"
    assert distance(cup, 0.35, 0.0, 0.2) == pytest.approx(-0.05, abs=2e-3)
    prism = row("prism", (0.3, 0.5, 0.4))
    assert distance(prism, 0.0, 0.0, -0.6) == pytest.approx(0.2, abs=1e-6)
    assert distance(prism, 0.3, 0.0, -0.4) == pytest.approx(0.0, abs=1e-6)
    assert distance(prism, 0.0, 0.0, 0.4) == pytest.approx(0.0, abs=1e-6)


def test_the_middle_of_each_part_is_its_own() -> None:
    chair = sample_object(np.random.default_rng(0), name="chair", color="red", plain=True, split="any")
    middles = torch.from_numpy(chair.primitives[:, 1:4])
    assert part_labels(chair, middles).tolist() == [0, 1, 2, 2, 2, 2]


def agreement(a: list[int], b: list[int], **given) -> PartCorrespondence:
    return label_agreement(torch.tensor(a), torch.tensor(b), **given)


def test_agreement_of_labels_that_are_known() -> None:
    same = agreement([0, 0, 1, 2, 2], [7, 7, 3, 0, 0])
    assert (same.one_to_one, same.majority, same.near) == (1, 1, 1)
    assert same.mutual_information == pytest.approx(1)
    apart = agreement([0, 0, 1, 1], [0, 1, 0, 1])
    assert (apart.one_to_one, apart.majority) == (0.5, 0.5)
    assert apart.mutual_information == pytest.approx(0, abs=1e-9)
    # Two parts of A are one of B: each goes with one, but not one with each.
    merged = agreement([0] * 3 + [1] * 2 + [2] * 5, [0] * 5 + [1] * 5)
    assert (merged.one_to_one, merged.majority) == (0.8, 1.0)
    # The best mapping is not the greedy one: 0 -> b, 1 -> a explains 3 + 4, the largest cell first no more than 5 + 0.
    crossed = agreement([0] * 8 + [1] * 4, [0] * 5 + [1] * 3 + [0] * 4)
    assert crossed.one_to_one == pytest.approx(7 / 12) and crossed.majority == pytest.approx(9 / 12)
    joint = {(0, 0): 5 / 12, (0, 1): 3 / 12, (1, 0): 4 / 12}
    sides = [{0: 8 / 12, 1: 4 / 12}, {0: 9 / 12, 1: 3 / 12}]
    information = sum(p * math.log(p / sides[0][a] / sides[1][b]) for (a, b), p in joint.items())
    entropies = [-sum(p * math.log(p) for p in side.values()) for side in sides]
    assert crossed.mutual_information == pytest.approx(information / (sum(entropies) / 2))


def test_nothing_can_be_told_of_one_part_or_of_no_pairs() -> None:
    for found in (agreement([0, 0, 0], [0, 1, 2], total=6), agreement([0, 1], [4, 4], total=4)):
        assert math.isnan(found.one_to_one) and math.isnan(found.mutual_information) and math.isnan(found.majority)
        assert found.near == 0.5
    assert agreement([], [], total=3).near == 0 and math.isnan(agreement([], []).one_to_one)


def test_splats_that_stay_with_their_parts_are_told_from_those_that_stay_in_place() -> None:
    item = sample_object(np.random.default_rng(1), name="chair", color="red", plain=True, split="any")
    points = surface(item)[0].float()
    turned = turn_object(item, (180.0, 0.0, 0.0))
    moved = points * torch.tensor([1.0, -1.0, -1.0])
    found = compare_pairings(points, moved, item, turned)
    assert list(found) == [SAME, AT_RANDOM, IN_SPACE]
    assert found[SAME] == part_correspondence(points, moved, item, turned)
    assert found[SAME].near == 1 and found[SAME].one_to_one > 0.99 and found[SAME].mutual_information > 0.98
    assert found[AT_RANDOM].mutual_information < 0.02 and found[AT_RANDOM].one_to_one < 0.6
    assert found[IN_SPACE].mutual_information < 0.7 and found[IN_SPACE].one_to_one < 0.85
    # Splats that do not move: what they show of the object that is upside down is not the same part.
    still = part_correspondence(points, points, item, item)
    assert still.one_to_one == 1
    again = compare_pairings(points, moved, item, turned)
    assert again == found and compare_pairings(points, moved, item, turned, seed=1)[AT_RANDOM] != found[AT_RANDOM]


def test_only_pairs_near_both_surfaces_count() -> None:
    item = sample_object(np.random.default_rng(1), name="chair", color="red", plain=True, split="any")
    points = surface(item)[0].float()
    away = points.clone()
    away[::4] = away[::4] * 0 + 2.0
    for pair in ((points, away), (away, points)):
        found = part_correspondence(*pair, item, item)
        assert found.near == pytest.approx(0.75, abs=1e-3) and found.one_to_one == 1
    assert part_correspondence(points, away, item, item, within=10.0).near == 1
    nothing = compare_pairings(points, points + 5, item, item)
    assert all(math.isnan(one.one_to_one) and one.near == 0 for one in nothing.values())


def test_styles_and_colors_do_not_matter_and_points_must_pair_up() -> None:
    item = sample_object(np.random.default_rng(1), name="car", color="red", plain=True, split="any")
    points = surface(item)[0].float().requires_grad_()
    assert part_correspondence(points, points, item, replace(item, color="blue")).one_to_one == 1
    with pytest.raises(InputError, match=r"\(5, 3\) and \(4, 3\) are no pairs"):
        part_correspondence(points[:5], points[:4], item, item)
    with pytest.raises(InputError, match="no pairs"):
        compare_pairings(points[:5, :2], points[:5, :2], item, item)
