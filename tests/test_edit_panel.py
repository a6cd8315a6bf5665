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
from PIL import Image
from runs import tiny_config, train
from synthetic import make_cloud

from invert3d_ns.live.form import EditForm
from invert3d_ns.live.panels.edit_panel import EditPanel, picture_text, status_text
from invert3d_ns.live.panels.markdown import plain
from invert3d_ns.live.session import EditSession, SessionState
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


class Session(EditSession):
    """Keeps what it is asked for and does none of it."""

    def __init__(self) -> None:
        super().__init__(SimpleNamespace(edits=[]))  # type: ignore[arg-type]
        self.asked: list[Any] = []

    def _ask(self, kind, form=None) -> None:
        self.asked.append(kind if form is None else (kind, form))

    def stop(self) -> None:
        self.asked.append("stop")

    def warm_up(self) -> None:
        self.asked.append("warm up")


@pytest.fixture
def panel():
    """An installed panel, its stand-in of a server, and the session that it talks to."""
    session = Session()
    panel, server = EditPanel(session), Server()
    panel.install(server)  # type: ignore[arg-type]
    return panel, server, session


def test_an_untouched_panel_is_the_empty_form(panel):
    panel, _server, _session = panel
    assert panel.form() == EditForm(strength=panel.strength.value)


def test_widgets_become_the_form(panel):
    panel, server, session = panel
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
    (preview,) = [asked for asked in session.asked if asked != "warm up"]
    assert preview == (
        "preview",
        EditForm(
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
        ),
    )
    assert session.asked.count("warm up") == 3, "the prior loads while somebody types"


def test_every_button_reaches_the_session_each_time(panel):
    panel, server, session = panel
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
    assert session.asked == ["undo", "undo", "redo", "compare", "save", "save", "stop"]


def test_the_box_is_drawn_and_dragged(panel):
    panel, server, _session = panel
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
    panel, server, session = panel
    status, picture = server.markdowns
    assert "press Preview" in status.content and picture.content == ""
    shown = np.random.default_rng(0).integers(0, 255, (8, 4, 3), dtype=np.uint8)
    session._publish(task="Preview of 'x'", progress=0.42, picture=shown, caption="a, above b", edits=("blue",))
    assert r"Preview of \'x\' \.\.\. 42 \%" in status.content and "**Edits:** blue" in status.content
    assert server.by_label["Stop"].visible and server.by_label["progress"].value == pytest.approx(42)
    (data,) = re.findall(r'<img src="data:image/png;base64,([^"]*)"', picture.content)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), shown)
    session._publish(task="", message="Done.")
    assert not server.by_label["Stop"].visible and not server.by_label["progress"].visible
    assert data in picture.content, "the picture stays"


def test_what_people_type_is_shown_and_not_run():
    state = SessionState(message="a <object> {alert(1)}", error="import *x*\nfrom `y`", edits=("<b>",))
    text = status_text(state)
    assert not re.search(r"(?<!\\)\{(?!\{)alert", text) and r"\<object\> \{alert\(1\)\}" in text
    assert r"import \*x\* from \`y\`" in text and r"\<b\>" in text
    assert not any(line.startswith(("import", "export")) for line in text.splitlines())
    assert plain("a\n b") == "a b" and picture_text("", "x") == ""


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
        served: list[SessionState] = []
        run_pending = EditSession.run_pending

        def serve(self, limit=1, asks=asks, served=served, run_pending=run_pending):
            if asks and not served:
                self.preview(EditForm(words="in a red cube"))
                self.apply(EditForm())
                assert self.state.error, "an empty form is refused at once"
                self.preview(EditForm(words="in a red cube"))
            done = run_pending(self, limit)
            served.append(self.state)
            return done

        with monkeypatch.context() as patch:
            patch.setattr(EditSession, "run_pending", serve)
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
                    panel.session.close()
                    panel.viser_server.stop()
        assert len(panels) == 1
        panel = panels.pop()
        assert panel.session.scene.folder == folder and panel.viewer.train_lock is panel.session.scene.lock
        assert (served[0].picture is not None) == asks and not served[0].error
        words[name] = ObjectEmbedding.load(folder / "embedding.safetensors").vectors
    assert torch.equal(words["asked"], words["left alone"])
