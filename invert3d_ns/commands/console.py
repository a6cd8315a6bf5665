"""What commands show on a terminal: a progress bar, and themselves as they would be typed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any, Protocol


class ShowProgress(Protocol):
    """Shows how far something is."""

    def __call__(self, label: str, done: int = 0, total: int | None = None) -> None:
        """Show what is at work and, with ``total``, how much of it is done."""
        ...


@contextmanager
def progress_bar(label: str = "starting", *, transient: bool = True) -> Iterator[ShowProgress]:
    """A progress bar on the terminal while the context lasts.

    Args:
        label: what is at work at first.
        transient: leave nothing behind at the end.
    """
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(transient=transient) as bar:
        task = bar.add_task(label, total=None)

        def show(label: str, done: int = 0, total: int | None = None) -> None:
            bar.update(task, description=escape(label), completed=done, total=total)

        yield show


def command_line(name: str, options: Any) -> str:
    """A command as it would be typed in a shell, ready to be pasted there.

    Args:
        name: of the subcommand, such as "evaluate edit".
        options: its dataclass, without positional arguments. Every flag that has a value is written, also where that is
            the default, which another version may change; required flags come last.
    """
    words = ["invert3d", *name.split()]
    for entry in sorted(fields(options), key=lambda entry: entry.default is entry.default_factory is MISSING):
        value, flag = getattr(options, entry.name), entry.name.replace("_", "-")
        if value is None or (isinstance(value, bool) and value == entry.default):
            continue
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)
