"""Edits as data: what people type, what is refused, what is written and read back."""

from __future__ import annotations

import json

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit, load_edits, parse_edit, place, save_edits
from invert3d_ns.words.embedding import ObjectEmbedding


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
    assert place("blue", "a red car") == "a blue red car"
    assert place("a photo of", "a car") == "a photo of a car"
    assert place("", "a car") == "a car"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Edit(), "the edit is empty"),
        (Edit(prompt="in van gogh style"), "does not mention the object"),
        (Edit(target="blue", amount=float("nan")), "amount is nan"),
        (Edit(target="blue", amount=6), "amount is 6; give a number from -5 to 5"),
        (Edit(target="blue", guidance_scale=0.5), "guidance scale is 0.5"),
        (Edit(target="blue", strength=1.5), "strength is 1.5"),
        (Edit(target="blue", strength=0), "strength of 0"),
        (Edit(target="blue", weights={"green": 2.0}), "'green' has a weight but is not in the edit"),
        (Edit(target="blue", weights={"blu": 2.0}), "'blu' has a weight but is not in the edit"),
        (Edit(target="blue", weights={"blue": -1.0}), "the weight of 'blue' is -1"),
        (Edit(target="blue", weights={"blue": float("nan")}), "the weight of 'blue' is nan"),
        (Edit(target="blue", space="latent"), "unknown space 'latent'"),  # type: ignore[arg-type]
        (Edit(target="blue", structure="p2p"), "unknown structure 'p2p'"),  # type: ignore[arg-type]
        (Edit(target="blue", sampler="euler"), "unknown sampler 'euler'"),  # type: ignore[arg-type]
        (Edit(target="blue", steps=0), "0 steps"),
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
    ]
    save_edits(edits, tmp_path / "edits.json", EMBEDDING)
    assert load_edits(tmp_path / "edits.json", EMBEDDING) == edits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "this package reads up to 1; update"),
        ({"version": "x"}, "this package reads up to 1; update"),
        ({"format": "other"}, "holds no edits"),
        ({"fingerprint": "def"}, "edit with words of the same prior"),
        ({"edits": [{"color": "blue"}]}, "unknown entries"),
        ({"edits": [7]}, "damaged"),
        ({"edits": [{"target": "blue", "amount": "much"}]}, "amount is much"),
        ({"edits": [{"target": "blue", "weights": 3}]}, "damaged"),
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
