"""Write reports: ``table.md`` for people and ``table.json`` for programs, with versions, hardware and seeds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.provenance import provenance

Row = Mapping[str, Any]


def mean_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """Format the mean of values ± their standard deviation; the one value alone if there is but one."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def check_folder(out: Path) -> None:
    """Refuse a place that nothing can be written to, before any work.

    Raises:
        InputError: ``out``, or a folder that it would be in, is a file or may not be written to.
    """
    path = next((path for path in (out, *out.parents) if path.exists()), Path())
    if not path.is_dir():
        raise InputError(f"{path} is a file, so nothing can be written to {out}; give a folder to --out")
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"{path} may not be written to, and so neither may {out}; give another folder to --out")


def write_report(
    out: Path,
    title: str,
    rows: Sequence[Row],
    figures: Mapping[str, Any],
    *,
    command: str,
    seeds: Sequence[int] = (),
    device: str = "cpu",
) -> None:
    """Write a table and its headline figures to a folder and show the table.

    Args:
        out: the folder; made when missing.
        title: what was measured.
        rows: the table; columns are the keys in the order of their first appearance.
        figures: flat headline numbers.
        command: what gives these figures again.
        seeds: all that were used.
        device: where it ran.

    Raises:
        InputError: the folder cannot be written.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    origin = provenance(device)
    hardware = origin["hardware"]
    lines = [f"# {title}", "", f"`{command}`", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in rows]
    lines += ["", *(f"- {key}: {value}" for key, value in figures.items()), ""]
    lines += [f"{hardware['processor']}, {hardware['cores']} cores, {hardware['device']}; seeds {list(seeds)}", ""]
    document = {
        "title": title,
        "command": command,
        "rows": list(rows),
        "figures": dict(figures),
        "seeds": list(seeds),
    } | origin
    text = "\n".join(lines)
    for name, content in (("table.md", text), ("table.json", json.dumps(document, indent=2) + "\n")):
        with atomic_path(out / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    print(text)
    print(f"Written to {out}")
