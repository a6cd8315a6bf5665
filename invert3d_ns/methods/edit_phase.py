"""The phase in which a scene's splats follow edited words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8

from invert3d_ns.editing.edit import Edit
from invert3d_ns.methods import edit_report
from invert3d_ns.prior.memory import explain_out_of_memory
from invert3d_ns.runs.phase import Phase, Run, StepOutput
from invert3d_ns.scenes.cloud import SplatCloud

if TYPE_CHECKING:
    from invert3d_ns.editing.scene_editor import SceneEditor
    from invert3d_ns.methods.invert3d import InversionPipeline

_SHOWN_ORBITS = 2
_VIEW_PIXELS = 192


class EditPhase(Phase):
    """Carries out new edits of the pipeline's scene, step by step.

    Args:
        pipeline: the scene, under :attr:`edits` of its own already, with words.
        edits: what comes on top of them.
    """

    name, title = "edit", "Editing splats"

    def __init__(self, pipeline: InversionPipeline, edits: Sequence[Edit]) -> None:
        self.pipeline, self.edits = pipeline, list(edits)
        self.steps = pipeline.config.edit.fit_steps + pipeline.config.edit.refine_steps
        self.before: list[Edit] = []
        self.start: SplatCloud | None = None
        self._editor: SceneEditor | None = None
        self._prepared = False

    def settings_key(self) -> dict[str, Any]:
        """The edits, how the splats follow them, and the prior."""
        config = asdict(self.pipeline.config.edit)
        return {
            "--pipeline.prior (its weights)": self.pipeline.embedding().fingerprint,
            "the edit": [plain(edit) for edit in self.edits],
            **{f"--pipeline.edit.{name.replace('_', '-')}": value for name, value in config.items()},
        }

    @property
    def editor(self) -> SceneEditor:
        """What moves the splats; from :meth:`begin` on."""
        assert self._editor is not None, "begin() comes first"
        return self._editor

    def begin(self, run: Run, state: dict[str, Any] | None) -> None:
        """Freeze scene and words, and generate the views that the splats shall follow, unless that is done.

        Raises:
            Cancelled: the run was asked to stop.
            InputError: words and splats are of different objects, or the region holds no splats.
        """
        with run.lock:
            self._make_editor(run.seed, state)
        if not self._prepared:
            label = ", ".join(edit.label for edit in self.edits)
            with run.timed("views"), run.progress(f"Generating views of the edit: {label}") as progress:
                self.prepare(progress, run.should_stop)
        run.show_picture(edit_report.PICTURE, self.picture())

    def prepare(self, progress: Callable[[int, int], None], should_stop: Callable[[], bool]) -> None:
        """Generate the views that the splats shall follow.

        Raises:
            Cancelled: ``should_stop`` said so.
        """
        self.editor.prepare(progress=progress, cancelled=should_stop)
        self._prepared = True

    def _make_editor(self, seed: int, state: dict[str, Any] | None) -> None:
        from invert3d_ns.editing.scene_editor import SceneEditor

        pipeline = self.pipeline
        prior = pipeline.freeze_for_editing()
        if state is None:
            pipeline.check_words_describe_splats()
            self.before, self.start = list(pipeline.edits), pipeline.splats()
        else:
            self.before = [Edit(**entry) for entry in state["before"]]
            self.start = SplatCloud(**state["start"])
        self._editor = SceneEditor(
            self.start,
            prior,
            pipeline.embedding(),
            [*self.before, *self.edits],
            pipeline.config.edit,
            applied=len(self.before),
            seed=seed,
            device=prior.device,
        )
        if state is not None and state["editor"] is not None:
            self._editor.load_state_dict(state["editor"])
            self._prepared = True

    def step(self, run: Run, index: int) -> StepOutput:
        """Take one step and show its splats; after the last one the edits count among the scene's own."""
        with explain_out_of_memory("inversion", self.pipeline.config.prior_options):
            losses = self.editor.step()
        self.pipeline.set_splats(self.editor.cloud())
        if self.editor.done == self.editor.total_steps:
            self.pipeline.edits = [*self.before, *self.edits]
        return StepOutput(torch.tensor(sum(losses.values())), losses)

    def observe(self, run: Run, index: int) -> None:
        """Let viewers look at the splats."""
        run.redraw()

    def finish(self, run: Run) -> Sequence[str]:
        """Write ``edits.json``, the embedding, ``edited.png`` and figures, and say what changed."""
        with run.lock:
            outputs = edit_report.write_outputs(self.pipeline, self, run)
        run.show_picture(edit_report.PICTURE, outputs.picture)
        run.redraw(now=True)
        edit_report.announce(outputs)
        return edit_report.next_commands(outputs, run.folder)

    def changed(self) -> int:
        """Number of splats that differ from what they were."""
        assert self.start is not None, "begin() comes first"
        after = self.editor.cloud()
        differs = torch.zeros(len(after), dtype=torch.bool)
        before = self.start.tensors()
        for name, new in after.tensors().items():
            differs |= (new.cpu() != before[name].cpu()).flatten(1).any(dim=1)
        return int(differs.sum())

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """Views of the scene as it was, above the edited views, above what the splats have become."""
        from invert3d_ns.base.pictures import to_pixels

        rows = [self.editor.originals, self.editor.edited, self.editor.renders()]
        cells = [to_pixels(row[:_SHOWN_ORBITS].flatten(0, 1), _VIEW_PIXELS) for row in rows]
        return np.concatenate([np.concatenate(list(row), axis=1) for row in cells])

    def state_dict(self) -> dict[str, Any]:
        """The scene before, the edits that it was under, and the editor's state."""
        assert self.start is not None, "begin() comes first"
        return {
            "before": [plain(edit) for edit in self.before],
            "start": {
                **{name: tensor.clone() for name, tensor in self.start.tensors().items()},
                "rasterize_mode": self.start.rasterize_mode,
            },
            "editor": self.editor.state_dict() if self._prepared else None,
        }


def plain(edit: Edit) -> dict[str, Any]:
    """An edit as built-in types, for files and checkpoints; ``Edit(**plain(edit))`` is equal to it."""
    return {**asdict(edit), "weights": dict(edit.weights)}
