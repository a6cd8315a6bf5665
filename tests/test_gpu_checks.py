"""The checks of tests/gpu on a CPU: they run, they find what differs, and a bad step costs the others nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "gpu"))

import gpu_checks as checks
import gpu_steps
import run

from invert3d_ns.guidance.configs import GUIDANCE_CONFIGS
from invert3d_ns.prior.storage import save_prior
from invert3d_ns.scenes.rasterization import kernel_available, rasterization

needs_kernel = pytest.mark.skipif(not kernel_available(), reason="the kernel was not built")


@pytest.fixture(scope="module")
def prior(tmp_path_factory, tiny_v_prior) -> Path:
    folder = tmp_path_factory.mktemp("prior")
    save_prior(tiny_v_prior, folder, dtype=torch.float32)
    return folder


@needs_kernel
@pytest.mark.parametrize("case", [checks.CASES[0], checks.Case("antialiased", 3, 3, "RGB+ED", False)], ids=str)
def test_rasterizers_that_agree(case):
    errors = checks.check_rasterization(case, "torch", "cpu")
    assert len(errors) == 8 - case.packed and max(errors.values()) < 1e-4


@needs_kernel
def test_rasterizers_that_differ(monkeypatch):
    def other(**arguments):
        blur = 0.4 if arguments["backend"] == "torch" else 0.3
        return rasterization(**arguments, eps2d=blur)

    monkeypatch.setattr("invert3d_ns.scenes.rasterization.rasterization", other)
    with pytest.raises(AssertionError, match=r"image is .*above"):
        checks.check_rasterization(checks.CASES[0], "torch", "cpu")


def test_every_way_to_draw_is_a_case():
    assert len(set(map(str, checks.CASES))) == len(checks.CASES) == 56


def test_words_on_two_devices(prior, monkeypatch):
    assert checks.check_words("cpu", prior, steps=2) == {"loss": 0.0, "gradient": 0.0, "change": 0.0}
    loads = []

    def damaged(path, device):
        loads.append(load(path, device))
        if len(loads) == 2:
            with torch.no_grad():
                loads[1].unet.conv_out.weight.mul_(1.01)
        return loads[-1]

    load = checks.load
    monkeypatch.setattr(checks, "load", damaged)
    with pytest.raises(AssertionError, match=r"loss is .*gradient is"):
        checks.check_words("cpu", prior, steps=1)


def test_an_edit_on_two_devices(prior):
    figures = checks.check_edit("cpu", prior, fit_steps=1)
    assert len(figures) == 3 and min(figures.values()) > 100


def test_nan_is_not_agreement():
    with pytest.raises(AssertionError, match="nan"):
        checks.at_most({"loss": float("nan")}, {"loss": 1.0})


# The runner


class Played:
    """A step that takes some time and ends as it is told."""

    def __init__(self, step: run.Step, beside_build: bool, seconds: float, status: str) -> None:
        self.step, self.beside_build, self.status = step, beside_build, status
        self.started, self.ends = time.monotonic(), time.monotonic() + seconds
        self.stopped = False

    @property
    def running(self) -> bool:
        return time.monotonic() < self.ends

    def wait(self, seconds: float) -> run.Result:
        time.sleep(max(0.0, min(seconds, self.ends - time.monotonic())))
        self.stopped = True
        return run.Result(self.step.name, "failed" if self.running else self.status, beside_build=self.beside_build)

    def stop(self) -> None:
        self.stopped = True


def play(outcomes: dict[str, tuple[float, str]], steps: list[run.Step], seconds: float = 60.0, **options):
    results = run.run_steps(steps, lambda step, beside: Played(step, beside, *outcomes[step.name]), seconds, **options)  # type: ignore[arg-type, return-value]
    return {result.name: result for result in results}


def step(name: str, *, expected: float = 0.1, limit: float = 1.0, needs_gsplat: bool = False) -> run.Step:
    return run.Step(name, lambda folder, rehearse: {}, expected, limit, needs_gsplat)


GPU_STEPS = [step("words"), step(run.BUILD), step("gsplat", needs_gsplat=True), step("train")]


def test_steps_run_while_gsplat_is_built_and_a_failure_costs_the_others_nothing():
    outcomes = {"words": (0.0, "failed"), run.BUILD: (0.3, "ok"), "gsplat": (0.0, "ok"), "train": (0.0, "ok")}
    results = play(outcomes, GPU_STEPS)
    assert list(results) == ["words", "train", run.BUILD, "gsplat"]
    assert [result.status for result in results.values()] == ["failed", "ok", "ok", "ok"]
    assert results["train"].beside_build and not results["gsplat"].beside_build


def test_without_gsplat_only_what_needs_it_is_skipped():
    outcomes = {"words": (0.0, "ok"), run.BUILD: (0.0, "failed"), "train": (0.0, "ok")}
    results = play(outcomes, GPU_STEPS)
    assert (results["gsplat"].status, results["gsplat"].reason) == ("skipped", "gsplat was not built")
    assert results["train"].status == "ok"


def test_what_no_longer_fits_is_skipped_and_says_so():
    results = play({"long": (0.3, "ok"), "short": (0.0, "ok")}, [step("long"), step("short", expected=0.4)], 0.5)
    assert results["long"].status == "ok" and results["short"].status == "skipped"
    assert "were left" in results["short"].reason


def test_a_step_that_hangs_is_killed_with_what_it_started(tmp_path, monkeypatch):
    late, popen = tmp_path / "late", subprocess.Popen
    hang = ["sh", "-c", f"(sleep 1; touch {late}) & wait"]
    monkeypatch.setattr(run.subprocess, "Popen", lambda words, **options: popen(hang, **options))
    result = run.Child(step("hangs"), tmp_path, tmp_path / "log.txt", rehearse=True).wait(0.3)
    assert result.status == "failed" and result.reason.startswith("not done after")
    time.sleep(1.0)
    assert not late.exists()


def test_steps_leave_figures_or_the_reason_why_there_are_none(tmp_path, monkeypatch):
    def fails(folder, rehearse):
        raise AssertionError("3 cases\ndiffer")

    steps = [run.Step("works", lambda folder, rehearse: {"a": 1}, 1, 1), run.Step("fails", fails, 1, 1)]
    monkeypatch.setattr(run, "STEPS", steps)
    assert run._do("works", tmp_path, True) == 0 and run._do("fails", tmp_path, True) == 1
    assert json.loads((tmp_path / "works.json").read_text()) == {"figures": {"a": 1}}
    assert json.loads((tmp_path / "fails.json").read_text()) == {"error": "3 cases differ"}


def test_the_rehearsal_writes_figures_and_ends_well(tmp_path):
    script = Path(run.__file__)
    words = [sys.executable, str(script), "--rehearse", "--only", "gsplat", "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((tmp_path / "figures.json").read_text())
    assert [(s["name"], s["status"]) for s in document["steps"]] == [
        ("machine", "ok"),
        ("build", "skipped"),
        ("gsplat", "skipped"),
    ]
    assert "torch" in document["machine"]["versions"] and document["rehearsal"]
    assert "a CPU cannot do it" in done.stdout and (tmp_path / "log.txt").is_file()


def test_a_step_of_guidance_leaves_seconds_and_memory(tmp_path):
    rows = {row["guidance"]: row for row in gpu_steps.guidance(tmp_path, True)["rows"]}
    assert set(GUIDANCE_CONFIGS) < set(rows) and "guidance" in {step.name for step in run.STEPS}
    assert all(rows[kind]["seconds"] > 0 and rows[kind]["GB"] > 0 for kind in GUIDANCE_CONFIGS)


def test_the_whole_fits_into_nine_minutes():
    assert run.SECONDS <= 540 and sum(step.expected for step in run.STEPS if step.name != "bench-compile") < run.SECONDS


def test_speed_is_that_of_the_second_half():
    assert gpu_steps.views_a_second([(0.0, 50), (10.0, 100), (11.0, 150), (12.0, 200)], images=8) == 400.0
    with pytest.raises(AssertionError, match="fewer than two"):
        gpu_steps.training_speed(["--help"], 8, 1.0)
