"""The edit session with a stand-in for the scene's slow parts: order, stopping, undoing, errors, threads."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic import make_cloud

from invert3d_ns.base.cancellation import Cancelled
from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit, Region, load_edits
from invert3d_ns.live.form import EditForm
from invert3d_ns.live.history import History, Version
from invert3d_ns.live.scene import LiveScene, before_and_after
from invert3d_ns.live.session import EditSession
from invert3d_ns.scenes.ply import read_splats
from invert3d_ns.words.embedding import ObjectEmbedding

BLUE = EditForm(words="blue instead of red")
STYLE = EditForm(words="in van gogh style")
PATIENCE = 20.0


class Host:
    """A scene of a few splats, and everything that was ever shown of it."""

    def __init__(self, folder: Path | None = None) -> None:
        self.edits: list[Edit] = []
        self.output_folder = folder
        self.cloud = make_cloud(20)
        self.shown: list[float] = []
        self.has_words = True

    def embedding(self) -> ObjectEmbedding:
        if not self.has_words:
            raise InputError("there are no words of this scene yet")
        return ObjectEmbedding(torch.zeros(2, 4), prior="stand-in", fingerprint="0")

    def prior(self) -> Any:
        class Prior:
            class info:
                image_size = 16

        return Prior()

    def splats(self):
        return self.cloud.to("cpu")

    def set_splats(self, cloud) -> None:
        self.cloud = cloud.to("cpu")
        self.shown.append(self.height())

    def height(self) -> float:
        """Stands for how the scene looks: every edit lifts it."""
        return round(float(self.cloud.means[:, 2].mean() - make_cloud(20).means[:, 2].mean()), 3)


class Editor:
    """Lifts splats by 1 in four steps, each of which waits until the test lets it go."""

    total_steps = 4

    def __init__(self, scene: Scene, cloud) -> None:
        self.scene, self.start, self.done = scene, cloud, 0

    def prepare(self, progress=None, should_stop=None) -> None:
        self.scene.gate("prepare")
        if should_stop is not None and should_stop():
            raise Cancelled

    def step(self) -> dict[str, float]:
        self.scene.gate("step")
        self.done += 1
        if self.scene.broken:
            raise RuntimeError("no such {luck}\nat all")
        return {}

    def cloud(self):
        lifted = self.start.means + torch.tensor([0.0, 0.0, self.done / self.total_steps])
        return replace(self.start, means=lifted)


class Scene(LiveScene):
    """A live scene whose views and editor are stand-ins; ``holds`` names the moments at which it waits for the test."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.holds: set[str] = set()
        self.reached, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.asked: list[list[str]] = []
        self.threads: list[str] = []
        self.broken = False

    def gate(self, moment: str) -> None:
        if moment in self.holds:
            self.reached.release()
            assert self.go.acquire(timeout=PATIENCE)

    def make_views(self, splats, prior, embedding, edits, form, progress, should_stop):
        self.asked.append([edit.label for edit in edits])
        self.threads.append(threading.current_thread().name)
        for step in range(3):
            self.gate("preview")
            progress(step + 1, 3)
            if should_stop():
                raise Cancelled
        return torch.zeros(1, 4, 3, 16, 16), torch.ones(1, 4, 3, 16, 16)

    def make_editor(self, splats, prior, embedding, edits, form):
        self.asked.append([edit.label for edit in edits])
        return Editor(self, splats)


class Watcher:
    """Keeps every state and waits for one."""

    def __init__(self, session: EditSession) -> None:
        self.session, self.states, self.news = session, [], threading.Condition()
        session.subscribe(self)

    def __call__(self) -> None:
        with self.news:
            self.states.append(self.session.state)
            self.news.notify_all()

    def until(self, what) -> None:
        with self.news:
            assert self.news.wait_for(lambda: what(self.session.state), PATIENCE), self.session.state

    def idle(self) -> None:
        self.until(lambda state: not state.task and not state.waiting and not self.session._running)


@pytest.fixture
def stage(tmp_path):
    """A host, its scene, its session with a running thread, and a watcher."""
    host = Host(tmp_path)
    scene = Scene(host)
    session = EditSession(host, scene)
    watcher = Watcher(session)
    session.start()
    yield host, scene, session, watcher
    scene.holds.clear()
    for _ in range(20):
        scene.go.release()
    session.close()


def test_a_preview_gives_a_picture_and_leaves_the_splats_alone(stage):
    host, scene, session, watcher = stage
    session.preview(BLUE)
    watcher.until(lambda state: state.picture is not None)
    assert session.state.message.startswith("Preview of 'red -> blue' in ")
    assert host.shown == [] and host.edits == [] and session.state.edits == ()
    assert {round(state.progress, 2) for state in watcher.states} >= {0.33, 0.67}
    assert scene.threads == ["edit session"]


def test_apply_twice_waits_in_line_and_composes(stage):
    host, scene, session, watcher = stage
    scene.holds = {"step"}
    session.apply(BLUE)
    assert scene.reached.acquire(timeout=PATIENCE)
    session.apply(STYLE)
    assert session.state.waiting == 1
    scene.holds = set()
    scene.go.release()
    watcher.until(lambda state: len(state.edits) == 2)
    assert host.height() == 2.0
    assert [edit.label for edit in host.edits] == ["red -> blue", "in van gogh style"]
    assert scene.asked == [["red -> blue"], ["red -> blue", "in van gogh style"]]


def test_an_edit_keeps_its_region_and_what_it_changes(stage):
    """Which of them views are made under is the editor's own business; it is told of all."""
    host, scene, session, watcher = stage
    box = (-1, -1, -1, 0, 1, 1)
    session.apply(replace(BLUE, box=box, change="geometry"))
    session.apply(STYLE)
    watcher.until(lambda state: len(state.edits) == 2)
    assert scene.asked == [["red -> blue"], ["red -> blue", "in van gogh style"]]
    assert host.edits[0].region == Region(box=box) and host.edits[0].change == "geometry"
    assert host.edits[1].region.is_whole and host.edits[1].change == "colors"


def test_splats_are_shown_while_they_change(stage):
    host, _scene, session, watcher = stage
    session.apply(BLUE)
    watcher.until(lambda state: len(state.edits) == 1)
    assert host.shown[0] == 0.25 and host.shown[-1] == 1.0


@pytest.mark.parametrize("moment", ["prepare", "step"])
def test_stop_leaves_the_scene_as_before_and_drops_what_waits(stage, moment):
    host, scene, session, watcher = stage
    scene.holds = {moment}
    session.apply(BLUE)
    assert scene.reached.acquire(timeout=PATIENCE)
    session.apply(STYLE)
    session.stop()
    assert session.state.waiting == 0
    scene.go.release()
    watcher.until(lambda state: "Apply stopped" in state.message)
    assert host.height() == 0.0 and host.edits == [] and len(scene.asked) == 1
    scene.holds = set()
    session.apply(STYLE)
    watcher.until(lambda state: state.edits == ("in van gogh style",))


def test_undo_redo_and_compare(stage):
    host, _scene, session, watcher = stage
    for form in (BLUE, STYLE):
        session.apply(form)
    session.undo()
    watcher.until(lambda state: "Undid 'in van gogh style'" in state.message)
    assert host.height() == 1.0 and [edit.label for edit in host.edits] == ["red -> blue"]
    session.compare()
    watcher.until(lambda state: state.comparing)
    assert host.height() == 0.0 and len(host.edits) == 1, "comparing looks back and undoes nothing"
    session.compare()
    watcher.until(lambda state: not state.comparing)
    assert host.height() == 1.0
    session.redo()
    watcher.until(lambda state: "Redid" in state.message)
    assert host.height() == 2.0
    for _ in range(3):
        session.undo()
    watcher.until(lambda state: "nothing to undo" in state.error)
    assert host.height() == 0.0 and host.edits == []


def test_an_edit_after_undo_forgets_what_was_undone(stage):
    _host, _scene, session, watcher = stage
    session.apply(BLUE)
    session.undo()
    session.apply(STYLE)
    session.redo()
    watcher.until(lambda state: "nothing to redo" in state.error)
    assert session.state.edits == ("in van gogh style",)


def test_undo_does_not_wait_for_a_preview(stage):
    host, scene, session, watcher = stage
    session.apply(BLUE)
    watcher.idle()
    scene.holds = {"preview"}
    session.preview(STYLE)
    assert scene.reached.acquire(timeout=PATIENCE)
    session.undo()
    scene.go.release()
    assert scene.reached.acquire(timeout=PATIENCE), "the preview goes on to its next step"
    assert host.height() == 0.0 and session.state.edits == ()
    assert session.state.task == "Preview of 'in van gogh style'"


def test_a_newer_preview_takes_the_place_of_one_that_runs(stage):
    _host, scene, session, watcher = stage
    scene.holds = {"preview"}
    session.preview(BLUE)
    assert scene.reached.acquire(timeout=PATIENCE)
    session.preview(BLUE)
    session.preview(STYLE)
    assert session.state.waiting == 1
    scene.holds = set()
    scene.go.release()
    watcher.until(lambda state: "Preview of 'in van gogh style' in" in state.message)
    assert scene.asked == [["red -> blue"], ["in van gogh style"]]


def test_while_a_scene_trains_only_the_trainer_serves_and_only_previews(stage):
    host, scene, session, watcher = stage
    training = "training"
    session.training = lambda: training  # type: ignore[assignment, return-value]
    assert session.run_pending() == 0
    session.apply(BLUE)
    session.preview(STYLE)
    assert "Apply waits until the training is done." in [state.message for state in watcher.states]
    assert session.run_pending(limit=5) == 1
    assert scene.threads == ["MainThread"] and session.state.waiting == 1 and host.shown == []
    training = "completed"
    watcher.until(lambda state: state.edits == ("red -> blue",))


def test_previews_are_served_while_training_is_paused(stage):
    _host, scene, session, watcher = stage
    session.training = lambda: "paused"
    session.preview(STYLE)
    session.undo()
    watcher.until(lambda state: state.picture is not None)
    assert scene.threads == ["edit session"] and session.state.waiting == 1


def test_the_trainer_does_not_wait_for_a_preview_of_another_thread(stage):
    _host, scene, session, watcher = stage
    scene.holds = {"preview"}
    session.training = lambda: "paused"
    session.preview(STYLE)
    assert scene.reached.acquire(timeout=PATIENCE)
    assert session.run_pending() == 0
    scene.holds = set()
    scene.go.release()
    watcher.until(lambda state: state.picture is not None)


def test_asking_never_waits_for_the_scene(stage):
    host, scene, session, watcher = stage
    lock = threading.Lock()
    scene.lock = lock
    scene.holds = {"step"}
    with lock:
        for ask in (
            lambda: session.apply(BLUE),
            session.undo,
            session.redo,
            session.compare,
            session.save,
            session.warm_up,
            lambda: session.preview(BLUE),
        ):
            asking = threading.Thread(target=ask)
            asking.start()
            asking.join(timeout=PATIENCE)
            assert not asking.is_alive()
        assert host.shown == []
        session.stop()
    watcher.idle()


@pytest.mark.parametrize(
    ("form", "line"),
    [
        (EditForm(), "the edit is empty"),
        (EditForm(words="  "), "the edit is empty"),
        (replace(BLUE, amount=float("nan")), "amount is nan"),
        (replace(BLUE, amount=5.5), "amount is 5.5"),
        (replace(BLUE, amount=0.0), "changes nothing"),
        (replace(BLUE, guidance_scale=51), "guidance scale is 51"),
        (replace(BLUE, strength=1.5), "strength is 1.5"),
        (replace(STYLE, weights="van gogh"), "cannot be read"),
        (replace(STYLE, weights="monet=2"), "'monet' has a weight but is not in the edit"),
        (replace(STYLE, weights="van gogh=11"), "the weight of 'van gogh' is 11"),
        (replace(BLUE, box=(0, 0, 0, 1, 0, 1)), "the region is empty"),
        (replace(BLUE, box=(0, 0, 0, 1, float("nan"), 1)), "NaN"),
    ],
)
def test_bad_input_is_one_line_at_once(stage, form, line):
    _host, scene, session, _watcher = stage
    session.apply(form)
    assert line in session.state.error and "\n" not in session.state.error
    assert scene.asked == [] and session.state.waiting == 0
    session.preview(BLUE)
    assert session.state.error == "", "a new request clears the line"


def test_a_fault_is_one_line_and_the_scene_as_before(stage, capsys):
    host, scene, session, watcher = stage
    scene.broken = True
    session.apply(BLUE)
    watcher.until(lambda state: bool(state.error))
    assert session.state.error == "Apply failed; see the terminal. RuntimeError: no such {luck} at all"
    assert host.height() == 0.0 and host.edits == []
    assert "Traceback" in capsys.readouterr().err
    scene.broken = False
    session.apply(BLUE)
    watcher.until(lambda state: len(state.edits) == 1 and not state.error)


def test_without_words_requests_say_so(stage):
    host, _scene, session, watcher = stage
    host.has_words = False
    session.preview(BLUE)
    watcher.until(lambda state: "no words of this scene" in state.error)
    session.apply(BLUE)
    watcher.until(lambda state: not state.error)
    watcher.until(lambda state: "no words of this scene" in state.error)


def test_save_writes_what_is_needed_to_go_on_elsewhere(stage, tmp_path):
    host, _scene, session, watcher = stage
    session.save()
    watcher.until(lambda state: "nothing to save" in state.error)
    session.apply(replace(STYLE, weights="van gogh=2"))
    session.save()
    session.save()
    watcher.until(lambda state: str(tmp_path / "edits" / "002") in state.message)
    (edit,) = load_edits(tmp_path / "edits" / "001" / "edits.json")
    assert edit.weights == {"van gogh": 2.0}
    saved = read_splats(tmp_path / "edits" / "002" / "edited.ply")
    # Files of assets have y up.
    assert torch.allclose(saved.means[:, 1], host.cloud.means[:, 2], atol=1e-5)
    assert (tmp_path / "edits" / "002" / "grid.png").stat().st_size > 100


def test_a_full_disk_is_one_line(stage, tmp_path):
    _host, _scene, session, watcher = stage
    (tmp_path / "edits").write_text("in the way")
    session.apply(BLUE)
    session.save()
    watcher.until(lambda state: "cannot write" in state.error)


def test_stop_with_nothing_to_stop(stage):
    _host, _scene, session, _watcher = stage
    session.stop()
    assert session.state.message == "There is nothing to stop."


def test_history_keeps_the_first_version_and_a_bounded_number_of_others():
    cloud = make_cloud(3)
    history = History(Version(cloud), limit=2)
    for _ in range(5):
        history.push(history.current.then(Edit(target="blue"), cloud))
    assert len(history.current.edits) == 5
    assert len(history.undo().edits) == 4 and len(history.undo().edits) == 3
    with pytest.raises(InputError, match="nothing to undo"):
        history.undo()
    assert history.first.edits == ()


def test_terms_beside_words_make_one_edit():
    edit = EditForm(words="in van gogh style", source="red", target="blue", weights="blue=2", seed=3).edit()
    assert (edit.prompt, edit.source, edit.target, edit.seed) == ("<object> in van gogh style", "red", "blue", 3)


def test_the_picture_has_small_views_before_and_large_ones_after():
    picture = before_and_after(torch.zeros(1, 4, 3, 128, 128), torch.ones(1, 4, 3, 128, 128))
    assert picture.shape == (256 + 1024, 1024, 3)
    assert (picture[:256] == 0).all() and (picture[256:] == 255).all() and picture.dtype == np.uint8


def test_form_says_what_the_object_is() -> None:
    form = EditForm(words="blue instead of red", noun=" red car ")
    assert form.edit().noun == "red car"
