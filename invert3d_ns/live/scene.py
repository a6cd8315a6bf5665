"""A scene that is edited while it is shown: previews, edits that its splats follow step by step, and the way back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from invert3d_ns.base.cancellation import Cancelled, Progress, ShouldStop
from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.composition import with_context
from invert3d_ns.editing.edit import Edit, save_edits
from invert3d_ns.live.form import EditForm
from invert3d_ns.live.history import History, Version

if TYPE_CHECKING:
    from invert3d_ns.editing.scene_editor import SceneEditor
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.scenes.cloud import SplatCloud
    from invert3d_ns.words.embedding import ObjectEmbedding

PREVIEW_STEPS = 8
"""Denoising steps of a preview: enough to tell whether the words do what they should."""
PREVIEW_ELEVATION = 15.0
"""Elevation of previews, in degrees."""
SHOWN_EVERY = 0.4
"""Seconds between two looks at splats that are changing. Rendering them takes time from the fit."""


class EditHost(Protocol):
    """Whatever has a scene to edit; :class:`invert3d_ns.methods.invert3d.InversionPipeline` is one."""

    edits: list[Edit]
    """Applied so far."""

    @property
    def output_folder(self) -> Path | None:
        """Where files of the run go, if it is known."""
        ...

    def embedding(self) -> ObjectEmbedding:
        """The words of the object; InputError before there are any."""
        ...

    def prior(self) -> MultiViewPrior:
        """The prior that they are words of; loaded at the first call."""
        ...

    def splats(self) -> SplatCloud:
        """A copy of the splats in the object frame."""
        ...

    def set_splats(self, cloud: SplatCloud) -> None:
        """Replace them by as many others."""
        ...


class LiveScene:
    """The scene of a host, its versions, and what can be done to it. One thread at a time may call its methods.

    Args:
        host: the scene.
    """

    def __init__(self, host: EditHost) -> None:
        self.host = host
        self.lock: AbstractContextManager[Any] = nullcontext()
        """Held while the host's splats are read or replaced, for as long as a copy takes."""
        self.rerender: Callable[[], None] = lambda: None
        """Called after the splats have changed."""
        self.folder: Path | None = None
        """Where :meth:`save` writes when the host does not know."""
        self.comparing = False
        """Whether the scene is shown as it was before all edits."""
        self._history: History | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the edits that the scene is under."""
        edits = self.host.edits if self._history is None else self._history.current.edits
        return tuple(edit.label for edit in edits)

    def preview(
        self, edit: Edit, form: EditForm, progress: Progress, should_stop: ShouldStop, *, in_training: bool = False
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Views of the scene as it is, above views under the edit.

        Args:
            in_training: the caller is who trains the scene: nobody else reads or writes it now.

        Raises:
            InputError: there are no words yet, or the edit cannot be carried out.
            Cancelled: ``should_stop`` said so.
        """
        if in_training:
            splats, edits = self.host.splats(), list(self.host.edits)
        else:
            current = self._opened().current
            splats, edits = current.splats, list(current.edits)
        embedding, prior = self.host.embedding(), self.host.prior()
        quick = replace(edit, steps=PREVIEW_STEPS, sampler="dpm++")
        views = self.make_views(splats, prior, embedding, [*edits, quick], form, progress, should_stop)
        return before_and_after(*views)

    def apply(
        self, edit: Edit, form: EditForm, progress: Progress, should_stop: ShouldStop
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Let the splats follow the edit, on top of the edits before. Whatever goes wrong leaves the scene as it was.

        Returns:
            The splats before, above the splats after.

        Raises:
            InputError: there are no words yet, or the edit cannot be carried out.
            Cancelled: ``should_stop`` said so.
        """
        history = self._opened()
        before = history.current
        if self.comparing:
            self._show(before.splats)
            self.comparing = False
        embedding, prior = self.host.embedding(), self.host.prior()
        try:
            editor = self.make_editor(before.splats, prior, embedding, [*before.edits, edit], form)
            editor.prepare(progress=lambda done, total: progress(done, 2 * max(total, 1)), should_stop=should_stop)
            shown = 0.0
            while editor.done < editor.total_steps:
                if should_stop():
                    raise Cancelled
                editor.step()
                if time.perf_counter() - shown > SHOWN_EVERY:
                    self._show(editor.cloud())
                    progress(editor.total_steps + editor.done, 2 * editor.total_steps)
                    shown = time.perf_counter()
            after = before.then(edit, editor.cloud())
        except BaseException:
            self._show(before.splats)
            raise
        history.push(after)
        self._enter(after)
        size = prior.info.image_size
        return before_and_after(render(before.splats, size)[0], render(after.splats, size)[0])

    def undo(self) -> str:
        """Go back to the version before; returns what was undone."""
        history = self._opened()
        gone = history.current
        self._enter(history.undo())
        return gone.edits[-1].label

    def redo(self) -> str:
        """Go forth to the version that was undone; returns what was redone."""
        history = self._opened()
        self._enter(history.redo())
        return history.current.edits[-1].label

    def compare(self) -> bool:
        """Show the scene as it was before all edits, or, if it is shown so, as it is; returns which."""
        history = self._opened()
        if not self.comparing and history.current is history.first:
            raise InputError("there is nothing to compare yet; apply an edit first")
        self.comparing = not self.comparing
        self._show((history.first if self.comparing else history.current).splats)
        return self.comparing

    def save(self) -> Path:
        """Write the edits, the splats and a picture into a new folder, and return it.

        Raises:
            InputError: the scene is under no edits, or the files cannot be written.
        """
        from invert3d_ns.base.pictures import write_grid
        from invert3d_ns.scenes.normalization import from_object_frame
        from invert3d_ns.scenes.ply import write_splats

        history = self._opened()
        version = history.current
        if not version.edits:
            raise InputError("there is nothing to save yet; apply an edit first")
        root = (self.host.output_folder or self.folder or Path.cwd()) / "edits"
        number = 1 + max((int(path.name) for path in root.glob("*") if path.name.isdigit()), default=0)
        folder = root / f"{number:03d}"
        save_edits(version.edits, folder / "edits.json", self.host.embedding())
        write_splats(folder / "edited.ply", from_object_frame(version.splats, "y"), up="y")
        rows = [render(each.splats, 192)[0][0] for each in (history.first, version)]
        write_grid(folder / "grid.png", torch.cat(rows), columns=len(rows[0]))
        return folder

    def make_views(
        self,
        splats: SplatCloud,
        prior: MultiViewPrior,
        embedding: ObjectEmbedding,
        edits: Sequence[Edit],
        form: EditForm,
        progress: Progress,
        should_stop: ShouldStop,
    ) -> tuple[Float[Tensor, "1 4 3 S S"], Float[Tensor, "1 4 3 S S"]]:
        """Views of the scene, or of what the last edit's region holds, as it is and under the edits."""
        from invert3d_ns.editing.views import edited_views

        if not edits[-1].region.is_whole:
            editor = self.make_editor(splats, prior, embedding, edits, form, orbits=1)
            editor.prepare(progress=progress, should_stop=should_stop)
            return editor.originals, editor.edited
        originals, cameras = render(splats, prior.info.image_size)
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
        form: EditForm,
        **settings: Any,
    ) -> SceneEditor:
        """What lets the splats, which are under all of the edits but the last, follow that one too."""
        from invert3d_ns.editing.scene_edit_config import SceneEditConfig
        from invert3d_ns.editing.scene_editor import SceneEditor

        config, applied = SceneEditConfig(**settings), len(edits) - 1
        return SceneEditor(splats, prior, embedding, edits, config, applied=applied, device=prior.device)

    def _opened(self) -> History:
        """The scene's versions; it is read when they are first asked for."""
        if self._history is None:
            with self.lock:
                splats = self.host.splats()
            edits = tuple(self.host.edits)
            self._history = History(Version(splats, edits))
        return self._history

    def _enter(self, version: Version) -> None:
        self._show(version.splats)
        self.host.edits = list(version.edits)
        self.comparing = False

    def _show(self, splats: SplatCloud) -> None:
        with self.lock:
            self.host.set_splats(splats)
        self.rerender()


def render(splats: SplatCloud, size: int) -> tuple[Float[Tensor, "1 4 3 S S"], Float[Tensor, "1 4 16"]]:
    """Four sides of a scene, RGB in [0, 1] on white, on its own device, and the prior's cameras."""
    from invert3d_ns.scenes.cameras import camera_condition
    from invert3d_ns.scenes.rendering import render_orbit

    azimuths = torch.arange(4) * 90.0
    elevations = torch.full((4,), PREVIEW_ELEVATION)
    images = render_orbit(splats, azimuths, elevations, size)
    return images[None], camera_condition(azimuths, elevations)[None]


def before_and_after(
    before: Float[Tensor, "1 4 3 S S"], after: Float[Tensor, "1 4 3 S S"], least: int = 192
) -> UInt8[np.ndarray, "h w 3"]:
    """Four small views in a row above the same four, twice as large, in two rows."""
    from invert3d_ns.base.pictures import to_pixels

    small = to_pixels(before[0], least)
    large = to_pixels(after[0], least).repeat(2, axis=1).repeat(2, axis=2)
    rows = [np.concatenate(list(small), axis=1)]
    rows += [np.concatenate(list(large[first : first + 2]), axis=1) for first in (0, 2)]
    return np.concatenate(rows)
