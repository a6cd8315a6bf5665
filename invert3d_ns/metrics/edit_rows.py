"""Keep what an evaluation of edits has measured, so that a run that was stopped goes on: rows of JSON, and views."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from invert3d_ns.metrics.strips import join_strips

ROWS_FILE = "rows.jsonl"
"""Rows of graded views, in the report's folder."""

Row = dict[str, Any]
"""One measurement, as JSON has it."""
Key = tuple[str, ...]
"""Object, edit, method and seed of a row."""


def strip_path(out: Path, name: str, index: int, method: str) -> Path:
    """The file that one edit's views are kept in: originals, edited ones and the truth, side by side."""
    word = "".join(c if c.isalnum() or c in ".-" else "_" for c in method)
    return out / "views" / f"{name}_{word}_{index:02}.png"


def write_pictures(out: Path, objects: Sequence[str], methods: Sequence[str]) -> list[Path]:
    """Write a picture for each object and method: originals, edited views and true renders, a row an edit.

    Returns:
        The files written, in ``out``; none for an object and method without strips.

    Raises:
        InputError: a file cannot be written.
    """
    written = []
    for name in objects:
        for method in methods:
            paths = sorted(
                out.glob(strip_path(Path(), name, 0, method).as_posix().replace("_00.png", "_[0-9][0-9].png"))
            )
            if not paths:
                continue
            written.append(out / f"{paths[0].name.removesuffix(paths[0].name[-7:])}.png")
            join_strips(written[-1], [[path] for path in paths])
    return written


def read_rows(path: Path, stamp: Mapping[str, Any]) -> dict[Key, Row]:
    """Read the rows of an earlier run, by object, edit, method and seed; none if there is no such file.

    Args:
        path: a file that :func:`append_row` wrote.
        stamp: values that rows must have to be of the same measurement; others are left out.
    """
    if not path.exists():
        return {}
    rows: dict[Key, Row] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the line that a killed run was writing
        if all(row.get(key) == value for key, value in stamp.items()):
            rows[row["object"], row["edit"], row["method"], str(row["seed"])] = row
    return rows


def append_row(path: Path, row: Row) -> None:
    """Add a row, as a line of JSON, to a file of rows, which is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if torn else "") + json.dumps(row) + "\n")
