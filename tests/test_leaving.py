"""A program that ends keeps the edits that are in no run, and says where."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from live_stage import Actions, SplatHost, Stage

from invert3d_ns.live import leaving
from invert3d_ns.live.queue import ActionQueue

PROGRAM = """
import signal, sys, threading
from pathlib import Path
from live_stage import BLUE, STYLE, Stage
from invert3d_ns.live.leaving import keep_when_the_program_ends

stage = Stage(Path(sys.argv[1]))
keep_when_the_program_ends(stage.actions)
stage.apply(BLUE)
stage.until_labels("red -> blue")
stage.gate.holds = {"prepare"}
stage.apply(STYLE)
stage.gate.wait()
threading.Timer(0.1, stage.gate.open).start()  # the edit at hand gives up at its next step
signal.raise_signal(int(sys.argv[2]))
"""


SAVING = """
save = stage.host.save_run

def save_run(*given, **named):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.raise_signal(number)  # whoever is impatient
    return save(*given, **named)

stage.host.save_run = save_run
"""


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 0), (signal.SIGHUP, 128 + signal.SIGHUP)],
)
def test_signals_keep_what_is_in_no_run(tmp_path: Path, number: signal.Signals, status: int) -> None:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    program = PROGRAM.replace("stage.apply(BLUE)", f"{SAVING}stage.apply(BLUE)")
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(int(number))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    assert done.stdout.splitlines()[-1] == f"  ns-viewer --load-config {tmp_path / 'saved-1' / 'config.yml'}"
    assert "Your unsaved edits are a run now" in done.stdout


@pytest.fixture
def handlers(monkeypatch) -> dict[int, Any]:
    """What signals call, of a process that began without its terminal."""
    handlers: dict[int, Any] = {signal.SIGHUP: signal.SIG_IGN}
    monkeypatch.setattr(leaving.signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(leaving.signal, "getsignal", handlers.get)
    monkeypatch.setattr(leaving, "_hosted", weakref.WeakSet())
    return handlers


@pytest.fixture
def registered(monkeypatch) -> list[Any]:
    registered: list[Any] = []
    monkeypatch.setattr(leaving.atexit, "register", registered.append)
    monkeypatch.setattr(leaving.atexit, "unregister", lambda each: each in registered and registered.remove(each))
    return registered


def test_a_training_is_interrupted_as_ever(tmp_path: Path, handlers, registered) -> None:
    stage = Stage(tmp_path)
    leaving.keep_when_the_program_ends(stage.actions)
    stage.queue.training = lambda: "training"
    with pytest.raises(KeyboardInterrupt):
        handlers[signal.SIGINT](signal.SIGINT, None)
    assert handlers[signal.SIGHUP] is signal.SIG_IGN, "nohup"
    stage.close()


def test_every_scene_that_is_there_is_kept_once(tmp_path: Path, handlers, registered, monkeypatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(leaving, "keep", kept.append)
    host = SplatHost(tmp_path)
    actions = [Actions(host, ActionQueue(host)) for _ in range(3)]
    for each in (*actions, actions[0]):
        leaving.keep_when_the_program_ends(each)
    del each
    gone = weakref.ref(actions.pop())
    gc.collect()
    (end,) = registered
    end()
    assert gone() is None and set(kept) == set(actions) and len(kept) == 2


def test_a_scene_that_keeps_no_runs_leaves_signals_alone(handlers, registered) -> None:
    before = dict(handlers)
    actions: Any = SimpleNamespace(host=object())
    leaving.keep_when_the_program_ends(actions)
    assert handlers == before and not registered
