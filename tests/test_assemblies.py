"""Random assemblies: drawn by their seed, within the frame, and blended where they are soft."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from invert3d_ns.metrics.inversion_objects import inversion_objects
from invert3d_ns.scenes.cameras import OBJECT_RADIUS, orbit_camera_to_world
from invert3d_ns.world.assemblies import MOST_PARTS, sample_assembly
from invert3d_ns.world.captions import full_description, varied_caption
from invert3d_ns.world.data import world_views
from invert3d_ns.world.rendering import render_objects


@pytest.fixture(scope="module")
def items() -> list:
    rng = np.random.default_rng(11)
    return [sample_assembly(rng, style="photo") for _ in range(24)]


def _views(items: list) -> torch.Tensor:
    azimuths = torch.arange(4) * 90.0
    return orbit_camera_to_world(azimuths, torch.full((4,), 10.0)).expand(len(items), 4, 4, 4)


def test_a_seed_draws_the_same_ones(items: list) -> None:
    rng = np.random.default_rng(11)
    for item in items:
        again = sample_assembly(rng, style="photo")
        np.testing.assert_array_equal(item.primitives, again.primitives)
        assert full_description(item) == full_description(again)
    assert len({full_description(item) for item in items}) > 12


def test_they_are_seen_whole_in_every_view(items: list) -> None:
    alpha = render_objects(items, _views(items), 48, threads=1).alpha
    share = (alpha > 128).mean((2, 3))
    assert share.min() > 0.01 and share.max() < 0.6
    border = np.concatenate([alpha[..., 0, :], alpha[..., -1, :], alpha[..., 0], alpha[..., -1]], -1)
    assert border.max() == 0
    for item in items:
        assert 1 <= len(item.primitives) <= MOST_PARTS + 8  # classes that others grow on have parts of their own
        assert np.linalg.norm(item.primitives[:, 1:4], axis=1).max() < OBJECT_RADIUS


def test_soft_ones_flow_into_each_other(items: list) -> None:
    soft = [item for item in items if (item.primitives[:, 29] > 0).any()]
    assert 1 <= len(soft) < len(items)
    sharp = []
    for item in soft:
        rows = item.primitives.copy()
        rows[:, 29] = 0
        sharp.append(type(item)(**{**vars(item), "primitives": rows}))
    a, b = (render_objects(each, _views(each), 48, threads=1).alpha.astype(int) for each in (soft, sharp))
    assert (a - b).max() > 100 and (a >= b - 8).mean() > 0.99, "blending only adds"


def test_captions_say_what_can_be_said(items: list) -> None:
    rng = np.random.default_rng(0)
    for item in items:
        assert item.color in full_description(item) and "thing" in full_description(item)
        assert varied_caption(item, rng)


def test_sets_of_assemblies_and_photos_of_styled_objects(tmp_path: Path) -> None:
    data = world_views(tmp_path, 12, seed=4, size=16, views=2, kind="assemblies", photos=True)
    assert (data.classes == -1).all() and data.photos is not None
    styled = (data.styles > 0).nonzero()[:, 0].tolist()
    assert styled and len(data.photos) == len(styled)
    for item in range(12):
        same = torch.equal(data.photo_images(item), data.images([item])[0])
        assert same == (item not in styled)
    plain = world_views(tmp_path, 12, seed=4, size=16, views=2, kind="assemblies")
    np.testing.assert_array_equal(plain.rgb, data.rgb)
    assert plain.photos is None and world_views(tmp_path, 12, seed=4, size=16, views=2).classes.min() >= 0


def test_measured_ones_are_pinned_and_in_no_training_set() -> None:
    (item,) = inversion_objects([], 1)
    again = inversion_objects([], 1)[0]
    assert item.kind == "assembly" and torch.equal(item.cloud.means, again.cloud.means)
    assert item.caption == again.caption
