"""Edits as data: what people type, what is refused, what is written and read back."""

from __future__ import annotations

import json

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit, Region, check_box, load_edits, parse_edit, save_edits
from invert3d_ns.editing.phrases import parse_weights, place_term
from invert3d_ns.words.embedding import ObjectEmbedding

BOX = (-1.0, -1.0, 0.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "prompt", "source", "target"),
    [
        ("in van gogh style", "<object> in van gogh style", "", ""),
        ("a pencil sketch of <object>", "a pencil sketch of <object>", "", ""),
        ("a pencil sketch", "a pencil sketch of <object>", "", ""),
        ("striped", "a striped <object>", "", ""),
        ("orange", "an orange <object>", "", ""),
        ("with white wheels", "<object> with white wheels", "", ""),
        (", 3d asset", "<object>, 3d asset", "", ""),
        ("blue instead of red", "", "red", "blue"),
        ("dark red -> sky blue", "", "dark red", "sky blue"),
        ("replace red by blue", "", "red", "blue"),
        ("Turn black wheels  into white wheels", "", "black wheels", "white wheels"),
    ],
)
def test_typed_text_becomes_an_edit(text: str, prompt: str, source: str, target: str) -> None:
    edit = parse_edit(text, seed=3)
    assert (edit.prompt, edit.source, edit.target, edit.seed) == (prompt, source, target, 3)


def test_terms_stand_where_they_belong_beside_a_noun() -> None:
    assert place_term("blue", "a red car") == "a blue red car"
    assert place_term("a photo of", "a car") == "a photo of a car"
    assert place_term("", "a car") == "a car"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Edit(), "the edit is empty"),
        (Edit(prompt="in van gogh style"), "does not mention the object"),
        (Edit(target="blue", amount=float("nan")), "amount is nan"),
        (Edit(target="blue", amount=6), "amount is 6; give -5 to 5"),
        (Edit(target="blue", guidance_scale=0.5), "guidance-scale is 0.5"),
        (Edit(target="blue", strength=1.5), "strength is 1.5"),
        (Edit(target="blue", strength=0), "strength of 0"),
        (Edit(target="blue", weights={"green": 2.0}), "'green' has a weight but is not in the edit"),
        (Edit(target="blue", weights={"blu": 2.0}), "'blu' has a weight but is not in the edit"),
        (Edit(target="blue", weights={"blue": -1.0}), "the weight of 'blue' is -1"),
        (Edit(target="blue", weights={"blue": float("nan")}), "the weight of 'blue' is nan"),
        (Edit(target="blue", space="latent"), "unknown space 'latent'"),  # type: ignore[arg-type]
        (Edit(target="blue", structure="p2p"), "unknown structure 'p2p'"),  # type: ignore[arg-type]
        (Edit(target="blue", sampler="euler"), "unknown sampler 'euler'"),  # type: ignore[arg-type]
        (Edit(target="blue", steps=0), "steps is 0; give 1 to 1000"),
        (Edit(target="blue", change="shape"), "unknown change 'shape'"),  # type: ignore[arg-type]
        (Edit(target="blue", seed=-1), "seed is -1"),
        (Edit(target="blue", region=Region(box=(0.0, 0.0, 0.0, -1.0, 1.0, 1.0))), "xmin 0 is not below xmax -1"),
        (Edit(target="blue", region=Region(box_holds="part")), "box-holds is part, but there is no box"),
        (Edit(target="blue", region=Region(box=BOX, box_holds="all")), "unknown box-holds 'all'"),  # type: ignore[arg-type]
        (Edit(target="blue", region=Region(relevance="  ")), "words of the region are empty"),
        (Edit(target="blue", region=Region(relevance="legs", relevance_threshold=1.5)), "relevance-threshold is 1.5"),
        (Edit(target="blue", region=Region(relevance_threshold=0.3)), "without words of a region"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_by_name(edit: Edit, message: str) -> None:
    with pytest.raises(InputError, match=message):
        edit.check()


def test_nothing_typed_is_refused() -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        parse_edit("  ")


def test_labels_and_identity() -> None:
    assert Edit(source="red", target="blue").label == "red -> blue"
    assert Edit(prompt="<object> in van gogh style").label == "in van gogh style"
    assert Edit(target="blue", amount=0).is_identity and not Edit(target="blue").is_identity


EMBEDDING = ObjectEmbedding(torch.zeros(2, 4), prior="bundled", fingerprint="abc")


def test_files_give_back_the_same_edits(tmp_path) -> None:
    edits = [
        Edit(source="red", target="blue", weights={"blue": 2.0}),
        Edit(prompt="<object> in van gogh style", seed=7),
        Edit(target="green", change="geometry", region=Region(BOX, "part", "legs", 0.3)),
    ]
    save_edits(edits, tmp_path / "edits.json", EMBEDDING)
    assert load_edits(tmp_path / "edits.json", EMBEDDING) == edits
    saved = json.loads((tmp_path / "edits.json").read_text())
    assert saved["version"] == 2
    assert saved["edits"][2]["box"] == list(BOX) and saved["edits"][2]["relevance"] == "legs", "all on one level"
    assert saved["edits"][0]["box"] is None and saved["edits"][0]["change"] == "colors"


def test_files_of_the_version_before_are_edits_of_the_whole_scene(tmp_path) -> None:
    old = {
        "prompt": "",
        "source": "red",
        "target": "blue",
        "noun": "car",
        "amount": 2.0,
        "weights": {"blue": 1.5},
        "negative_prompt": "",
        "guidance_scale": None,
        "space": None,
        "strength": 0.7,
        "structure": None,
        "keep_silhouette": True,
        "seed": 3,
        "steps": 20,
        "sampler": "ddim",
    }
    document = {"format": "invert3d_ns.edits", "version": 1, "prior": "", "fingerprint": "", "edits": [old]}
    (tmp_path / "old.json").write_text(json.dumps(document))
    (edit,) = load_edits(tmp_path / "old.json")
    assert edit == Edit(
        source="red", target="blue", noun="car", amount=2.0, weights={"blue": 1.5}, strength=0.7, seed=3, steps=20
    )
    assert edit.region.is_whole and edit.change == "colors"


def test_a_dictionary_says_everything_in_built_in_types() -> None:
    edit = Edit(target="blue", weights={"blue": 2.0}, change="geometry", region=Region(BOX, relevance="legs"))
    plain = edit.to_dict()
    assert json.loads(json.dumps(plain)) == plain and Edit.from_dict(plain) == edit
    assert Edit.from_dict({"target": "blue"}) == Edit(target="blue")
    with pytest.raises(InputError, match="unknown entries \\['color'\\]"):
        Edit.from_dict({"target": "blue", "color": "red"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "this package reads up to 2; update"),
        ({"version": "x"}, "this package reads up to 2; update"),
        ({"format": "other"}, "holds no edits"),
        ({"fingerprint": "def"}, "edit with words of the same prior"),
        ({"edits": [{"color": "blue"}]}, "unknown entries"),
        ({"edits": [7]}, "damaged"),
        ({"edits": [{"target": "blue", "amount": "much"}]}, "amount is much"),
        ({"edits": [{"target": "blue", "weights": 3}]}, "damaged"),
        ({"edits": [{"target": "blue", "box": 3}]}, "damaged"),
        ({"edits": [{"target": "blue", "box": [0, 0, 0, 1]}]}, "the region has 4 numbers"),
        ({"edits": [{"target": "blue", "box": [0, 0, "a", 1, 1, 1]}]}, "damaged"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, change: dict, message: str) -> None:
    path = tmp_path / "edits.json"
    save_edits([Edit(target="blue")], path, EMBEDDING)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        load_edits(path, EMBEDDING)


def test_missing_and_broken_files(tmp_path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_edits(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        load_edits(tmp_path / "broken.json")


def test_numbers_of_a_box_become_floats() -> None:
    assert check_box([-1, -1, -1, 1, 1, 1]) == (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0)


def test_weights_are_read_from_text() -> None:
    assert parse_weights(" van gogh = 2; style=.5,\n") == {"van gogh": 2.0, "style": 0.5}
    assert parse_weights("") == {}
