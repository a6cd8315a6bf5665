"""Points of the simplex, how they are drawn, and hybrids between anchors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.random import random_stream
from invert3d_ns.scenes.blending import (
    SameEverywhere,
    along_edges,
    checked_weights,
    draw_weights,
    project_to_simplex,
    vertex,
)
from invert3d_ns.scenes.hybrids import Anchor, Hybrid, hybrid_from, read_anchors


def test_projection_is_the_nearest_point_of_the_simplex() -> None:
    """Against a search over a fine grid of the simplex."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.arange(0, 101)
    grid = torch.tensor([[i, j, 100 - i - j] for i in steps.tolist() for j in range(101 - i)]) / 100
    for values in torch.randn(20, 3, generator=generator):
        found = project_to_simplex(values)
        nearest = grid[(grid - values).square().sum(1).argmin()]
        assert (found - values).norm() <= (nearest - values).norm() + 1e-6
        assert abs(float(found.sum()) - 1) < 1e-6 and float(found.min()) >= 0


def test_weights_stay_as_they_are_when_projected() -> None:
    weights = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(project_to_simplex(weights), weights)


def test_weights_off_the_simplex_are_projected_with_a_warning(capfd) -> None:
    assert checked_weights([1.0, 1.0], 2, "--blend").tolist() == [0.5, 0.5]
    assert "--blend: the weights do not sum to 1" in capfd.readouterr().err
    checked_weights([0.25, 0.75], 2, "--blend")
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("values", "message"), [([1.0], "1 weights for 2 objects"), ([float("nan"), 1.0], "not a number")]
)
def test_weights_that_make_no_sense_are_refused(values: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_weights(values, 2, "--blend")


def test_the_way_goes_through_every_object_and_back() -> None:
    for objects in (1, 2, 3, 5):
        for index in range(objects):
            torch.testing.assert_close(along_edges(index / objects, objects), vertex(index, objects))
        torch.testing.assert_close(along_edges(1.0, objects), vertex(0, objects))
    torch.testing.assert_close(along_edges(1 / 6, 3), torch.tensor([0.5, 0.5, 0.0]))


@pytest.mark.parametrize(
    ("objects", "edge", "interior"), [(2, 0.5, 0.0), (3, 0.25, 0.25), (3, 0.0, 0.0), (4, 1.0, 0.0)]
)
def test_draws_are_of_vertices_edges_and_the_interior_as_often_as_asked(objects: int, edge: float, interior: float):
    count = 2000
    drawn = torch.stack(
        [
            draw_weights(objects, random_stream("test of draws", 0, index), edge=edge, interior=interior)
            for index in range(count)
        ]
    )
    torch.testing.assert_close(drawn.sum(1), torch.ones(count))
    used = (drawn > 0).sum(1)
    assert abs(float((used == 2).float().mean()) - edge) < 0.04
    assert abs(float((used > 2).float().mean()) - interior) < 0.04
    assert (drawn.mean(0) - 1 / objects).abs().max() < 0.04  # no object is favored


def _two(kind: str) -> Hybrid:
    anchors = (Anchor((0.0, 0.0, -0.5), (1.0, 0.0)), Anchor((0.0, 0.0, 0.5), (0.0, 1.0)))
    return Hybrid(anchors, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["nearest", "rbf", "ramp"])
def test_anchors_have_their_own_weights_and_the_middle_has_both(kind: str) -> None:
    weights = _two(kind).at(torch.tensor([[0.0, 0.0, -0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.25]]))
    torch.testing.assert_close(weights[:3], torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(weights[3], torch.tensor([0.25, 0.75]), atol=0.05, rtol=0)


@pytest.mark.parametrize("kind", ["nearest", "rbf"])
def test_weights_between_many_anchors_are_weights(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    places = 0.8 * (2 * torch.rand(5, 3, generator=generator) - 1)
    anchors = tuple(Anchor(tuple(p), tuple(vertex(i % 3, 3).tolist())) for i, p in enumerate(places.tolist()))
    weights = Hybrid(anchors, kind).at(torch.randn(200, 3, generator=generator))  # type: ignore[arg-type]
    torch.testing.assert_close(weights.sum(1), torch.ones(200))
    assert float(weights.min()) >= 0 and float(weights.max()) <= 1 + 1e-5


def test_files_of_anchors_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "anchors.json"
    path.write_text(json.dumps(_two("ramp").to_dict()))
    assert read_anchors(path, ("a", "b")) == _two("ramp")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"kind": "spline", "anchors": []}, "no kind of hybrid is called 'spline'"),
        ({"anchors": 3}, "no list of anchors"),
        ({"anchors": [{"position": [0, 0, 0], "prompt": 0}]}, "1 anchor mixes nothing"),
        ({"anchors": [{"position": [0, 0], "prompt": 0}] * 2}, "no position of three numbers"),
        ({"anchors": [{"position": [0, 0, i], "prompt": "a cow"} for i in (0, 1)]}, "names no prompt of the scene"),
        ({"anchors": [{"position": [0, 0, i], "prompt": 2} for i in (0, 1)]}, "names no prompt of the scene"),
        ({"anchors": [{"position": [0, 0, i], "prompt": 1} for i in (0, 7)]}, "outside of the box"),
        ({"anchors": [{"position": [0, 0, 0], "prompt": i} for i in (0, 1)]}, "two anchors lie at one place"),
        ({"kind": "ramp", "anchors": [{"position": [0, 0, i / 2], "prompt": 1} for i in range(3)]}, "a ramp goes from"),
    ],
)
def test_anchors_that_make_no_sense_are_refused(document: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        hybrid_from(document, ("a red chair", "a blue table"), "anchors.json")


def test_anchors_on_no_object_are_found() -> None:
    far = _two("nearest").far_from(torch.tensor([[0.0, 0.0, -0.45]]))
    assert [anchor.position for anchor in far] == [(0.0, 0.0, 0.5)]


def test_a_blend_is_the_same_everywhere() -> None:
    blend = SameEverywhere.of([0.25, 0.75])
    assert blend.objects == 2 and torch.equal(blend.uniform(), torch.tensor([0.25, 0.75]))
    assert blend.at(torch.zeros(3, 3)).tolist() == [[0.25, 0.75]] * 3
