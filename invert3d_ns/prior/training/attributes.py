"""Attributes of the procedural world in words alone: what a prompt says that names one of them and no object."""

from __future__ import annotations

from jaxtyping import Bool, Int
from torch import Tensor, isin, ones_like, tensor

from invert3d_ns.prior.training.captions import PATTERNS, SYNONYMS, with_article
from invert3d_ns.prior.training.data import WorldViews
from invert3d_ns.prior.training.shapes import CLASSES
from invert3d_ns.prior.training.styles import COLOURLESS, STYLES
from invert3d_ns.prior.training.world import COLOURS

NOUNS = ("an object", "a thing")
COARSE = ("pixel art",)
"""Styles in which patterns are not judged."""


def attribute_prompts() -> dict[str, dict[str, list[str]]]:
    """Wordings by value, by attribute: style, class, colour and pattern, values in the order of the world's tables."""

    def things(word: str) -> list[str]:
        return [f"{with_article(word)} {noun.split()[-1]}" for noun in NOUNS]

    patterns = {name: words or ("plain",) for name, words in PATTERNS.items()}
    return {
        "style": {
            name: [name, *(wording.format(noun) for wording in style.wordings for noun in NOUNS)]
            for name, style in STYLES.items()
        },
        "class": {name: [with_article(word) for word in SYNONYMS.get(name, (name,))] for name in CLASSES},
        "colour": {colour: things(colour) for colour in COLOURS},
        "pattern": {name: [text for word in words for text in things(word)] for name, words in patterns.items()},
    }


def attribute_labels(data: WorldViews) -> dict[str, tuple[Int[Tensor, "O"], Bool[Tensor, "O"]]]:  # noqa: F821
    """For each attribute every object's value, as an index, and whether it can be seen in the object's style."""
    styles = list(STYLES)
    colourless = isin(data.styles, tensor([styles.index(style) for style in COLOURLESS]))
    coarse = isin(data.styles, tensor([styles.index(style) for style in COARSE]))
    always = ones_like(coarse)
    return {
        "style": (data.styles, always),
        "class": (data.classes, always),
        "colour": (data.colours, ~colourless),
        "pattern": (data.patterns, ~coarse),
    }
