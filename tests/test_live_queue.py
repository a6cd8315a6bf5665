"""The queue of actions and the history of versions, on a scene that is a number."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from live_stage import PATIENCE, Gate, Watcher

from invert3d_ns.base.cancellation import Cancelled
from invert3d_ns.base.errors import InputError
from invert3d_ns.live.history import History, Version
from invert3d_ns.live.host import EditHost, HasEdits, HasSplats, Host
from invert3d_ns.live.queue import Action, ActionQueue, Outcome
from invert3d_ns.live.versions import SceneVersions


@dataclass(frozen=True)
class Addition:
    label: str


class NumberHost:
    """A scene that is a number."""

    def __init__(self) -> None:
        self.lock: Any = nullcontext()
        self.rerender: Callable[[], None] = lambda: None
        self.output_folder: Path | None = None
        self.edits: list[Addition] = []
        self.number = 0
        self.copies = 0

    def snapshot(self) -> int:
        with self.lock:
            self.copies += 1
            return self.number

    def restore(self, snapshot: int) -> None:
        with self.lock:
            self.number = snapshot
        self.rerender()


class Numbers:
    """A host, its queue and versions, and what can be done: counting up, looking, and going wrong."""

    def __init__(self) -> None:
        self.host, self.gate = NumberHost(), Gate()
        self.queue = ActionQueue(self.host)
        self.versions = SceneVersions(self.host)
        self.watcher = Watcher(self.queue)
        self.looks: list[int] = []
        self.threads: list[str] = []

    def add(self, amount: int) -> Action:
        def run(progress, should_stop) -> Outcome:
            before = self.versions.current
            for done in range(amount):
                self.gate.passes("add")
                if should_stop():
                    raise Cancelled
                self.host.number += 1
                progress(done + 1, amount)
            self.versions.add(before.then(Addition(f"+{amount}"), self.host.number))
            return Outcome(f"Added {amount}.")

        return Action("Add", run, task=f"Adding {amount}")

    def look(self) -> Action:
        def run(progress, should_stop) -> Outcome:
            self.threads.append(threading.current_thread().name)
            for _ in range(2):
                self.gate.passes("look")
                if should_stop():
                    raise Cancelled
            self.looks.append(self.host.number)
            return Outcome(f"It is {self.host.number}.")

        return Action("Look", run, task="Looking", changes_scene=False, during_training=True, kind="look")

    def fail(self, error: BaseException) -> Action:
        def run(progress, should_stop) -> None:
            self.host.number = -100
            raise error

        return Action("Fail", run)


@pytest.fixture
def numbers():
    numbers = Numbers()
    numbers.queue.start()
    yield numbers
    numbers.gate.abandon()
    numbers.queue.close()


def test_a_number_is_a_scene_with_a_past_and_no_splats():
    host = NumberHost()
    assert isinstance(host, Host) and isinstance(host, HasEdits)
    assert not isinstance(host, HasSplats) and not isinstance(host, EditHost)


def test_actions_are_carried_out_in_order(numbers):
    numbers.gate.holds = {"add"}
    numbers.queue.ask(numbers.add(2))
    numbers.gate.wait()
    assert numbers.queue.state.task == "Adding 2" and not numbers.queue.idle
    numbers.queue.ask(numbers.add(3))
    assert numbers.queue.state.waiting == 1
    numbers.gate.open()
    numbers.watcher.until(lambda state: state.message == "Added 3.")
    assert numbers.host.number == 5 and numbers.versions.labels == ("+2", "+3")
    assert {state.progress for state in numbers.watcher.states} >= {0.5, 1.0, 1 / 3}
    assert numbers.queue.state.task == "" and numbers.queue.state.progress == 0.0


def test_stop_midway_restores_the_snapshot(numbers):
    shown = []
    numbers.host.number = 7
    numbers.host.rerender = lambda: shown.append(numbers.host.number)
    numbers.gate.holds = {"add"}
    numbers.queue.ask(numbers.add(3))
    numbers.gate.wait()
    numbers.gate.let_go()
    numbers.gate.wait()
    assert numbers.host.number == 8, "midway"
    numbers.queue.ask(numbers.add(1))
    numbers.queue.stop()
    assert numbers.queue.state.message == "Stopping ..." and numbers.queue.state.waiting == 0
    numbers.gate.open()
    numbers.watcher.until(lambda state: state.message == "Add stopped; the scene is as before.")
    assert numbers.host.number == 7 and shown == [7] and numbers.versions.labels == ()
    numbers.queue.ask(numbers.add(1))
    numbers.watcher.until(lambda state: state.message == "Added 1.")
    assert numbers.host.number == 8


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("no such\nnumber; give another"), "no such number; give another"),
        (KeyError("x"), "Fail failed; see the terminal. KeyError: 'x'"),
        (ValueError(), "Fail failed; see the terminal. ValueError: ValueError"),
    ],
)
def test_whatever_goes_wrong_is_one_line_and_the_scene_as_before(numbers, error, line, capsys):
    numbers.queue.ask(numbers.fail(error))
    numbers.watcher.until(lambda state: state.error == line)
    assert numbers.host.number == 0
    assert ("Traceback" in capsys.readouterr().err) == (not isinstance(error, InputError))
    numbers.queue.ask(numbers.look())
    assert numbers.queue.state.error == "" or numbers.looks


def test_an_action_that_cannot_be_made_is_one_line_at_once(numbers):
    def make() -> Action:
        raise InputError("three is\ntoo many")

    numbers.queue.ask(make)
    assert numbers.queue.state.error == "three is too many" and numbers.queue.idle


def test_only_what_changes_the_scene_and_takes_time_copies_it(numbers):
    numbers.queue.ask(numbers.look())
    numbers.watcher.until_idle()
    assert numbers.host.copies == 0
    numbers.queue.ask(numbers.add(1))
    numbers.watcher.until_idle()
    assert numbers.host.copies == 2, "once to take it back, once as the first version"
    numbers.queue.ask(numbers.versions.undo())
    numbers.watcher.until_idle()
    assert numbers.host.copies == 2 and numbers.host.number == 0


def test_what_takes_no_time_does_not_wait_for_what_changes_nothing(numbers):
    numbers.queue.ask(numbers.add(2))
    numbers.watcher.until_idle()
    numbers.gate.holds = {"look"}
    numbers.queue.ask(numbers.look())
    numbers.gate.wait()
    numbers.queue.ask(numbers.versions.undo)
    numbers.gate.let_go()
    numbers.gate.wait()
    assert numbers.host.number == 0 and numbers.queue.state.task == "Looking"
    numbers.queue.ask(numbers.versions.undo)
    numbers.gate.open()
    numbers.watcher.until(lambda state: state.message == "It is 0.")
    assert numbers.queue.state.error == "there is nothing to undo", "a fault of it does not end what it interrupted"


def test_what_takes_no_time_waits_for_what_changes_the_scene(numbers):
    numbers.queue.ask(numbers.add(1))
    numbers.watcher.until_idle()
    numbers.gate.holds = {"add"}
    numbers.queue.ask(numbers.add(2))
    numbers.gate.wait()
    numbers.queue.ask(numbers.versions.undo)
    numbers.gate.let_go()
    numbers.gate.wait()
    assert numbers.host.number == 2 and numbers.queue.state.waiting == 1
    numbers.gate.open()
    numbers.watcher.until(lambda state: state.message.startswith("Undid '+2'"))
    assert numbers.host.number == 1


def test_the_newest_of_a_kind_takes_the_place_of_the_others(numbers):
    numbers.gate.holds = {"look"}
    numbers.queue.ask(numbers.look())
    numbers.gate.wait()
    numbers.queue.ask(numbers.add(1))
    for _ in range(3):
        numbers.queue.ask(numbers.look())
    assert numbers.queue.state.waiting == 2
    numbers.gate.open()
    numbers.watcher.until_idle()
    assert numbers.looks == [1], "the first is given up, the last sees what was added before it"
    assert not any("stopped" in state.message for state in numbers.watcher.states)


def test_training_is_served_between_its_steps(numbers):
    training = "training"
    numbers.queue.training = lambda: training
    numbers.queue.ask(numbers.add(1))
    numbers.queue.ask(numbers.look())
    numbers.queue.ask(numbers.versions.undo)
    assert numbers.queue.state.message == "Undo waits until the training is done."
    assert not numbers.queue.ask_when_idle(numbers.look())
    numbers.host.number = 41
    assert numbers.queue.run_pending(limit=5) == 1 and numbers.looks == [41]
    assert numbers.queue.run_pending(limit=5) == 0 and numbers.threads == ["MainThread"]
    training = "paused"
    numbers.queue.ask(numbers.look())
    numbers.watcher.until(lambda state: len(numbers.looks) == 2)
    assert numbers.threads[-1] == "live actions" and numbers.queue.state.waiting == 2
    training = "completed"
    numbers.watcher.until(lambda state: state.message.startswith("Undid"))
    assert numbers.host.number == 41


def test_nothing_that_is_instant_changes_the_scene_during_training(numbers):
    numbers.queue.training = lambda: "training"
    numbers.gate.holds = {"look"}
    numbers.queue.ask(numbers.versions.compare)
    numbers.queue.ask(numbers.look())
    trainer = threading.Thread(target=numbers.queue.run_pending)
    trainer.start()
    numbers.gate.wait()
    numbers.gate.open()
    trainer.join(PATIENCE)
    assert numbers.looks == [0] and numbers.queue.state.waiting == 1 and numbers.queue.state.error == ""


def test_what_changes_the_scene_cannot_be_allowed_during_training():
    with pytest.raises(ValueError, match="cannot run during training"):
        Action("Add", lambda *_: None, during_training=True)


def test_two_threads_that_ask_never_wait_for_a_slow_action(numbers):
    """Nor for the lock of a training."""
    numbers.host.lock = threading.Lock()
    numbers.gate.holds = {"add"}
    numbers.queue.ask(numbers.add(1))
    numbers.gate.wait()
    done = []

    def person() -> None:
        for _ in range(50):
            numbers.queue.ask(numbers.add(1))
            numbers.queue.ask(numbers.look)
            done.append(numbers.queue.state.waiting)

    with numbers.host.lock:
        people = [threading.Thread(target=person) for _ in range(2)]
        for each in people:
            each.start()
        for each in people:
            each.join(PATIENCE)
            assert not each.is_alive()
        assert len(done) == 100 and numbers.host.number == 0 and numbers.looks == []
    numbers.gate.open()
    numbers.watcher.until_idle()
    assert numbers.host.number == 101 and numbers.looks[-1] == 101, "all of them are carried out, one after another"


def test_a_listener_that_fails_harms_nobody_else(numbers, capsys):
    def fail() -> None:
        raise RuntimeError("cannot schedule new futures after shutdown")

    numbers.queue._listeners.insert(0, fail)
    numbers.queue.ask(numbers.add(1))
    numbers.watcher.until(lambda state: state.message == "Added 1.")
    numbers.queue.ask(numbers.look())
    numbers.watcher.until(lambda state: state.message == "It is 1.")
    assert "cannot schedule" in capsys.readouterr().err


def test_a_training_that_shall_end_ends_what_runs_between_two_of_its_steps(numbers):
    numbers.queue.training, numbers.queue.ending = lambda: "training", lambda: True
    numbers.queue.ask(numbers.look())
    assert numbers.queue.run_pending() == 1 and numbers.looks == [] and numbers.queue.idle
    numbers.queue.training = lambda: "completed"
    numbers.queue.ask(numbers.look())
    numbers.watcher.until(lambda state: state.message == "It is 0.")


def test_what_nobody_asked_for_shows_nothing_before_it_is_done(numbers):
    numbers.queue.training = lambda: "training"
    numbers.queue._publish(error="the disk is full")
    before = len(numbers.watcher.states)
    numbers.queue.ask(numbers.look(), quietly=True)
    assert len(numbers.watcher.states) == before and not numbers.queue.idle
    assert numbers.queue.run_pending() == 1 and numbers.looks == [0]


def test_stop_with_nothing_to_stop_and_with_something_that_waits(numbers):
    numbers.queue.stop()
    assert numbers.queue.state.message == "There is nothing to stop."
    numbers.queue.training = lambda: "training"
    numbers.queue.ask(numbers.add(1))
    numbers.queue.stop()
    assert numbers.queue.state.message == "Dropped 1 waiting." and numbers.queue.idle


def test_history_keeps_the_first_version_and_a_bounded_number_of_others():
    history = History(Version(0), limit=2)
    for number in range(1, 6):
        history.push(history.current.then(Addition("+1"), number))
    assert history.current.snapshot == 5 and history.current.labels == ("+1",) * 5
    assert history.undo().snapshot == 4 and history.undo().snapshot == 0, "the scene as it was found is never lost"
    with pytest.raises(InputError, match="nothing to undo"):
        history.undo()
    assert history.redo().snapshot == 4 and history.first.edits == ()
