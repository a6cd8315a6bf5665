"""How evenly views change along an edge, and whether objects of a set show their own words."""

from __future__ import annotations

import math

import pytest
import torch

from invert3d_ns.alignment.checkpoints import load_clip
from invert3d_ns.base.errors import InputError
from invert3d_ns.metrics.edge_smoothness import CLIP, PIXELS, edge_smoothness, path_smoothness
from invert3d_ns.metrics.held_out import held_out_photos
from invert3d_ns.metrics.judge import Judge
from invert3d_ns.metrics.prior_quality import true_views
from invert3d_ns.metrics.text_alignment import text_alignment
from invert3d_ns.metrics.text_quality import grade

AZIMUTHS, ELEVATIONS = torch.arange(4) * 90.0 + 20.0, torch.full((4,), 10.0)


def views(count: int) -> tuple[list[str], torch.Tensor]:
    """True views of things of different classes and colors, and what they are."""
    every = held_out_photos(40)
    cases = [next(c for c in every if c.name == name) for name in ("chair", "airplane", "snowman")[:count]]
    return [case.text for case in cases], true_views(cases, AZIMUTHS.expand(count, -1), ELEVATIONS.expand(count, -1))


@pytest.fixture(scope="module")
def towers():
    return load_clip("bundled", "cpu")


def test_paths_that_are_known() -> None:
    line = torch.linspace(0, 1, 5)[:, None, None] * torch.tensor([3.0, 4.0])
    even = path_smoothness(line)
    assert (even.length, even.detour, even.unevenness) == pytest.approx((5, 1, 1))
    jump = path_smoothness(torch.tensor([0.0, 0.0, 0.0, 2.0, 2.0])[:, None, None])
    assert (jump.length, jump.detour, jump.unevenness) == pytest.approx((2, 1, 4)), "all in one of four steps"
    angles = torch.linspace(0, math.pi, 201)[:, None]
    circle = path_smoothness(torch.stack([angles.cos(), angles.sin()], -1))
    assert (circle.length, circle.detour, circle.unevenness) == pytest.approx((math.pi, math.pi / 2, 1), rel=1e-3)
    # Steps are means over views: one of two views moves.
    half = path_smoothness(torch.cat([line, torch.zeros_like(line)], 1))
    assert (half.length, half.detour, half.unevenness) == pytest.approx((2.5, 1, 1))
    still = path_smoothness(torch.ones(3, 2, 2))
    assert still.length == 0 and math.isnan(still.detour) and math.isnan(still.unevenness)
    loop = path_smoothness(torch.tensor([0.0, 1.0, 0.0])[:, None, None])
    assert loop.length == 2 and math.isnan(loop.detour) and loop.unevenness == 1


def test_a_fade_is_even_in_pixels_and_a_jump_is_in_nothing(towers) -> None:
    _, (a, b) = views(2)
    shares = torch.linspace(0, 1, 5)[:, None, None, None, None]
    fade = edge_smoothness((1 - shares) * a + shares * b, towers)
    jump = edge_smoothness(torch.stack([a, a, a, b, b]), towers)
    apart = float((a - b).square().mean((1, 2, 3)).sqrt().mean())
    for found in (fade, jump):
        assert found[PIXELS].length == pytest.approx(apart, rel=1e-4) and found[PIXELS].detour == pytest.approx(1)
    assert fade[PIXELS].unevenness == pytest.approx(1, rel=1e-4) and jump[PIXELS].unevenness == pytest.approx(4)
    assert jump[CLIP].unevenness == pytest.approx(4, rel=1e-4) and jump[CLIP].detour == pytest.approx(1, rel=1e-4)
    plain = (towers.encode_image(a) - towers.encode_image(b)).norm(dim=-1).mean()
    assert jump[CLIP].length == pytest.approx(float(plain), rel=1e-4)
    assert 1 < fade[CLIP].unevenness < 4 and fade[CLIP].detour > 1


def test_an_edge_has_three_steps_and_views(towers) -> None:
    _, pair = views(2)
    with pytest.raises(InputError, match="no edge; give"):
        edge_smoothness(pair, towers)
    with pytest.raises(InputError, match="no edge; give"):
        edge_smoothness(pair[0], towers)
    with pytest.raises(InputError, match=r"shape \(2, 1, 1\) has no steps"):
        path_smoothness(torch.ones(2, 1, 1))


def test_objects_are_told_apart_by_their_words_unless_they_are_one(towers) -> None:
    texts, images = views(3)
    found = text_alignment(images, texts, towers)
    each = torch.stack([towers.encode_image(some) @ towers.encode_text(texts).T for some in images])
    torch.testing.assert_close(found.similarity, each.mean(1))
    assert found.own == pytest.approx(float(found.similarity.diagonal().mean()))
    assert found.told_apart > 0.9 and found.similarity.argmax(1).tolist() == [0, 1, 2]
    one = text_alignment(images[:1].expand(3, -1, -1, -1, -1), texts, towers)
    assert one.told_apart == pytest.approx(1 / 3) and one.own < found.own
    swapped = text_alignment(images.flip(0), texts, towers)
    assert swapped.told_apart < 0.5 and swapped.own < found.own
    with pytest.raises(InputError, match="do not belong to 2 texts"):
        text_alignment(images, texts[:2], towers)
    with pytest.raises(InputError, match="do not belong to 3 texts"):
        text_alignment(images[:, 0], texts, towers)


def test_views_are_graded_from_wherever_they_are_seen(towers) -> None:
    case = next(case for case in held_out_photos(40) if case.name == "chair")
    images = true_views([case], AZIMUTHS[None], ELEVATIONS[None])[0]
    judge = Judge.load()
    assert grade(images, case, judge, towers, AZIMUTHS)["azimuth"] > 0.7
    assert grade(images, case, judge, towers, AZIMUTHS + 180)["azimuth"] < 0.3
