"""Prompts: every word of them is heard or refused aloud, wherever placeholders stand and however they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.commands.edit import EditViews
from invert3d_ns.commands.views import GenerateViews
from invert3d_ns.editing.conditions import edit_conditions
from invert3d_ns.editing.edit import Edit, parse_edit
from invert3d_ns.prior.placeholders import check_placeholders
from invert3d_ns.prior.prompts import columns_of, tokenize_prompts
from invert3d_ns.prior.storage import save_prior
from invert3d_ns.words.embedding import ObjectEmbedding

LENGTHS = {"<object>": 2}


def encode(prior, prompt: str) -> torch.Tensor:
    """A prompt in which <object> is two real words, so that it can be written without the placeholder."""
    words = torch.cat([prior.word_vectors("red"), prior.word_vectors("cube")])
    with torch.no_grad():
        return prior.encode_prompt(prompt, {"<object>": words})


@pytest.fixture(scope="module")
def folder(tiny_v_prior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prior as a folder. Read-only."""
    folder = tmp_path_factory.mktemp("prompts") / "prior"
    save_prior(tiny_v_prior, folder)
    return folder


@pytest.mark.parametrize(
    ("prompt", "written"),
    [
        ("<object>", "red cube"),
        ("<object> <object>", "red cube red cube"),
        ("<object><object>", "red cube red cube"),
        ("<object>a<object>", "red cube a red cube"),
        ("a photo of <object> and <object> on the <object>", "a photo of red cube and red cube on the red cube"),
        ("<object>, 3d asset", "red cube , 3d asset"),
        ("  a   <object>  ", "a red cube"),
        ("3 < 5 and 6 > 2 <object>", "3 < 5 and 6 > 2 red cube"),
        ("<object> <3", "red cube <3"),
    ],
)
def test_the_object_may_stand_anywhere_and_often(tiny_prior, prompt: str, written: str) -> None:
    with torch.no_grad():
        torch.testing.assert_close(encode(tiny_prior, prompt), tiny_prior.encode_prompt(written))


def test_columns_are_those_of_every_occurrence(tiny_prior) -> None:
    tokens = tokenize_prompts(["a <object> and <object>"], LENGTHS, tiny_prior.tokenizer, tiny_prior.info)
    assert tokens.columns.tolist() == [2, 3, 5, 6] and tokens.placeholders == ["<object>", "<object>"]
    found = columns_of("<object>", "a <object> and <object>", LENGTHS, tiny_prior.tokenizer, tiny_prior.info)
    assert found == [2, 3, 5, 6]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a photo of <cat-toy>", "'<cat-toy>'"),
        ("<object> and <cat-toy>", "'<cat-toy>'"),
        ("<Object> on a table", "write it as <object>"),
        ("<OBJECT>", "write it as <object>"),
        ("<objekt>", "the object's words are <object> here"),
        ("<my object>", "'<my object>'"),
        ("<object> <lora:style:0.8>", "'<lora:style:0.8>'"),
        ("<object> <|endoftext|> and more", "'<|endoftext|>'"),
        ("<кот>", "'<кот>'"),
        ("a photo of <object", "'<object'"),
        ("<<object>", "'<object>'"),
        ("<object><b>", "'<b>'"),
    ],
)
def test_placeholders_that_stand_for_nothing_are_refused_everywhere_alike(
    tiny_v_prior, folder: Path, tmp_path: Path, text: str, says: str
) -> None:
    if text == "<<object>":
        check_placeholders(text, ["<object>"])  # a bracket by itself is a sign as any other
        return
    ObjectEmbedding.for_prior(tiny_v_prior, torch.zeros(2, 24), init_word="object", steps=1).save(tmp_path / "e.st")
    refusals = []
    for ask in (
        lambda: check_placeholders(text, ["<object>"]),
        lambda: encode(tiny_v_prior, text),
        lambda: parse_edit(text),
        lambda: EditViews(tmp_path / "e.st", text).run(),
        lambda: EditViews(tmp_path / "e.st", f"{text} instead of red").run(),
        lambda: GenerateViews(tmp_path / "e.st", f"<object> {text}", prior=str(folder)).run(),
    ):
        with pytest.raises(InputError) as error:
            ask()
        refusals.append(str(error.value))
    assert all("\n" not in message and "stands for no words; " in message for message in refusals)
    assert all(says in message for message in refusals[:4])


def test_plain_words_may_have_no_placeholder(tiny_prior) -> None:
    for ask in (
        lambda: tiny_prior.encode_prompt("<object>"),
        lambda: tiny_prior.word_vectors("<cat-toy>"),
        lambda: Edit(source="<object>", target="blue").check(),
        lambda: Edit(target="blue", noun="a <object>").check(),
        lambda: Edit(target="blue", negative_prompt="<object>").check(),
    ):
        with pytest.raises(InputError, match="no learned words are used here"):
            ask()


@pytest.mark.parametrize("count", [3, 4, 10])
def test_objects_beyond_the_context_are_refused_by_name(tiny_prior, count: int) -> None:
    words = {"<object>": torch.zeros(30, 24)}
    with torch.no_grad():
        assert tiny_prior.encode_prompt("<object> and <object>", words).shape == (1, 77, 24)
    with pytest.raises(InputError) as error:
        tiny_prior.encode_prompt(" and ".join(["<object>"] * count), words)
    assert "would be cut" in str(error.value) and "<object>" in str(error.value).split("would be cut")[1]


@pytest.mark.parametrize("prompt", ["a café", "красный кот", "日本語", "a 🐱", "\u200b"])
def test_words_that_the_vocabulary_cannot_write_are_refused(tiny_prior, prompt: str) -> None:
    for ask in (lambda: tiny_prior.encode_prompt(prompt), lambda: tiny_prior.word_vectors(prompt)):
        with pytest.raises(InputError, match="vocabulary cannot write") as error:
            ask()
        assert repr(prompt.split()[-1] if prompt != "красный кот" else "красный") in str(error.value)


def test_a_prompt_that_names_the_object_twice_keeps_the_prompts_before(tiny_v_prior) -> None:
    prior = tiny_v_prior
    embedding = ObjectEmbedding.for_prior(prior, prior.word_vectors("cube"), init_word="cube", steps=1)

    def composed(*texts: str) -> torch.Tensor:
        return edit_conditions(prior, embedding, [parse_edit(text, space="prompt") for text in texts]).positive

    def written(text: str) -> torch.Tensor:
        with torch.no_grad():
            return prior.encode_prompt(text)

    twice = composed("a red <object>", "<object> and the <object>")
    torch.testing.assert_close(twice, written("a red cube and the a red cube"))
    thrice = composed("a red <object>", "<object> on <object>", "a photo of <object>")
    torch.testing.assert_close(thrice, written("a photo of a red cube on a red cube"))
    first = composed("one <object> and one <object>", "a photo of <object>")
    torch.testing.assert_close(first, written("a photo of one cube and one cube"))
    target = edit_conditions(
        prior, embedding, [Edit(prompt="<object> and <object>", target="blue", space="prompt")]
    ).positive
    torch.testing.assert_close(target, written("a blue cube and a blue cube"))
