"""Edits as options: what a command line means, and what of it is refused by name."""

from __future__ import annotations

import json

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit, Region, save_edits
from invert3d_ns.editing.options import EditOptions
from invert3d_ns.words.embedding import ObjectEmbedding


def test_nothing_asked_for_is_no_edit():
    assert EditOptions().requested_edits(None) == []


def test_a_prompt_takes_the_other_options_along():
    options = EditOptions(Edit(seed=3, negative_prompt="gray"), weight=("van gogh=2", "style=0.5"))
    (edit,) = options.requested_edits("in van gogh style")
    assert edit.prompt == "<object> in van gogh style"
    assert dict(edit.weights) == {"van gogh": 2.0, "style": 0.5} and (edit.seed, edit.negative_prompt) == (3, "gray")


def test_terms_alone_and_terms_beside_a_prompt():
    assert EditOptions(Edit(source="red", target="blue", amount=2)).requested_edits(None) == [
        Edit(source="red", target="blue", amount=2)
    ]
    (edit,) = EditOptions(Edit(source="red", target="blue"), weight=("blue=2",)).requested_edits("in van gogh style")
    assert (edit.prompt, edit.source, edit.target) == ("<object> in van gogh style", "red", "blue")
    (edit,) = EditOptions(Edit(seed=1)).requested_edits("blue instead of red")
    assert (edit.source, edit.target, edit.seed) == ("red", "blue", 1)


def test_a_file_is_carried_out_again_with_another_seed_or_followed_by_more(tmp_path):
    first, second = Edit(target="blue"), Edit(prompt="<object> in van gogh style", seed=4)
    save_edits([first, second], tmp_path / "edits.json")
    options = EditOptions(edits=tmp_path / "edits.json")
    assert options.requested_edits(None) == [first, second]
    options.edit = Edit(seed=9)
    again = options.requested_edits(None)
    assert again[0] == first and (again[1].prompt, again[1].seed) == (second.prompt, 9)
    assert options.requested_edits("as a toy")[:2] == [first, second] and len(options.requested_edits("as a toy")) == 3
    options.edit = Edit(target="green")
    assert [edit.target for edit in options.requested_edits(None)] == ["blue", "", "green"]


def test_a_region_stays_with_an_edit_of_a_file_and_is_replaced_number_by_number(tmp_path):
    box = (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    save_edits([Edit(target="blue", change="geometry", region=Region(box=box))], tmp_path / "edits.json")
    options = EditOptions(edits=tmp_path / "edits.json")
    (edit,) = options.requested_edits(None)
    assert edit.region == Region(box=box) and edit.change == "geometry"
    options.edit = Edit(region=Region(box_holds="part"))
    (edit,) = options.requested_edits(None)
    assert edit.region == Region(box=box, box_holds="part") and edit.change == "geometry"
    options.edit = Edit()
    first, second = options.requested_edits("as a toy")
    assert first.region == Region(box=box) and second.region.is_whole


def test_every_field_of_an_edit_is_a_flag_once():
    """No field is listed again: what an edit gets, commands get."""
    import dataclasses

    import tyro

    arguments = ["--source", "red", "--target", "blue", "--relevance", "legs", "--relevance-threshold", "0.4"]
    arguments += ["--box", "0", "0", "0", "1", "1", "0.5", "--box-holds", "part", "--change", "geometry"]
    arguments += ["--no-keep-silhouette", "--weight", "blue=2", "--seed", "3"]
    options = tyro.cli(EditOptions, args=arguments)
    region = Region((0.0, 0.0, 0.0, 1.0, 1.0, 0.5), "part", "legs", 0.4)
    expected = Edit(source="red", target="blue", keep_silhouette=False, seed=3, change="geometry", region=region)
    assert options == EditOptions(expected, weight=("blue=2",))
    (edit,) = options.requested_edits(None)
    assert edit == dataclasses.replace(expected, weights={"blue": 2.0})
    help_text = tyro.extras.get_parser(EditOptions).format_help()
    own = set(Edit().to_dict()) - {"prompt", "weights"}
    for name in own | {"weight", "edits"}:
        assert f"--{name.replace('_', '-')}" in help_text, name
    assert "--prompt" not in help_text and "--weights" not in help_text and "--region" not in help_text


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
        ({"guidance_scale": 0.5}, "blue", "guidance-scale is 0.5"),
        ({"guidance_scale": float("nan")}, "blue", "guidance-scale is nan"),
        ({"steps": 0}, "blue", "steps is 0; give 1 to 1000"),
        ({"region": Region(box=(0.0, 0.0, 0.0, -1.0, 1.0, 1.0))}, "blue", "xmin 0 is not below xmax -1"),
        ({"region": Region(relevance=" ")}, "blue", "words of the region are empty"),
    ],
)
def test_bad_input_is_named(options, prompt, says):
    options = dict(options)
    with pytest.raises(InputError) as caught:
        EditOptions(weight=options.pop("weight", ()), edit=Edit(**options)).requested_edits(prompt)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_a_newer_version_or_of_another_prior_is_refused(tmp_path):
    path = tmp_path / "edits.json"
    mine = ObjectEmbedding(torch.zeros(1, 4), prior="a", fingerprint="1")
    save_edits([Edit(target="blue")], path, mine)
    assert EditOptions(edits=path).requested_edits(None, mine) == [Edit(target="blue")]
    with pytest.raises(InputError, match="words of the same prior"):
        EditOptions(edits=path).requested_edits(None, ObjectEmbedding(torch.zeros(1, 4), prior="b", fingerprint="2"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(InputError, match=r"version 99.*update"):
        EditOptions(edits=path).requested_edits(None)
    with pytest.raises(InputError, match="cannot be read"):
        EditOptions(edits=tmp_path / "nowhere.json").requested_edits(None)
