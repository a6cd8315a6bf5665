"""Which checkpoint a run begins from: its own, a named one, or a named step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from invert3d_ns.base.errors import InputError
from invert3d_ns.runs.checkpoints import checkpoint_path, find_checkpoint


def folder_of(path: Path, *steps: int) -> Path:
    path.mkdir(parents=True)
    for step in steps:
        checkpoint_path(path, step).touch()
    return path


def config(**given: Any) -> Any:
    return SimpleNamespace(**{"load_checkpoint": None, "load_dir": None, "load_step": None, "_folder": None} | given)


def test_a_step_of_the_run_itself(tmp_path: Path) -> None:
    own = folder_of(tmp_path / "run", 199, 399)
    for load_dir in (None, own, tmp_path / "run" / ".." / "run"):
        assert find_checkpoint(config(load_dir=load_dir), own) == checkpoint_path(own, 399)
        found = find_checkpoint(config(load_dir=load_dir, load_step=199), own)
        assert found is not None and found.resolve() == checkpoint_path(own, 199).resolve()
        with pytest.raises(InputError, match=r"no checkpoint of step 200 .*; there are \[199, 399\]"):
            find_checkpoint(config(load_dir=load_dir, load_step=200), own)
        # What its config.yml names is what it began from.
        resumed = config(load_dir=load_dir, load_step=199, _folder=str(tmp_path))
        assert find_checkpoint(resumed, own) == checkpoint_path(own, 399)


def test_a_step_of_another_run(tmp_path: Path) -> None:
    other, own = folder_of(tmp_path / "other", 5, 9), tmp_path / "run"
    assert find_checkpoint(config(load_dir=other, load_step=5), own) == checkpoint_path(other, 5)
    folder_of(own, 7)
    assert find_checkpoint(config(load_dir=other), own) == checkpoint_path(own, 7)
    for named in ({"load_dir": other}, {"load_checkpoint": checkpoint_path(other, 5)}):
        with pytest.raises(InputError, match=r"has checkpoints of its own, .* leave --load-step out"):
            find_checkpoint(config(load_step=5, **named), own)
        assert find_checkpoint(config(load_step=5, _folder="run", **named), own) == checkpoint_path(own, 7)
