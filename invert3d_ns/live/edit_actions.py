"""Editing splats with words while they are shown: previews, edits that splats follow step by step, and their files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.cancellation import Cancelled, Progress, ShouldStop
from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.composition import with_context
from invert3d_ns.editing.edit import Edit, save_edits
from invert3d_ns.live.pictures import before_and_after, render_sides
from invert3d_ns.live.queue import Action, ActionQueue, Outcome
from invert3d_ns.live.versions import SceneVersions

if TYPE_CHECKING:
    from invert3d_ns.editing.scene_edit_config import SceneEditConfig
    from invert3d_ns.editing.scene_editor import SceneEditor
    from invert3d_ns.live.host import EditHost
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.scenes.cloud import SplatCloud
    from invert3d_ns.words.embedding import ObjectEmbedding

PREVIEW_STEPS = 8
"""Denoising steps of a preview: enough to tell whether the words do what they should."""
SECONDS_BETWEEN_LOOKS = 0.4
"""Time between two looks at splats that are changing. Rendering them takes time from the fit."""
_SAVED_PIXELS = 192


class EditActions:
    """Makes the actions of editing with words.

    Methods that return an :class:`Action` do nothing else, and may be called from any thread.

    Args:
        host: has the scene.
        queue: where the actions go.
        versions: of the scene; of these actions alone if None.
    """

    def __init__(self, host: EditHost, queue: ActionQueue, versions: SceneVersions | None = None) -> None:
        self.host, self.queue = host, queue
        self.versions = SceneVersions(host) if versions is None else versions
        self._warm = False

    def preview_edit(self, edit: Edit, config: SceneEditConfig | None = None) -> Action:
        """The action that shows views of the scene above views under one more edit; a newer one takes its place.

        Args:
            edit: checked already.
            config: how splats follow edits; a preview takes from it how scenes are drawn.
        """
        return Action(
            "Preview",
            lambda progress, should_stop: self._preview(edit, _or_default(config), progress, should_stop),
            task=f"Preview of {edit.label!r}",
            changes_scene=False,
            during_training=True,
            kind="preview",
        )

    def apply_edit(self, edit: Edit, config: SceneEditConfig | None = None) -> Action:
        """The action that has the splats follow one more edit, on top of those before.

        Args:
            edit: checked already.
            config: how they follow.
        """
        return Action(
            "Apply",
            lambda progress, should_stop: self._apply(edit, _or_default(config), progress, should_stop),
            task=f"Applying {edit.label!r}",
        )

    def save(self) -> Action:
        """The action that writes the edits, the splats and a picture into a new folder."""
        return Action("Save", lambda *_: Outcome(f"Saved to {self._save()}"), changes_scene=False)

    def request_warm_up(self) -> None:
        """Have the prior loaded while somebody fills in a form, unless there is anything else to do; once."""
        if not self._warm:
            action = Action("Warm up", lambda *_: self._warm_up(), changes_scene=False)
            self._warm = self.queue.ask_when_idle(action)

    # What the actions do; in one thread at a time

    def _preview(self, edit: Edit, config: SceneEditConfig, progress: Progress, should_stop: ShouldStop) -> Outcome:
        started = time.perf_counter()
        if self.queue.training() == "completed":
            current = self.versions.current
            splats, edits = current.snapshot, current.edits
        else:  # what a training changes is no version
            splats, edits = self.host.snapshot(), tuple(self.host.edits)
        embedding = self.host.embedding()
        quick = replace(edit, steps=PREVIEW_STEPS, sampler="dpm++")
        with self.host.prior.use() as prior:
            before, after = self.make_views(splats, prior, embedding, [*edits, quick], config, progress, should_stop)
        seconds = time.perf_counter() - started
        return Outcome(
            f"Preview of {edit.label!r} in {seconds:.1f} s.",
            before_and_after(before, after),
            f"Views now, above views {edit.label}",
        )

    def _apply(self, edit: Edit, config: SceneEditConfig, progress: Progress, should_stop: ShouldStop) -> Outcome:
        started = time.perf_counter()
        before = self.versions.current
        if self.versions.comparing:
            self.host.restore(before.snapshot)
        embedding = self.host.embedding()
        with self.host.prior.use() as prior:
            size = prior.info.image_size
            edits = [*before.edits, edit]
            editor = self.make_editor(before.snapshot, prior, embedding, edits, config)
            editor.prepare(lambda done, total: progress(done, 2 * max(total, 1)), should_stop)
            shown = 0.0
            while editor.done < editor.total_steps:
                if should_stop():
                    raise Cancelled
                editor.step()
                if time.perf_counter() - shown > SECONDS_BETWEEN_LOOKS:
                    self.host.restore(editor.cloud())
                    progress(editor.total_steps + editor.done, 2 * editor.total_steps)
                    shown = time.perf_counter()
            after = before.then(edit, editor.cloud())
        picture = before_and_after(render_sides(before.snapshot, size)[0], render_sides(after.snapshot, size)[0])
        self.versions.add(after)  # last: until then the scene is taken back if anything goes wrong
        seconds = time.perf_counter() - started
        message = f"Applied {edit.label!r} in {seconds:.1f} s."
        return Outcome(message, picture, f"Splats before, above splats {edit.label}")

    def _save(self) -> Path:
        from invert3d_ns.base.pictures import write_grid
        from invert3d_ns.scenes.normalization import from_object_frame
        from invert3d_ns.scenes.ply import write_splats

        version = self.versions.current
        if not version.edits:
            raise InputError("there is nothing to save yet; apply an edit first")
        root = (self.host.output_folder or Path.cwd()) / "edits"
        number = 1 + max((int(path.name) for path in root.glob("*") if path.name.isdigit()), default=0)
        folder = root / f"{number:03d}"
        save_edits(version.edits, folder / "edits.json", self.host.embedding())
        write_splats(folder / "edited.ply", from_object_frame(version.snapshot, "y"), up="y")
        rows = [render_sides(each.snapshot, _SAVED_PIXELS)[0][0] for each in (self.versions.history.first, version)]
        write_grid(folder / "grid.png", torch.cat(rows), columns=len(rows[0]))
        return folder

    def _warm_up(self) -> None:
        with self.host.prior.use():
            pass

    # The slow parts

    def make_views(
        self,
        splats: SplatCloud,
        prior: MultiViewPrior,
        embedding: ObjectEmbedding,
        edits: Sequence[Edit],
        config: SceneEditConfig,
        progress: Progress,
        should_stop: ShouldStop,
    ) -> tuple[Float[Tensor, "1 4 3 S S"], Float[Tensor, "1 4 3 S S"]]:
        """Views of the scene, or of what the last edit's region holds, as it is and under the edits; RGB in [0, 1].

        Args:
            edits: the scene is under all of them but the last.

        Raises:
            InputError: the edit cannot be carried out.
            Cancelled: ``should_stop`` said so.
        """
        from invert3d_ns.editing.views import edited_views

        if not edits[-1].region.is_whole:
            editor = self.make_editor(splats, prior, embedding, edits, replace(config, orbits=1))
            editor.prepare(progress, should_stop)
            return editor.originals, editor.edited
        originals, cameras = render_sides(splats, prior.info.image_size)
        edits, applied = with_context(edits[:-1], edits[-1:])
        edited = edited_views(
            prior,
            embedding,
            edits,
            cameras,
            originals=originals,
            applied=applied,
            progress=progress,
            should_stop=should_stop,
        )
        return originals, edited

    def make_editor(
        self,
        splats: SplatCloud,
        prior: MultiViewPrior,
        embedding: ObjectEmbedding,
        edits: Sequence[Edit],
        config: SceneEditConfig,
    ) -> SceneEditor:
        """What lets the splats, which are under all of the edits but the last, follow that one too.

        Raises:
            InputError: the edit cannot be carried out, or the region holds no splats.
        """
        from invert3d_ns.editing.scene_editor import SceneEditor

        return SceneEditor(splats, prior, embedding, edits, config, applied=len(edits) - 1, device=prior.device)


def _or_default(config: SceneEditConfig | None) -> SceneEditConfig:
    from invert3d_ns.editing.scene_edit_config import SceneEditConfig

    return SceneEditConfig() if config is None else config
