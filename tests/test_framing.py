"""The scene as the prior is shown it for a region: where views may change, and which words are checked on it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from synthetic import make_cloud

from invert3d_ns.editing import sources
from invert3d_ns.editing.edit import Edit, Region
from invert3d_ns.editing.framing import FramedScene, frame_object
from invert3d_ns.editing.scene_edit_config import SceneEditConfig
from invert3d_ns.editing.scene_editor import SceneEditor
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.words.embedding import ObjectEmbedding

TOP = Region(box=(-1.0, -1.0, 0.0, 1.0, 1.0, 1.0), box_holds="part")
PRIOR = cast(Any, SimpleNamespace(info=SimpleNamespace(image_size=48)))
WORDS = ObjectEmbedding(torch.zeros(2, 4))
SIDES = orbit_camera_to_world(torch.tensor([0.0, 90.0]), torch.tensor(0.0))


@pytest.fixture(scope="module")
def ball():
    cloud = make_cloud(600)
    return to_object_frame(replace(cloud, scales=cloud.scales + 1.0))[0]


def test_a_region_keeps_the_background_unless_told_otherwise(ball) -> None:
    """Of an upright ball whose top may change: its lower half never, the background on request."""
    framed = FramedScene(ball, TOP, PRIOR, WORDS)
    kept, free = framed.masks(SIDES), framed.masks(SIDES, keep_silhouette=False)
    assert kept is not None and free is not None
    corner, middle = (slice(None), 0, 2, 2), 24
    top, bottom = (slice(None), 0, 14, middle), (slice(None), 0, 33, middle)
    assert (kept[top] == 1).all() and (kept[bottom] == 0).all() and (kept[corner] == 0).all()
    assert (free[top] == 1).all() and (free[bottom] == 0).all() and (free[corner] == 1).all()
    assert (free >= kept).all()
    assert FramedScene(ball, Region(), PRIOR, WORDS).masks(SIDES, keep_silhouette=False) is None


@pytest.mark.parametrize("keep", [True, False])
def test_splats_that_follow_an_edit_honor_it(ball, tiny_v_prior, monkeypatch, keep: bool) -> None:
    given = []
    masks = FramedScene.masks
    monkeypatch.setattr(
        FramedScene, "masks", lambda self, poses, **more: given.append(more) or masks(self, poses, **more)
    )
    vectors = torch.zeros(3, tiny_v_prior.info.token_dim)
    words = ObjectEmbedding.for_prior(tiny_v_prior, vectors, init_word="object", steps=1)
    edit = Edit(target="blue", steps=2, region=TOP, keep_silhouette=keep)
    config = SceneEditConfig(orbits=1, supersampling=1)
    SceneEditor(ball, tiny_v_prior, words, [edit], config).prepare()
    assert given == [{"keep_silhouette": keep}]


def test_words_are_checked_on_what_the_region_shows(ball, tiny_v_prior, monkeypatch) -> None:
    """One object of two in a scene, alone in its box: the words are its own, and are compared with it alone."""
    other = replace(ball, means=ball.means * 0.3 + torch.tensor([2.0, 0.0, 0.0]))
    both = replace(ball, **{name: torch.cat([t, other.tensors()[name]]) for name, t in ball.tensors().items()})
    checked = []
    monkeypatch.setattr(sources, "check_same_object", lambda prior, words, cloud: checked.append(cloud))
    box = (1.5, -1.0, -1.0, 3.0, 1.0, 1.0)
    region = Region(box=box, box_holds="object")
    framed = frame_object(both, region, tiny_v_prior, WORDS, check_words=True)
    (cloud,) = checked
    assert framed.is_object and len(cloud) == len(other)
    torch.testing.assert_close(cloud.means.mean(dim=0), torch.zeros(3), atol=0.15, rtol=0)
    frame_object(both, Region(), tiny_v_prior, WORDS, check_words=True)
    assert len(checked[1]) == len(both)
    frame_object(both, Region(), tiny_v_prior, WORDS, check_words=False)
    assert len(checked) == 2


def test_splats_from_words_have_the_seed_that_is_asked_for(tiny_v_prior) -> None:
    vectors = torch.zeros(3, tiny_v_prior.info.token_dim)
    words = ObjectEmbedding.for_prior(tiny_v_prior, vectors, init_word="object", steps=1)
    config = SceneEditConfig(orbits=1)

    def views(seed: int) -> torch.Tensor:
        editor = SceneEditor.from_words(tiny_v_prior, words, (), config, seed=seed, count=20, start_steps=1)
        return editor.edited

    assert torch.equal(views(1), views(1)) and not torch.equal(views(1), views(2))
