"""Command lines as they are printed and as they are typed."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from invert3d_ns.base.commandline import quoted_command, stray_words_hint, with_plain_booleans


@pytest.mark.parametrize("name", ["my run", "[1]", "a'b", 'a"b', "$HOME", "a;b", "<object>", "ü", "plain", ""])
def test_a_printed_command_is_read_back_as_the_same_words(name: str) -> None:
    words = ["invert3d", "views", Path("out") / name, "--prompt", name]
    assert shlex.split(quoted_command(*words)) == [str(word) for word in words]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("edit run --prompt in van gogh style", '--prompt "in van gogh style"'),
        ("edit --prompt blue instead of red --amount 2", '--prompt "blue instead of red"'),
        ("invert3d --prompt=in van gogh style", '--prompt "in van gogh style"'),
        ("invert3d-edit --prompt red --pipeline.edit.noun red car", '--pipeline.edit.noun "red car"'),
        ("edit run --negative_prompt too dark", '--negative_prompt "too dark"'),
    ],
)
def test_words_without_quotes_are_told_apart(line: str, sentence: str) -> None:
    hint = stray_words_hint(line.split())
    assert hint is not None and hint.endswith(f"write {sentence}") and "\n" not in hint


@pytest.mark.parametrize(
    ("line", "perhaps"),
    [
        ("edit --prompt blue my_run --amout 2", True),
        ("edit run --prompt in van gogh style", False),
        (f"edit --prompt blue {'x' * 300} --amout 2", True),
    ],
)
def test_a_guess_is_called_so_where_another_flag_may_be_the_fault(line: str, perhaps: bool) -> None:
    hint = stray_words_hint(line.split())
    assert hint is not None and hint.startswith("perhaps ") == perhaps


@pytest.mark.parametrize(
    "line",
    [
        ["edit", "run", "--prompt", "in van gogh style"],
        ["edit", "--prompt", "blue", "outputs/demo/run"],
        ["edit", "--prompt", "blue", "."],
        ["edit", "run", "--weight", "a=1", "b=2"],
        ["views", "run", "--azimuths", "0", "90"],
        ["edit", "--prompt"],
        [],
    ],
)
def test_command_lines_without_stray_words_get_no_hint(line: list[str]) -> None:
    assert stray_words_hint(line) is None


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("--keep-silhouette False", "--no-keep-silhouette"),
        ("--keep_silhouette false --steps 3", "--no-keep_silhouette --steps 3"),
        ("--keep-silhouette True run", "--keep-silhouette run"),
        ("--keep-silhouette=False", "--no-keep-silhouette"),
        ("--keep-silhouette run", "--keep-silhouette run"),
        ("--no-keep-silhouette", "--no-keep-silhouette"),
        ("--group.keep-silhouette False", "--group.no-keep-silhouette"),
        ("--noun False", "--noun False"),
        ("--keep-silhouette", "--keep-silhouette"),
        ("-- --keep-silhouette False", "-- --keep-silhouette False"),
    ],
)
def test_booleans_are_read_in_both_spellings(typed: str, read: str) -> None:
    assert with_plain_booleans(typed.split(), {"keep-silhouette"}) == read.split()
