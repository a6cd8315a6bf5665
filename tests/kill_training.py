"""Kill trainings with signal 9 at random moments and go on: they must end with the bits of an unbroken one.

By hand::

    python tests/kill_training.py --kills 5
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
EVENTS = 11
"""How many a training tells that is not killed: each of its seven steps, and each of the four files it completes."""


def kill_and_go_on(stage: str, material: Path, folder: Path, moments: Sequence[int]) -> int:
    """Train a stage in ``folder`` in processes of its own, each killed at one of its events, then to the end here.

    Args:
        stage: of :data:`tiny_training.STAGES`.
        material: data and vocabularies, made before.
        folder: for the checkpoint.
        moments: at which of its events each process is killed. It waits there until it may go on.

    Returns:
        How many were killed before they had ended.
    """
    from tiny_training import train_stage

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])}
    killed = 0
    for moment in moments:
        child = subprocess.Popen(
            [sys.executable, __file__, "--child", stage, str(material), str(folder)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert child.stdin is not None and child.stdout is not None
        seen = 0
        for line in child.stdout:
            if line.startswith("event"):
                seen += 1
                if seen == moment:
                    child.kill()
                    break
                child.stdin.write("go on\n")
        child.stdin.close()
        child.stdout.close()
        killed += child.wait() == -signal.SIGKILL
        assert child.returncode in (0, -signal.SIGKILL), f"the child failed with status {child.returncode}"
    train_stage(stage, material, folder)
    return killed


def _train_as_child(stage: str, material: Path, folder: Path) -> None:
    """Train, a checkpoint after every second step, and tell of every step and of every file before it has its name."""
    import pytest
    from tiny_training import shrink, train_stage

    from invert3d_ns.training import loop

    def tell() -> None:
        print("event", flush=True)
        sys.stdin.readline()

    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        patch.setattr(loop, "CHECKPOINT_EVERY", 2)
        rate, fsync = loop.warmup_stable_decay, os.fsync

        def tell_of_step(step: int, *arguments: Any, **options: Any) -> float:
            tell()
            return rate(step, *arguments, **options)

        def tell_of_file(descriptor: int) -> None:
            tell()
            fsync(descriptor)

        patch.setattr(loop, "warmup_stable_decay", tell_of_step)
        patch.setattr(os, "fsync", tell_of_file)
        train_stage(stage, material, folder)


def main() -> None:
    """Kill each stage's training again and again."""
    import pytest
    from tiny_training import STAGES, assert_same_bits, checkpoint_of, shrink, train_stage

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5, help="in all")
    parser.add_argument("--stages", nargs="+", default=["denoiser"], choices=STAGES)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        root = Path(place)
        for index, stage in enumerate(options.stages):
            train_stage(stage, root / "material", root / "whole" / stage)
            share = len(range(index, options.kills, len(options.stages)))
            moments = [chance.randint(1, EVENTS) for _ in range(share)]
            killed = kill_and_go_on(stage, root / "material", root / "broken" / stage, moments)
            whole, broken = (checkpoint_of(stage, root / kind / stage) for kind in ("whole", "broken"))
            assert_same_bits(broken, whole)
            print(f"{stage}: {killed} of {share} processes killed, at events {moments}; equal to the bit")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _train_as_child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
