"""Numbers out of range, for every flag of ``invert3d`` that has a range, and those of ns-train that people set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import tyro
from malformed import Case, case

from invert3d_ns import cli
from invert3d_ns.base.ranges import FINITE, _numbers

_COMMANDS = {
    "views": "views words.safetensors --out case/out",
    "edit": "edit words.safetensors --prompt blue --out case/out.png",
    "image": "image photo.png --out case/out",
    "export": "export ball.ply --out case/out.ply",
    "evaluate prior": "evaluate prior --out case/out",
    "evaluate inversion": "evaluate inversion --out case/out",
    "evaluate edit": "evaluate edit --out case/out",
    "bench prior": "bench prior --out case/out",
}
_GIVEN_AT_FIRST = {  # flags whose default is none, with a number that is right
    "views": {"steps": 2, "count": 2, "joint-views": 2, "guidance-scale": 2.0},
    "edit": {"steps": 2, "count": 2, "joint-views": 2, "guidance-scale": 2.0, "strength": 0.5},
    "image": {"learning-rate": 0.1, "azimuths": 1.0, "elevations": 1.0},
    "evaluate prior": {"sampling-steps": 2, "guidance-scale": 2.0},
    "evaluate inversion": {"sampling-steps": 2, "guidance-scale": 2.0},
    "evaluate edit": {"sampling-steps": 2, "guidance-scale": 2.0},
}


def _wrong(number: float, allowed: Any) -> Iterator[str]:
    """Numbers that a range does not allow, as they are typed."""
    if isinstance(number, float):
        yield "nan"
        if math.isinf(allowed.most):
            yield "inf"
    if not math.isinf(allowed.least):
        least = allowed.least if allowed.exclusive else allowed.least - 1
        yield f"{least:.12g}" if isinstance(number, float) else str(int(least))
    if not math.isinf(allowed.most):
        most = allowed.most if allowed.exclusive else allowed.most + 1
        yield f"{most:.12g}" if isinstance(number, float) else str(int(most))


def _of_every_flag() -> Iterator[Case]:
    for name, line in _COMMANDS.items():
        words = line.split()
        for flag, number in _GIVEN_AT_FIRST.get(name, {}).items():
            words += [f"--{flag}", str(number)]
        found = {
            flag: (number, allowed)
            for flag, number, allowed in _numbers(tyro.cli(cli.Command, args=words), "--", FINITE)
        }
        for flag, (number, allowed) in found.items():
            for value in _wrong(number, allowed):
                says = rf"{flag} is {value}; give .+|{flag} is .+e\+.+; give"
                yield case(f"{name} {flag} {value}", ["invert3d", *line.split(), flag, value], says)


_TRAIN = "ns-train invert3d --data ball.ply --pipeline.prior prior"
_OF_TRAINING = [
    ("--pipeline.steps", "-3"),
    ("--pipeline.lr", "nan"),
    ("--pipeline.lr", "-1"),
    ("--pipeline.vectors", "0"),
    ("--pipeline.bank-groups", "0"),
    ("--pipeline.heldout-groups", "0"),
    ("--pipeline.groups-per-step", "0"),
    ("--pipeline.sampling-steps", "0"),
    ("--pipeline.guidance-scale", "nan"),
    ("--pipeline.norm-penalty", "nan"),
    ("--pipeline.init-jitter", "-1"),
    ("--pipeline.resolution", "0"),
    ("--machine.seed", "-1"),
    ("--steps-per-save", "-3"),
    ("--seconds-per-save", "nan"),
    ("--max-num-iterations", "0"),
    ("--pipeline.datamanager.dataparser.image-size", "0"),
]
_OF_EDITS = [
    ("--pipeline.edit.orbits", "0"),
    ("--pipeline.edit.views", "0"),
    ("--pipeline.edit.fit-steps", "-1"),
    ("--pipeline.edit.color-rate", "nan"),
    ("--pipeline.edit.tolerance", "0"),
    ("--pipeline.edit.amount", "nan"),
    ("--pipeline.edit.amount", "9"),
    ("--pipeline.edit.guidance-scale", "99"),
    ("--pipeline.edit.steps", "0"),
    ("--pipeline.edit.seed", "-1"),
]

CASES = [
    *_of_every_flag(),
    *(
        case(f"train {flag} {value}", f"{_TRAIN} {flag} {value}", f"{flag[2:].split('.')[-1]} is {value}")
        for flag, value in _OF_TRAINING
    ),
    *(
        case(
            f"train edit {flag} {value}",
            f"ns-train invert3d-edit --data run --prompt blue {flag} {value}",
            f"{flag.split('.')[-1]} is {value}",
        )
        for flag, value in _OF_EDITS
    ),
]
