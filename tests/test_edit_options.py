"""Edits as options: what a command line means, and what of it is refused by name."""

from __future__ import annotations

import json

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit, save_edits
from invert3d_ns.editing.options import EditOptions
from invert3d_ns.words.embedding import ObjectEmbedding


def test_nothing_asked_for_is_no_edit():
    assert EditOptions().wanted(None) == []


def test_a_prompt_takes_the_other_options_along():
    options = EditOptions(weight=("van gogh=2", "style=0.5"), seed=3, negative_prompt="gray")
    (edit,) = options.wanted("in van gogh style")
    assert edit.prompt == "<object> in van gogh style"
    assert dict(edit.weights) == {"van gogh": 2.0, "style": 0.5} and (edit.seed, edit.negative_prompt) == (3, "gray")


def test_terms_alone_and_terms_beside_a_prompt():
    assert EditOptions(source="red", target="blue", amount=2).wanted(None) == [
        Edit(source="red", target="blue", amount=2)
    ]
    (edit,) = EditOptions(source="red", target="blue", weight=("blue=2",)).wanted("in van gogh style")
    assert (edit.prompt, edit.source, edit.target) == ("<object> in van gogh style", "red", "blue")
    (edit,) = EditOptions(seed=1).wanted("blue instead of red")
    assert (edit.source, edit.target, edit.seed) == ("red", "blue", 1)


def test_a_file_is_carried_out_again_with_another_seed_or_followed_by_more(tmp_path):
    first, second = Edit(target="blue"), Edit(prompt="<object> in van gogh style", seed=4)
    save_edits([first, second], tmp_path / "edits.json")
    options = EditOptions(edits=tmp_path / "edits.json")
    assert options.wanted(None) == [first, second]
    options.seed = 9
    again = options.wanted(None)
    assert again[0] == first and (again[1].prompt, again[1].seed) == (second.prompt, 9)
    assert options.wanted("as a toy")[:2] == [first, second] and len(options.wanted("as a toy")) == 3
    options.target = "green"
    assert [edit.target for edit in options.wanted(None)] == ["blue", "", "green"]


@pytest.mark.parametrize(
    ("options", "prompt", "says"),
    [
        ({}, "", "prompt is empty"),
        ({}, "  ", "prompt is empty"),
        ({"source": "red"}, "", "prompt is empty"),
        ({"seed": 3}, None, "edit is empty"),
        ({"weight": ("blue=2",)}, None, "edit is empty"),
        ({"weight": ("dali=2",)}, "in van gogh style", "'dali' has a weight"),
        ({"weight": ("van gogh",)}, "in van gogh style", "cannot be read"),
        ({"weight": ("van gogh=nan",)}, "in van gogh style", "weight of 'van gogh'"),
        ({"weight": ("van gogh=11",)}, "in van gogh style", "weight of 'van gogh'"),
        ({"target": "blue", "amount": 9.0}, None, "amount is 9"),
        ({"target": "blue", "amount": float("nan")}, None, "amount is nan"),
        ({"strength": 1.5}, "blue", "strength is 1.5"),
        ({"strength": float("nan")}, "blue", "strength is nan"),
        ({"strength": 0.0}, "blue", "strength of 0"),
        ({"guidance_scale": 0.5}, "blue", "guidance scale is 0.5"),
        ({"guidance_scale": float("nan")}, "blue", "guidance scale is nan"),
        ({"steps": 0}, "blue", "0 steps"),
    ],
)
def test_bad_input_is_named(options, prompt, says):
    with pytest.raises(InputError) as caught:
        EditOptions(**options).wanted(prompt)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_a_newer_version_or_of_another_prior_is_refused(tmp_path):
    path = tmp_path / "edits.json"
    mine = ObjectEmbedding(torch.zeros(1, 4), prior="a", fingerprint="1")
    save_edits([Edit(target="blue")], path, mine)
    assert EditOptions(edits=path).wanted(None, mine) == [Edit(target="blue")]
    with pytest.raises(InputError, match="words of the same prior"):
        EditOptions(edits=path).wanted(None, ObjectEmbedding(torch.zeros(1, 4), prior="b", fingerprint="2"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(InputError, match=r"version 99.*update"):
        EditOptions(edits=path).wanted(None)
    with pytest.raises(InputError, match="cannot be read"):
        EditOptions(edits=tmp_path / "nowhere.json").wanted(None)
