"""A run that is killed with signal 9 in each of its phases ends as an unbroken one, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("kill_and_resume.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_kill_9_in_every_phase_of_one_run_changes_nothing():
    steps = [9, 30, 50]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--at", *map(str, steps)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "killed in splats, words, edit: equal" in done.stdout
