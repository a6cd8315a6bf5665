"""Everything that a GPU has to show, in one command without a network, in under nine minutes: see README.md here.

Each step is a process of its own with a time limit; one that fails or hangs costs the others nothing. While gsplat is
compiled, steps that do without it run. At the end there is a table, and everything in one JSON file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gpu_checks as checks
from gpu_steps import BUILD, STEPS, Step

SECONDS = 530.0
"""What the whole may take unless told otherwise."""


@dataclass
class Result:
    """How a step ended."""

    name: str
    status: str
    """ok, failed or skipped."""
    seconds: float = 0.0
    reason: str = ""
    """Why it is not ok."""
    beside_build: bool = False
    """Whether compilers were at work on the other cores: its times are a little worse for it."""
    figures: dict[str, Any] = field(default_factory=dict)


# Running them


class Child:
    """A step in a process group of its own."""

    def __init__(self, step: Step, work: Path, log: Path, rehearse: bool, beside_build: bool = False) -> None:
        self.step, self.answer, self.beside_build = step, work / f"{step.name}.json", beside_build
        self.started = time.monotonic()
        self._log = log.open("a", encoding="utf-8")
        self._log.write(f"\n===== {step.name}\n")
        self._log.flush()
        words = [sys.executable, __file__, "--step", step.name, "--work", str(work)]
        self.process = subprocess.Popen(
            [*words, *(["--rehearse"] if rehearse else [])],
            env=_environment(rehearse),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self, seconds: float) -> Result:
        """Its result, which is a failure if it is not done after ``seconds``."""
        try:
            status = self.process.wait(max(seconds, 0.1))
            reason = f"ended with status {status}" if status else ""
        except subprocess.TimeoutExpired:
            reason = f"not done after {time.monotonic() - self.started:.0f} s"
        self.stop()
        answer = json.loads(self.answer.read_text(encoding="utf-8")) if self.answer.is_file() else {}
        reason = answer.get("error") or reason
        return Result(
            self.step.name,
            "failed" if reason else "ok",
            round(time.monotonic() - self.started, 1),
            reason,
            self.beside_build,
            answer.get("figures", {}),
        )

    def stop(self) -> None:
        """End it and everything that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()

    @property
    def running(self) -> bool:
        """Whether it is not done yet."""
        return self.process.poll() is None


def run_steps(
    steps: Sequence[Step],
    start: Callable[[Step, bool], Child],
    seconds: float,
    rehearse: bool = False,
    report: Callable[[list[Result]], None] = lambda results: None,
) -> list[Result]:
    """Run all steps in order of their worth, those that need gsplat once it is built.

    Args:
        steps: the one called "build", if any, runs beside those that do not need it.
        start: begins a step; told whether the build is under way.
        seconds: after which nothing runs any more. What no longer fits is skipped and says so.
        report: called after each with all results so far.
    """
    began, results = time.monotonic(), []
    pending, building, built = list(steps), None, all(step.name != BUILD for step in steps)

    def left() -> float:
        return seconds - (time.monotonic() - began)

    def keep(result: Result) -> None:
        results.append(result)
        print(f"{result.status:8}{result.seconds:7.1f} s  {result.name}  {result.reason}".rstrip(), flush=True)
        report(results)

    try:
        while pending or building is not None:
            if building is not None and (not building.running or not _runnable(pending, False, left())):
                keep(building.wait(min(building.step.limit - (time.monotonic() - building.started), left())))
                built, building = results[-1].status == "ok", None
                continue
            waits = building is not None
            step = (_runnable(pending, False, left()) if waits else None) or pending[0]
            pending.remove(step)
            if rehearse and not step.rehearsed:
                keep(Result(step.name, "skipped", reason="a CPU cannot do it"))
                built = True if step.name == BUILD else built
            elif step.needs_gsplat and not built:
                keep(Result(step.name, "skipped", reason="gsplat was not built"))
            elif left() < step.expected:
                reason = f"takes about {step.expected:.0f} s, and {max(left(), 0):.0f} s were left"
                keep(Result(step.name, "skipped", reason=reason))
            elif step.name == BUILD:
                building = start(step, False)
            else:
                keep(start(step, waits).wait(min(step.limit, left())))
    finally:
        if building is not None:
            building.stop()
    return results


def _runnable(pending: Sequence[Step], built: bool, left: float) -> Step | None:
    """The worthiest step that can be begun while gsplat is built and leaves time for those that are worth more."""
    reserved = 0.0
    for step in pending:
        if step.needs_gsplat and not built:
            reserved += step.expected
        elif step.limit + reserved <= left:
            return step
    return None


def _environment(rehearse: bool) -> dict[str, str]:
    found = checks.environment("cpu" if rehearse else "cuda")
    if rehearse:
        return found
    import torch

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        found.setdefault("TORCH_CUDA_ARCH_LIST", f"{major}.{minor}")
    # Some cores are left to the steps that run meanwhile.
    found.setdefault("MAX_JOBS", str(max(1, (os.cpu_count() or 1) - 3)))
    return found


def _do(name: str, work: Path, rehearse: bool) -> int:
    """One step, in this process: its figures, or why there are none, go to a file."""
    (step,) = (step for step in STEPS if step.name == name)
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        answer: dict[str, Any] = {"figures": step.work(folder, rehearse)}
    except Exception as error:
        traceback.print_exc()
        message = " ".join(str(error).split()) or type(error).__name__
        answer = {"error": message if isinstance(error, AssertionError) else f"{type(error).__name__}: {message}"}
    (work / f"{name}.json").write_text(json.dumps(answer), encoding="utf-8")
    return 1 if "error" in answer else 0


def table(results: Sequence[Result]) -> str:
    """One line a step."""
    rows = [(r.name, r.status, f"{r.seconds:.1f}", r.reason[:150]) for r in results]
    rows.insert(0, ("step", "", "seconds", ""))
    return "\n".join(f"{name:<15}{status:<9}{seconds:>8}  {reason}".rstrip() for name, status, seconds, reason in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps, write ``figures.json`` and ``log.txt``; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [step.name for step in STEPS]
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"), help="folder for figures.json and log.txt")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long the whole may take")
    parser.add_argument("--only", nargs="+", choices=names, help="run these steps")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on a CPU: does every step run?")
    parser.add_argument("--step", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.step:
        return _do(given.step, given.work, given.rehearse)

    began = time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / "log.txt"
    log.write_text("", encoding="utf-8")
    chosen = names if given.only is None else {"machine", *given.only}
    if any(step.needs_gsplat and step.name in chosen for step in STEPS):
        chosen = {*chosen, BUILD}
    steps = [step for step in STEPS if step.name in chosen]
    words = sys.argv[1:] if arguments is None else arguments

    def report(results: list[Result]) -> None:
        document = {
            "command": shlex.join(["python", "tests/gpu/run.py", *words]),
            "rehearsal": given.rehearse,
            "seconds": round(time.monotonic() - began, 1),
            "machine": next((r.figures for r in results if r.name == "machine"), {}),
            "steps": [asdict(result) for result in results],
        }
        (given.out / "figures.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory(prefix="invert3d-gpu-", ignore_cleanup_errors=True) as work:

        def start(step: Step, beside_build: bool) -> Child:
            return Child(step, Path(work), log, given.rehearse, beside_build)

        results = run_steps(steps, start, given.seconds, given.rehearse, report)
    print(f"\n{table(results)}\n\n{time.monotonic() - began:.0f} s. Figures: {given.out / 'figures.json'}")
    return 1 if any(result.status == "failed" for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
