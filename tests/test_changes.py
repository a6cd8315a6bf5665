"""Changes of objects: what the words say becomes otherwise, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from invert3d_ns.world.assemblies import NAME
from invert3d_ns.world.changes import CHANGES, PLACE, change, sample_changed
from invert3d_ns.world.data import world_views
from invert3d_ns.world.objects import held_out, sample_object
from invert3d_ns.world.vocabulary import COLORS, MATERIALS, PATTERN_NOUNS, PATTERNS, STYLES

SHAPE = [*range(18), 26, 27, 29]
"""Columns of a primitive that say where it is and what it is part of."""


@pytest.fixture(scope="module")
def drawn() -> list:
    rng = np.random.default_rng(2)
    return [sample_changed(rng) for _ in range(300)]


def _changed_columns(before: np.ndarray, after: np.ndarray) -> set[int]:
    return set(np.flatnonzero((before != after).any(0)).tolist())


def test_shapes_stay_and_looks_change(drawn: list) -> None:
    for before, after, words in drawn:
        assert before.style == "photo" and words.count(PLACE) == 1
        np.testing.assert_array_equal(before.primitives[:, SHAPE], after.primitives[:, SHAPE])
        assert (before.name, before.size, before.pose) == (after.name, after.size, after.pose)
        assert _changed_columns(before.primitives, after.primitives) or after.style != "photo", words
    assert {item.name == NAME for item, _, _ in drawn} == {True, False}


def test_words_say_what_changed(drawn: list) -> None:
    kinds = dict.fromkeys(CHANGES, 0)
    for before, after, words in drawn:
        styled = after.style != "photo"
        assert styled == any(
            words != wording.format(PLACE) and wording.replace(PLACE, "") in words.replace(PLACE, "")
            for wording in [w.format(PLACE) for style in list(STYLES)[1:] for w in STYLES[style]]
        ) or (styled and any(style_word in words for style_word in ("toon", "cartoon"))), words
        said = words.replace(PLACE, "").replace(",", "").split()
        columns = _changed_columns(before.primitives, after.primitives)
        if any(noun in said for noun in PATTERN_NOUNS.values()) or any(w in said for p in PATTERNS.values() for w in p):
            kinds["pattern"] += 1
            assert columns <= {21, 22, 23, 24, 25} and after.pattern != before.pattern
            assert (after.primitives[:, 24] == list(PATTERNS).index(after.pattern)).all()
        elif any(word in said for wordings in MATERIALS.values() for word in wordings):
            kinds["material"] += 1
            assert columns <= {28} and (after.primitives[:, 28] == list(MATERIALS).index(after.material)).all()
        elif after.part is not None and after.part in words:
            kinds["part"] += 1
            assert columns <= {18, 19, 20, 24} and f"{after.second} {after.part}" in words
            moved = (before.primitives[:, 18:21] != after.primitives[:, 18:21]).any(1)
            assert moved.any() and not moved.all(), "some of the object keeps its color"
            tints = after.primitives[moved, 18:21]
            assert np.abs(tints - np.array(COLORS[after.second])).max() < 0.16
        else:
            kinds["color"] += 1
            assert columns <= {18, 19, 20} and after.color in said and after.color != before.color
    assert min(kinds.values()) > 15, kinds


def test_parts_of_their_own_color_keep_it() -> None:
    rng = np.random.default_rng(0)
    item = sample_object(np.random.default_rng(8), name="chair", color="red", pattern="plain", style="photo")
    assert item.part is not None
    for _ in range(40):
        after, words = change(rng, item)
        if after.color != item.color and after.style == "photo":
            kept = (after.primitives[:, 18:21] == item.primitives[:, 18:21]).all(1)
            assert kept.any() and not kept.all() and (after.part, after.second) == (item.part, item.second), words


def test_nothing_held_out_is_drawn(drawn: list) -> None:
    named = [after for _, after, _ in drawn if after.name != NAME]
    assert len(named) > 100
    assert not any(held_out(one.name, one.color, one.pattern, one.style) for one in named)


def test_a_set_of_changes_holds_both(tmp_path: Path) -> None:
    data = world_views(tmp_path, 10, seed=4, size=32, views=2, kind="changes")
    assert data.changes is not None and len(data.changes) == 10 and data.have_photos().all()
    before = torch.stack([data.photo_images(item) for item in range(10)])
    after = data.images(slice(None))
    assert ((before - after).abs().flatten(1).amax(1) > 0.05).all()
    again = world_views(tmp_path, 10, seed=4, size=32, views=2, kind="changes")
    assert again.changes == data.changes and again.fingerprint() == data.fingerprint()
    # The cameras are the same: matter stays where it was, but for styles that redraw the outline.
    plain = data.styles == 0
    assert plain.any()
    covered = ((1 - before[plain]).amax(2) > 0.1) == ((1 - after[plain]).amax(2) > 0.1)
    assert covered.float().mean() > 0.93
