"""Anchors of a hybrid, placed by hand in the 3D view: "the head of this on the body of that"."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.live.panels.markdown import escape_markdown
from invert3d_ns.scenes.blending import vertex
from invert3d_ns.scenes.hybrids import BOX, Anchor, Hybrid, Interpolation

if TYPE_CHECKING:
    from viser import ViserServer

_NAME = "/anchors"
ANCHORS = "anchors.json"
"""What the file of anchors is called in a run's folder."""


class AnchorHandles:
    """A folder of widgets, and a handle in the 3D view for each anchor; all browsers see the same.

    Args:
        host: has ``prompts``, ``show_blend`` and ``output_folder``.
        without: called once the last anchor is gone.
    """

    def __init__(self, host: Any, without: Callable[[], None]) -> None:
        self.host, self._without = host, without
        self._placed: list[tuple[int, Any, Any]] = []
        self._server: Any = None

    def install(self, server: ViserServer) -> None:
        """Make the widgets in the container that is open."""
        from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

        self._server, self._ratio = server, VISER_NERFSTUDIO_SCALE_RATIO
        gui, names = server.gui, [f"{number}: {text}" for number, text in enumerate(self.host.prompts, 1)]
        with gui.add_folder("Hybrid", expand_by_default=False):
            self.prompt = gui.add_dropdown(
                "Object", names, names[0], hint="What the next anchor makes its surroundings"
            )
            kinds = get_args(Interpolation)
            self.kind = gui.add_dropdown("Between anchors", kinds, kinds[0], hint="How one becomes the other")
            self.kind.on_update(lambda event: self._show())
            add = gui.add_button("Add anchor", hint="Then drag it: two or more make a hybrid")
            add.on_click(lambda event: self.add(names.index(self.prompt.value)))
            gui.add_button("Remove anchors").on_click(lambda event: self.clear())
            gui.add_button("Save anchors", hint=f"As {ANCHORS} in the run's folder").on_click(lambda event: self.save())
            self.said = gui.add_markdown("")

    def add(self, index: int, position: tuple[float, float, float] | None = None) -> None:
        """Put another anchor into the scene, above those that are there unless told where."""
        number = len(self._placed)
        place = position or (0.0, 0.0, min(-0.5 + 0.5 * number, BOX))
        scene, name = self._server.scene, f"{_NAME}/{number}"
        handle = scene.add_transform_controls(
            name, scale=3.0, disable_rotations=True, depth_test=False, position=np.asarray(place) * self._ratio
        )  # most anchors lie within the object, which would hide them
        label = scene.add_label(f"{name}/name", self.host.prompts[index])
        handle.on_update(lambda event: self._show())
        self._placed.append((index, handle, label))
        self._show()

    def clear(self) -> None:
        """Remove all anchors."""
        for _, handle, label in self._placed:
            label.remove()
            handle.remove()
        self._placed = []
        self.said.content = ""
        self._without()

    def hybrid(self) -> Hybrid:
        """What the anchors say now.

        Raises:
            InputError: there are fewer than two, or they make no sense.
        """
        objects, anchors = len(self.host.prompts), []
        for index, handle, _ in self._placed:
            place = np.clip(np.asarray(handle.position) / self._ratio, -BOX, BOX).round(4)
            x, y, z = (float(value) for value in place)
            anchors.append(Anchor((x, y, z), tuple(vertex(index, objects).tolist())))
        return Hybrid(tuple(anchors), self.kind.value)

    def save(self) -> None:
        """Write the anchors into the run's folder, for ``invert3d export --anchors``."""
        try:
            path = self.host.output_folder / ANCHORS
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(self.hybrid().to_dict(), indent=2) + "\n", encoding="utf-8")
            self.said.content = f"Saved as `{path.name}` in the run's folder"
        except InputError as error:
            self.said.content = escape_markdown(str(error))

    def _show(self) -> None:
        try:
            hybrid = self.hybrid()
        except InputError as error:
            self.said.content = escape_markdown(str(error)) if self._placed else ""
            return
        self.said.content = ""
        self.host.show_blend(hybrid)
