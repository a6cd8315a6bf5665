"""Editing a live scene with words, with stand-ins for its slow parts: order, stopping, undoing, errors, files."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from live_stage import BLUE, PATIENCE, STYLE, SplatHost, Stage
from runs import QuietRun

from invert3d_ns.editing.scene_edit_config import SceneEditConfig
from invert3d_ns.live.form import EditForm
from invert3d_ns.live.host import EditHost, HasEdits, HasPrior, HasSplats, HasWords, Host
from invert3d_ns.live.pictures import before_and_after
from invert3d_ns.methods.edit_phase import EditPhase


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def test_a_host_has_the_capabilities_that_it_has_the_attributes_of():
    whole = SplatHost()
    assert all(isinstance(whole, kind) for kind in (Host, HasEdits, HasPrior, HasSplats, HasWords, EditHost))
    bare = SplatHost()
    del bare.prior
    assert isinstance(bare, HasSplats) and not isinstance(bare, HasWords) and not isinstance(bare, EditHost)


def test_a_preview_gives_a_picture_and_leaves_the_splats_alone(stage):
    stage.preview(BLUE)
    stage.watcher.until(lambda state: state.picture is not None)
    assert stage.queue.state.message.startswith("Preview of 'red -> blue' in ")
    assert stage.host.shown == [] and stage.host.edits == [] and stage.versions.labels == ()
    assert {round(state.progress, 2) for state in stage.watcher.states} >= {0.33, 0.67}
    assert stage.actions.threads == ["live actions"]


def test_apply_twice_waits_in_line_and_composes(stage):
    stage.gate.holds = {"step"}
    stage.apply(BLUE)
    stage.gate.wait()
    stage.apply(STYLE)
    assert stage.queue.state.waiting == 1 and stage.queue.state.task == "Applying 'red -> blue'"
    stage.gate.open()
    stage.until_labels("red -> blue", "in van gogh style")
    assert stage.host.height() == 2.0
    assert [edit.label for edit in stage.host.edits] == ["red -> blue", "in van gogh style"]
    assert stage.actions.asked == [["red -> blue"], ["red -> blue", "in van gogh style"]]


def test_splats_are_shown_while_they_change(stage):
    looks = []
    stage.host.rerender = lambda: looks.append(stage.host.height())
    stage.apply(BLUE)
    stage.until_labels("red -> blue")
    assert stage.host.shown[0] == 0.25 and stage.host.shown[-1] == 1.0 and looks == stage.host.shown


@pytest.mark.parametrize("moment", ["prepare", "step"])
def test_stop_leaves_the_scene_as_before_and_drops_what_waits(stage, moment):
    stage.gate.holds = {moment}
    stage.apply(BLUE)
    stage.gate.wait()
    stage.apply(STYLE)
    stage.queue.stop()
    assert stage.queue.state.waiting == 0
    stage.gate.let_go()
    stage.watcher.until(lambda state: "Apply stopped" in state.message)
    assert stage.host.height() == 0.0 and stage.host.edits == [] and len(stage.actions.asked) == 1
    stage.gate.holds = set()
    stage.apply(STYLE)
    stage.until_labels("in van gogh style")


def test_undo_redo_and_compare(stage):
    versions, host, watcher = stage.versions, stage.host, stage.watcher
    for form in (BLUE, STYLE):
        stage.apply(form)
    stage.ask(versions.undo)
    watcher.until(lambda state: "Undid 'in van gogh style'" in state.message)
    assert host.height() == 1.0 and [edit.label for edit in host.edits] == ["red -> blue"]
    stage.ask(versions.compare)
    watcher.until(lambda state: "before all edits" in state.message)
    assert versions.comparing and host.height() == 0.0 and len(host.edits) == 1, "comparing undoes nothing"
    stage.ask(versions.compare)
    watcher.until(lambda state: state.message == "The scene now.")
    assert not versions.comparing and host.height() == 1.0
    stage.ask(versions.redo)
    watcher.until(lambda state: "Redid" in state.message)
    assert host.height() == 2.0
    stage.ask(*[versions.undo] * 3)
    watcher.until(lambda state: "nothing to undo" in state.error)
    assert host.height() == 0.0 and host.edits == []


def test_an_apply_while_comparing_goes_on_from_the_scene_as_it_is(stage):
    stage.apply(BLUE)
    stage.ask(stage.versions.compare)
    stage.watcher.until_idle()
    stage.gate.holds = {"prepare"}
    stage.apply(STYLE)
    stage.gate.wait()
    assert stage.host.height() == 1.0 and not stage.versions.comparing, "one sees what the edit comes on top of"
    stage.queue.stop()
    stage.gate.open()
    stage.watcher.until(lambda state: "Apply stopped" in state.message)
    assert stage.host.height() == 0.0 and stage.versions.comparing, "as before, which was compared"
    stage.apply(STYLE)
    stage.until_labels("red -> blue", "in van gogh style")
    assert stage.host.height() == 2.0 and not stage.versions.comparing


def test_an_edit_after_undo_forgets_what_was_undone(stage):
    stage.apply(BLUE)
    stage.ask(stage.versions.undo)
    stage.apply(STYLE)
    stage.ask(stage.versions.redo)
    stage.watcher.until(lambda state: "nothing to redo" in state.error)
    assert stage.versions.labels == ("in van gogh style",)


def test_what_went_wrong_is_forgotten_once_something_went_well(stage):
    stage.queue.training = lambda: "training"
    stage.ask(stage.versions.undo)
    stage.apply(BLUE)
    stage.queue.training = lambda: "completed"
    stage.until_labels("red -> blue")
    assert not stage.queue.state.error and any("nothing to undo" in each.error for each in stage.watcher.states)


def test_undo_does_not_wait_for_a_preview(stage):
    stage.apply(BLUE)
    stage.watcher.until_idle()
    stage.gate.holds = {"preview"}
    stage.preview(STYLE)
    stage.gate.wait()
    stage.ask(stage.versions.undo)
    stage.gate.let_go()
    stage.gate.wait()  # the preview goes on to its next step
    assert stage.host.height() == 0.0 and stage.versions.labels == ()
    assert stage.queue.state.task == "Preview of 'in van gogh style'"


def test_a_newer_preview_takes_the_place_of_one_that_runs(stage):
    stage.gate.holds = {"preview"}
    stage.preview(BLUE)
    stage.gate.wait()
    stage.preview(BLUE)
    stage.preview(STYLE)
    assert stage.queue.state.waiting == 1
    stage.gate.open()
    stage.watcher.until(lambda state: "Preview of 'in van gogh style' in" in state.message)
    assert stage.actions.asked == [["red -> blue"], ["in van gogh style"]]


def test_while_a_scene_trains_only_the_trainer_serves_and_only_previews(stage):
    training = "training"
    stage.queue.training = lambda: training  # type: ignore[assignment, return-value]
    assert stage.queue.run_pending() == 0
    stage.apply(BLUE)
    stage.preview(STYLE)
    assert "Apply waits until the training is done." in [state.message for state in stage.watcher.states]
    assert stage.queue.run_pending(limit=5) == 1
    assert stage.actions.threads == ["MainThread"] and stage.queue.state.waiting == 1 and stage.host.shown == []
    training = "completed"
    stage.until_labels("red -> blue")


def test_what_is_seen_during_training_is_no_version(stage):
    training = "training"
    stage.queue.training = lambda: training  # type: ignore[assignment, return-value]
    stage.preview(STYLE)
    assert stage.queue.run_pending() == 1
    cloud = stage.host.splats()
    cloud.means = cloud.means + torch.tensor([0.0, 0.0, 5.0])
    stage.host.set_splats(cloud)
    training = "completed"
    stage.apply(BLUE)
    stage.ask(stage.versions.undo)
    stage.watcher.until(lambda state: "Undid" in state.message)
    assert stage.host.height() == 5.0, "undone to what the training made of it"


def test_previews_are_served_while_training_is_paused(stage):
    stage.queue.training = lambda: "paused"
    stage.preview(STYLE)
    stage.ask(stage.versions.undo)
    stage.watcher.until(lambda state: state.picture is not None)
    assert stage.actions.threads == ["live actions"] and stage.queue.state.waiting == 1


def test_the_trainer_does_not_wait_for_a_preview_of_another_thread(stage):
    stage.gate.holds = {"preview"}
    stage.queue.training = lambda: "paused"
    stage.preview(STYLE)
    stage.gate.wait()
    assert stage.queue.run_pending() == 0
    stage.gate.open()
    stage.watcher.until(lambda state: state.picture is not None)


def test_asking_never_waits_for_the_scene(stage):
    lock = stage.host.lock = threading.Lock()
    stage.gate.holds = {"step"}
    with lock:
        for ask in (
            lambda: stage.apply(BLUE),
            lambda: stage.ask(stage.versions.undo, stage.versions.redo, stage.versions.compare, stage.actions.save),
            stage.actions.request_warm_up,
            lambda: stage.preview(BLUE),
        ):
            asking = threading.Thread(target=ask)
            asking.start()
            asking.join(timeout=PATIENCE)
            assert not asking.is_alive()
        assert stage.host.shown == []
        stage.queue.stop()
    stage.watcher.until_idle()


def test_the_prior_is_warmed_up_once_when_there_is_nothing_else_to_do(stage):
    stage.queue.training = lambda: "paused"
    stage.actions.request_warm_up()
    assert stage.queue.idle
    stage.queue.training = lambda: "completed"
    for _ in range(3):
        stage.actions.request_warm_up()
        stage.watcher.until_idle()
    assert stage.host.prior.uses == 1 and stage.queue.state.message == ""


def test_the_edit_phase_of_a_run_uses_the_prior_as_people_do(monkeypatch):
    """A preview in a pause may still run when the training goes on."""
    host, used = cast(Any, SplatHost()), []

    class Editor:
        def __init__(self, cloud, prior, *given, **named) -> None:
            self.note("made")
            self.prepared, self.done, self.total_steps = False, 0, 2

        def note(self, what: str) -> None:
            used.append((what, host.prior.users))

        def prepare(self, *callbacks) -> None:
            self.note("prepared")

        def step(self) -> dict[str, float]:
            self.note("step")
            return {}

        def cloud(self):
            return host.splats()

    monkeypatch.setattr("invert3d_ns.editing.edit_sequence.SceneEditor", Editor)
    monkeypatch.setattr(EditPhase, "picture", lambda self: None)
    host.config = SimpleNamespace(edit=SceneEditConfig(), prior_options=None)
    host.freeze_for_editing, host.check_words_describe_splats = lambda: host.prior, lambda region: None
    phase, run = EditPhase(host, [BLUE.edit()]), cast(Any, QuietRun())
    phase.begin(run, None)
    phase.step(run, 0)
    assert used == [("made", 1), ("prepared", 1), ("step", 1)] and host.prior.users == 0


@pytest.mark.parametrize(
    ("form", "line"),
    [
        (EditForm(), "the edit is empty"),
        (EditForm(words="  "), "the edit is empty"),
        (replace(BLUE, amount=float("nan")), "amount is nan"),
        (replace(BLUE, amount=5.5), "amount is 5.5"),
        (replace(BLUE, amount=0.0), "changes nothing"),
        (replace(BLUE, guidance_scale="51"), " is 51; give "),
        (replace(BLUE, guidance_scale="much"), "the guidance 'much' is no number; give one, or auto"),
        (replace(BLUE, guidance_scale="nan"), "the guidance 'nan' is no number"),
        (replace(BLUE, strength="1,5"), "strength is 1.5"),
        (replace(STYLE, weights="van gogh"), "cannot be read"),
        (replace(STYLE, weights="monet=2"), "'monet' has a weight but is not in the edit"),
        (replace(STYLE, weights="van gogh=11"), "the weight of 'van gogh' is 11"),
        (replace(BLUE, box=(0, 0, 0, 1, 0, 1)), "the region is empty"),
        (replace(BLUE, box=(0, 0, 0, 1, float("nan"), 1)), "NaN"),
    ],
)
def test_bad_input_is_one_line_at_once(stage, form, line):
    stage.apply(form)
    assert line in stage.queue.state.error and "\n" not in stage.queue.state.error
    assert stage.actions.asked == [] and stage.queue.state.waiting == 0
    stage.preview(BLUE)
    assert stage.queue.state.error == "", "a new request clears the line"


def test_a_fault_is_one_line_and_the_scene_as_before(stage, capsys):
    stage.actions.broken = True
    stage.apply(BLUE)
    stage.watcher.until(lambda state: bool(state.error))
    assert stage.queue.state.error == "Apply failed; see the terminal. RuntimeError: no such {luck} at all"
    assert stage.host.height() == 0.0 and stage.host.edits == []
    assert "Traceback" in capsys.readouterr().err
    stage.actions.broken = False
    stage.apply(BLUE)
    stage.until_labels("red -> blue")
    assert not stage.queue.state.error


def test_without_words_requests_say_so(stage):
    stage.host.has_words = False
    stage.preview(BLUE)
    stage.watcher.until(lambda state: "no words of this scene" in state.error)
    stage.apply(BLUE)
    stage.watcher.until(lambda state: not state.error)
    stage.watcher.until(lambda state: "no words of this scene" in state.error)


def test_parts_that_are_made_already_are_not_made_again(stage):
    top, bottom = (replace(BLUE, box=(-1.0, -1.0, low, 1.0, 1.0, low + 1)) for low in (0.0, -1.0))
    for form in (top, bottom, replace(bottom, words="green instead of blue")):
        stage.apply(form)
        stage.watcher.until_idle()
    assert stage.actions.skipped == [1, 1]


def test_a_picture_goes_with_the_scene_that_it_shows(stage):
    stage.apply(BLUE)
    stage.watcher.until(lambda state: state.picture is not None)
    stage.ask(stage.versions.undo)
    stage.watcher.until(lambda state: "Undid" in state.message)
    assert stage.queue.state.picture is None and not stage.queue.state.caption


def test_a_preview_starts_again_when_the_scene_is_another_meanwhile(stage):
    stage.apply(BLUE)
    stage.watcher.until_idle()
    stage.gate.holds = {"preview"}
    stage.preview(STYLE)
    stage.gate.wait()
    stage.ask(stage.versions.undo)
    stage.gate.open()
    stage.watcher.until(lambda state: "Preview of" in state.message)
    assert stage.actions.asked[1:] == [["red -> blue", "in van gogh style"], ["in van gogh style"]]


def test_the_picture_has_small_views_before_and_large_ones_after():
    picture = before_and_after(torch.zeros(1, 4, 3, 128, 128), torch.ones(1, 4, 3, 128, 128))
    assert picture.shape == (256 + 1024, 1024, 3)
    assert (picture[:256] == 0).all() and (picture[256:] == 255).all() and picture.dtype == np.uint8
