"""Words of prompts: where terms stand beside a noun, where phrases occur, and how weights of phrases are written."""

from __future__ import annotations

import re

from invert3d_ns.base.english import with_article
from invert3d_ns.base.errors import InputError

_AFTER = frozenset(
    {
        "in",
        "with",
        "as",
        "at",
        "on",
        "of",
        "by",
        "from",
        "made",
        "painted",
        "drawn",
        "wearing",
        "holding",
        "that",
        "which",
        "like",
        "under",
        "without",
        "covered",
    }
)
"""Words that begin what follows a noun."""


def place_term(term: str, noun: str) -> str:
    """Put a term where it belongs beside a noun (or the placeholder).

    Terms that begin with a preposition or a comma follow it; ones that begin with an article and name a kind of
    picture take it as "of"; all others are adjectives before it.

    Example:
        >>> place_term("in van gogh style", "<object>")
        '<object> in van gogh style'
        >>> place_term("a pencil sketch", "<object>"), place_term("blue", "<object>")
        ('a pencil sketch of <object>', 'a blue <object>')
    """
    term = term.strip()
    if not term:
        return noun
    first = term.split()[0].lower()
    bare = re.sub(r"^(an?|the) ", "", noun)
    if term.startswith(","):
        return f"{noun}{term}"
    if first in _AFTER:
        return f"{noun} {term}"
    if first in ("a", "an", "the"):
        return f"{term} {noun}" if term.endswith(" of") else f"{term} of {noun}"
    return with_article(f"{term} {bare}")


def put_noun(noun: str, prompt: str, token: str) -> str:
    """A prompt with a noun in the place of the placeholder, without the noun's article where it has one before it.

    Example:
        >>> put_noun("a red chair", "a blue <object>", "<object>")
        'a blue red chair'
        >>> put_noun("a red chair", "a pencil sketch of <object>", "<object>")
        'a pencil sketch of a red chair'
    """
    bare = re.sub(r"^(an?|the) ", "", noun)
    first, *rest = prompt.split(token)
    text = first
    for piece in rest:
        led = re.search(r"\b(?:an?|the)(?: [\w-]+)* $", text)
        words = led[0].split() if led else []
        text += (bare if words and not _AFTER & set(words) else noun) + piece
    return text


def find_phrase(phrase: str, text: str) -> list[tuple[int, int]]:
    """Where whole words of ``text`` say ``phrase``, as pairs of first and last-plus-one character."""
    pattern = rf"(?<![\w]){re.escape(phrase.strip())}(?![\w])"
    return [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]


def parse_weights(text: str) -> dict[str, float]:
    """Factors of words, from "van gogh=2, style=0.5"; semicolons and line ends separate too.

    Raises:
        InputError: a part is not ``word=number``.

    Example:
        >>> parse_weights("van gogh=2, style=0.5")
        {'van gogh': 2.0, 'style': 0.5}
    """
    weights = {}
    for part in re.split(r"[,;\n]", text):
        if not part.strip():
            continue
        phrase, equals, number = part.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            equals = ""
        if not equals or not phrase.strip():
            raise InputError(f"the weight {part.strip()!r} cannot be read; write words and numbers as in van gogh=2")
        weights[phrase.strip()] = value
    return weights
