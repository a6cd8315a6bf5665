"""Kills runs with signal 9, resumes them, and compares what they leave with an unbroken run, bit for bit.

    python tests/kill_and_resume.py --kills 20          # at random moments of a run of three phases
    python tests/kill_and_resume.py --at 9 30 50        # one run, killed at these steps, one after the other

Runs are forked from one process that has imported everything and has used nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from runs import resume, tiny_config, train
from synthetic import make_cloud
from tiny_priors import make_tiny_prior

from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.runs import trainer
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.posed_images import write_posed_images
from invert3d_ns.scenes.runs import read_run, read_run_record

PHASES = {"splats": 24, "words": 24, "edit": 16}
"""Steps of each phase: enough that most of a run's time is between its first checkpoint and its last."""
_FILES = ("embedding.safetensors", "edits.json", "views.png", "edited.png")


class Child:
    """Work in a process of its own."""

    def __init__(self, work: Callable[[], Any], log: Path, at_step: int | None = None) -> None:
        """Begin; at ``at_step``, wait to be killed."""
        self.reader, writer = os.pipe()
        sys.stdout.flush()
        self.number = os.fork()
        if self.number:
            os.close(writer)
            return
        status = 1
        try:
            with log.open("a") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            observe = trainer.PhasedTrainer._observe

            def observe_and_wait(self: Any, step: int) -> None:
                observe(self, step)
                if step == at_step:
                    os.write(writer, b"here")
                    signal.pause()

            trainer.PhasedTrainer._observe = observe_and_wait
            work()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(status)

    def kill(self, after: float | None) -> bool:
        """Kill it after so many seconds, or once it waits for that; whether it was still at work then."""
        select.select([self.reader], [], [], after)
        os.kill(self.number, signal.SIGKILL)
        return self.ended() == -signal.SIGKILL

    def ended(self) -> int:
        """Wait for its end; its exit status, negative for a signal."""
        os.close(self.reader)
        return os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])


def make_material(folder: Path) -> None:
    """A tiny prior and posed images."""
    save_prior(make_tiny_prior(folder, "v_prediction", seed=1), folder / "prior", dtype=torch.float32)
    write_posed_images(to_object_frame(make_cloud(200))[0], folder / "posed", count=8, size=32)


def begin(folder: Path, output: Path) -> None:
    """Fit splats, learn words, edit: with a checkpoint at every step."""
    options: dict[str, Any] = {"prompt": "blue instead of red", "steps_per_save": 1}
    options |= {"pipeline__splat_steps": PHASES["splats"], "pipeline__steps": PHASES["words"]}
    options["pipeline__edit__fit_steps"] = PHASES["edit"]
    train(tiny_config(folder / "posed", folder / "prior", output, **options))


def go_on(folder: Path, output: Path) -> None:
    """Resume a run, or begin it if it was killed before it had settings."""
    run = run_folder(output)
    if (run / "config.yml").is_file():
        resume(run)
    else:
        begin(folder, output)


def run_folder(output: Path) -> Path:
    """Of the run that :func:`begin` makes."""
    return output / "posed" / "invert3d" / "run"


def differences(one: Path, other: Path) -> list[str]:
    """What two finished runs do not share: splats, words, edits, pictures, figures, or files that were left."""
    found = [name for name in _FILES if (one / name).read_bytes() != (other / name).read_bytes()]
    first, second = read_run(one).tensors(), read_run(other).tensors()
    found += [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]
    figures = [json.loads((run / "metrics.json").read_text()) for run in (one, other)]
    found += [name for name in ("heldout_loss", "psnr") if figures[0][name] != figures[1][name]]
    names = [{path.name for path in run.iterdir() if not path.name.startswith("events.out")} for run in (one, other)]
    return found + sorted(names[0] ^ names[1])


def reached(run: Path) -> str:
    """How far a killed run has come, by its last checkpoint."""
    try:
        return f"{read_run_record(run).phase}"
    except ValueError:
        return "before the first checkpoint"


def must(child: Child, log: Path) -> None:
    """Wait for a child that must end well."""
    status = child.ended()
    if status:
        raise SystemExit(f"a run ended with {status}:\n{log.read_text()[-4000:]}")


def main() -> int:
    """Kill, resume, compare, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="runs to kill, each at a random moment")
    parser.add_argument("--at", type=int, nargs="*", default=[], help=f"to kill one run at: {PHASES}")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        log = folder / "log.txt"
        must(Child(lambda: make_material(folder), log), log)
        started = time.monotonic()
        must(Child(lambda: begin(folder, folder / "unbroken"), log), log)
        seconds, unbroken, wrong = time.monotonic() - started, run_folder(folder / "unbroken"), 0
        plans: list[list[tuple[int | None, float | None]]] = []
        for _ in range(arguments.kills):
            plans.append([(None, draw.uniform(0, seconds))])
        if arguments.at:
            plans.append([(step, None) for step in arguments.at])
        for number, plan in enumerate(plans):
            output = folder / str(number)
            story = []
            for step, after in plan:
                killed = Child(lambda: go_on(folder, output), log, step).kill(after)  # noqa: B023  # used at once
                story.append(f"{reached(run_folder(output))}{'' if killed else ' (had ended)'}")
            must(Child(lambda: go_on(folder, output), log), log)  # noqa: B023
            found = differences(unbroken, run_folder(output))
            wrong += bool(found)
            print(f"killed in {', '.join(story)}: {'differs in ' + ', '.join(found) if found else 'equal'}", flush=True)
        print(f"{len(plans) - wrong} of {len(plans)} runs ended as the unbroken one, bit for bit")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
