"""Fixed lists of prompts that priors are graded on, of combinations that training holds back, and what they ask for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product, zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from invert3d_ns.metrics.judge import Judgment
    from invert3d_ns.world.objects import WorldObject

PROMPTS = 200
"""Prompts that the figures of a prior rest on."""


@dataclass(frozen=True)
class Prompt:
    """One prompt and the attributes that it asks for."""

    text: str
    name: str
    """Class."""
    color: str
    """Of the object, or of its ground if it has a pattern."""
    pattern: str = "plain"
    second: str | None = None
    """Color of the pattern."""
    style: str = "photo"
    held_out: bool = True
    """Whether training holds the combination back."""

    def object(self, seed: int = 0) -> WorldObject:
        """Draw a true object that shows what is asked for: upright, matte, without parts in colors of their own."""
        return _object(self.name, self.color, self.pattern, self.second, self.style, seed)


def held_out_prompts(count: int = PROMPTS) -> list[Prompt]:
    """List the first of the fixed prompts over held-out combinations of class, color, pattern and style.

    Styles take turns, and classes within a style; the rest comes in an order decided by hashes of the words, which no
    version of any library changes. Checks in black or white on white or black are left out: which of the two is the
    ground cannot be seen.
    """
    return _held_out_prompts()[:count]


@lru_cache(maxsize=1)
def _held_out_prompts() -> list[Prompt]:
    from invert3d_ns.world.objects import held_out
    from invert3d_ns.world.shapes import CLASSES
    from invert3d_ns.world.vocabulary import COLORS, PATTERNS, STYLES

    share = -(-PROMPTS // len(STYLES))
    chosen: list[list[Prompt]] = []
    for style in STYLES:
        found = [
            (name, color, pattern, style)
            for name, color, pattern in product(CLASSES, COLORS, PATTERNS)
            if held_out(name, color, pattern, style) and not (pattern == "checkered" and color in ("white", "black"))
        ]
        # Every class once, then again: the split alone would leave some of them out.
        turns: dict[str, list[tuple[str, str, str, str]]] = {}
        for words in sorted(found, key=_digest):
            turns.setdefault(words[0], []).append(words)
        even = [words for turn in zip_longest(*turns.values()) for words in turn if words]
        chosen.append([_prompt(name, color, pattern, look) for name, color, pattern, look in even[:share]])
    return [prompt for turn in zip(*chosen, strict=True) for prompt in turn][:PROMPTS]


def photo_prompts(held_out_side: bool, count: int | None = None, seed: int = 0) -> list[Prompt]:
    """List prompts for plain photos, "a <color> <class>", of one side of the split, in a shuffled order."""
    import numpy as np

    from invert3d_ns.world.objects import held_out
    from invert3d_ns.world.shapes import CLASSES
    from invert3d_ns.world.vocabulary import COLORS

    found = [
        _prompt(name, color, "plain", "photo", held_out_side)
        for name, color in product(CLASSES, COLORS)
        if held_out(name, color) == held_out_side
    ]
    order = np.random.default_rng(seed).permutation(len(found))
    return [found[i] for i in order[:count]]


def held_out_photos(count: int) -> list[Prompt]:
    """List prompts for photos of held-out combinations: of a class and color, and of a pattern, in turns."""
    plain = photo_prompts(True, seed=3)
    patterned = [case for case in _held_out_prompts() if case.style == "photo" and case.pattern != "plain"]
    turns = [case for pair in zip_longest(plain, patterned) for case in pair if case is not None]
    return turns[:count]


def expected_judgment(cases: Sequence[Prompt], azimuths: Tensor) -> Judgment:
    """The judgment that views of prompts should receive, view by view.

    Args:
        cases: B prompts.
        azimuths: [B, F] degrees that their views are asked for from.
    """
    from invert3d_ns.metrics.judge import Judgment, attribute_indices, fronted

    index = attribute_indices(cases)
    told = fronted()[index["classes"]]
    directions = ((azimuths + 180) % 360 - 180).masked_fill(~told[:, None], torch.nan)
    views = azimuths.shape[1]
    return Judgment(
        **{kind: values.repeat_interleave(views) for kind, values in index.items()}, azimuths=directions.flatten()
    )


def _digest(words: Sequence[str]) -> bytes:
    return hashlib.sha256("/".join(("prompt", *words)).encode()).digest()


def _prompt(name: str, color: str, pattern: str, style: str, held_out: bool = True) -> Prompt:
    from invert3d_ns.world.captions import full_description
    from invert3d_ns.world.vocabulary import COLORS

    second = None
    if pattern != "plain":
        # As in training: on most colors white, at times black; on those two, any real color.
        options = ["white"] * 3 + ["black"]
        if color in ("white", "black"):
            options = [c for c in COLORS if c not in ("white", "black", "gray")]
        second = options[_digest((name, color, pattern, style))[-1] % len(options)]
    text = full_description(_object(name, color, pattern, second, style, 0))
    return Prompt(text, name, color, pattern, second, style, held_out)


def _object(name: str, color: str, pattern: str, second: str | None, style: str, seed: int) -> WorldObject:
    import numpy as np

    from invert3d_ns.world.objects import sample_object

    # The second color is the world's own draw; draw until it is the one that was asked for.
    rng = np.random.default_rng(seed)
    while True:
        item = sample_object(rng, name=name, color=color, pattern=pattern, style=style, plain=True)
        if item.second == second:
            return item
