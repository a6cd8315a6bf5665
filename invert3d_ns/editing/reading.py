"""What an edit means for the object at hand: terms that its description already has take their place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from invert3d_ns.base.notices import warn
from invert3d_ns.editing.composition import asked_words, kind_of
from invert3d_ns.editing.edit import Edit
from invert3d_ns.prior.info import PriorInfo
from invert3d_ns.prior.known_words import explain_unknown

_LASTING = ("color", "pattern", "material")
"""Kinds of words of which an object has one of each."""


def in_light_of(edit: Edit, description: str) -> Edit:
    """The edit with what is known about the object: its noun, and what goes when something of a kind comes.

    "blue" of a "red chair with yellow legs" is "blue instead of red", and the noun is the whole description. What an
    edit says itself of the object counts instead of that; where nothing is known, it stays as it is.

    Args:
        edit: as a person asked for it.
        description: of the object, see :class:`.description.Description`.

    Example:
        >>> edit = in_light_of(Edit(prompt="a blue <object>"), "red chair with yellow legs")
        >>> edit.source, edit.target, edit.noun
        ('red', 'blue', 'red chair with yellow legs')
    """
    description = edit.noun.strip() or description.strip()
    if not description:
        return edit
    edit = replace(edit, noun=description)
    if edit.source.strip() or edit.weights:
        return edit
    asked = _without_noun(asked_words(edit), description)
    kind = kind_of(asked)
    if kind not in _LASTING:
        return edit
    before = re.split(r"\bwith\b", description)[0].split()
    source = next((word for word in before if kind_of(word) == kind), "")
    return replace(edit, prompt="", source=source, target=asked) if source and source != asked else edit


def _without_noun(asked: str, description: str) -> str:
    """What is asked for, less the object's own noun: "a green chair of", said of a chair, is "green"."""
    noun = re.split(r"\bwith\b", description)[0].split()[-1:]
    words = re.fullmatch(r"(?:an?|the) (.+) (\S+) of", asked)
    return words[1] if words and [words[2].lower()] == noun else asked


def unknown_in(edits: Sequence[Edit], info: PriorInfo) -> str:
    """One sentence about words of edits that the prior does not know; empty if it knows them all."""
    texts = [
        text for edit in edits for text in (edit.prompt, edit.source, edit.target, edit.noun, edit.negative_prompt)
    ]
    texts += [edit.region.relevance or "" for edit in edits]
    return explain_unknown(texts, info)


def warn_unknown(edits: Iterable[Edit], info: PriorInfo) -> None:
    """Say aloud which words of edits the prior does not know."""
    message = unknown_in(list(edits), info)
    if message:
        warn(message)
