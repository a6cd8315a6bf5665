"""The `invert3d` console script: what nerfstudio has no command for."""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import sys
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

import tyro

from invert3d_ns.base.commandline import stray_words_hint, with_plain_booleans
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import check_numbers
from invert3d_ns.commands.bench import Bench
from invert3d_ns.commands.edit import EditViews
from invert3d_ns.commands.evaluate import Evaluate
from invert3d_ns.commands.export import ExportSplats
from invert3d_ns.commands.image import InvertImages
from invert3d_ns.commands.prior import Prior
from invert3d_ns.commands.train import Train
from invert3d_ns.commands.turntable import MakeTurntable
from invert3d_ns.commands.views import GenerateViews
from invert3d_ns.commands.words import ListWords

_TABLE: dict[str, Any] = {
    "views": GenerateViews,
    "edit": EditViews,
    "image": InvertImages,
    "words": ListWords,
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
    """Run one subcommand and exit: 0, 1 with one line on bad input, 2 on flags that there are not, 130 after Ctrl-C,
    141 when whoever reads the output has closed it.
    """
    # OpenMP threads that spin while they wait make torch many times slower on a busy machine. The variable is read when
    # torch is loaded, which the imports of this file do not do.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        status = _run(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()  # not later, where a closed pipe would be a traceback
    except KeyboardInterrupt:
        print("Stopped. Trainings, downloads and evaluations of edits go on when they are run again.", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + 13  # as of a program that SIGPIPE ended
    sys.exit(status)


def run_command(command: Any) -> int:
    """Carry out a command object, such as ``EditViews(...)``; every number of it is checked before.

    Raises:
        InputError: a number is out of range, or whatever the command refuses.
    """
    check_numbers(command)
    return command.run() or 0


def _run(arguments: list[str]) -> int:
    try:
        return run_command(_parse(arguments))
    except InputError as error:
        print(f"Error: {' '.join(str(error).splitlines())}", file=sys.stderr)
    except OSError as error:  # the state of a disk or a network that no room expected
        if isinstance(error, BrokenPipeError):
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        reason = error.strerror or next(iter(str(error).splitlines()), type(error).__name__)
        print(f"Error: {where}{reason}; see to it, or give another place", file=sys.stderr)
    return 1


def _parse(arguments: list[str]) -> Any:
    """The command object of a command line; exits with status 2, or 0 after help, where there is none."""
    plain = with_plain_booleans(arguments, _booleans())
    try:
        return tyro.cli(Command, prog="invert3d", description="Edit and create 3D with words.", args=plain)
    except SystemExit as stopped:
        hint = stray_words_hint(arguments) if stopped.code == 2 else None
        if hint is not None:
            print(f"Error: {hint}", file=sys.stderr)
        sys.stdout.flush()
        raise


@functools.cache
def _booleans() -> frozenset[str]:
    """Names of all boolean flags, without the groups that they are in."""
    found: set[str] = set()
    seen: set[Any] = set()
    kinds: list[Any] = list(_TABLE.values())
    while kinds:
        kind = kinds.pop()
        kinds += get_args(kind)
        if not isinstance(kind, type) or not is_dataclass(kind) or kind in seen:
            continue
        seen.add(kind)
        hints = get_type_hints(kind, include_extras=True)
        found |= {name.replace("_", "-") for name, hint in hints.items() if hint is bool}
        kinds += hints.values()
    return frozenset(found)


if __name__ == "__main__":
    main()
