"""The edit panel: what its widgets mean, what it shows, and that it lives in nerfstudio's viewer during a training."""

from __future__ import annotations

import base64
import io
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from live_stage import Actions, SplatHost
from PIL import Image
from runs import tiny_config, train
from synthetic import make_cloud
from viser_stage import Server

from invert3d_ns.editing.edit import Edit, Region
from invert3d_ns.live.edit_actions import EditActions
from invert3d_ns.live.form import EditForm
from invert3d_ns.live.host import SavedRun
from invert3d_ns.live.panels import edit_panel
from invert3d_ns.live.panels.edit_panel import EditPanel
from invert3d_ns.live.panels.markdown import escape_markdown
from invert3d_ns.live.panels.widgets import picture_text, status_text
from invert3d_ns.live.queue import ActionQueue, LiveState
from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.words.embedding import ObjectEmbedding


class Queue(ActionQueue):
    """Keeps what it is asked for and does none of it."""

    def __init__(self, host: Any) -> None:
        super().__init__(host)
        self.asked: list[str] = []
        self.quietly: list[str] = []

    def ask(self, action: Any, *, quietly: bool = False) -> None:
        (self.quietly if quietly else self.asked).append(action.label)

    def ask_when_idle(self, action) -> bool:
        self.asked.append(action.label)
        return False

    def stop(self) -> None:
        self.asked.append("Stop")


@pytest.fixture
def watched():
    """An installed panel, its stand-in of a server, and the queue that it asks."""
    host = SplatHost()
    queue = Queue(host)
    panel, server = EditPanel(Actions(host, queue)), Server()
    panel.install(server)  # type: ignore[arg-type]
    return panel, server, queue


@pytest.fixture
def panel(watched):
    """The panel of one browser, the stand-in of that, and the queue that it asks."""
    panel, server, queue = watched
    browser = server.connect()
    return panel.clients[browser.client_id], browser, queue


def test_an_untouched_panel_is_the_empty_form(panel):
    panel, _browser, _queue = panel
    assert panel.form() == EditForm()


def test_each_browser_has_a_form_of_its_own(watched):
    panel, server, _queue = watched
    one, other = server.connect(), server.connect()
    one.set(Words="blue", Amount=2.0, Only_here=True)
    other.set(Words="in van gogh style", Seed=4)
    assert panel.clients[0].form() == EditForm(words="blue", amount=2.0, box=(-0.5, -0.5, -0.5, 0.5, 0.5, 0.5))
    assert panel.clients[1].form() == EditForm(words="in van gogh style", seed=4)
    assert one.nodes["/edit_region/handle"].visible and not other.nodes["/edit_region/handle"].visible


def test_a_page_that_is_loaded_anew_keeps_its_form(watched):
    panel, server, queue = watched
    first = server.connect()
    first.set(Words="blue", Center=(0.0, 0.5, 0.0), Size=(1.0, 1.0, 2.0), Guidance="6", Change="geometry")
    first.set(Only_here=True, Only="wheels", Threshold=0.7, Keep_silhouette=False)
    form = panel.clients[0].form()
    server.disconnect(first)
    assert not panel.clients
    server.connect()
    assert panel.clients[1].form() == form and form.box == (-0.5, 0.0, -1.0, 0.5, 1.0, 1.0)
    server.connect()
    assert panel.clients[2].form() == EditForm(), "once"
    server.disconnect(first)
    queue._publish(message="Somebody is here.")
    assert "Somebody" not in first.status, "who is gone is told nothing"


def test_an_empty_field_for_a_number_is_one_line_and_leaves_the_next_browser_whole(watched):
    panel, server, queue = watched
    first = server.connect()
    first.set(Words="blue", Seed=None)
    first.press("Apply")
    assert "a field for a number is empty" in first.status and "Apply" not in queue.asked
    server.disconnect(first)
    server.connect()
    assert panel.clients[1].form() == EditForm() and queue.quietly == ["Look for runs"] * 2


def test_a_panel_that_fails_takes_nothing_else_from_its_browser(watched, monkeypatch, capsys):
    panel, server, _queue = watched
    come: list[Any] = []
    server.on_client_connect(come.append)
    monkeypatch.setattr(edit_panel, "ClientPanel", lambda *given: 1 // 0)
    browser = server.connect()
    assert come == [browser] and not panel.clients and "ZeroDivisionError" in capsys.readouterr().err


def test_what_one_typed_wrong_is_said_to_nobody_else(watched):
    _panel, server, queue = watched
    one, other = server.connect(), server.connect()
    one.set(Words="blue", Weights="green=2")
    one.press("Preview")
    assert "has a weight but is not in the edit" in one.status and "Error" not in other.status
    other.set(Words="blue")
    other.press("Apply")
    assert "Error" in one.status, "until that person asks for something else"
    one.set(Weights="")
    one.press("Preview")
    assert "Error" not in one.status and queue.asked[-2:] == ["Apply", "Preview"]
    queue._publish(error="the disk is full")
    assert "the disk is full" in one.status and "the disk is full" in other.status


def test_saved_runs_are_offered(watched):
    panel, server, queue = watched
    early = server.connect()
    early.press("Open")
    assert "there is no saved run" in early.status and not early.by_label["Saved"].visible
    folders = [Path("a"), Path("b")]
    panel.actions.runs = [SavedRun(folders[0], ("blue",), unasked=True), SavedRun(folders[1], ("x", "y"))]
    queue._publish(message="Saved.")
    late = server.connect()
    for browser in (early, late):
        assert browser.by_label["Saved"].options == ("a: blue", "b: x; y") and browser.by_label["Saved"].visible
        assert r"**Kept from last time:** a\: blue \(press Open\)" in browser.status
    late.set(Saved="b: x; y")
    late.press("Open")
    assert queue.asked == ["Open"]


def test_a_host_without_words_gets_no_panel():
    host: Any = SplatHost()
    del host.prior
    panel, server = EditPanel(Actions(host, ActionQueue(host))), Server()
    panel.install(server)  # type: ignore[arg-type]
    browser = server.connect()
    assert not (server.by_label or browser.by_label or browser.markdowns or browser.nodes)


def test_widgets_become_the_form(panel, monkeypatch):
    panel, server, queue = panel
    previewed: list[Any] = []
    preview_edit = panel.actions.preview_edit

    def record(*given, **named):
        previewed.extend([*given, named["replace_last"]])
        return preview_edit(*given, **named)

    monkeypatch.setattr(panel.actions, "preview_edit", record)
    values = {
        "Words": "in van gogh style",
        "From": "red",
        "To": "blue",
        "Amount": 1.5,
        "Weights": "van gogh=2",
        "Avoid": "blurry",
        "Guidance": " 7.5",
        "Strength": "0.6",
        "Seed": 3,
        "Change": "geometry",
        "Keep silhouette": False,
        "It is": "car",
        "Only": "wheels",
        "Threshold": 0.8,
        "Replace last": True,
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
        "car",
        1.5,
        "van gogh=2",
        "blurry",
        " 7.5",
        "0.6",
        3,
        "geometry",
        False,
        (-0.5, 0.0, -1.0, 0.5, 1.0, 1.0),
        "wheels",
        0.8,
        True,
    )
    edit = form.edit()
    assert previewed == [edit, True] and edit.guidance_scale == 7.5 and edit.strength == 0.6
    assert edit.change == "geometry" and not edit.keep_silhouette
    assert edit.region == Region(form.box, relevance="wheels", relevance_threshold=0.8)
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
    hello = status_text(LiveState(), "Hello {x}")
    assert hello == r'<span style={{overflowWrap: "anywhere"}}>**»** Hello \{x\}</span>'


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
    monkeypatch.setattr(edit_panel, "keep_when_the_program_ends", lambda actions: None)
    looked: list[str] = []
    monkeypatch.setattr(EditActions, "request_runs", lambda self: looked.append(self.queue.training()))
    words = {}
    for name, asks in (("asked", True), ("left alone", False)):
        served: list[LiveState] = []
        run_pending = ActionQueue.run_pending

        def serve(self, limit=1, asks=asks, served=served, run_pending=run_pending):
            if asks and not served:
                (panel,) = panels
                self.ask(panel.actions.preview_edit(EditForm(words="in a red cube").edit()))
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
        trainer: Any = panel.viewer.trainer
        assert panel.queue.ending == trainer.should_stop
        assert (served[0].picture is not None) == asks and not served[0].error
        words[name] = ObjectEmbedding.load(folder / "embedding.safetensors").vectors
    assert torch.equal(words["asked"], words["left alone"])
    assert looked == ["completed"] * 2, "words that are learned may be those of runs that were saved before"
