"""The edit phase of a run: its splats follow edited words, and what that leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8

from invert3d_ns.editing.edit import Edit
from invert3d_ns.scenes.ply import SplatCloud

if TYPE_CHECKING:
    from invert3d_ns.editing.scene_edit_config import SceneEditConfig
    from invert3d_ns.live.host import EditHost

_SHOWN_ORBITS = 2
_VIEW_PIXELS = 192


class EditPhase:
    """New edits of a host's scene, carried out step by step. Ended and resumed anywhere, it ends the same.

    Args:
        host: the scene, under :attr:`EditHost.edits` already.
        edits: what comes on top of them.
        config: how the splats follow.
        seed: of the optimization; an edit's own seed is its views'.
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
        seed: int = 0,
        state: dict[str, Any] | None = None,
    ) -> None:
        from invert3d_ns.editing.scene_editor import SceneEditor

        self.host = host
        if state is None:
            self.before, self.edits, self.start = list(host.edits), list(edits), host.splats()
        else:
            self.before, self.edits = ([Edit(**entry) for entry in state[name]] for name in ("before", "edits"))
            self.start = SplatCloud(**state["start"])
        with host.prior.use() as prior:
            self.editor = SceneEditor(
                self.start,
                prior,
                host.embedding(),
                [*self.before, *self.edits],
                config,
                applied=len(self.before),
                seed=seed,
                device=prior.device,
            )
        self.prepared = False
        """Whether there are edited views for the splats to follow."""
        if state is not None and state["editor"] is not None:
            self.editor.load_state_dict(state["editor"])
            self.prepared = True

    @property
    def label(self) -> str:
        """What is changed, in a few words."""
        return ", ".join(edit.label for edit in self.edits)

    def prepare(
        self, progress: Callable[[int, int], None] | None = None, cancelled: Callable[[], bool] | None = None
    ) -> None:
        """Generate the views that the splats shall follow, unless that is done.

        Raises:
            Cancelled: ``cancelled`` said so.
        """
        if not self.prepared:
            with self.host.prior.use():
                self.editor.prepare(progress=progress, cancelled=cancelled)
            self.prepared = True

    def step(self) -> dict[str, float]:
        """Take one step and show its splats; returns losses."""
        with self.host.prior.use():
            figures = self.editor.step()
        self.host.set_splats(self.editor.cloud())
        return figures

    def finish(self) -> None:
        """Count the edits among those that the scene is under. May be called again."""
        self.host.set_splats(self.editor.cloud())
        self.host.edits = [*self.before, *self.edits]

    def changed(self) -> int:
        """Number of splats that differ from what they were."""
        after = self.editor.cloud()
        differs = torch.zeros(len(after), dtype=torch.bool)
        for field in fields(after):
            new, old = getattr(after, field.name).flatten(1), getattr(self.start, field.name).flatten(1)
            differs |= (new.cpu() != old.cpu()).any(dim=1)
        return int(differs.sum())

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """Views of the scene as it was, above the edited views, above what the splats have become."""
        from invert3d_ns.base.pictures import to_pixels

        rows = [self.editor.originals, self.editor.edited, self.editor.renders()]
        cells = [to_pixels(row[:_SHOWN_ORBITS].flatten(0, 1), _VIEW_PIXELS) for row in rows]
        return np.concatenate([np.concatenate(list(row), axis=1) for row in cells])

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors, from which a phase goes on exactly."""
        return {
            "before": [plain(edit) for edit in self.before],
            "edits": [plain(edit) for edit in self.edits],
            "start": {field.name: getattr(self.start, field.name).clone() for field in fields(self.start)},
            "editor": self.editor.state_dict() if self.prepared else None,
        }


def plain(edit: Edit) -> dict[str, Any]:
    """An edit as built-in types, for files and checkpoints; ``Edit(**plain(edit))`` is equal to it."""
    return {**asdict(edit), "weights": dict(edit.weights)}
