from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from nerfstudio.utils import install_checks

from invert3d_ns import compat


def test_checkpoints_with_numpy_scalars_load_without_running_pickles():
    compat.install_remedies()
    buffer = io.BytesIO()
    torch.save({"lr": np.float64(0.5), "step": np.int64(3), "t": torch.ones(2)}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer)
    assert loaded["lr"] == 0.5 and loaded["step"] == 3


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


def test_the_protection_of_torch_load_stays_on():
    compat.install_remedies()
    buffer = io.BytesIO()
    torch.save({"x": Evil()}, buffer)
    buffer.seek(0)
    with pytest.raises(Exception, match=r"[Ww]eights"):
        torch.load(buffer)


def test_nerfstudio_finds_an_ffmpeg_that_runs(monkeypatch):
    compat.install_remedies()
    monkeypatch.setenv("PATH", "")
    install_checks.check_ffmpeg_installed()
    found = shutil.which("ffmpeg")
    assert found is not None
    assert b"ffmpeg version" in subprocess.run([found, "-version"], capture_output=True, check=True).stdout


def test_an_ffmpeg_of_the_users_own_is_left_alone(monkeypatch, tmp_path):
    own = tmp_path / "ffmpeg"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    compat.provide_ffmpeg()
    assert os.environ["PATH"] == str(tmp_path) and shutil.which("ffmpeg") == str(own)


def test_applying_twice_changes_nothing():
    compat.install_remedies()
    check = install_checks.check_ffmpeg_installed
    compat.install_remedies()
    assert install_checks.check_ffmpeg_installed is check


def test_the_remedies_import_nothing_heavy():
    code = (
        "import sys, torch, nerfstudio.utils.install_checks\n"
        "before = set(sys.modules)\n"
        "from invert3d_ns import compat; compat.install_remedies()\n"
        "print(sorted(m for m in set(sys.modules) - before if '.' not in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(eval(done.stdout)) <= {"invert3d_ns"}
