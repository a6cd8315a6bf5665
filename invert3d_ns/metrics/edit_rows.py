"""Keep what an evaluation of edits has measured, so that a run that was stopped goes on: rows of JSON, and views."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from invert3d_ns.base.files import atomic_path

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
    from PIL import Image

    written = []
    for name in objects:
        for method in methods:
            paths = sorted(
                out.glob(strip_path(Path(), name, 0, method).as_posix().replace("_00.png", "_[0-9][0-9].png"))
            )
            if not paths:
                continue
            strips = [Image.open(path) for path in paths]
            grid = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), "white")
            top = 0
            for one in strips:
                grid.paste(one, (0, top))
                top += one.height
            written.append(out / f"{paths[0].name.removesuffix(paths[0].name[-7:])}.png")
            with atomic_path(written[-1]) as temporary:
                grid.save(temporary, format="PNG")
    return written


def join_strips(path: Path, rows: Sequence[Sequence[Path]]) -> Path | None:
    """Write kept strips as one picture, a row each; strips that are missing leave no gap.

    Returns:
        The file; None if there is no strip at all.

    Raises:
        InputError: it cannot be written.
    """
    from PIL import Image

    shown = [[Image.open(one) for one in row if one.exists()] for row in rows]
    if not any(shown):
        return None
    width, height = (max(getattr(one, side) for row in shown for one in row) for side in ("width", "height"))
    gap = 8
    grid = Image.new("RGB", (max(map(len, shown)) * (width + gap), len(shown) * height), "lightgray")
    for top, row in enumerate(shown):
        for left, one in enumerate(row):
            grid.paste(one, (left * (width + gap), top * height))
    with atomic_path(path) as temporary:
        grid.save(temporary, format="PNG")
    return path


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
