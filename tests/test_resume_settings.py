"""Settings that a resumed run must share: which they are, how they are compared, and what checkpoints can hold."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.scene_edit_config import SceneEditConfig
from invert3d_ns.runs.resume import flags_of, refuse_other_settings, require_plain

WHERE = Path("step-000000004.ckpt")


@dataclass
class Inner:
    _target: type = int
    t_max: float = 0.5


@dataclass
class Outer:
    steps: int = 3
    inner: Inner = field(default_factory=Inner)


def test_settings_are_called_by_their_flags_and_classes_are_none() -> None:
    assert flags_of(Outer(), "--pipeline.edit") == {"--pipeline.edit.steps": 3, "--pipeline.edit.inner.t-max": 0.5}
    flags = flags_of(SceneEditConfig(), "--pipeline.edit")
    assert "--pipeline.edit.sds.t-max" in flags and "--pipeline.edit.fit-steps" in flags
    file = io.BytesIO()
    torch.save(require_plain({"edit": flags}), file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == {"edit": flags}


@pytest.mark.parametrize("value", [int, Path("x"), object(), {"a": [torch.zeros(1)]}, {1: "a"}])
def test_what_would_make_a_checkpoint_unreadable_is_found_when_it_is_written(value: Any) -> None:
    with pytest.raises(TypeError, match="setting --x of phase 'edit'"):
        require_plain({"edit": {"--x": value}})


def test_equal_settings_pass_whatever_lists_are_made_of() -> None:
    saved = {"run": {"--machine.seed": 1}, "words": {"--range": [0.5, 1.0], "--edits": [{"box": [1, 2]}]}}
    now = {"run": {"--machine.seed": 1}, "words": {"--range": (0.5, 1.0), "--edits": [{"box": [1, 2]}]}, "edit": {}}
    refuse_other_settings(saved, now, WHERE)


def test_every_setting_that_differs_is_named_with_both_values() -> None:
    with pytest.raises(InputError) as caught:
        refuse_other_settings(
            {"words": {"--lr": 0.1, "--n": 3, "--x": 1}}, {"words": {"--lr": None, "--n": 4, "--x": 1}}, WHERE
        )
    text = str(caught.value)
    assert (
        "--lr was 0.1 and is now not given; --n was 3 and is now 4" in text and "--x" not in text and "\n" not in text
    )


def test_a_phase_that_the_run_has_no_more_is_named() -> None:
    with pytest.raises(InputError, match="with a phase 'edit', which this run has not"):
        refuse_other_settings({"edit": {}}, {"words": {}}, WHERE)
