"""The phase in which a scene's splats follow edited words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8

from invert3d_ns.base.cancellation import Progress, ShouldStop
from invert3d_ns.editing.composition import split_into_passes
from invert3d_ns.editing.edit import Edit
from invert3d_ns.methods import edit_report
from invert3d_ns.prior.out_of_memory import explain_out_of_memory
from invert3d_ns.runs.phase import Phase, Run, StepOutput
from invert3d_ns.runs.resume import flags_of
from invert3d_ns.scenes.cloud import SplatCloud

if TYPE_CHECKING:
    from invert3d_ns.editing.edit_sequence import EditSequence
    from invert3d_ns.editing.scene_editor import SceneEditor
    from invert3d_ns.methods.invert3d import InversionPipeline
    from invert3d_ns.prior.multiview import MultiViewPrior

_SHOWN_ORBITS = 2
_VIEW_PIXELS = 192


class EditPhase(Phase):
    """Carries out new edits of the pipeline's scene, step by step; all randomness is of the edits' own seeds.

    Args:
        pipeline: the scene, under :attr:`edits` of its own already, with words.
        edits: what comes on top of them.
    """

    name, title = "edit", "Editing splats"

    def __init__(self, pipeline: InversionPipeline, edits: Sequence[Edit]) -> None:
        self.pipeline, self.edits = pipeline, list(edits)
        self.steps = len(split_into_passes(self.edits)) * pipeline.config.edit.total_steps
        self.before: list[Edit] = []
        self.start: SplatCloud | None = None
        self._sequence: EditSequence | None = None
        self._settled = True

    @classmethod
    def finished(
        cls,
        pipeline: InversionPipeline,
        edits: Sequence[Edit],
        *,
        before: Sequence[Edit],
        start: SplatCloud,
        sequence: EditSequence,
    ) -> EditPhase:
        """The phase of edits that were carried out already, by a sequence which has taken all of its steps.

        Args:
            before: the edits that the scene was under before.
            start: the scene then.
        """
        phase = cls(pipeline, edits)
        phase.before, phase.start, phase._sequence = list(before), start, sequence
        return phase

    def settings_key(self) -> dict[str, Any]:
        """The edits, how the splats follow them, and the prior."""
        return {
            "--pipeline.prior (its weights)": self.pipeline.embedding().fingerprint,
            "the edit": [edit.to_dict() for edit in self.edits],
            **self.pipeline.words_setting(),
            **flags_of(self.pipeline.config.edit, "--pipeline.edit"),
        }

    @property
    def sequence(self) -> EditSequence:
        """What moves the splats; from :meth:`begin` on."""
        assert self._sequence is not None, "begin() comes first"
        return self._sequence

    @property
    def editor(self) -> SceneEditor:
        """The editor at work: of the pass that is being made, if regions take several."""
        return self.sequence.editor

    def begin(self, run: Run, state: dict[str, Any] | None) -> None:
        """Freeze scene and words, and generate the views that the splats shall follow, unless that is done.

        Raises:
            Cancelled: the run was asked to stop.
            InputError: words and splats are of different objects, or the region holds no splats.
        """
        with run.lock, self.pipeline.prior.use():
            self._make_sequence(self.pipeline.freeze_for_editing(), state)
        self._generate_views(run)

    def _generate_views(self, run: Run) -> None:
        if not self.editor.prepared:
            label = ", ".join(edit.label for edit in self.edits)
            with run.timed("views"), run.progress(f"Generating views of the edit: {label}") as progress:
                self.prepare(progress, run.should_stop)
        run.show_picture(edit_report.PICTURE, self.picture())

    def prepare(self, progress: Progress, should_stop: ShouldStop) -> None:
        """Generate the views that the splats shall follow.

        Raises:
            Cancelled: ``should_stop`` said so.
        """
        with self.pipeline.prior.use():
            self.sequence.prepare(progress, should_stop)

    def _make_sequence(self, prior: MultiViewPrior, state: dict[str, Any] | None) -> None:
        from invert3d_ns.editing.edit_sequence import EditSequence

        pipeline = self.pipeline
        if state is None:
            pipeline.check_words_describe_splats(self.edits[0].region)
            self.before, self.start = list(pipeline.edits), pipeline.splats()
        else:
            self.before = [Edit.from_dict(entry) for entry in state["before"]]
            self.start = SplatCloud(**state["start"])
        self._sequence = EditSequence(
            self.start,
            prior,
            pipeline.embedding(),
            [*self.before, *self.edits],
            pipeline.config.edit,
            applied=len(self.before),
            device=prior.device,
        )
        if state is not None:
            self._sequence.load_state_dict(state["sequence"])

    def step(self, run: Run, index: int) -> StepOutput:
        """Take one step; after the last one the edits count among the scene's own."""
        with explain_out_of_memory("inversion", self.pipeline.config.prior_options), self.pipeline.prior.use():
            losses = self.sequence.step()
        self._settled = False
        if self.sequence.done == self.steps:
            self.settle()
            self.pipeline.edits = [*self.before, *self.edits]
        return StepOutput(torch.tensor(sum(losses.values())), losses)

    def settle(self) -> None:
        """Make the scene's splats those that the steps have come to; steps do not, since that copies all of them."""
        if not self._settled:
            self._settled = True
            self.pipeline.set_splats(self.sequence.cloud())

    def observe(self, run: Run, index: int) -> None:
        """Let viewers look at the splats; between two passes, generate the views of the next one.

        Raises:
            Cancelled: the run was asked to stop meanwhile.
        """
        run.redraw()
        if self.sequence.advance():
            self._generate_views(run)

    def finish(self, run: Run) -> Sequence[str]:
        """Write ``edits.json``, the embedding, ``edited.png`` and figures, and say what changed."""
        with run.lock:
            outputs = edit_report.write_outputs(self.pipeline, self, run)
        run.show_picture(edit_report.PICTURE, outputs.picture)
        run.redraw(now=True)
        edit_report.announce(outputs)
        return edit_report.next_commands(outputs, run.folder)

    def scene_before(self) -> SplatCloud:
        """The splats as they were before the edits; from :meth:`begin` on."""
        assert self.start is not None, "begin() comes first"
        return self.start

    def changed(self) -> int:
        """Number of splats that differ from what they were."""
        after, before = self.sequence.cloud(), self.scene_before().tensors()
        differs = torch.zeros(len(after), dtype=torch.bool)
        for name, new in after.tensors().items():
            differs |= (new.cpu() != before[name].cpu()).flatten(1).any(dim=1)
        return int(differs.sum())

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """Views of the scene before the pass at work, above the edited views, above what the splats have become."""
        from invert3d_ns.base.pictures import to_pixels

        rows = [self.editor.originals, self.editor.edited, self.editor.renders()]
        cells = [to_pixels(row[:_SHOWN_ORBITS].flatten(0, 1), _VIEW_PIXELS) for row in rows]
        return np.concatenate([np.concatenate(list(row), axis=1) for row in cells])

    def state_dict(self) -> dict[str, Any]:
        """The scene before, the edits that it was under, and the editor's state."""
        assert self.start is not None, "begin() comes first"
        return {
            "before": [edit.to_dict() for edit in self.before],
            "start": {
                **{name: tensor.clone() for name, tensor in self.start.tensors().items()},
                "rasterize_mode": self.start.rasterize_mode,
            },
            "sequence": self.sequence.state_dict(),
        }
