"""How much an edit did is measured, and said."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from synthetic import make_cloud

from invert3d_ns.editing.change import HARDLY, EditChange, compare_views, measure_change
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.rasterization import SH_C0


@pytest.fixture(scope="module")
def cloud():
    ball = make_cloud(300)
    ball = replace(ball, scales=ball.scales + 1.0)
    return to_object_frame(ball)[0]


def shifted(cloud, rows, by: float):
    colors = cloud.features_dc.clone()
    colors[rows] = (0.5 - 0.5 + by) / SH_C0
    return replace(cloud, features_dc=colors)


def test_nothing_changed(cloud) -> None:
    assert measure_change(cloud, cloud) == EditChange(0.0, 1.0, 1.0)


def test_a_known_change_of_color_is_measured(cloud) -> None:
    """From gray of 0.3 to gray of 0.7 is 0.4 of 255 wherever the object is opaque."""
    everything = slice(None)
    change = measure_change(shifted(cloud, everything, -0.2), shifted(cloud, everything, 0.2))
    assert 0.85 * 102 < change.color < 102 and change.silhouette == 1.0 and change.share == 1.0
    assert not change.hardly


def test_a_part_is_measured_where_it_is_seen(cloud) -> None:
    top = cloud.means[:, 2] > 0.3
    change = measure_change(shifted(cloud, top, -0.4), shifted(cloud, top, 0.4))
    assert 0.1 < change.share < 0.7
    assert change.color > 100, "not thinned by all that could not change"
    assert f"the edited part ({change.share:.0%} of the object)" in change.sentence()


def test_a_smaller_object_keeps_less_of_its_silhouette(cloud) -> None:
    change = measure_change(
        cloud, replace(cloud, means=cloud.means * 0.5, scales=cloud.scales + torch.tensor(0.5).log())
    )
    assert 0.15 < change.silhouette < 0.4 and not change.hardly
    assert f"silhouette kept {change.silhouette:.2f}" in change.sentence()


def test_another_number_of_splats_is_compared_as_a_whole(cloud) -> None:
    change = measure_change(cloud, cloud.select(torch.arange(len(cloud)) % 2 == 0))
    assert change.share == 1.0 and change.silhouette < 1


def test_views_that_show_nothing_are_unchanged() -> None:
    white, empty = torch.ones(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)
    assert compare_views(white, white, empty, empty) == EditChange(0.0, 1.0, 0.0)


def test_the_sentence_says_how_to_change_more() -> None:
    assert EditChange(41.2, 0.98).sentence("--") == "mean change of the object's color 41/255, silhouette kept 0.98"
    little = EditChange(HARDLY - 1, 1.0)
    assert little.hardly
    assert little.sentence("--").endswith("; hardly changed: try --amount 2, or say what the object is with --noun")
    assert "--pipeline.edit.amount 2" in little.sentence("--pipeline.edit.")
    assert "--" not in little.sentence()
    assert not EditChange(2.0, 0.6).hardly, "shapes count as well"
