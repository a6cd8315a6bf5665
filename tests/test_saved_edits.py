"""What becomes of edits in a browser: composed with those before, saved as runs, opened again, kept at the end."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from live_stage import BLUE, STYLE, Stage

from invert3d_ns.live.form import EditForm
from invert3d_ns.live.history import Version


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def test_save_makes_a_run_that_open_brings_back(stage, tmp_path):
    host, versions, watcher = stage.host, stage.versions, stage.watcher
    stage.ask(stage.actions.save)
    watcher.until(lambda state: "nothing to save" in state.error)
    stage.apply(replace(STYLE, weights="van gogh=2"))
    stage.ask(stage.actions.save)
    folder = tmp_path / "saved-1"
    watcher.until(lambda state: state.message == f"Saved as the run {folder}")
    stage.ask(stage.actions.save)
    watcher.until(lambda state: state.message == f"It is saved already: {folder}")
    stage.ask(versions.undo)
    stage.ask(lambda: stage.actions.open(folder))
    watcher.until(lambda state: "Opened" in state.message)
    assert versions.labels == ("in van gogh style",) and host.height() == 1.0
    assert [edit.weights for edit in host.edits] == [{"van gogh": 2.0}]
    stage.ask(stage.actions.save)
    watcher.until(lambda state: "saved already" in state.message)
    assert [run.title for run in stage.actions.runs] == ["saved-1: in van gogh style"]
    stage.apply(BLUE)
    stage.until_labels("in van gogh style", "red -> blue")
    assert host.height() == 2.0 and versions.current.origin is versions.history.first, "made from the scene as found"
    stage.ask(versions.undo, versions.undo, versions.undo)
    watcher.until(lambda state: "nothing to undo" in state.error)
    assert host.height() == 0.0


def test_what_cannot_be_saved_or_opened_is_one_line(stage, tmp_path):
    stage.host.output_folder = None
    stage.apply(BLUE)
    stage.ask(stage.actions.save)
    stage.watcher.until(lambda state: "belongs to no run" in state.error)
    stage.ask(lambda: stage.actions.open(tmp_path / "nothing"))
    stage.watcher.until(lambda state: "has no checkpoint" in state.error)
    assert stage.versions.labels == ("red -> blue",) and stage.host.height() == 1.0


def test_edits_that_are_in_no_run_are_kept_when_the_program_ends(stage, tmp_path):
    assert stage.actions.keep_unsaved() is None
    other = Stage(tmp_path)
    other.apply(BLUE)
    other.until_labels("red -> blue")
    other.gate.holds = {"step"}
    other.apply(STYLE)
    other.gate.wait()
    other.gate.holds = set()
    other.gate.let_go()
    other.queue.stop()
    other.watcher.until(lambda state: "Apply stopped" in state.message or len(other.versions.labels) == 2)
    folder = other.actions.keep_unsaved()
    assert folder is not None and other.host.runs[folder] == (other.versions.current, True)
    (run,) = other.host.saved_runs()
    assert run.unasked and run.labels == other.versions.labels


def test_what_is_in_a_run_is_not_kept_again(stage):
    stage.apply(BLUE)
    stage.ask(stage.actions.save)
    stage.watcher.until(lambda state: "Saved" in state.message)
    assert stage.actions.keep_unsaved() is None and len(stage.host.runs) == 1


def test_every_saved_version_is_known_as_saved(stage, tmp_path):
    for number, form in enumerate((BLUE, STYLE), start=1):
        stage.apply(form)
        stage.ask(stage.actions.save)
        stage.watcher.until(lambda state, number=number: state.message == f"Saved as the run {tmp_path}/saved-{number}")
    stage.ask(stage.versions.undo, stage.actions.save)
    stage.watcher.until(lambda state: state.message == f"It is saved already: {tmp_path / 'saved-1'}")
    assert stage.actions.keep_unsaved() is None and len(stage.host.runs) == 2


def test_at_the_end_browsers_are_told_nothing(stage):
    stage.apply(BLUE)
    stage.until_labels("red -> blue")
    stage.gate.holds = {"step"}
    stage.apply(STYLE)
    stage.gate.wait()
    told: list[str] = []
    stage.queue.subscribe(lambda: told.append("state"))
    stage.host.rerender = lambda: told.append("scene")
    threading.Timer(0.1, stage.gate.abandon).start()
    assert stage.actions.keep_unsaved() is not None and told == []


def test_runs_are_looked_for_when_they_can_be_known(stage, tmp_path):
    stage.queue.training = lambda: "training"
    stage.host.runs[tmp_path] = Version(stage.host.snapshot(), (BLUE.edit(),)), False
    stage.actions.request_runs()
    assert stage.actions.runs == [] and stage.queue.run_pending() == 1
    assert [run.folder for run in stage.actions.runs] == [tmp_path]
    assert "waits" not in stage.queue.state.message


def test_a_later_color_takes_the_place_of_an_earlier_one(stage):
    for words in ("blue instead of red", "green instead of blue", "yellow"):
        stage.apply(EditForm(words=words))
        stage.watcher.until_idle()
    assert stage.versions.labels == ("red -> blue", "blue -> green", "a yellow")
    assert stage.host.height() == 1.0, "made from the scene as it was, of what the words come to"
    stage.apply(replace(STYLE, replace_last=True))
    stage.until_labels("red -> blue", "blue -> green", "in van gogh style")
    stage.ask(stage.versions.undo)
    stage.until_labels("red -> blue", "blue -> green", "a yellow")


def test_the_last_edit_can_be_replaced_but_not_what_was_there_before(stage):
    stage.host.edits = [STYLE.edit()]
    stage.apply(replace(BLUE, replace_last=True))
    stage.until_labels("in van gogh style", "red -> blue")
    stage.apply(replace(EditForm(words="with a hat"), replace_last=True))
    stage.until_labels("in van gogh style", "with a hat")
