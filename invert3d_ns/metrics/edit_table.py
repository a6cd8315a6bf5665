"""Tables of graded edits: a line for each way of editing, mean ± spread over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from invert3d_ns.metrics.edit_cases import KINDS
from invert3d_ns.metrics.edit_quality import TRUTH
from invert3d_ns.metrics.edit_rows import Row
from invert3d_ns.metrics.judge import ASPECTS
from invert3d_ns.metrics.report import mean_and_spread


def _changed(rows: Sequence[Row]) -> float | None:
    values = [fmean(marks) for row in rows if (marks := [m for m in row["changed"] if m is not None])]
    return 100 * fmean(values) if values else None


def _share(rows: Sequence[Row], field: str, aspects: Sequence[str] = ASPECTS) -> float | None:
    counts = [row[field][aspect] for row in rows for aspect in aspects if aspect in row[field]]
    of = sum(count[1] for count in counts)
    return 100 * sum(count[0] for count in counts) / of if of else None


def _overlap(rows: Sequence[Row]) -> float | None:
    # A recolored part leaves the silhouette alone by itself; the figure is of the edits that may not.
    values = [fmean(row["iou"]) for row in rows if row["kind"] != "part"]
    return fmean(values) if values else None


def _measures() -> dict[str, tuple[Callable[[Sequence[Row]], float | None], int]]:
    """The columns of the table: a figure of rows, and its digits."""
    columns: dict[str, tuple[Callable[[Sequence[Row]], float | None], int]] = {"changed %": (_changed, 1)}
    for kind in KINDS:
        columns[f"{kind} %"] = (lambda rows, kind=kind: _changed([r for r in rows if r["kind"] == kind]), 1)
    columns |= {"kept %": (lambda rows: _share(rows, "kept"), 1), "IoU": (_overlap, 3)}
    for aspect in ASPECTS:
        columns[f"kept {aspect} %"] = (lambda rows, aspect=aspect: _share(rows, "kept", (aspect,)), 1)
    columns["s"] = (lambda rows: fmean(row["seconds"] for row in rows), 1)
    return columns


def tabulate_edits(rows: Sequence[Row]) -> tuple[list[dict[str, str]], dict[str, float]]:
    """Put rows of :func:`.edit_quality.evaluate_edits` into a table, a line for each method, and as flat figures.

    Figures are means of each seed's figures, ± their spread.
    """
    table: list[dict[str, str]] = []
    figures: dict[str, float] = {}
    seeds = sorted({row["seed"] for row in rows})
    for method in dict.fromkeys(row["method"] for row in rows):
        line = {"views": method}
        word = method.replace(" ", "_").replace("-", "_")
        for column, (measure, digits) in _measures().items():
            found = [
                measure([r for r in rows if (r["method"], r["seed"]) == (method, seed)])
                for seed in seeds
                if any((r["method"], r["seed"]) == (method, seed) for r in rows)
            ]
            values = [value for value in found if value is not None]
            line[column] = mean_and_spread(values, digits) if values else ""
            if values and column != "s":
                name = column.removesuffix(" %").replace(" ", "_").lower()
                figures[f"{word}_{'changed_' if name in KINDS else ''}{name}"] = round(fmean(values), 4)
        table.append(line)
    truth = [row for row in rows if row["method"] == TRUTH]
    for aspect in ASPECTS:
        read = _share(truth, "read", (aspect,))
        if read is not None:
            figures[f"judge_{aspect}"] = round(read, 2)
    return table, figures
