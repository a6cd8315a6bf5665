"""Widgets that panels share: what a queue is doing, rows of buttons, a tab of one's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from invert3d_ns.live.panels.markdown import data_url, escape_markdown
from invert3d_ns.live.queue import ActionQueue, LiveState

_STOP_COLOR = "red"  # of its names: a tuple, which viser 0.2 takes as well, blanks the whole page when it is shown


class StateView:
    """Shows the state of a queue: what happens, how far it is, what went wrong, a picture, and a button that stops it.

    Args:
        queue: whose state it is.
        greeting: what is shown before the first message.
        notes: what else is so, by name; asked whenever the state is another.
    """

    def __init__(self, queue: ActionQueue, greeting: str = "", notes: Callable[[], Mapping[str, str]] = dict) -> None:
        self._queue, self._greeting, self._notes = queue, greeting, notes
        self._complaint = ""
        self._showing = threading.Lock()
        self._pictures: tuple[np.ndarray | None, str] = (None, "")
        self._installed = False

    def install_status(self, gui: Any) -> None:
        """Put the Stop button, the progress bar and the text into the folder that is open in this thread."""
        self.stop = gui.add_button("Stop", visible=False, color=_STOP_COLOR)
        self.stop.on_click(lambda event: self._queue.stop())
        self.progress = gui.add_progress_bar(0.0, visible=False, animated=True)
        # The root only silences viser's warning about relative paths: pictures are data URLs.
        self.status = gui.add_markdown("", image_root=Path())

    def install_picture(self, gui: Any) -> None:
        """Put the picture there, and begin to follow the queue; after :meth:`install_status`."""
        self.picture = gui.add_markdown("", image_root=Path())
        self._installed = True
        self._queue.subscribe(self.show)
        self.show()

    def close(self) -> None:
        """Follow the queue no more."""
        self._queue.unsubscribe(self.show)

    def complain(self, line: str) -> None:
        """Say what is wrong to whoever sees these widgets, in the place of the queue's own error; empty: no more."""
        self._complaint = line
        self.show()

    def show(self) -> None:
        """Show the queue's state as it is now. Safe to call from any thread."""
        if not self._installed:
            return
        shown, picture = self._pictures
        latest = self._queue.state.picture
        if latest is not shown:
            picture = "" if latest is None else data_url(latest)
        with self._showing:
            state = self._queue.state
            state = replace(state, error=self._complaint or state.error)
            _set_if_new(self.status, "content", status_text(state, self._greeting, self._notes()))
            busy = bool(state.task)
            _set_if_new(self.progress, "visible", busy)
            if busy:
                _set_if_new(self.progress, "value", 100 * min(max(state.progress, 0.0), 1.0))
            _set_if_new(self.stop, "visible", busy or state.waiting > 0)
            if state.picture is latest:
                self._pictures = (latest, picture)
                _set_if_new(self.picture, "content", picture_text(picture, state.caption))


def status_text(state: LiveState, greeting: str = "", notes: Mapping[str, str] | None = None) -> str:
    """The state as Markdown: what happens or happened, what went wrong, what waits, and notes by their names."""
    now = f"{state.task} ... {100 * state.progress:.0f} %" if state.task else state.message or greeting
    lines = [_line(f"**»** {escape_markdown(now)}")]
    if state.error:
        lines.append(_line(f"**Error:** {escape_markdown(state.error)}", 'color: "#ff6b6b", '))
    if state.waiting:
        lines.append(_line(f"**Waiting:** {state.waiting}"))
    for name, note in (notes or {}).items():
        lines.append(_line(f"**{escape_markdown(name)}:** {escape_markdown(note)}"))
    return "\n\n".join(lines)


def _line(text: str, style: str = "") -> str:
    """A line of Markdown that is broken anywhere: a long path must not make the panel wider than the window."""
    return f'<span style={{{{{style}overflowWrap: "anywhere"}}}}>{text}</span>'


def picture_text(url: str, caption: str) -> str:
    """A picture as wide as the panel, with what it shows below; empty without a picture."""
    if not url:
        return ""
    return f'<img src="{url}" style={{{{width: "100%", borderRadius: "4px"}}}} />\n\n*{escape_markdown(caption)}*'


def add_button_row(gui: Any, label: str, **on_click: Callable[[], None]) -> None:
    """Add buttons side by side, of which each calls its own function at every click. Three are cut off."""
    row = gui.add_button_group(label, tuple(on_click))

    def clicked(event: Any) -> None:
        # Setting the value calls back too, without a client.
        if event.client is not None:
            called = on_click[row.value]
            row.value = ""
            called()

    # viser 0.2 tells of changes of value only, and a row's value is its first button: without another value in between,
    # a click on that button, and the second of two clicks on the same one, would be lost.
    row.value = ""
    row.on_click(clicked)


@contextmanager
def inside(gui: Any, container: Any) -> Iterator[None]:
    """Have widgets that one browser alone sees added to a tab or folder that all browsers have.

    Args:
        gui: a browser's own, as ``client.gui``.
        container: a tab or folder of the server.
    """
    # viser 0.2, to which nerfstudio is pinned, tells browsers only the container's id, but looks it up for itself.
    gui._container_handle_from_id.setdefault(container._id, SimpleNamespace(_children={}))
    before = gui._get_container_id()
    gui._set_container_id(container._id)
    try:
        yield
    finally:
        gui._set_container_id(before)


def add_tab(gui: Any, label: str, folder: str, icon: str = "PENCIL") -> Any:
    """A tab beside nerfstudio's, or a folder where there are none. In the control tab one had to scroll for it.

    Args:
        icon: one of viser's.
    """
    from viser import GuiTabHandle, Icon

    # nerfstudio 1.1.5 keeps no handle of its tabs, and viser 0.2, to which it is pinned, has no public way to them.
    for container in getattr(gui, "_container_handle_from_id", {}).values():
        if isinstance(container, GuiTabHandle):
            return container._parent.add_tab(label, getattr(Icon, icon))
    return gui.add_folder(folder)


def _set_if_new(handle: Any, name: str, value: Any) -> None:
    if getattr(handle, name) != value:
        setattr(handle, name, value)
