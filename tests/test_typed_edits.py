"""What people type, and words that the prior never learned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from invert3d_ns.cli import main
from invert3d_ns.editing.edit import Region, parse_edit
from invert3d_ns.editing.reading import unknown_in, warn_unknown
from invert3d_ns.editing.typed import as_edit_words
from invert3d_ns.prior.info import PriorInfo
from invert3d_ns.prior.known_words import explain_unknown, nearest_words, unknown_words

INFO = PriorInfo(
    "small", "epsilon", 64, 4, 8, 16, words=("a", "red", "blue", "chair", "with", "legs", "cap", "van", "gogh")
)


@pytest.mark.parametrize(
    ("typed", "words", "part"),
    [
        ("make it red", "red", ""),
        ("Paint the object blue", "blue", ""),
        ("striped legs", "with striped legs", "legs"),
        ("with a yellow roof", "with a yellow roof", "roof"),
        ("a red handle", "with a red handle", "handle"),
        ("make the wheels white", "with white wheels", "wheels"),
        ("give it yellow legs", "with yellow legs", "legs"),
        ("van gogh", "in van gogh style", ""),
        ("pixel art", "in pixel art style", ""),
        ("in watercolor style", "in watercolor style", ""),
        ("a green chair", "a green chair", ""),
        ("shiny metal", "shiny metal", ""),
        ("legs", "legs", ""),
        ("remove the legs", "without legs", ""),
    ],
)
def test_words_are_put_as_edits_take_them(typed: str, words: str, part: str) -> None:
    assert as_edit_words(typed) == (words, part)


def test_an_edit_of_a_part_changes_that_part() -> None:
    edit = parse_edit("striped legs")
    assert edit.prompt == "<object> with striped legs" and edit.region == Region(relevance="legs")
    own = Region((-1, -1, -1, 1, 1, 0))
    assert parse_edit("striped legs", region=own).region == own
    assert parse_edit("turn it into a sketch").source == ""


def test_unknown_words_are_told_with_the_nearest() -> None:
    assert unknown_words(["A red <object> wearing a hat", "van-gogh blue"], INFO) == ["wearing", "hat"]
    assert nearest_words("chairs", INFO) == ["chair"] and nearest_words("xylophone", INFO) == []
    message = explain_unknown(["with chairs and a hat"], INFO)
    assert "never learned 'chairs', 'and' and 'hat'" in message and "did you mean 'chair'" in message
    assert explain_unknown(["a red chair"], INFO) == ""
    assert explain_unknown(["anything at all"], replace(INFO, words=())) == ""


def test_edits_are_looked_at_in_all_their_words(capsys: pytest.CaptureFixture[str]) -> None:
    edit = replace(parse_edit("blue instead of red"), noun="a red armchair", negative_prompt="fog")
    assert "'armchair' and 'fog'" in unknown_in([edit], INFO)
    warn_unknown([edit], INFO)
    assert capsys.readouterr().err.startswith("Warning: the prior 'small' never learned 'armchair'")
    warn_unknown([parse_edit("blue")], INFO)
    assert capsys.readouterr().err == ""


def test_the_words_command_lists_what_the_bundled_prior_knows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["words"])
    assert not stopped.value.code
    said = capsys.readouterr().out
    kinds = {line.split()[0]: line for line in said.splitlines() if not line.startswith(" ")}
    assert {"objects", "colors", "patterns", "materials", "parts", "styles"} <= kinds.keys()
    assert "chair" in kinds["objects"] and "purple" in kinds["colors"] and "hat" not in said.replace(",", "").split()
