"""Edits as options of a command: the same words for ``ns-train`` and for ``invert3d edit``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from invert3d_ns.editing.edit import Edit, load_edits, parse_edit
from invert3d_ns.editing.phrases import parse_weights

if TYPE_CHECKING:
    from invert3d_ns.words.embedding import ObjectEmbedding


@dataclass
class EditOptions:
    """What shall change, where and how: every field of an edit is a flag but its prompt, which commands take by
    themselves.
    """

    edit: Annotated[Edit, tyro.conf.arg(name="")] = field(default_factory=Edit)
    """What shall change. Fields that have their default count as not given."""
    weight: tuple[str, ...] = ()
    """How much words of the prompt or of the target count, 0 to 10 each, as "van gogh=2" "style=0.5"."""
    edits: Path | None = None
    """A file of edits (edits.json) to carry out again; a prompt or a target adds one more after them. Without, other
    settings given here take the place of the last one's."""

    def requested_edits(self, prompt: str | None, embedding: ObjectEmbedding | None = None) -> list[Edit]:
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
            edit = parse_edit(prompt)
        elif before and not (self.edit.source or self.edit.target):
            edit = before.pop()
        elif given:
            edit = Edit()
        else:
            return before
        edit = Edit.from_dict({**edit.to_dict(), **given})
        edit.check()
        return [*before, edit]

    def _given(self) -> dict[str, Any]:
        """Entries of the edit that differ from the defaults."""
        defaults = Edit().to_dict()
        given = {name: value for name, value in self.edit.to_dict().items() if value != defaults[name]}
        if self.weight:
            given["weights"] = parse_weights(",".join(self.weight))
        return given
