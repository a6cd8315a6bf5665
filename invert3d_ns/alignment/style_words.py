"""What a style is in words, as CLIP's vectors: prompts with weights, what to avoid, and what the scene is now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from invert3d_ns.alignment.clip import ClipTowers
from invert3d_ns.base.errors import InputError

TEMPLATES = (
    "{}",
    "a photo of {}",
    "a rendering of {}",
    "a bad photo of {}",
    "a good photo of {}",
    "a close-up photo of {}",
    "a cropped photo of {}",
    "a photo of one {}",
    "a blurry photo of {}",
    "{} in a scene",
)
"""Wordings whose vectors are averaged, for towers that have seen the web; in the manner of open_clip's for ImageNet."""
BUNDLED_TEMPLATES = ("{}",)
"""The same for bundled towers, to which "a photo" is a style of its own."""


@dataclass(frozen=True)
class StyleWords:
    """Prompts and their weights, prompts to keep away from, and what the scene is now."""

    prompts: Mapping[str, float]
    """What the scene shall look like."""
    source: str = "a photo"
    """What it looks like now (CLIPstyler)."""
    negative: Mapping[str, float] = field(default_factory=dict)
    """What it shall not look like."""

    def check(self) -> None:
        """Refuse words that say nothing.

        Raises:
            InputError: no prompt, an empty one, or a weight that is not positive.
        """
        if not self.prompts:
            raise InputError('there is no prompt; say how the scene shall look: --prompt "a van gogh painting"')
        if not self.source.strip():
            raise InputError('the words for what the scene is now are empty; leave them out, or say "a photo"')
        for words, weight in (*self.prompts.items(), *self.negative.items()):
            if not words.strip():
                raise InputError('a prompt is empty; say how the scene shall look: "a van gogh painting"')
            if not weight > 0:
                raise InputError(f"the weight of {words!r} is {weight:g}; give more than 0, or leave it out")

    def __str__(self) -> str:
        """As a person would say it."""
        return ", ".join(words if weight == 1 else f"{words} ({weight:g})" for words, weight in self.prompts.items())


def parse_weighted(texts: Sequence[str]) -> dict[str, float]:
    """Read prompts with weights at will: ``"van gogh:0.7"``; 1 where none is given. Weights of one text add up.

    A colon that no number follows belongs to the words.
    """
    found: dict[str, float] = {}
    for text in texts:
        words, weight = text, 1.0
        before, colon, number = text.rpartition(":")
        if colon:
            with suppress(ValueError):
                weight = float(number)
                words = before or text
        words = words.strip()
        found[words] = found.get(words, 0.0) + weight
    return found


@torch.no_grad()
def encode_words(towers: ClipTowers, words: StyleWords) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """Encode what is asked for and what there is, each averaged over templates, as unit vectors.

    Raises:
        InputError: see :meth:`StyleWords.check`; prompts and what to keep away from cancel each other.
    """
    words.check()
    templates = BUNDLED_TEMPLATES if towers.name.startswith("bundled") else TEMPLATES

    def encode(text: str) -> Tensor:
        return functional.normalize(towers.encode_text([form.format(text) for form in templates]).mean(0), dim=0)

    source = encode(words.source)
    asked = torch.stack([weight * encode(text) for text, weight in words.prompts.items()]).sum(0)
    asked = asked / sum(words.prompts.values())
    for text, weight in words.negative.items():
        asked = asked - weight * (encode(text) - source)
    if float(asked.norm()) < 1e-3:
        raise InputError("what to keep away from takes back all that is asked for; change one of them")
    return functional.normalize(asked, dim=0), source
