"""Edits as options of a command: the same words for ``ns-train`` and for ``invert3d edit``."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invert3d_ns.editing.edit import Edit, Sampler, Space, Structure, load_edits, parse_edit
from invert3d_ns.live.form import parse_weights

if TYPE_CHECKING:
    from invert3d_ns.words.embedding import ObjectEmbedding


@dataclass
class EditOptions:
    """What shall change, in words: the fields of an :class:`~invert3d_ns.editing.edit.Edit` besides its prompt,
    which commands take by themselves.
    """

    source: str = ""
    """What the object is now, as "red" or "with black wheels"; together with a target."""
    target: str = ""
    """What it shall be instead, as "blue" or "with white wheels"."""
    noun: str = ""
    """What the object is in plain words, as "car" or, better, "red car with black wheels": the more it says, the less
    an edit touches besides. Default: the word that its inversion started from."""
    amount: float = 1.0
    """How far to go from source to target, -5 to 5: 0 changes nothing, negative goes the other way."""
    weight: tuple[str, ...] = ()
    """How much words of the prompt or of the target count, 0 to 10 each, as "van gogh=2" "style=0.5"."""
    negative_prompt: str = ""
    """What to keep away from."""
    guidance_scale: float | None = None
    """Classifier-free guidance, 1 to 50: higher follows the words more closely. Default: the prior's own."""
    space: Space | None = None
    """Where source and target are taken from and added to the object's words. Default: the best by measurement."""
    strength: float | None = None
    """Share of the diffusion that is redone, above 0 and up to 1: small keeps more of the scene. Default: the
    structure's own."""
    structure: Structure | None = None
    """How the scene's structure is kept. Default: the best by measurement."""
    keep_silhouette: bool = True
    """Change nothing outside the scene's own silhouette: right for colors, patterns and styles, wrong for shapes."""
    seed: int = 0
    """Of the noise that views are made from: same seed, same views."""
    steps: int = 20
    """Denoising steps of edited views."""
    sampler: Sampler = "ddim"
    """Sampler; dpm++ needs fewer steps."""
    edits: Path | None = None
    """A file of edits (edits.json) to carry out again; a prompt or a target adds one more after them. Without, other
    settings given here take the place of the last one's."""

    def wanted(self, prompt: str | None, embedding: ObjectEmbedding | None = None) -> list[Edit]:
        """The edits that are asked for, oldest first; none if nothing is.

        Args:
            prompt: see :func:`~invert3d_ns.editing.edit.parse_edit`; None if none was given.
            embedding: whose words they are about; a file of edits that was made with another prior is refused.

        Raises:
            InputError: an empty prompt, settings without anything to change, or whatever
                :meth:`~invert3d_ns.editing.edit.Edit.check` and
                :func:`~invert3d_ns.editing.edit.load_edits` refuse.
        """
        before = [] if self.edits is None else load_edits(self.edits, embedding)
        given = self._given()
        if prompt is not None:
            # Weights last: the words that they weigh may be in the prompt or in the target.
            weights = given.pop("weights", {})
            edit = replace(parse_edit(prompt, **given), weights=weights)
        elif before and not (self.source or self.target):
            edit = replace(before.pop(), **given)
        elif given:
            edit = Edit(**given)
        else:
            return before
        edit.check()
        return [*before, edit]

    def _given(self) -> dict[str, Any]:
        """Fields of an edit that differ from the defaults."""
        given = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("edits", "weight") and getattr(self, field.name) != field.default
        }
        if self.weight:
            given["weights"] = parse_weights(",".join(self.weight))
        return given
