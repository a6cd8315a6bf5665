"""The table of a prior: how often its views show what held-out prompts say, and whether they show one object."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.pictures import write_grid
from invert3d_ns.metrics import consistency
from invert3d_ns.metrics.held_out import held_out_prompts, photo_prompts
from invert3d_ns.metrics.prior_quality import (
    aspect_means,
    attribute_table,
    evaluate_prior,
    grade_true_renders,
    table_row,
)

if TYPE_CHECKING:
    from invert3d_ns.metrics.judge import Judge
    from invert3d_ns.prior.multiview import MultiViewPrior

Row = dict[str, Any]


@dataclass(frozen=True)
class PriorPlan:
    """What is measured."""

    seeds: Sequence[int] = (0, 1)
    """One run of all prompts each."""
    prompts: int = 200
    """How many of the fixed held-out prompts, and of plain photos."""
    consistency_objects: int = 12
    """How many prompts' views splats are fitted to."""
    fit_steps: int = 250
    """Steps of such a fit."""
    views_apart: bool = False
    """Also the same network with views that attend only to themselves."""
    sampling_steps: int | None = None
    """The prior's own if None."""
    compared_steps: Sequence[int] = ()
    """Also so many denoising steps each, on the held-out prompts."""
    guidance_scale: float | None = None
    """The prior's own if None."""


def measure_prior(
    prior: MultiViewPrior,
    judge: Judge,
    out: Path,
    plan: PriorPlan,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[Row], dict[str, float]]:
    """Grade views of held-out prompts and of plain photos, and how well splats fit views of one object.

    The first seed's views go to ``out`` as pictures, a file for each kind, and the prompts to ``prompts.txt``.

    Args:
        progress: called with what is at work, and how much of it is done and in all.

    Returns:
        Lines of the table: true renders, each kind of views, splats, then each style, pattern and class; and flat
        figures.
    """

    def watch(label: str) -> Callable[[int, int], None] | None:
        return None if progress is None else functools.partial(progress, label)

    asked, photos = held_out_prompts(plan.prompts), photo_prompts(True, plan.prompts)
    sampling = {"steps": plan.sampling_steps, "guidance_scale": plan.guidance_scale}
    truth = grade_true_renders(judge, asked, plan.seeds)
    rows: list[Row] = [table_row(f"judge on true renders ({len(asked)})", truth)]
    graded = {"judge": truth}
    runs = [("held_out", "held-out combinations", asked, True)]
    if plan.views_apart:
        runs.append(("views_apart", "held-out combinations, views apart", asked, False))
    runs.append(("photo", "plain photos of held-out class and color", photos, True))
    for name, label, cases, cross_view in runs:
        graded[name], views = evaluate_prior(
            prior, judge, cases, plan.seeds, cross_view=cross_view, progress=watch(label), **sampling
        )
        rows.append(table_row(f"{label} ({len(cases)})", graded[name]))
        write_grid(out / f"{name}.png", views.flatten(0, 1), columns=16, least=64)
    for steps in plan.compared_steps:
        label, name = f"held-out combinations, {steps} steps", f"held_out_{steps}_steps"
        graded[name], views = evaluate_prior(
            prior, judge, asked, plan.seeds, progress=watch(label), **{**sampling, "steps": steps}
        )
        rows.append(table_row(f"{label} ({len(asked)})", graded[name]))
        write_grid(out / f"{name}.png", views.flatten(0, 1), columns=16, least=64)
    figures = {
        f"{name}_{aspect}": round(sum(values) / len(values), 4)
        for name, of in graded.items()
        for aspect, values in aspect_means(of).items()
    }
    if plan.consistency_objects:
        measured, views = consistency.evaluate_consistency(
            prior,
            asked[: plan.consistency_objects],
            plan.seeds,
            apart=plan.views_apart,
            fit_steps=plan.fit_steps,
            progress=watch("multi-view consistency"),
            **sampling,
        )
        lines, behind = consistency.tabulate_consistency(measured)
        rows, figures = rows + lines, figures | behind
        write_grid(out / "consistency.png", views.flatten(0, 1), columns=8, least=64)
    rows += attribute_table(graded["held_out"], truth)
    with atomic_path(out / "prompts.txt") as temporary:
        temporary.write_text("\n".join(case.text for case in asked) + "\n", encoding="utf-8")
    return rows, figures
