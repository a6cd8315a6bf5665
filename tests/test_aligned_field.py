"""``ns-train a3d-nerf``: aligned objects in one radiance field, end to end with a tiny prior."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from aligned_configs import PROMPTS, STEPS, configured
from pretend_cuda import pretend_cuda
from runs import go_on, train
from synthetic import make_cloud
from text_configs import checkpoint

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.scenes.runs import read_run_objects

SMALL: dict[str, Any] = {
    "pipeline__model__nerf__samples": 8,
    "pipeline__model__nerf__field__plane_resolution": 8,
    "pipeline__model__nerf__field__grid_resolution": 4,
    "pipeline__field__splats": 30,
    "pipeline__field__splat_steps": 3,
}


def _configured(prior: Path, output_dir: Path, **options: Any):
    return configured(prior, output_dir, "a3d_nerf", **{**SMALL, **options})


@pytest.fixture(scope="module")
def finished(stored_prior: Path, tmp_path_factory) -> Path:
    """A whole run. Read-only."""
    return train(_configured(stored_prior, tmp_path_factory.mktemp("outputs")))


def _field(folder: Path) -> dict[str, torch.Tensor]:
    state = checkpoint(folder)["pipeline"]
    return {name: value for name, value in state.items() if "nerf.field" in name and isinstance(value, torch.Tensor)}


def test_a_run_leaves_the_field_and_splats_of_every_object(finished: Path) -> None:
    figures = json.loads((finished / "metrics.json").read_text())
    assert figures["steps"] == {"start": 1, "distill": STEPS, "reconstruct": 1, "splats": 1, "report": 0}
    assert len(read_run_objects(finished)) == 2 and figures["splats"] == 30 and figures["prompts"] == list(PROMPTS)
    assert _field(finished) and all(bool(value.isfinite().all()) for value in _field(finished).values())
    assert len(list((finished / "objects").iterdir())) == 2


def test_every_phase_trains_the_field(stored_prior: Path, tmp_path: Path) -> None:
    found = []
    for steps, fit in ((0, 0), (STEPS, 0), (STEPS, 1)):
        options: dict[str, Any] = {"pipeline__steps": steps, "pipeline__reconstruct__steps": fit}
        found.append(_field(train(_configured(stored_prior, tmp_path / f"{steps}-{fit}", **options))))
    for before, after in ((0, 1), (1, 2)):
        assert any(not torch.equal(found[before][name], found[after][name]) for name in found[before])


@pytest.mark.parametrize(
    "options",
    [
        {"prompts": ("a red cube",)},
        {"prompts": ("a red cube", "a blue ball", "a green cone")},
        {"pipeline__field__shade_from": 0.25, "pipeline__field__orientation": 10.0,
         "pipeline__field__smooth_normals": 10.0},
        {"pipeline__start__kind": "blob"},
    ],
)  # fmt: skip
def test_other_ways_of_running(options: dict[str, Any], stored_prior: Path, tmp_path: Path) -> None:
    config = _configured(stored_prior, tmp_path, **options)
    folder = train(config)
    assert len(read_run_objects(folder)) == len(config.prompts)
    assert all(bool(value.isfinite().all()) for value in _field(folder).values())


@pytest.mark.parametrize("limit", [3, STEPS + 1])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(limit: int, stored_prior: Path, tmp_path: Path) -> None:
    unbroken = train(_configured(stored_prior, tmp_path / "whole"))
    part = _configured(stored_prior, tmp_path / "part")
    part.max_num_iterations = limit
    stopped = train(part)
    assert checkpoint(stopped)["step"] == limit - 1
    go_on(stopped)
    one, other = _field(unbroken), _field(stopped)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0)


def test_a_run_on_a_pretended_gpu(stored_prior: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "machine__device_type": "cuda",
        "pipeline__prior_options__precision": "fp32",
        "pipeline__model__nerf__field__encoding": "planes",
    }
    with pretend_cuda():
        config = _configured(stored_prior, tmp_path, **options)
        config.max_num_iterations = 3
        go_on(train(config))
    assert (config.get_base_dir() / "metrics.json").exists()


def test_a_given_object_is_held_by_its_renders(stored_prior: Path, tmp_path: Path) -> None:
    write_splats(tmp_path / "ball.ply", make_cloud(30))
    config = _configured(stored_prior, tmp_path / "outputs", pipeline__edge=0.2)
    config.data = config.pipeline.datamanager.data = tmp_path / "ball.ply"
    assert len(read_run_objects(train(config))) == 2


def test_a_given_object_needs_another_prompt(stored_prior: Path, tmp_path: Path) -> None:
    write_splats(tmp_path / "ball.ply", make_cloud(30))
    config = _configured(stored_prior, tmp_path / "outputs", prompts=("a red cube",))
    config.data = config.pipeline.datamanager.data = tmp_path / "ball.ply"
    with pytest.raises(InputError, match="no prompt says what the second shall be"):
        train(config)
