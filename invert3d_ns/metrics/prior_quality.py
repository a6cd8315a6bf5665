"""Evaluation of priors: views of prompts that were held out from training, graded by the judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.cancellation import Progress
from invert3d_ns.metrics.held_out import Prompt, expected_judgment
from invert3d_ns.metrics.judge import ASPECTS, Judge
from invert3d_ns.metrics.report import mean_and_spread
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world, random_orbit

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

_TRUTH_SEED = 4242


def true_views(
    cases: Sequence[Prompt], azimuths: Float[Tensor, "B F"], elevations: Float[Tensor, "B F"], size: int = 64
) -> Float[Tensor, "B F 3 H W"]:
    """Render true objects that show what prompts ask for, RGB in [0, 1] on white; angles are in degrees."""
    from invert3d_ns.world.rendering import render_objects
    from invert3d_ns.world.styles import apply_styles

    seeds = [_TRUTH_SEED + index for index in range(len(cases))]
    objects = [case.object(seed) for case, seed in zip(cases, seeds, strict=True)]
    renders = render_objects(objects, orbit_camera_to_world(azimuths, elevations), size)
    rgb = apply_styles(renders, [case.style for case in cases], seeds)
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(0, 1, 4, 2, 3).float() / 255


def sample_views(
    prior: MultiViewPrior,
    texts: Sequence[str],
    cameras: Float[Tensor, "B F 16"],
    *,
    seed: int,
    cross_view: bool = True,
    steps: int | None = None,
    guidance_scale: float | None = None,
) -> Float[Tensor, "B F 3 H W"]:
    """Sample views of prompts: RGB in [0, 1], on the CPU.

    Args:
        cross_view: False makes every view an object of its own: the same weights, but nothing tells a view of the
            others.
        seed: prompt b starts from the noise of ``seed + b``, its single views from noise of their own.
    """
    objects, views = cameras.shape[:2]
    if cross_view:
        return prior.sample(texts, cameras, steps=steps, seed=seed, guidance_scale=guidance_scale).cpu()
    apart = prior.sample(
        [text for text in texts for _ in range(views)],
        cameras.reshape(-1, 1, cameras.shape[-1]),
        steps=steps,
        seed=[seed * 1009 + index for index in range(objects * views)],
        guidance_scale=guidance_scale,
    )
    return apart.cpu().reshape(objects, views, *apart.shape[2:])


def evaluate_prior(
    prior: MultiViewPrior,
    judge: Judge,
    cases: Sequence[Prompt],
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    batch: int = 8,
    guidance_scale: float | None = None,
    cross_view: bool = True,
    progress: Progress | None = None,
) -> tuple[list[dict[str, Any]], Float[Tensor, "P F 3 H W"]]:
    """Sample every prompt with every seed from a random orbit, and grade each view.

    Returns:
        A row for each prompt and seed: the prompt's words, and for each of :data:`ASPECTS` the share of its views that
        show it, NaN where it cannot be judged; and the views of the first seed.
    """

    def draw(part: Sequence[Prompt], azimuths: Tensor, elevations: Tensor, seed: int) -> Tensor:
        return sample_views(
            prior,
            [case.text for case in part],
            camera_condition(azimuths, elevations),
            seed=seed,
            cross_view=cross_view,
            steps=steps,
            guidance_scale=guidance_scale,
        )

    return _grade(judge, cases, seeds, draw, prior.info.num_views, batch, progress)


def grade_true_renders(
    judge: Judge, cases: Sequence[Prompt], seeds: Sequence[int], views: int = 4
) -> list[dict[str, Any]]:
    """The rows of :func:`evaluate_prior` for true renders from the same cameras: what the judge makes of the truth."""

    def draw(part: Sequence[Prompt], azimuths: Tensor, elevations: Tensor, seed: int) -> Tensor:
        return true_views(part, azimuths, elevations)

    return _grade(judge, cases, seeds, draw, views, 32, None)[0]


def _grade(
    judge: Judge,
    cases: Sequence[Prompt],
    seeds: Sequence[int],
    draw: Callable[[Sequence[Prompt], Tensor, Tensor, int], Tensor],
    views: int,
    batch: int,
    progress: Progress | None,
) -> tuple[list[dict[str, Any]], Float[Tensor, "P F 3 H W"]]:
    rows: list[dict[str, Any]] = []
    pictures: list[Tensor] = []
    for seed in seeds:
        azimuths, elevations = random_orbit(len(cases), views, generator=torch.Generator().manual_seed(seed))
        for start in range(0, len(cases), batch):
            some = slice(start, start + batch)
            images = draw(cases[some], azimuths[some], elevations[some], seed * 100_003 + start)
            right = judge.judge(images.flatten(0, 1)).right(expected_judgment(cases[some], azimuths[some]))
            for index, case in enumerate(cases[some]):
                own = slice(index * views, (index + 1) * views)
                shares = {aspect: right[aspect][own].nanmean().item() for aspect in ASPECTS}
                rows.append(
                    {
                        "prompt": case.text,
                        "seed": seed,
                        "name": case.name,
                        "asked style": case.style,
                        "asked pattern": case.pattern,
                        **shares,
                    }
                )
            if seed == seeds[0]:
                pictures.append(images)
            if progress is not None:
                progress(len(rows), len(seeds) * len(cases))
    return rows, torch.cat(pictures)


def aspect_means(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Means of :data:`ASPECTS` over the prompts where they can be judged, one number a seed; without aspects that
    cannot be judged at all.
    """
    seeds = sorted({row["seed"] for row in rows})
    found: dict[str, list[float]] = {}
    for aspect in ASPECTS:
        values = [[row[aspect] for row in rows if row["seed"] == seed and row[aspect] == row[aspect]] for seed in seeds]
        if all(values):
            found[aspect] = [fmean(v) for v in values]
    return found


def table_row(label: str, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Make one line of the table: per cent of views, mean ± spread over seeds."""
    means = aspect_means(rows)
    return {"views": label} | {
        f"{aspect} %": mean_and_spread([100 * v for v in means[aspect]], 1) if aspect in means else ""
        for aspect in ASPECTS
    }


def attribute_table(rows: Sequence[dict[str, Any]], truth: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Make a line for every style, pattern and class: per cent of views, in brackets those of true renders."""
    table: list[dict[str, str]] = []
    for key in ("asked style", "asked pattern", "name"):
        for value in dict.fromkeys(row[key] for row in rows):
            some, real = (table_row(value, [r for r in graded if r[key] == value]) for graded in (rows, truth))
            cells = {k: f"{some[k]} ({real[k]})" if some[k] else "" for k in list(some)[1:]}
            table.append({"views": f"{key.removeprefix('asked ').replace('name', 'class')}: {value}", **cells})
    return table
