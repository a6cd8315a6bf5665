"""The edit panel: what its widgets mean, what it shows, and that it lives in nerfstudio's viewer during a training."""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from live_stage import Actions, SplatHost
from PIL import Image
from runs import tiny_config, train
from synthetic import make_cloud

from invert3d_ns.editing.edit import Edit
from invert3d_ns.live.form import EditForm
from invert3d_ns.live.panels.edit_panel import EditPanel
from invert3d_ns.live.panels.markdown import escape_markdown
from invert3d_ns.live.panels.widgets import picture_text, status_text
from invert3d_ns.live.queue import ActionQueue, LiveState
from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.words.embedding import ObjectEmbedding

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


class Server:
    """Stands for a viser server; widgets are kept by label, or in the order of their making."""

    def __init__(self) -> None:
        self.gui = self.scene = self
        self.by_label: dict[str, Widget] = {}
        self.markdowns: list[Widget] = []
        self.nodes: dict[str, Widget] = {}

    def _add(self, label: str, value: Any = None, **options: Any) -> Widget:
        self.by_label[label] = Widget(value, **options)
        return self.by_label[label]

    def add_folder(self, label: str, **options: Any):
        return contextlib.nullcontext()

    def add_text(self, label, initial_value, hint):
        return self._add(label, initial_value)

    def add_number(self, label, initial_value, **options):
        return self._add(label, initial_value)

    add_checkbox = add_vector3 = add_number

    def add_slider(self, label, least, most, step, initial_value, hint):
        return self._add(label, initial_value)

    def add_dropdown(self, label, options, initial_value, hint):
        return self._add(label, initial_value)

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
        self.nodes[name] = Widget((positions, control_points), visible=options["visible"])
        return self.nodes[name]


class Queue(ActionQueue):
    """Keeps what it is asked for and does none of it."""

    def __init__(self, host: Any) -> None:
        super().__init__(host)
        self.asked: list[str] = []

    def ask(self, action: Any) -> None:
        self.asked.append(action().label)

    def ask_when_idle(self, action) -> bool:
        self.asked.append(action.label)
        return False

    def stop(self) -> None:
        self.asked.append("Stop")


@pytest.fixture
def panel():
    """An installed panel, its stand-in of a server, and the queue that it asks."""
    host = SplatHost()
    queue = Queue(host)
    panel, server = EditPanel(Actions(host, queue)), Server()
    panel.install(server)  # type: ignore[arg-type]
    return panel, server, queue


def test_an_untouched_panel_is_the_empty_form(panel):
    panel, _server, _queue = panel
    assert panel.form() == EditForm(strength=panel.strength.value)


def test_a_host_without_words_gets_no_panel():
    host: Any = SplatHost()
    del host.prior
    panel, server = EditPanel(Actions(host, ActionQueue(host))), Server()
    panel.install(server)  # type: ignore[arg-type]
    assert not server.by_label and not server.markdowns and not server.nodes


def test_widgets_become_the_form(panel, monkeypatch):
    panel, server, queue = panel
    previewed: list[Any] = []
    preview_edit = panel.actions.preview_edit

    def record(*given):
        previewed.extend(given)
        return preview_edit(*given)

    monkeypatch.setattr(panel.actions, "preview_edit", record)
    values = {
        "Words": "in van gogh style",
        "From": "red",
        "To": "blue",
        "Amount": 1.5,
        "Weights": "van gogh=2",
        "Avoid": "blurry",
        "Guidance": 7.5,
        "Strength": 0.6,
        "Seed": 3,
        "Change": "geometry",
        "Only here": True,
        "Center": (0.0, 0.5, 0.0),
        "Size": (1.0, 1.0, 2.0),
    }
    for label, value in values.items():
        server.by_label[label].person_sets(value)
    server.by_label["Preview"].person_clicks()
    form = panel.form()
    assert form == EditForm(
        "in van gogh style",
        "red",
        "blue",
        1.5,
        "van gogh=2",
        "blurry",
        7.5,
        0.6,
        3,
        "geometry",
        (-0.5, 0.0, -1.0, 0.5, 1.0, 1.0),
    )
    assert previewed == [form.edit()] and form.edit().change == "geometry" and form.edit().region.box == form.box
    assert queue.asked == ["Warm up"] * 3 + ["Preview"], "the prior loads while somebody types"


def test_every_button_reaches_the_queue_each_time(panel):
    _panel, server, queue = panel
    server.by_label["Words"].person_sets("blue")
    queue.asked.clear()
    server.by_label["Apply"].person_clicks()
    for row, label in (
        ("Versions", "Undo"),
        ("Versions", "Undo"),
        ("Versions", "Redo"),
        ("Scene", "Compare"),
        ("Scene", "Save"),
        ("Scene", "Save"),
    ):
        server.by_label[row].person_sets(label)
    server.by_label["Stop"].person_clicks()
    assert queue.asked == ["Apply", "Undo", "Undo", "Redo", "Compare", "Save", "Save", "Stop"]


def test_the_box_is_drawn_and_dragged(panel):
    panel, server, _queue = panel
    handle, edges = server.nodes["/edit_region/handle"], server.nodes["/edit_region/edges"]
    assert not handle.visible and not edges.visible and panel.region.value is None
    server.by_label["Only here"].person_sets(True)
    assert handle.visible and server.nodes["/edit_region/edges"].visible
    server.by_label["Center"].person_sets((0.1, 0.0, 0.0))
    assert np.allclose(handle.position, (1.0, 0.0, 0.0)), "the viewer's unit is a tenth of the scene's"
    handle.position = np.array([0.0, 2.0, 0.0])
    for callback in handle.callbacks:
        callback(handle)
    assert panel.region.value == pytest.approx((-0.5, -0.3, -0.5, 0.5, 0.7, 0.5))
    assert np.allclose(handle.position, (0.0, 2.0, 0.0)), "nobody pulls at the handle while it is dragged"
    ends, inner = server.nodes["/edit_region/edges"].value
    drawn = {frozenset((tuple(a), tuple(b))) for a, b in itertools.pairwise(ends)}
    assert len(drawn) == 12 and len(inner) == 2 * len(ends) - 2
    assert all((np.subtract(*edge) != 0).sum() == 1 for edge in drawn)


def test_a_state_is_shown(panel):
    panel, server, queue = panel
    status, picture = server.markdowns
    assert "press Preview" in status.content and picture.content == ""
    shown = np.random.default_rng(0).integers(0, 255, (8, 4, 3), dtype=np.uint8)
    panel.actions.host.edits = [Edit(target="blue"), Edit(prompt="<object> in {x}")]
    queue._publish(task="Preview of 'x'", progress=0.42, picture=shown, caption="a, above b")
    assert r"Preview of \'x\' \.\.\. 42 \%" in status.content and "before all edits" not in status.content
    assert r"**Edits:** blue\; in \{x\}" in status.content
    assert server.by_label["Stop"].visible and server.by_label["progress"].value == pytest.approx(42)
    (data,) = re.findall(r'<img src="data:image/png;base64,([^"]*)"', picture.content)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), shown)
    panel.actions.versions.comparing = True
    queue._publish(task="", message="Done.")
    assert "**Shown:** before all edits" in status.content
    assert not server.by_label["Stop"].visible and not server.by_label["progress"].visible
    assert data in picture.content, "the picture stays"


def test_what_people_type_is_shown_and_not_run():
    state = LiveState(message="a <object> {alert(1)}", error="import *x*\nfrom `y`")
    text = status_text(state, notes={"Edits": "<b>"})
    assert not re.search(r"(?<!\\)\{(?!\{)alert", text) and r"\<object\> \{alert\(1\)\}" in text
    assert r"import \*x\* from \`y\`" in text and r"\<b\>" in text
    assert not any(line.startswith(("import", "export")) for line in text.splitlines())
    assert r"{1\+1}" not in picture_text("data:", "{1+1}") and r"\{1\+1\}" in picture_text("data:", "{1+1}")
    assert escape_markdown("a\n b") == "a b" and picture_text("", "x") == ""
    assert status_text(LiveState(), "Hello {x}") == r"**»** Hello \{x\}"


def test_a_run_with_a_viewer_serves_previews_and_learns_the_same(tiny_prior, tmp_path, monkeypatch):
    """nerfstudio's viewer finds the panel; the trainer serves between two steps; nothing of it changes the result."""
    save_prior(tiny_prior, tmp_path / "prior", dtype=torch.float32)
    write_splats(tmp_path / "ball.ply", make_cloud(100))
    panels: list[EditPanel] = []
    setup = EditPanel._setup

    def keep(self, viewer):
        setup(self, viewer)
        panels.append(self)

    monkeypatch.setattr(EditPanel, "_setup", keep)
    words = {}
    for name, asks in (("asked", True), ("left alone", False)):
        served: list[LiveState] = []
        run_pending = ActionQueue.run_pending

        def serve(self, limit=1, asks=asks, served=served, run_pending=run_pending):
            if asks and not served:
                (panel,) = panels
                panel.words.value = ""
                self.ask(panel._apply)
                assert self.state.error, "an empty form is refused at once"
                panel.words.value = "in a red cube"
                self.ask(panel._preview)
                assert not self.state.error and self.state.waiting == 1
            done = run_pending(self, limit)
            served.append(self.state)
            return done

        with monkeypatch.context() as patch:
            patch.setattr(ActionQueue, "run_pending", serve)
            try:
                folder = train(
                    tiny_config(
                        tmp_path / "ball.ply",
                        tmp_path / "prior",
                        tmp_path / name,
                        vis="viewer+tensorboard",
                        viewer__quit_on_train_completion=True,
                        viewer__websocket_host="127.0.0.1",
                    )
                )
            finally:
                for panel in panels:
                    panel.queue.close()
                    panel.viser_server.stop()
        assert len(panels) == 1
        panel = panels.pop()
        host = panel.actions.host
        assert host.output_folder == folder and panel.viewer.train_lock is host.lock
        assert (served[0].picture is not None) == asks and not served[0].error
        words[name] = ObjectEmbedding.load(folder / "embedding.safetensors").vectors
    assert torch.equal(words["asked"], words["left alone"])
