"""Edits of several regions, made one after another: each pass starts from the splats that the one before left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from invert3d_ns.base.cancellation import Progress, ShouldStop
from invert3d_ns.editing.composition import split_into_passes
from invert3d_ns.editing.regions import inside_box
from invert3d_ns.editing.scene_editor import SceneEditor
from invert3d_ns.scenes.cloud import SplatCloud

if TYPE_CHECKING:
    from invert3d_ns.editing.edit import Edit
    from invert3d_ns.editing.scene_edit_config import SceneEditConfig
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.words.embedding import ObjectEmbedding


class EditSequence:
    """Carries out any edits of a scene, in passes of a :class:`~invert3d_ns.editing.scene_editor.SceneEditor` each.

    The passes are those of what the edits come to (see :func:`~invert3d_ns.editing.composition.composed`), neighbors of
    the same region share one. Stopped anywhere and continued from :meth:`state_dict`, a sequence ends as if it had
    never stopped.

    Args:
        cloud: the scene in the object frame; never written to.
        prior: the prior that the embedding belongs to.
        edits: those that the scene is under already, then the new ones.
        config: how splats follow, in every pass.
        applied: how many of ``edits``, from the first, the scene is under already.
        device: where splats are rendered.

    Attributes:
        editor: the editor of the pass that is being made.

    Raises:
        InputError: see :class:`~invert3d_ns.editing.scene_editor.SceneEditor`.
    """

    def __init__(
        self,
        cloud: SplatCloud,
        prior: MultiViewPrior,
        embedding: ObjectEmbedding,
        edits: Sequence[Edit],
        config: SceneEditConfig,
        *,
        applied: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        for edit in edits[applied:]:  # a later box that holds nothing is refused before the first pass
            edit.check()
            if edit.region.box is not None:
                inside_box(cloud, edit.region.box)
        self._passes = split_into_passes(edits[applied:]) or [[]]
        self._before, self._first = list(edits[:applied]), cloud
        self._prior, self._embedding, self._config, self._device = prior, embedding, config, device
        self._at = 0
        self._start = cloud
        self.editor = self._editor()

    def skip(self, passes: int, cloud: SplatCloud) -> None:
        """Begin after so many passes, the first ones, of which ``cloud`` is what they made; before any step."""
        self._at, self._start = passes, cloud
        self.editor = self._editor()

    def _editor(self) -> SceneEditor:
        before = [*self._before, *(edit for some in self._passes[: self._at] for edit in some)]
        return SceneEditor(
            self._start,
            self._prior,
            self._embedding,
            [*before, *self._passes[self._at]],
            self._config,
            applied=len(before),
            device=self._device,
        )

    @property
    def total_steps(self) -> int:
        """Steps of all passes."""
        return len(self._passes) * self._config.total_steps

    @property
    def done(self) -> int:
        """Steps taken, over all passes."""
        return self._at * self._config.total_steps + self.editor.done

    def prepare(self, progress: Progress | None = None, should_stop: ShouldStop | None = None) -> None:
        """Make the edited views of the current pass, unless there are some; see :meth:`SceneEditor.prepare`."""
        if not self.editor.prepared:
            self.editor.prepare(progress, should_stop)

    def advance(self) -> bool:
        """Begin the next pass if the current one is done and there is another; whether it has begun.

        :meth:`prepare` makes its edited views; who does not call it has them made by the next :meth:`step`.
        """
        if self.editor.done < self.editor.total_steps or self._at + 1 >= len(self._passes):
            return False
        self._start = self.editor.cloud()
        self._at += 1
        self.editor = self._editor()
        return True

    def step(self) -> dict[str, float]:
        """Take one step; the first of each pass makes its edited views before. Returns losses by name.

        Raises:
            RuntimeError: every step is taken.
        """
        self.advance()
        return self.editor.step()

    def cloud(self) -> SplatCloud:
        """The scene as it is now, on the CPU; splats outside the regions have the bits that they came with."""
        return self.editor.cloud()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the remaining steps depend on, but for the constructor's arguments."""
        start = vars(self._start).copy() if self._at else None
        return {"pass": self._at, "start": start, "editor": self.editor.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, with the same scene, words, edits and settings.

        Raises:
            InputError: it is of another scene, other settings, or another version.
        """
        self._at = state["pass"]
        self._start = self._first if state["start"] is None else SplatCloud(**state["start"])
        self.editor = self._editor()
        self.editor.load_state_dict(state["editor"])
