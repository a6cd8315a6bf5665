"""The steps of run.py: what each finds out, how long it may take, and what it is worth."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_checks as checks

BUILD = "build"


@dataclass
class Step:
    """One thing to find out."""

    name: str
    work: Callable[[Path, bool], dict[str, Any]]
    """From a folder to write to, and whether this is a rehearsal on a CPU, to figures."""
    expected: float
    """Seconds that it should take; with less left it is not begun."""
    limit: float
    """Seconds after which it is killed."""
    needs_gsplat: bool = False
    rehearsed: bool = True
    """Whether a CPU can do it."""


def machine(folder: Path, rehearse: bool) -> dict[str, Any]:
    """The card, the driver and the versions; builds the package's own C libraries if they are not there."""
    import torch

    figures: dict[str, Any] = {}
    libraries = ("scenes/rasterization/_kernel", "world/_sdf")
    if not all(list((checks.ROOT / "invert3d_ns").glob(f"{name}*.so")) for name in libraries):
        words = [sys.executable, "setup.py", "build_ext", "--inplace", "--build-temp", str(folder)]
        subprocess.run(words, cwd=checks.ROOT, check=True)
        figures["C libraries"] = "built"
    from invert3d_ns.base.provenance import provenance

    figures |= provenance("cpu" if rehearse else "cuda")
    figures["CUDA"] = torch.version.cuda
    if not rehearse:
        card = torch.cuda.get_device_properties(0)
        figures |= {
            "card": card.name,
            "memory, GB": round(card.total_memory / 1e9, 1),
            "compute capability": f"{card.major}.{card.minor}",
            "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "nvcc": (_output("nvcc", "--version").splitlines() or [""])[-1],
        }
    return figures


def build(folder: Path, rehearse: bool) -> dict[str, Any]:
    """gsplat's extension, compiled for this card (and kept in torch's cache of extensions)."""
    from gsplat.cuda import _backend

    assert _backend._C is not None, "gsplat found no nvcc, so it has no extension"
    return {name: os.environ[name] for name in ("TORCH_CUDA_ARCH_LIST", "MAX_JOBS") if name in os.environ}


def gsplat(folder: Path, rehearse: bool) -> dict[str, Any]:
    """gsplat against the CPU kernel: the worst relative error of each value and gradient over all cases."""
    worst: dict[str, tuple[float, str]] = {}
    failures = []
    for case in checks.CASES:
        try:
            errors = checks.check_rasterization(case)
        except Exception as error:
            failures.append(f"{case}: {error}")
            print(failures[-1], flush=True)
            continue
        for name, value in errors.items():
            worst[name] = max(worst.get(name, (0.0, "")), (value, str(case)))
    assert not failures, f"{len(failures)} of {len(checks.CASES)} cases: {failures[0]}"
    return {"cases": len(checks.CASES), **{name: f"{value:.2g} ({case})" for name, (value, case) in worst.items()}}


def words(folder: Path, rehearse: bool) -> dict[str, Any]:
    """Steps of the inversion, as on a CPU."""
    return checks.check_words("cpu" if rehearse else "cuda", steps=2 if rehearse else 5)


def edit(folder: Path, rehearse: bool) -> dict[str, Any]:
    """An edit that splats follow, as on a CPU."""
    return checks.check_edit("cpu" if rehearse else "cuda", fit_steps=2 if rehearse else 6)


def demo(folder: Path, rehearse: bool) -> dict[str, Any]:
    """``ns-train invert3d``: seconds of each phase, and the held-out loss beside a CPU's."""
    return checks.check_demo(folder, "cpu" if rehearse else "cuda", quick=rehearse)


def resume(folder: Path, rehearse: bool) -> dict[str, Any]:
    """A splat fit that is stopped and goes on."""
    return checks.check_resume(folder, "cpu" if rehearse else "cuda", quick=rehearse)


def train(folder: Path, rehearse: bool) -> dict[str, Any]:
    """``invert3d train prior`` for half a minute with its default batch: views a second."""
    return _train(folder, rehearse, 32)


def train_wide(folder: Path, rehearse: bool) -> dict[str, Any]:
    """The same with a batch that fills a large GPU."""
    return _train(folder, rehearse, 512)


def _train(folder: Path, rehearse: bool, images: int) -> dict[str, Any]:
    arguments = ["train", "prior", "--start", "bundled", "--stage", "denoiser", "--out", str(folder)]
    if rehearse:
        small = ("--objects", 16, "--images", 4, "--denoiser-steps", 2, "--device", "cpu")
        checks.command("invert3d_ns.cli", *arguments, *small, device="cpu")
        return {}
    arguments += ["--objects", "512", "--images", str(images), "--denoiser-steps", "100000"]
    return {"views in a step": images, "views a second": training_speed(arguments, images, 30.0)}


def training_speed(arguments: Sequence[str], images: int, seconds: float) -> float:
    """Views a second of ``invert3d <arguments>``: of the second half of ``seconds``, from its own log.

    Raises:
        AssertionError: it ended before it had logged its steps twice.
    """
    print("+ invert3d", *arguments, flush=True)
    child = subprocess.Popen(
        [sys.executable, "-m", "invert3d_ns.cli", *arguments],
        env=checks.environment("cuda"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    marks: list[tuple[float, int]] = []
    assert child.stdout is not None
    try:
        for line in child.stdout:
            print(line, end="", flush=True)
            found = re.match(r"denoiser (\d+)/", line)
            if found:
                marks.append((time.monotonic(), int(found[1])))
                if len(marks) > 1 and marks[-1][0] - marks[0][0] > seconds:
                    break
    finally:
        child.kill()
        child.wait()
    assert len(marks) > 1, "the training logged fewer than two times"
    return views_a_second(marks, images)


def views_a_second(marks: Sequence[tuple[float, int]], images: int) -> float:
    """Speed over the second half of (time, steps done): in the first, views are encoded when they are met first."""
    first, last = marks[(len(marks) - 1) // 2], marks[-1]
    return round((last[1] - first[1]) * images / (last[0] - first[0]), 1)


COMPILED = ("compile",)


def bench(folder: Path, rehearse: bool) -> dict[str, Any]:
    """``invert3d bench prior``: time and memory of every option but torch.compile."""
    from invert3d_ns.metrics.bench_prior import VARIANTS

    plain = "fp32" if rehearse else "bf16"  # what "plain" is there
    names = [name for name in VARIANTS if name not in ("plain", plain, *COMPILED)]
    return _bench(folder, rehearse, names[:2] if rehearse else names)


def bench_compile(folder: Path, rehearse: bool) -> dict[str, Any]:
    """The same of torch.compile, which takes a minute or more to begin."""
    return _bench(folder, rehearse, COMPILED)


def _bench(folder: Path, rehearse: bool, names: Sequence[str]) -> dict[str, Any]:
    return _table(folder, rehearse, "prior", "sd1.5", "--options", *names)


def guidance(folder: Path, rehearse: bool) -> dict[str, Any]:
    """``invert3d bench guidance``: seconds and peak memory of a step of each kind at MVDream's size, random weights."""
    return _table(folder, rehearse, "guidance", "sd2.1", "--groups", 1)


def _table(folder: Path, rehearse: bool, what: str, size: str, *options: object) -> dict[str, Any]:
    size, device, runs = ("tiny", "cpu", 1) if rehearse else (size, "cuda", 3)
    checks.command(
        "invert3d_ns.cli", "bench", what, "--size", size, "--device", device, "--runs", runs,
        "--out", folder / "out", *options, device=device,
    )  # fmt: skip
    return {"rows": json.loads((folder / "out" / "table.json").read_text(encoding="utf-8"))["rows"]}


def _output(*words: str) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


STEPS = [
    Step("machine", machine, 15, 60),
    Step(BUILD, build, 0, 330, rehearsed=False),
    Step("words", words, 30, 90),
    Step("gsplat", gsplat, 30, 75, needs_gsplat=True, rehearsed=False),
    Step("edit", edit, 30, 75, needs_gsplat=True),
    Step("demo", demo, 50, 120, needs_gsplat=True),
    Step("resume", resume, 50, 120, needs_gsplat=True),
    Step("train", train, 50, 80),
    Step("guidance", guidance, 50, 120),
    Step("bench", bench, 60, 150),
    Step("train-wide", train_wide, 50, 80),
    Step("bench-compile", bench_compile, 60, 150, rehearsed=False),
]
"""In the order of what they are worth."""
