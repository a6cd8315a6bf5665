"""Captions of objects of the procedural world: one full description, and random wordings of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from invert3d_ns.base.english import with_article, with_article_unless_plural
from invert3d_ns.world.objects import WorldObject
from invert3d_ns.world.vocabulary import MATERIALS, PATTERN_NOUNS, PATTERNS, POSES, SIZES, STYLES, SYNONYMS


def full_description(item: WorldObject) -> str:
    """The caption that leaves nothing out, always in the same words: the first wording of each attribute."""
    return _caption(item, lambda share: True, lambda words: words[0], form=0.0)


def varied_caption(item: WorldObject, rng: np.random.Generator) -> str:
    """Draw a caption: one of several wordings and orders.

    Details are left out at times, the color rarely, the class almost never: "an object" then stands in its place.
    """
    return _caption(
        item, lambda share: rng.random() < share, lambda words: words[rng.integers(len(words))], form=rng.random()
    )


def _caption(
    item: WorldObject, said: Callable[[float], bool], pick: Callable[[tuple[str, ...]], str], form: float
) -> str:
    names = SYNONYMS.get(item.name, (item.name,))
    noun = names[0] if said(0.7) else pick(names)
    if not said(0.96):
        noun = pick(("object", "thing"))
    size = [pick(SIZES[item.size])] if item.size != "normal" and said(0.8) else []
    material = [pick(MATERIALS[item.material])] if item.material != "matte" and said(0.75) else []
    color = [item.color] if said(0.95) else []
    pattern = [pick(PATTERNS[item.pattern])] if item.pattern != "plain" and said(0.95) else []
    pose = f", {pick(POSES[item.pose])}" if item.pose != "upright" and said(0.85) else ""
    detail = ""
    if item.second is not None and said(0.85):
        if item.part is None:
            detail = f"{item.second} {PATTERN_NOUNS[item.pattern]}"
        else:
            detail = with_article_unless_plural(f"{item.second} {item.part}")
            if item.main is not None and color and 0.35 < form < 0.6:
                main = with_article_unless_plural(f"{item.color} {item.main}")
                text = f"{_listed([*size, *material, *pattern, noun])} with {main} and {detail}{pose}"
                return _styled(item, pick, said, text)
    tail = f" with {detail}" if detail else ""
    if form < 0.6:
        text = f"{_listed([*size, *material, *color, *pattern, noun])}{tail}{pose}"
    elif form < 0.72:
        text = f"{' '.join([*size, *material, *color, *pattern, noun])}{tail}{pose}"
    elif form < 0.84 and (color or pattern or material):
        text = f"{_listed([*size, noun])} that is {' and '.join([*material, *color, *pattern])}{tail}{pose}"
    else:
        order = [*size, *color, *pattern, *material] if form < 0.92 else [*size, *pattern, *color, *material]
        text = f"{_listed([*order, noun])}{tail}{pose}"
    return _styled(item, pick, said, text)


def _styled(item: WorldObject, pick: Callable[[tuple[str, ...]], str], said: Callable[[float], bool], text: str) -> str:
    if not said(0.96):
        return text
    wordings = STYLES[item.style]
    return (wordings[0] if said(0.4) else pick(wordings)).format(text)


def _listed(words: list[str]) -> str:
    return with_article(" ".join(words))
