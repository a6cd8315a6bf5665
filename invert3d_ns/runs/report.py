"""Lines that a run prints for people: what came of it, where it is, what comes next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from invert3d_ns.base.files import atomic_path

METRICS = "metrics.json"
"""What a run calls its figures."""


def print_lines(*lines: str) -> None:
    """Print lines as they are (rich's markup is read), whatever the width of the console."""
    from nerfstudio.utils.rich_utils import CONSOLE

    for line in lines:
        CONSOLE.print(line, highlight=False, soft_wrap=True)


def print_next(commands: Sequence[str]) -> None:
    """Print commands that come next, one a line; nothing if there are none.

    Args:
        commands: as :func:`~invert3d_ns.base.commandline.quoted_command` writes them, to be pasted as they are.
    """
    if commands:
        print_lines("Next:", *(f"  [bold]{escape(command)}[/bold]" for command in commands))


def write_metrics(folder: Path, figures: dict[str, Any], section: str | None = None) -> Path:
    """Write a run's figures, whole or not at all; with ``section``, into that entry, and the others stay.

    Raises:
        InputError: the file cannot be written.
    """
    path = folder / METRICS
    document = figures if section is None else {**_read(path), section: figures}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
