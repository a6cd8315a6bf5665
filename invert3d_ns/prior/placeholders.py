"""Placeholders in prompts, such as ``<object>``: which stand for learned words, and which are a slip of the pen.

Free of torch, so that prompts are looked at before anything is loaded.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from invert3d_ns.base.errors import InputError

_PLACEHOLDER = re.compile(r"<(?!\s)[^<>]*\w[^<>]*(?<!\s)>")
"""Something in angle brackets that does not begin or end with a space, as a comparison of numbers does."""
_HALF = re.compile(r"<[^\W\d][\w-]*(?![^<>]*>)")
"""A word with a bracket before it and none after it."""


def check_placeholders(text: str, known: Iterable[str]) -> None:
    """Refuse placeholders that stand for nothing: a tokenizer would take them for letters.

    Args:
        text: a prompt.
        known: placeholders that stand for words, such as ``<object>``; with nothing known, none is allowed.

    Raises:
        InputError: the text has another placeholder, or half of one.
    """
    known = list(known)
    rest = text
    for name in sorted(known, key=len, reverse=True):
        rest = rest.replace(name, " ")
    found = _PLACEHOLDER.search(rest) or _HALF.search(rest)
    if found is None:
        return
    if not known:
        advice = "no learned words are used here; write what is meant in plain words"
    elif found[0].lower() in (name.lower() for name in known):
        advice = f"write it as {next(name for name in known if name.lower() == found[0].lower())}"
    else:
        near = difflib.get_close_matches(found[0], known, n=1, cutoff=0.0)
        advice = f"the object's words are {(near or known)[0]} here"
    raise InputError(f"{found[0]!r} in {_shortened(text)!r} stands for no words; {advice}")


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
