"""Objects name themselves: descriptions by CLIP, and what edits make of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from invert3d_ns.alignment.checkpoints import load_clip
from invert3d_ns.alignment.clip import ClipTowers
from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.conditions import edit_conditions
from invert3d_ns.editing.edit import Edit, parse_edit
from invert3d_ns.editing.reading import in_light_of
from invert3d_ns.words.description import COMMON_NOUNS, Description, describe_splats, describe_views
from invert3d_ns.words.embedding import ObjectEmbedding
from invert3d_ns.world.objects import sample_object
from invert3d_ns.world.splats import splats_of


@pytest.fixture(scope="module")
def towers() -> ClipTowers:
    return load_clip("bundled", "cpu")


@pytest.mark.parametrize(
    ("name", "color", "pattern", "seed", "said"),
    [
        ("chair", "red", "plain", 8, ["red", "chair"]),
        ("mug", "blue", "striped", 1, ["blue", "mug"]),
        ("tree", "purple", "plain", 4, ["tree", "purple"]),
    ],
)
def test_known_objects_are_named(
    towers: ClipTowers, name: str, color: str, pattern: str, seed: int, said: list[str]
) -> None:
    item = sample_object(
        np.random.default_rng(seed), name=name, color=color, pattern=pattern, style="photo", upright=True
    )
    text = describe_splats(towers, splats_of(item)).text
    assert all(word in text.split() for word in said), text


def test_what_nobody_knows_is_an_object_in_its_color(towers: ClipTowers) -> None:
    views = torch.ones(4, 3, 64, 64)
    rows = torch.rand(40, generator=torch.Generator().manual_seed(0))
    for index in range(4):  # stripes of fog, no object of any kind
        views[index, 0, 12:52, 10:54] = rows[:, None] * 0.05
        views[index, 1, 12:52, 10:54] = 0.6
        views[index, 2, 12:52, 10:54] = 0.1
    assert describe_views(towers, views).color == "green"
    assert describe_views(towers, views, noun="jacket").noun == "jacket"


def test_descriptions_are_noun_phrases() -> None:
    assert Description().text == "object"
    assert Description("chair", "red", "legs", "yellow", "striped").text == "red striped chair with yellow legs"
    assert Description("house", "green", "roof", "red").text == "green house with a red roof"
    assert len(set(COMMON_NOUNS)) == len(COMMON_NOUNS) > 100 and "chair" in COMMON_NOUNS


def test_an_embedding_keeps_its_description(tiny_v_prior, tmp_path: Path) -> None:
    embedding = ObjectEmbedding.for_prior(tiny_v_prior, torch.zeros(2, 24), init_word="object", steps=1)
    embedding.save(tmp_path / "plain.safetensors")
    assert ObjectEmbedding.load(tmp_path / "plain.safetensors").description == ""
    embedding.description = "red mug with a blue handle"
    embedding.save(tmp_path / "named.safetensors")
    assert ObjectEmbedding.load(tmp_path / "named.safetensors").description == embedding.description
    embedding.description = "a <object> of another"
    embedding.save(tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="is damaged: its description"):
        ObjectEmbedding.load(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("typed", "description", "source", "target"),
    [
        ("blue", "red chair with yellow legs", "red", "blue"),
        ("make it blue", "red chair", "red", "blue"),
        ("a green chair", "red chair with yellow legs", "red", "green"),
        ("spotted", "red striped chair", "striped", "spotted"),
        ("spotted", "red chair", "", ""),
        ("in van gogh style", "red chair", "", ""),
        ("blue", "object", "", ""),
        ("blue", "chair with red legs", "", ""),
        ("blue instead of yellow", "red chair with yellow legs", "yellow", "blue"),
    ],
)
def test_terms_take_the_place_of_their_kind(typed: str, description: str, source: str, target: str) -> None:
    edit = in_light_of(parse_edit(typed), description)
    assert (edit.source, edit.target, edit.noun) == (source, target, description)


def test_what_a_person_says_wins() -> None:
    edit = parse_edit("blue", noun="car")
    assert in_light_of(edit, "red chair") == edit
    assert in_light_of(parse_edit("blue"), "") == parse_edit("blue")
    said = in_light_of(parse_edit("blue", noun="a green car"), "red chair")
    assert (said.source, said.target, said.noun) == ("green", "blue", "a green car")


def test_conditions_start_from_the_description(tiny_v_prior) -> None:
    vectors = tiny_v_prior.word_vectors("object").repeat(2, 1)
    embedding = ObjectEmbedding.for_prior(tiny_v_prior, vectors, init_word="object", steps=0)
    embedding.description = "red mug"
    found = edit_conditions(tiny_v_prior, embedding, [parse_edit("blue")])
    (towards, away, amount), *rest = found.directions
    assert not rest and amount == 1.0
    torch.testing.assert_close(towards, tiny_v_prior.encode_prompt("a blue mug"))
    torch.testing.assert_close(away, tiny_v_prior.encode_prompt("a red mug"))
    said = edit_conditions(tiny_v_prior, embedding, [Edit(prompt="a blue <object>", noun="cat")])
    torch.testing.assert_close(said.directions[0][1], tiny_v_prior.encode_prompt("a cat"))
