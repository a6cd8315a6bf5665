"""A program that ends keeps the edits that are in no run, and says where."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from live_stage import Stage

from invert3d_ns.live import leaving

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


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 0)])
def test_signals_keep_what_is_in_no_run(tmp_path: Path, number: signal.Signals, status: int) -> None:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(int(number))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    assert done.stdout.splitlines()[-1] == f"  ns-viewer --load-config {tmp_path / 'saved-1' / 'config.yml'}"
    assert "Your unsaved edits are a run now" in done.stdout


def test_a_training_is_interrupted_as_ever(tmp_path: Path, monkeypatch) -> None:
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(leaving.signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(leaving.atexit, "register", lambda *given: None)
    stage = Stage(tmp_path)
    leaving.keep_when_the_program_ends(stage.actions)
    stage.queue.training = lambda: "training"
    with pytest.raises(KeyboardInterrupt):
        handlers[signal.SIGINT](signal.SIGINT, None)
    stage.close()
