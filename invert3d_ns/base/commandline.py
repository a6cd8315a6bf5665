"""Command lines: written so that they can be pasted into a shell, and read as people type them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Sequence

_SENTENCES = ("prompt", "negative-prompt", "noun", "source", "target", "relevance", "init-word")
"""Flags that take words of a language, by the last part of their name."""


def quoted_command(*words: object) -> str:
    """A command as one types it in a shell: words with spaces, brackets or other special characters are quoted.

    Example:
        >>> quoted_command("invert3d", "export", Path("my runs/[1]"), "--up", "y")
        "invert3d export 'my runs/[1]' --up y"
    """
    return shlex.join(str(word) for word in words)


def stray_words_hint(arguments: Sequence[str]) -> str | None:
    """What to do about words that follow a flag of words without quotes, or None if there are none.

    Where there are other flags, these may be the fault, and the words a path that is not there: a guess is called so.

    Args:
        arguments: of a command line that could not be read, without the program's name.

    Example:
        >>> stray_words_hint(["edit", "run", "--prompt", "in", "van", "gogh", "style", "--amount", "2"])
        'perhaps words after --prompt are not in quotes; then write --prompt "in van gogh style"'
    """
    for index, word in enumerate(arguments):
        if not word.startswith("--") or _last_part(word.partition("=")[0]) not in _SENTENCES:
            continue
        flag, equals, first = word.partition("=")
        said = [first] if equals else []
        for following in arguments[index + 1 :]:
            if following.startswith("-") or (said and _is_path(following)):
                break
            said.append(following)
        if len(said) > 1:
            sentence = " ".join(said).replace("\\", "\\\\").replace('"', '\\"')
            alone = sum(other.startswith("--") for other in arguments) == 1
            perhaps, then = ("", "") if alone else ("perhaps ", "then ")
            return f'{perhaps}words after {flag} are not in quotes; {then}write {flag} "{sentence}"'
    return None


def with_plain_booleans(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """The same command line with ``--name True`` and ``--name False`` written as ``--name`` and ``--no-name``.

    nerfstudio's commands take booleans in the first form, and what one of them takes all should.

    Args:
        arguments: without the program's name.
        names: of flags that are booleans, the last part of each, with dashes.

    Example:
        >>> with_plain_booleans(["--keep-silhouette", "False", "--prompt", "True"], {"keep-silhouette"})
        ['--no-keep-silhouette', '--prompt', 'True']
    """
    plain: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if word == "--":
            return [*plain, word, *rest]
        if word.startswith("--") and _last_part(flag) in names:
            if not equals:
                value = rest[0] if rest else ""
            if value.lower() in ("true", "false"):
                rest = rest if equals else rest[1:]
                word = flag if value.lower() == "true" else _negated(flag)
        plain.append(word)
    return plain


def _last_part(flag: str) -> str:
    return flag.removeprefix("--").rpartition(".")[2].replace("_", "-")


def _negated(flag: str) -> str:
    group, dot, name = flag.removeprefix("--").rpartition(".")
    return f"--{group}{dot}no-{name}"


def _is_path(word: str) -> bool:
    return "/" in word or os.path.exists(word)  # False of what can be no name, where Path raises
