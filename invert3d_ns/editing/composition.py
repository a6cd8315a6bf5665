"""How several edits of one scene go together: what they come to, and which of them are made in one pass."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby

from invert3d_ns.editing.edit import TOKEN, Edit, Region
from invert3d_ns.editing.phrases import find_phrase

_BESIDE_COLORS = ("and", "painted", "colored", "coloured", "color", "colour")
_SHADES = {"dark", "light", "bright", "deep", "pale", "medium", "vivid", "all", "completely", *_BESIDE_COLORS}
"""Words beside a color that make it no other kind of word."""


def edits_within(region: Region, edits: Sequence[Edit]) -> list[Edit]:
    """The edits that all of a region is under, in their order: those whose own region covers it.

    They say what the region looks like now, so views of it are made under them. An edit of a smaller part, or of
    another one, says nothing of the region as a whole and would only pull all of it towards itself: what it did stays
    because views start from those of the scene.

    Example:
        >>> top = Region(box=(-1, -1, 0, 1, 1, 1))
        >>> blue, striped = Edit(target="blue"), Edit(target="striped", region=top)
        >>> [edit.target for edit in edits_within(top, [blue, striped])]
        ['blue', 'striped']
        >>> [edit.target for edit in edits_within(Region(), [blue, striped])]
        ['blue']
    """
    return [edit for edit in edits if edit.region.covers(region)]


def composed(edits: Sequence[Edit]) -> list[Edit]:
    """What edits of one scene, made one after another, come to in words: no more edits than before.

    A later edit of the same region takes the place of an earlier one that it goes on from ("red -> blue", "blue ->
    green" come to "red -> green"), that starts from the same words, or that asks for another thing of the same kind:
    colors, patterns, materials and styles are kinds. All others stay, in their order.

    Example:
        >>> [edit.label for edit in composed([Edit(source="red", target="blue"), Edit(source="blue", target="green")])]
        ['red -> green']
        >>> [edit.label for edit in composed([Edit(target="blue"), Edit(target="striped"), Edit(target="green")])]
        ['striped', 'green']
    """
    result: list[Edit] = []
    for edit in edits:
        for index in reversed(range(len(result))):
            both = _merged(result[index], edit)
            came_to = asked_words(result[index])
            needed = any(other.source and _same(other.source, came_to) for other in result[index + 1 :])
            if both is not None and not needed:
                del result[index]
                edit = both
        result.append(edit)
    return result


def split_into_passes(edits: Sequence[Edit]) -> list[list[Edit]]:
    """What edits come to, as runs of neighbors that change the same of the same region; each is made in one pass."""
    return [list(same) for _, same in groupby(composed(edits), lambda edit: (edit.region, edit.change))]


def with_context(before: Sequence[Edit], new: Sequence[Edit]) -> tuple[list[Edit], int]:
    """The edits that views of one pass are made under, and how many of them, from the first, the scene shows already.

    Args:
        before: edits that the scene is under, oldest first.
        new: the edits of the pass; all of one region.
    """
    within = edits_within(new[-1].region if new else Region(), before)
    return [*within, *composed(new)], len(within)


def _merged(earlier: Edit, later: Edit) -> Edit | None:
    """One edit in the place of two, with the later one's settings; None if they stand beside each other."""
    if earlier.region != later.region or earlier.change != later.change:
        return None
    if earlier.prompt and (earlier.source or earlier.target):  # no other words come to the same
        return None
    before, after = asked_words(earlier), asked_words(later)
    goes_on = bool(later.source) and _same(later.source, before) and min(earlier.amount, later.amount) > 0
    if goes_on:
        return replace(later, source=earlier.source, noun=earlier.noun or _noun_before(earlier, later))
    kind = kind_of(after)
    again = _same(later.source, earlier.source) and bool(later.source or _same(before, after))
    of_a_kind = not later.source and bool(kind) and kind == kind_of(before)
    if not (again or of_a_kind):
        return None
    is_of_before = bool(later.source) and bool(find_phrase(later.source, later.noun))
    noun = later.noun if is_of_before else _noun_before(earlier, later)
    return replace(later, noun=later.noun or earlier.noun if noun == later.noun else earlier.noun or noun)


def kind_of(phrase: str) -> str:
    """What kind of thing words ask for, "color" or "pattern" for example; empty where that cannot be told.

    Example:
        >>> [kind_of(words) for words in ("dark red", "striped", "in van gogh style", "with black wheels")]
        ['color', 'pattern', 'style', '']
    """
    words = [word for word in re.findall(r"[\w-]+", phrase.lower()) if word not in ("a", "an", "the", "in", "of")]
    if "style" in words or phrase.lower().strip().endswith(" of"):  # "in the style of ...", "a pencil sketch of"
        return "style"
    kinds = {_kinds().get(word, "") for word in words if word not in _SHADES}
    return kinds.pop() if len(kinds) == 1 else ""


@cache
def _kinds() -> dict[str, str]:
    from PIL import ImageColor

    from invert3d_ns.world.vocabulary import COLORS, MATERIALS, PATTERNS

    tables = {"pattern": PATTERNS, "material": MATERIALS}
    named = {word: kind for kind, table in tables.items() for words in table.items() for word in (words[0], *words[1])}
    return named | dict.fromkeys([*ImageColor.colormap, *COLORS, "golden"], "color")


def asked_words(edit: Edit) -> str:
    """What an edit asks for, without the object: "blue", "in van gogh style", "a pencil sketch of"."""
    if edit.target or edit.source:
        return edit.target
    adjective = re.fullmatch(rf"(?:an?|the) (.+) {re.escape(TOKEN)}", edit.prompt.strip())
    if adjective and not adjective[1].endswith(" of"):
        return adjective[1]
    return edit.prompt.replace(TOKEN, "").strip(" ,")


def _same(one: str, other: str) -> bool:
    return _bare(one).lower() == _bare(other).lower()


def _bare(text: str) -> str:
    return re.sub(r"^(an?|the) ", "", " ".join(text.split()), flags=re.IGNORECASE)


def _noun_before(earlier: Edit, later: Edit) -> str:
    """What the later one of two edits calls the object, as it was before the earlier one, whose words it may repeat."""
    came_to = _bare(asked_words(earlier))
    found = find_phrase(came_to, later.noun) if came_to else []
    if not found:
        return later.noun
    first, last = found[0]
    return " ".join(f"{later.noun[:first]}{_bare(earlier.source)}{later.noun[last:]}".split())
