"""The loop that every stage trains in: averages, learning rate, checkpoints that stay whole, logs."""

from __future__ import annotations

import resource
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from invert3d_ns.base.errors import InputError
from invert3d_ns.training import loop
from invert3d_ns.training.loop import Stage, initial_weights, warmup_stable_decay


def _loss(model: nn.Module):
    def loss(step: int) -> dict[str, torch.Tensor]:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        value = (model(x)[:, 0] - x @ torch.arange(3.0)).square().mean()
        return {"loss": value, "step": torch.tensor(float(step))}

    return loss


def _stage(folder: Path, steps: int = 8, **options: Any) -> Stage:
    with initial_weights(0):
        model = nn.Linear(3, 1)
    return Stage("s", folder, model, steps, 1e-2, {"--seed": 0, "--start": None}, log_every=3, **options)


def test_averaged_weights_come_and_go(tmp_path: Path) -> None:
    stage = _stage(tmp_path, 4)
    seen: list[torch.Tensor] = []
    stage.sample = lambda model, step: seen.append(torch.clone(stage.model.get_parameter("weight").detach()))
    stage.sample_every = 4
    stage.train(_loss(stage.model))
    weight = stage.model.get_parameter("weight")
    assert len(seen) == 1 and not torch.equal(seen[0], weight)
    stage.use_average()
    torch.testing.assert_close(weight.detach(), seen[0])


def test_learning_rate_rises_stays_and_falls() -> None:
    values = [warmup_stable_decay(step, 1000) for step in range(1000)]
    assert values[0] == pytest.approx(0.01) and values[99] == values[500] == 1.0
    assert values[-1] < 0.03 and all(a >= b for a, b in pairwise(values[650:]))


def test_logs_are_means_since_the_one_before(tmp_path: Path) -> None:
    stage = _stage(tmp_path, 7)
    stage.train(_loss(stage.model))
    assert [(line["step"], line["step"]) for line in stage.history] == [(1.0, 1.0), (4.0, 4.0)]
    # What was not shown yet is kept for the rest of a training that goes on.
    more = _stage(tmp_path, 9)
    more.train(_loss(more.model))
    assert [line["step"] for line in more.history] == [1.0, 4.0, 7.0]


def test_layers_that_draw_for_themselves_draw_the_same_after_a_resume_and_disturb_nobody(tmp_path: Path) -> None:
    def drawn(stage: Stage) -> list[float]:
        seen: list[float] = []

        def loss(step: int) -> dict[str, torch.Tensor]:
            seen.append(float(torch.rand(())))
            return _loss(stage.model)(step)

        stage.train(loss)
        return seen

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    whole = drawn(_stage(tmp_path / "whole"))
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert len(set(whole)) == 8
    parts = drawn(_stage(tmp_path / "parts", 3)) + drawn(_stage(tmp_path / "parts"))
    assert parts == whole
    assert drawn(_stage(tmp_path / "other", seed=1)) != whole


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 2)
    stage = _stage(tmp_path, 2)
    stage.train(_loss(stage.model))
    before = (tmp_path / "s.pt").read_bytes()
    stage = _stage(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system's own refusal to make a file longer stands for a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*s\.pt") as caught:
            stage.train(_loss(stage.model))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["s.pt"] and (tmp_path / "s.pt").read_bytes() == before
    again = _stage(tmp_path)
    assert again.done == 2
    again.train(_loss(again.model))
    whole = _stage(tmp_path / "whole")
    whole.train(_loss(whole.model))
    torch.testing.assert_close(again.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


def test_a_training_that_came_to_nothing_says_so_and_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 4)
    stage = _stage(tmp_path)

    def loss(step: int) -> dict[str, torch.Tensor]:
        values = _loss(stage.model)(step)
        return values | {"loss": values["loss"] * (torch.nan if step == 6 else 1)}

    with pytest.raises(InputError, match=r"loss is not finite any more.*lower learning rate"):
        stage.train(loss)
    assert _stage(tmp_path).done == 4 and _stage(tmp_path).model.get_parameter("weight").isfinite().all()


def test_nothing_is_written_where_nothing_was_trained(tmp_path: Path) -> None:
    stage = _stage(tmp_path)
    stage.train(_loss(stage.model))
    written = (tmp_path / "s.pt").stat().st_mtime_ns
    again = _stage(tmp_path)
    again.train(_loss(again.model))
    assert (tmp_path / "s.pt").stat().st_mtime_ns == written


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    stale, other = tmp_path / ".s.pt.abc", tmp_path / ".t.pt.abc"
    for folder in (stale, other):
        folder.mkdir()
        (folder / "s.pt").write_bytes(b"half")
    stage = _stage(tmp_path)
    stage.train(_loss(stage.model))
    assert not stale.exists() and other.exists()


@pytest.mark.parametrize("damage", ["cut", "text", "older", "another network"])
def test_a_checkpoint_that_cannot_be_gone_on_with_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    stage, path = _stage(tmp_path), tmp_path / "s.pt"
    stage.train(_loss(stage.model))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("no checkpoint")
    else:
        state = torch.load(path, weights_only=True)
        if damage == "older":
            del state["settings"]
        else:
            state["model"]["weight"] = torch.zeros(2, 2)
        torch.save(state, path)
    kept = path.read_bytes()
    with pytest.raises(InputError, match=r"s\.pt is (damaged|of another network).*--out") as caught:
        _stage(tmp_path)
    assert "\n" not in str(caught.value) and path.read_bytes() == kept


def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    stage = _stage(tmp_path)
    stage.train(_loss(stage.model))
    stage.settings = {"--seed": 0, "--start": "1234abcd"}
    with pytest.raises(InputError, match=r"--start was not given and is now 1234abcd; resume with") as caught:
        Stage("s", tmp_path, stage.model, 8, 1e-2, stage.settings)
    assert "--seed" not in str(caught.value)
    # Weights that are only read are compared with nothing.
    assert Stage("s", tmp_path, stage.model, 0, 0.0).done == 8
