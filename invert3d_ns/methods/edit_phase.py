"""The edit phase of a run: its splats follow edited words, and what that leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8

from invert3d_ns.base.cancellation import Progress, ShouldStop
from invert3d_ns.editing.edit import Edit
from invert3d_ns.scenes.ply import SplatCloud

if TYPE_CHECKING:
    from invert3d_ns.editing.scene_edit_config import SceneEditConfig
    from invert3d_ns.editing.scene_editor import SceneEditor
    from invert3d_ns.live.scene import EditHost

_SHOWN_ORBITS = 2
_VIEW_PIXELS = 192


class EditPhase:
    """New edits of a host's scene, carried out step by step. Ended and resumed anywhere, it ends the same.

    All randomness is of the edits' own seeds.

    Args:
        host: the scene, under :attr:`EditHost.edits` already.
        edits: what comes on top of them.
        config: how the splats follow.
        state: of :meth:`state_dict`, to go on from; the host's splats and ``edits`` are ignored then.

    Raises:
        InputError: there are no words yet, an edit cannot be carried out, or the region holds no splats.
    """

    def __init__(
        self,
        host: EditHost,
        edits: Sequence[Edit],
        config: SceneEditConfig,
        *,
        state: dict[str, Any] | None = None,
    ) -> None:
        from invert3d_ns.editing.edit_sequence import EditSequence

        self.host = host
        if state is None:
            self.before, self.edits, self.start = list(host.edits), list(edits), host.splats()
        else:
            self.before, self.edits = ([Edit.from_dict(entry) for entry in state[name]] for name in ("before", "edits"))
            self.start = SplatCloud(**state["start"])
        prior = host.prior()
        self._sequence = EditSequence(
            self.start,
            prior,
            host.embedding(),
            [*self.before, *self.edits],
            config,
            applied=len(self.before),
            device=prior.device,
        )
        if state is not None:
            self._sequence.load_state_dict(state["sequence"])

    @property
    def editor(self) -> SceneEditor:
        """The editor at work: of the pass that is being made, if regions take several."""
        return self._sequence.editor

    @property
    def total_steps(self) -> int:
        """Steps of all passes."""
        return self._sequence.total_steps

    @property
    def prepared(self) -> bool:
        """Whether there are edited views for the splats to follow."""
        return self.editor.prepared

    @property
    def label(self) -> str:
        """What is changed, in a few words."""
        return ", ".join(edit.label for edit in self.edits)

    def prepare(self, progress: Progress | None = None, should_stop: ShouldStop | None = None) -> None:
        """Generate the views that the splats shall follow, unless that is done.

        Raises:
            Cancelled: ``should_stop`` said so.
        """
        self._sequence.prepare(progress, should_stop)

    def step(self) -> dict[str, float]:
        """Take one step and show its splats; returns losses."""
        figures = self._sequence.step()
        self.host.set_splats(self._sequence.cloud())
        return figures

    def finish(self) -> None:
        """Count the edits among those that the scene is under. May be called again."""
        self.host.set_splats(self._sequence.cloud())
        self.host.edits = [*self.before, *self.edits]

    def changed(self) -> int:
        """Number of splats that differ from what they were."""
        after = self._sequence.cloud()
        differs = torch.zeros(len(after), dtype=torch.bool)
        for field in fields(after):
            new, old = getattr(after, field.name).flatten(1), getattr(self.start, field.name).flatten(1)
            differs |= (new.cpu() != old.cpu()).any(dim=1)
        return int(differs.sum())

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """Views of the scene before the pass at work, above the edited views, above what the splats have become."""
        from invert3d_ns.base.pictures import to_pixels

        rows = [self.editor.originals, self.editor.edited, self.editor.renders()]
        cells = [to_pixels(row[:_SHOWN_ORBITS].flatten(0, 1), _VIEW_PIXELS) for row in rows]
        return np.concatenate([np.concatenate(list(row), axis=1) for row in cells])

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors, from which a phase goes on exactly."""
        return {
            "before": [edit.to_dict() for edit in self.before],
            "edits": [edit.to_dict() for edit in self.edits],
            "start": {field.name: getattr(self.start, field.name).clone() for field in fields(self.start)},
            "sequence": self._sequence.state_dict(),
        }
