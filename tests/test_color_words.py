"""A scene's colors have names, and the edit that is suggested is one of its main color."""

from __future__ import annotations

import pytest
import torch
from synthetic import make_cloud

from invert3d_ns.editing.color_words import color_shares, recoloring
from invert3d_ns.scenes.assets import DEMO_SCENE, read_object
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.world.vocabulary import COLORS


def test_colors_of_a_ball_that_is_red_in_front_and_blue_behind() -> None:
    ball = make_cloud(600)
    ball.scales += 1.0
    shares = color_shares(to_object_frame(ball)[0])
    assert list(shares)[:2] in (["red", "blue"], ["blue", "red"])
    assert sum(shares.values()) == pytest.approx(1.0) and set(shares) == set(COLORS)


def test_the_demo_is_red_and_green_is_suggested() -> None:
    shares = color_shares(read_object(DEMO_SCENE)[0])
    assert shares["red"] > 0.4 and shares["yellow"] > 0.1
    assert recoloring(shares) == ("green", "red")


@pytest.mark.parametrize("source", COLORS)
def test_what_is_suggested_is_another_color_that_is_not_there_yet(source: str) -> None:
    target, named = recoloring(
        {source: 0.6, "green": 0.2, "blue": 0.2} if source not in ("green", "blue") else {source: 1}
    )
    assert named == source and target != source
    assert target not in ("green", "blue") or source in ("green", "blue")


def test_nothing_seen_is_no_error() -> None:
    empty = make_cloud(20)
    empty.opacities -= 40.0
    shares = color_shares(empty)
    assert set(shares.values()) == {0.0} and recoloring(shares)
    assert torch.is_tensor(empty.means)
