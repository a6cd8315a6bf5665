"""Every stage, stopped in the middle or killed, ends with the same bits as one that was never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kill_training import kill_and_go_on
from tiny_training import STAGES, STEPS, assert_same_bits, checkpoint_of, train_stage

from invert3d_ns.training import loop

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("material")


class Unbroken(dict):
    """Checkpoints of stages that were trained in one go, made when first asked for."""

    def __init__(self, material: Path, folder: Path) -> None:
        self.material, self.folder = material, folder

    def __missing__(self, name: str) -> dict:
        train_stage(name, self.material, self.folder / name)
        self[name] = checkpoint_of(name, self.folder / name)
        return self[name]


@pytest.fixture(scope="module")
def unbroken(small_networks, material: Path, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    return Unbroken(material, tmp_path_factory.mktemp("unbroken"))


@pytest.mark.parametrize("name", STAGES)
def test_a_stopped_stage_goes_on_to_the_same_bits(
    name: str, material: Path, unbroken: Unbroken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = unbroken[name]
    assert whole["done"] == STEPS and len(whole["optimizers"]) == 2  # AdamW and Muon
    # Whatever else is drawn in this process in between changes nothing.
    torch.manual_seed(1)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_EVERY", 2)
        rate = loop.warmup_stable_decay

        def stop(step: int, *arguments: Any, **options: Any) -> float:
            if step == 5:
                raise KeyboardInterrupt
            return rate(step, *arguments, **options)

        patch.setattr(loop, "warmup_stable_decay", stop)
        with pytest.raises(KeyboardInterrupt):
            train_stage(name, material, tmp_path)
    # The step after the last checkpoint is done twice.
    assert checkpoint_of(name, tmp_path)["done"] == 4
    torch.manual_seed(2)
    train_stage(name, material, tmp_path)
    assert_same_bits(checkpoint_of(name, tmp_path), whole)


def test_a_killed_training_goes_on_to_the_same_bits(material: Path, unbroken: Unbroken, tmp_path: Path) -> None:
    whole = unbroken["denoiser"]
    kill_and_go_on("denoiser", material, tmp_path, [9])
    assert_same_bits(checkpoint_of("denoiser", tmp_path), whole)
    assert not list(tmp_path.glob(".*"))
