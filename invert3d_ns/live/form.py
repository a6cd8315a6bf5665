"""A form of text fields and numbers, as people fill it in, and the edit that it stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Box, Change, Edit, Region, parse_edit
from invert3d_ns.editing.phrases import parse_weights

AUTO = "auto"
"""What stands in a field whose value the prior or the edit chooses by itself."""


@dataclass(frozen=True)
class EditForm:
    """The fields of an edit as people fill them in: everything may be left empty but the words or the terms.

    Those that an :class:`~invert3d_ns.editing.edit.Edit` or its region has too start as they do there. Not asked for
    are the space, the structure, the steps and the sampler, and what a box holds.
    """

    words: str = ""
    """Such as "in van gogh style", "blue instead of red", or a whole prompt with <object> in it."""
    source: str = Edit.source
    """What the object is now: "red"."""
    target: str = Edit.target
    """What it shall be: "blue"."""
    noun: str = Edit.noun
    """What the object is in plain words: "red car with black wheels"."""
    amount: float = Edit.amount
    """Lambda, -5 to 5."""
    weights: str = ""
    """Factors of words: "van gogh=2, style=0.5"."""
    negative_prompt: str = Edit.negative_prompt
    """What to keep away from."""
    guidance_scale: str = AUTO
    """A number from 1 to 50, or "auto" for the prior's own."""
    strength: str = AUTO
    """Share of the diffusion that is redone, up to 1, or "auto" for the best for the way structure is kept."""
    seed: int = Edit.seed
    """Of the noise."""
    change: Change = Edit.change
    """What of the splats may change."""
    keep_silhouette: bool = Edit.keep_silhouette
    """Change nothing outside the scene's own silhouette."""
    box: Box | None = Region.box
    """Only what lies in it changes; everything if None."""
    relevance: str = ""
    """Only what these words are about changes; everything if empty."""
    relevance_threshold: float = Region.relevance_threshold
    """Share of the greatest relevance from which on a splat changes."""
    replace_last: bool = False
    """Whether the edit takes the place of the last one."""

    def edit(self) -> Edit:
        """The edit that the fields stand for, checked.

        Raises:
            InputError: nothing is asked for, a field is out of range or cannot be read, the box is no box.
        """
        relevance = self.relevance.strip()
        threshold = self.relevance_threshold if relevance else Region.relevance_threshold
        settings: dict[str, Any] = {
            "amount": self.amount,
            "noun": self.noun.strip(),
            "negative_prompt": self.negative_prompt.strip(),
            "guidance_scale": _number("guidance", self.guidance_scale),
            "strength": _number("strength", self.strength),
            "seed": self.seed,
            "change": self.change,
            "keep_silhouette": self.keep_silhouette,
            "region": Region(self.box, relevance=relevance or None, relevance_threshold=threshold),
        }
        terms = {"source": self.source.strip(), "target": self.target.strip()}
        if self.words.strip():
            # Weights last: the words that they weigh may be in either of the two.
            edit = replace(parse_edit(self.words, **settings), **{k: v for k, v in terms.items() if v})
        else:
            edit = Edit(**terms, **settings)
        edit = replace(edit, weights=parse_weights(self.weights))
        edit.check()
        if edit.is_identity:
            raise InputError("an amount of 0 changes nothing; give another one")
        return edit


def _number(name: str, text: str) -> float | None:
    """A number that somebody typed; None for "auto" or nothing.

    Raises:
        InputError: it is neither.
    """
    if text.strip().lower() in ("", AUTO):
        return None
    try:
        number = float(text.replace(",", "."))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"the {name} {text.strip()!r} is no number; give one, or {AUTO}")
    return number
