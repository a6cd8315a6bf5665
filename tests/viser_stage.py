"""Stand-ins for viser 0.2: a server, the browsers that come to it, and their widgets."""

from __future__ import annotations

import contextlib
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np

SOMEBODY = object()


class Widget:
    """Stands for any handle of viser 0.2: values, callbacks, and viser's habit of calling back when a value is set."""

    callbacks: list[Any]
    value: Any

    def __init__(self, value: Any = None, content: str = "", visible: bool = True, **options: Any) -> None:
        self.__dict__["callbacks"] = []
        self.content, self.visible, self.options = content, visible, options
        self.__dict__["value"] = value
        self.position = options.get("position", (0.0, 0.0, 0.0))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "value":
            value = tuple(value) if isinstance(value, np.ndarray) else value
        self.__dict__[name] = value
        if name == "value":
            self.tell(None)

    def on_update(self, callback) -> None:
        self.callbacks.append(callback)

    on_click = on_update

    def remove(self) -> None:
        self.visible = False

    def person_drags(self, position: Any) -> None:
        """What viser does when a handle is dragged."""
        self.position = position
        self.tell(SOMEBODY)

    def tell(self, client: object) -> None:
        for callback in self.callbacks:
            callback(SimpleNamespace(client=client, target=self))

    def person_sets(self, value: Any) -> None:
        """What viser does when a browser says so: nothing if the value is the same."""
        if self.value != value:
            self.__dict__["value"] = value
            self.tell(SOMEBODY)

    def person_clicks(self) -> None:
        self.tell(SOMEBODY)


class Folder(contextlib.nullcontext):
    """Stands for a folder."""

    _id = "a folder"


class Browser:
    """Stands for what viser has for one browser; widgets are kept by label, or in the order of their making."""

    def __init__(self, client_id: int = -1) -> None:
        self.client_id = client_id
        self.gui = self.scene = self
        self._container_handle_from_id: dict[str, Any] = {}
        self._container = "root"
        self.by_label: dict[str, Widget] = {}
        self.markdowns: list[Widget] = []
        self.nodes: dict[str, Widget] = {}

    def _add(self, label: str, value: Any = None, **options: Any) -> Widget:
        self.by_label[label] = Widget(value, **options)
        return self.by_label[label]

    def _get_container_id(self) -> str:
        return self._container

    def _set_container_id(self, name: str) -> None:
        self._container = name

    def add_folder(self, label: str, **options: Any):
        return Folder()

    def add_text(self, label, initial_value, hint):
        return self._add(label, initial_value)

    def add_number(self, label, initial_value, **options):
        return self._add(label, initial_value)

    add_checkbox = add_vector3 = add_number

    def add_slider(self, label, least, most, step, initial_value, hint):
        return self._add(label, initial_value)

    def add_dropdown(self, label, options, initial_value, hint):
        widget = self._add(label, initial_value)
        widget.options = options
        return widget

    def add_button(self, label, **options):
        return self._add(label, **options)

    def add_button_group(self, label, options):
        return self._add(label, options[0])

    def add_progress_bar(self, value, visible, animated):
        return self._add("progress", value, visible=visible)

    def add_markdown(self, content, image_root=None):
        self.markdowns.append(Widget(content=content))
        return self.markdowns[-1]

    def add_transform_controls(self, name, **options):
        self.nodes[name] = Widget(**options)
        return self.nodes[name]

    def add_spline_cubic_bezier(self, name, positions, control_points, **options):
        self.nodes[name] = Widget((positions, control_points), visible=options.get("visible", True))
        return self.nodes[name]

    def add_label(self, name, text, position=(0.0, 0.0, 0.0)):
        self.nodes[name] = Widget(content=text, position=position)
        return self.nodes[name]

    def set(self, **values: Any) -> None:
        """What a person fills in, by label with _ for blanks."""
        for label, value in values.items():
            self.by_label[label.replace("_", " ")].person_sets(value)

    def press(self, label: str) -> None:
        """What a person clicks, a button by itself or of a row."""
        for row, buttons in {"Versions": ("Undo", "Redo"), "Scene": ("Compare", "Save")}.items():
            if label in buttons:
                self.by_label[row].person_sets(label)
                return
        self.by_label[label].person_clicks()

    @property
    def status(self) -> str:
        """The text below the buttons."""
        return self.markdowns[0].content


class Server(Browser):
    """Stands for a viser server, to which browsers come."""

    def __init__(self) -> None:
        super().__init__()
        self.come: list[Any] = []
        self.go: list[Any] = []
        self.numbers = itertools.count()

    def on_client_connect(self, callback) -> None:
        self.come.append(callback)

    def on_client_disconnect(self, callback) -> None:
        self.go.append(callback)

    def connect(self) -> Browser:
        browser = Browser(next(self.numbers))
        for callback in self.come:
            callback(browser)
        return browser

    def disconnect(self, browser: Browser) -> None:
        for callback in self.go:
            callback(browser)
