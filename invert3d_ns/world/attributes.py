"""Prompts that name one attribute of the procedural world and no object, and every object's values of it."""

from __future__ import annotations

from jaxtyping import Bool, Int
from torch import Tensor, isin, ones_like, tensor

from invert3d_ns.base.english import with_article
from invert3d_ns.world.data import WorldViews
from invert3d_ns.world.shapes import CLASSES
from invert3d_ns.world.vocabulary import BLOCKY, COLORLESS, COLORS, PATTERNS, STYLES, SYNONYMS

NOUNS = ("an object", "a thing")
"""What is named where no object is."""


def attribute_prompts() -> dict[str, dict[str, list[str]]]:
    """Wordings of each value of style, class, color and pattern; values are in the order of the world's tables."""

    def things(word: str) -> list[str]:
        return [f"{with_article(word)} {noun.split()[-1]}" for noun in NOUNS]

    patterns = {name: words or ("plain",) for name, words in PATTERNS.items()}
    return {
        "style": {
            name: [name, *(wording.format(noun) for wording in wordings for noun in NOUNS)]
            for name, wordings in STYLES.items()
        },
        "class": {name: [with_article(word) for word in SYNONYMS.get(name, (name,))] for name in CLASSES},
        "color": {color: things(color) for color in COLORS},
        "pattern": {name: [text for word in words for text in things(word)] for name, words in patterns.items()},
    }


def attribute_labels(data: WorldViews) -> dict[str, tuple[Int[Tensor, " O"], Bool[Tensor, " O"]]]:
    """Every object's value of each attribute, as an index, and whether it can be seen in the object's style."""
    styles = list(STYLES)
    colorless = isin(data.styles, tensor([styles.index(style) for style in COLORLESS]))
    coarse = isin(data.styles, tensor([styles.index(style) for style in BLOCKY]))
    always = ones_like(coarse)
    return {
        "style": (data.styles, always),
        "class": (data.classes, always),
        "color": (data.colors, ~colorless),
        "pattern": (data.patterns, ~coarse),
    }
