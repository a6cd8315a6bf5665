"""Attributes of the procedural world in words alone: what a prompt says that names one of them and no object."""

from __future__ import annotations

from jaxtyping import Bool, Int
from torch import Tensor, isin, ones_like, tensor

from invert3d_ns.base.english import with_article
from invert3d_ns.world.captions import PATTERNS, SYNONYMS
from invert3d_ns.world.data import WorldViews
from invert3d_ns.world.objects import COLORS
from invert3d_ns.world.shapes import CLASSES
from invert3d_ns.world.styles import COLORLESS, STYLES

NOUNS = ("an object", "a thing")
COARSE = ("pixel art",)
"""Styles in which patterns are not judged."""


def attribute_prompts() -> dict[str, dict[str, list[str]]]:
    """Wordings by value, by attribute: style, class, color and pattern, values in the order of the world's tables."""

    def things(word: str) -> list[str]:
        return [f"{with_article(word)} {noun.split()[-1]}" for noun in NOUNS]

    patterns = {name: words or ("plain",) for name, words in PATTERNS.items()}
    return {
        "style": {
            name: [name, *(wording.format(noun) for wording in style.wordings for noun in NOUNS)]
            for name, style in STYLES.items()
        },
        "class": {name: [with_article(word) for word in SYNONYMS.get(name, (name,))] for name in CLASSES},
        "color": {color: things(color) for color in COLORS},
        "pattern": {name: [text for word in words for text in things(word)] for name, words in patterns.items()},
    }


def attribute_labels(data: WorldViews) -> dict[str, tuple[Int[Tensor, " O"], Bool[Tensor, " O"]]]:
    """For each attribute every object's value, as an index, and whether it can be seen in the object's style."""
    styles = list(STYLES)
    colorless = isin(data.styles, tensor([styles.index(style) for style in COLORLESS]))
    coarse = isin(data.styles, tensor([styles.index(style) for style in COARSE]))
    always = ones_like(coarse)
    return {
        "style": (data.styles, always),
        "class": (data.classes, always),
        "color": (data.colors, ~colorless),
        "pattern": (data.patterns, ~coarse),
    }
