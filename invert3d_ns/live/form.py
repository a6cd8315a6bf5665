"""A form of text fields and numbers, as people fill it in, and the edit that it stands for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Box, Change, Edit, Region, parse_edit
from invert3d_ns.editing.phrases import parse_weights


@dataclass(frozen=True)
class EditForm:
    """The fields of an edit as people fill them in: everything may be left empty but the words or the terms."""

    words: str = ""
    """Such as "in van gogh style", "blue instead of red", or a whole prompt with <object> in it."""
    source: str = ""
    """What the object is now: "red"."""
    target: str = ""
    """What it shall be: "blue"."""
    amount: float = 1.0
    """Lambda, -5 to 5."""
    weights: str = ""
    """Factors of words: "van gogh=2, style=0.5"."""
    negative_prompt: str = ""
    """What to keep away from."""
    guidance_scale: float = 0.0
    """1 to 50; 0: the prior's own."""
    strength: float = 0.0
    """Share of the diffusion that is redone, up to 1; 0: the best for the way in which structure is kept."""
    seed: int = 0
    """Of the noise."""
    change: Change = "colors"
    """What of the splats may change."""
    box: Box | None = None
    """Only what lies in it changes; everything if None."""
    noun: str = ""
    """What the object is in plain words: "red car with black wheels"."""

    def edit(self) -> Edit:
        """The edit that the fields stand for, checked.

        Raises:
            InputError: nothing is asked for, a field is out of range, the weights cannot be read, the box is no box.
        """
        settings = {
            "amount": self.amount,
            "noun": self.noun.strip(),
            "negative_prompt": self.negative_prompt.strip(),
            "guidance_scale": self.guidance_scale or None,
            "strength": self.strength or None,
            "seed": self.seed,
            "change": self.change,
            "region": Region(box=self.box),
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
