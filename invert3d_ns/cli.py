"""The `invert3d` console script: what nerfstudio has no command for."""

from __future__ import annotations

import functools
import operator
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from invert3d_ns.base.errors import InputError
from invert3d_ns.commands.bench import Bench
from invert3d_ns.commands.edit import EditViews
from invert3d_ns.commands.evaluate import Evaluate
from invert3d_ns.commands.export import ExportSplats
from invert3d_ns.commands.image import InvertImages
from invert3d_ns.commands.prior import Prior
from invert3d_ns.commands.train import Train
from invert3d_ns.commands.turntable import MakeTurntable
from invert3d_ns.commands.views import GenerateViews

_TABLE: dict[str, Any] = {
    "views": GenerateViews,
    "edit": EditViews,
    "image": InvertImages,
    "turntable": MakeTurntable,
    "export": ExportSplats,
    "prior": Prior,
    "train": Train,
    "evaluate": Evaluate,
    "bench": Bench,
}

_ENTRIES: list[Any] = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in _TABLE.items()]
Command: Any = functools.reduce(operator.or_, _ENTRIES)  # a union, which tyro turns into subcommands


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand; exit status 1 and one line on bad input."""
    # OpenMP threads that spin while they wait make torch many times slower on a busy machine. The variable is read when
    # torch is loaded, which the imports of this file do not do.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = tyro.cli(Command, prog="invert3d", description="Edit and create 3D with words.", args=arguments)
    try:
        status = command.run()
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("Stopped. Trainings, downloads and evaluations of edits go on when they are run again.", file=sys.stderr)
        status = 130
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
