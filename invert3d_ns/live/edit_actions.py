"""Editing splats with words while they are shown: previews, edits that splats follow step by step, and their runs."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.cancellation import Cancelled, Progress, ShouldStop
from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.change import measure_change
from invert3d_ns.editing.composition import split_into_passes, with_context
from invert3d_ns.editing.edit import Edit
from invert3d_ns.editing.reading import unknown_in
from invert3d_ns.live.history import Version
from invert3d_ns.live.host import KeepsRuns, SavedRun
from invert3d_ns.live.pictures import before_and_after, render_sides
from invert3d_ns.live.queue import Action, ActionQueue, Outcome
from invert3d_ns.live.versions import SceneVersions

if TYPE_CHECKING:
    from invert3d_ns.editing.edit_sequence import EditSequence
    from invert3d_ns.editing.scene_edit_config import SceneEditConfig
    from invert3d_ns.live.host import EditHost
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.scenes.cloud import SplatCloud
    from invert3d_ns.words.embedding import ObjectEmbedding

PREVIEW_STEPS = 8
"""Denoising steps of a preview: enough to tell whether the words do what they should."""
SECONDS_BETWEEN_LOOKS = 0.4
"""Time between two looks at splats that are changing. Rendering them takes time from the fit."""


class EditActions:
    """Makes the actions of editing with words.

    Methods that return an :class:`Action` do nothing else, and may be called from any thread.

    All edits since the scene was found are carried out together on the scene as it was then, as ``ns-train`` carries
    out a file of them: what they come to in words decides (see :func:`~invert3d_ns.editing.composition.composed`), and
    no splat is changed twice for the same thing.

    Args:
        host: has the scene.
        queue: where the actions go.
        versions: of the scene; of these actions alone if None.
        config: how splats follow edits, and how scenes are drawn for them; the default if None.

    Attributes:
        runs: what :meth:`open` may open, the latest first, as it was when :meth:`look_for_runs` looked last.
    """

    def __init__(
        self,
        host: EditHost,
        queue: ActionQueue,
        versions: SceneVersions | None = None,
        config: SceneEditConfig | None = None,
    ) -> None:
        from invert3d_ns.editing.scene_edit_config import SceneEditConfig

        self.host, self.queue = host, queue
        self.versions = SceneVersions(host) if versions is None else versions
        self.config = config or SceneEditConfig()
        self._warm = False
        self._in_a_run: list[tuple[weakref.ref[Any], Path]] = []
        self.runs: list[SavedRun] = []

    def preview_edit(self, edit: Edit, *, replace_last: bool = False) -> Action:
        """The action that shows views of the scene above views under one more edit; a newer one takes its place.

        Args:
            edit: checked already.
            replace_last: the edit takes the place of the last one.
        """
        return Action(
            "Preview",
            lambda progress, should_stop: self._preview(edit, replace_last, progress, should_stop),
            task=f"Preview of {edit.label!r}",
            changes_scene=False,
            during_training=True,
            kind="preview",
        )

    def apply_edit(self, edit: Edit, *, replace_last: bool = False) -> Action:
        """The action that has the splats follow one more edit, together with those before.

        Args:
            edit: checked already.
            replace_last: the edit takes the place of the last one, if there is one that was made here.
        """
        return Action(
            "Apply",
            lambda progress, should_stop: self._apply(edit, replace_last, progress, should_stop),
            task=f"Applying {edit.label!r}",
        )

    def save(self) -> Action:
        """The action that makes a run of the scene as it is, which every command takes as any other."""
        return Action("Save", self._save, task="Saving", changes_scene=False)

    def open(self, folder: Path) -> Action:
        """The action that brings a saved run of this scene back."""
        return Action("Open", lambda *_: self._open(folder), task=f"Opening {folder.name}")

    def description(self) -> str:
        """What the object is in plain words, as far as it is known by now; empty if nobody said."""
        return getattr(self.host, "description", "")

    def look_for_runs(self) -> None:
        """Find saved runs of this scene; reads files."""
        if isinstance(self.host, KeepsRuns):
            self.runs = self.host.saved_runs()

    def request_runs(self) -> None:
        """Have :meth:`look_for_runs` done soon: whoever comes, or words that are known now, may find others."""
        if isinstance(self.host, KeepsRuns):
            look = Action(
                "Look for runs",
                lambda *_: self.look_for_runs(),
                changes_scene=False,
                during_training=True,
                kind="runs",
            )
            self.queue.ask(look, quietly=True)

    def request_warm_up(self) -> None:
        """Have the prior loaded while somebody fills in a form, unless there is anything else to do; once."""
        if not self._warm:
            action = Action("Warm up", lambda *_: self._warm_up(), changes_scene=False)
            self._warm = self.queue.ask_when_idle(action)

    def keep_unsaved(self) -> Path | None:
        """Give up what is being done, and make a run of the scene if it is under edits that are in no run.

        For whoever ends the process; nothing is asked for after that.

        Returns:
            The run's folder; None if there was nothing to keep.
        """
        self.host.rerender = lambda: None  # a server that ends with the process takes nothing any more
        self.queue.close()
        version = self.versions.current if self.versions.begun else None
        if version is None or not version.own_edits or self._saved_as(version) or not isinstance(self.host, KeepsRuns):
            return None
        return self.host.save_run(version, self._made(version), unasked=True)

    # What the actions do; in one thread at a time

    def _preview(self, edit: Edit, replace_last: bool, progress: Progress, should_stop: ShouldStop) -> Outcome:
        started = time.perf_counter()
        quick = replace(edit, steps=PREVIEW_STEPS, sampler="dpm++")
        embedding = self.host.embedding()
        while True:
            now, is_stale = self._scene_now()
            edits = now.edits_with(quick, replace_last=replace_last)
            try:
                with self.host.prior.use() as prior:
                    before, after = self.make_views(
                        now, edits, prior, embedding, progress, lambda stale=is_stale: should_stop() or stale()
                    )
                break
            except Cancelled:
                if not is_stale():
                    raise
        seconds = time.perf_counter() - started
        return Outcome(
            _with_unknown(f"Preview of {edit.label!r} in {seconds:.1f} s.", edit, prior),
            before_and_after(before, after),
            f"Views now, above views {edit.label}",
        )

    def _scene_now(self) -> tuple[Version, Callable[[], bool]]:
        """The scene, and whether it is another one meanwhile; what a training changes is no version."""
        if self.queue.training() != "completed":
            return Version(self.host.snapshot(), tuple(self.host.edits)), lambda: False
        now = self.versions.current
        return now, lambda: self.versions.current.snapshot is not now.snapshot

    def _apply(self, edit: Edit, replace_last: bool, progress: Progress, should_stop: ShouldStop) -> Outcome:
        started = time.perf_counter()
        before = self.versions.current
        edits = before.edits_with(edit, replace_last=replace_last)
        with self.versions.shown_as_it_is():
            made = self._carry_out(before.origin, edits, progress, should_stop, show=self.host.restore)
            after = before.remade(edits, made.cloud(), made)
            with self.host.prior.use() as prior:
                size, old, new = prior.info.image_size, *(each.snapshot.to(prior.device) for each in (before, after))
            picture = before_and_after(render_sides(old, size)[0], render_sides(new, size)[0])
            change = measure_change(old, new).sentence()
            self.versions.add(after)  # last: until then the scene is taken back if anything goes wrong
        seconds = time.perf_counter() - started
        message = _with_unknown(f"Applied {edit.label!r} in {seconds:.1f} s: {change}.", edit, prior)
        return Outcome(message, picture, f"Splats before, above splats {edit.label}")

    def _carry_out(
        self,
        origin: Version,
        edits: Sequence[Edit],
        progress: Progress,
        should_stop: ShouldStop,
        show: Callable[[SplatCloud], None] = lambda cloud: None,
    ) -> EditSequence:
        """Carry out edits on a scene, beginning where some version has come to already; the same to the bit."""
        with self.host.prior.use() as prior:
            sequence = self.make_sequence(origin, edits, prior, self.host.embedding())
            known, start = self._known(origin, split_into_passes(edits))
            if known:
                sequence.skip(known, start.snapshot)
            first, each = sequence.done, max(self.config.total_steps, 1)
            passes = max((sequence.total_steps - first) // each, 1)

            def report(done: int, total: int, share: float) -> None:
                begun = max(sequence.done - first, 0) // each
                progress(round(1000 * (begun + share + 0.5 * done / max(total, 1)) / passes), 1000)

            def prepare() -> None:
                sequence.prepare(lambda done, total: report(done, total, 0.0), should_stop)

            prepare()
            shown = 0.0
            while sequence.done < sequence.total_steps:
                if should_stop():
                    raise Cancelled
                if sequence.advance():
                    prepare()
                report((sequence.done - first) % each, each, 0.5)
                sequence.step()
                if time.perf_counter() - shown > SECONDS_BETWEEN_LOOKS:
                    show(sequence.cloud())
                    shown = time.perf_counter()
        return sequence

    def _known(self, origin: Version, passes: list[list[Edit]]) -> tuple[int, Version]:
        """How many of the passes on a scene, from the first but not all, some version is under, and the version."""
        best = 0, origin
        for version in self.versions.history.versions:
            if version.origin is origin:
                done = split_into_passes(version.own_edits)
                if best[0] < len(done) < len(passes) and done == passes[: len(done)]:
                    best = len(done), version
        return best

    def _made(
        self, version: Version, progress: Progress = lambda *_: None, should_stop: ShouldStop = lambda: False
    ) -> EditSequence:
        """What made a version from its origin; made once more where nobody remembers."""
        if version.made is not None:
            return version.made
        return self._carry_out(version.origin, version.own_edits, progress, should_stop)

    def _save(self, progress: Progress, should_stop: ShouldStop) -> Outcome:
        version = self.versions.current
        if not isinstance(self.host, KeepsRuns):
            raise InputError("this scene belongs to no run, so there is no place to save it beside")
        if not version.own_edits:
            raise InputError("there is nothing to save yet; apply an edit first")
        folder = self._saved_as(version)
        if folder is not None:
            return Outcome(f"It is saved already: {folder}")
        folder = self.host.save_run(version, self._made(version, progress, should_stop))
        self._in_a_run.append((weakref.ref(version.snapshot), folder))
        self.look_for_runs()
        return Outcome(f"Saved as the run {folder}")

    def _saved_as(self, version: Version) -> Path | None:
        """The run that a version was saved as or read from, if it is still there."""
        saved = (folder for snapshot, folder in reversed(self._in_a_run) if snapshot() is version.snapshot)
        folder = next(saved, version.source)
        return folder if folder is not None and folder.is_dir() else None

    def _open(self, folder: Path) -> Outcome:
        if not isinstance(self.host, KeepsRuns):
            raise InputError("this scene belongs to no run; nothing can be opened in its place")
        version, first = self.host.open_run(folder), self.versions.history.first
        if version.base is not None and _same(version.base, first):
            version = replace(version, base=first)  # so that what is made from it goes on from here
        self.versions.add(version)
        return Outcome(f"Opened {folder}; Undo goes back to the scene before.", outdates_picture=True)

    def _warm_up(self) -> None:
        with self.host.prior.use():
            pass

    # The slow parts

    def make_views(
        self,
        now: Version,
        edits: Sequence[Edit],
        prior: MultiViewPrior,
        embedding: ObjectEmbedding,
        progress: Progress,
        should_stop: ShouldStop,
    ) -> tuple[Float[Tensor, "1 4 3 S S"], Float[Tensor, "1 4 3 S S"]]:
        """Views of the scene, or of what the last edit's region holds, as it is and under edits; RGB in [0, 1].

        Args:
            now: the scene.
            edits: all that it shall be under on its origin.

        Raises:
            InputError: the edit cannot be carried out.
            Cancelled: ``should_stop`` said so.
        """
        from invert3d_ns.editing.scene_editor import SceneEditor
        from invert3d_ns.editing.views import edited_views

        *done, new = split_into_passes(edits)
        known, start = self._known(now.origin, [*done, new]) if now.origin is not now else (0, now)
        if known == len(done):
            before = [*now.origin.edits, *(edit for some in done for edit in some)]
        else:  # the passes before take longer than a preview may: on top of the scene as it is
            start, before, new = now, list(now.edits), list(edits[-1:])
        if not new[-1].region.is_whole:
            config = replace(self.config, orbits=1)
            editor = SceneEditor(
                start.snapshot, prior, embedding, [*before, *new], config, applied=len(before), device=prior.device
            )
            editor.prepare(progress, should_stop)
            return editor.originals, editor.edited
        size = prior.info.image_size
        shown, cameras = render_sides(now.snapshot.to(prior.device), size)
        originals = shown if start is now else render_sides(start.snapshot.to(prior.device), size)[0]
        context, applied = with_context(before, new)
        edited = edited_views(
            prior,
            embedding,
            context,
            cameras,
            originals=originals,
            applied=applied,
            progress=progress,
            should_stop=should_stop,
        )
        return shown, edited

    def make_sequence(
        self, origin: Version, edits: Sequence[Edit], prior: MultiViewPrior, embedding: ObjectEmbedding
    ) -> EditSequence:
        """What lets the splats of a scene follow edits.

        Raises:
            InputError: an edit cannot be carried out, or a region holds no splats.
        """
        from invert3d_ns.editing.edit_sequence import EditSequence

        edits = [*origin.edits, *edits]
        applied = len(origin.edits)
        return EditSequence(origin.snapshot, prior, embedding, edits, self.config, applied=applied, device=prior.device)


def _same(one: Version, other: Version) -> bool:
    """Whether two versions are the same scene under the same edits, to the bit."""
    if one.edits != other.edits:
        return False
    pairs = zip(one.snapshot.tensors().values(), other.snapshot.tensors().values(), strict=True)
    return all(torch.equal(first.cpu(), second.cpu()) for first, second in pairs)


def _with_unknown(message: str, edit: Edit, prior: MultiViewPrior) -> str:
    unknown = unknown_in([edit], prior.info)
    return f"{message} {unknown[0].upper()}{unknown[1:]}." if unknown else message
