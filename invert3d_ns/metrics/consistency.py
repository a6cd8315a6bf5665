"""Evaluation of consistency between views: splats fitted to half of an object's views must render the other half."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.metrics.held_out import Prompt
from invert3d_ns.metrics.prior_quality import sample_views, true_views
from invert3d_ns.metrics.report import mean_and_spread
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

VIEWS = 8
"""Views of each object; splats are fitted to every second one."""
ELEVATION = 15.0
"""Degrees from which all views look down."""
TRUE, GENERATED, APART = "true", "generated", "generated, views apart"
"""Kinds of views: renders of the world; one pass of the prior; the same weights without cross-view attention."""


def cross_validate(
    images: Float[Tensor, "F 3 H W"], camera_to_world: Float[Tensor, "F 4 4"], *, count: int = 1000, steps: int = 250
) -> tuple[float, Float[Tensor, "F 3 H W"]]:
    """Fit splats to the even views and compare their renders with the odd ones.

    Args:
        images: RGB in [0, 1] on white, F even and 4 or more.
        camera_to_world: of the views, OpenGL axes, object frame.
        count: number of splats.
        steps: optimizer steps.

    Returns:
        PSNR in dB on the odd views (whole images), and the splats' renders of all views.
    """
    from invert3d_ns.base.metrics import psnr
    from invert3d_ns.scenes.fitting import fit_splats
    from invert3d_ns.scenes.rendering import render_channels

    cloud = fit_splats(images[::2], camera_to_world[::2], count=count, steps=steps)
    with torch.no_grad():
        drawn, _ = render_channels(cloud, cloud.base_colors, camera_to_world, images.shape[-1], background=1.0)
        drawn = drawn.clamp(0, 1)
    return psnr(drawn[1::2], images[1::2]), drawn


def evaluate_consistency(
    prior: MultiViewPrior,
    cases: Sequence[Prompt],
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    apart: bool = False,
    fit_steps: int = 250,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], Float[Tensor, "K F 3 H W"]]:
    """Generate :data:`VIEWS` views of each prompt in one pass, and fit splats to half of them; the same for true
    renders of what the prompt asks for.

    Args:
        prior: any number of views may be asked of it.
        cases: prompts.
        seeds: of the start noise, and of the azimuth of the first view.
        steps: denoising steps; the prior's own if None.
        guidance_scale: the prior's own if None.
        apart: also with views that know nothing of each other.
        fit_steps: optimizer steps of each fit.
        progress: called with the number of fits done and of all.

    Returns:
        A row for each prompt, seed and kind of views with its PSNR in dB; and, for the first seed, views above their
        splats' renders, kind after kind.
    """
    kinds = [TRUE, GENERATED, *([APART] if apart else [])]
    rows: list[dict[str, Any]] = []
    pictures: list[Tensor] = []
    elevations = torch.full((VIEWS,), ELEVATION)
    for seed in seeds:
        starts = torch.rand(len(cases), generator=torch.Generator().manual_seed(seed)) * 360
        for index, case in enumerate(cases):
            azimuths = starts[index] + torch.arange(VIEWS) * (360 / VIEWS)
            cameras = camera_condition(azimuths, elevations)[None]
            poses = orbit_camera_to_world(azimuths, elevations)
            for kind in kinds:
                if kind == TRUE:
                    images = true_views([case], azimuths[None], elevations[None], prior.info.image_size)[0]
                else:
                    images = sample_views(
                        prior,
                        [case.text],
                        cameras,
                        seed=seed * 100_003 + index,
                        cross_view=kind == GENERATED,
                        steps=steps,
                        guidance_scale=guidance_scale,
                    )[0]
                psnr, drawn = cross_validate(images, poses, steps=fit_steps)
                rows.append({"prompt": case.text, "seed": seed, "views": kind, "psnr": psnr})
                if seed == seeds[0]:
                    pictures += [images, drawn]
                if progress is not None:
                    progress(len(rows), len(seeds) * len(cases) * len(kinds))
    return rows, torch.stack(pictures)


def tabulate_consistency(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, str]], dict[str, float]]:
    """Put rows of :func:`evaluate_consistency` into lines of a table and figures in dB.

    Returns:
        A line for each kind of views with mean ± spread over seeds; and means, and how far they stay behind true views.
    """
    seeds = sorted({row["seed"] for row in rows})
    count = len({row["prompt"] for row in rows})
    table: list[dict[str, str]] = []
    figures: dict[str, float] = {}
    true: list[float] = []
    for kind in dict.fromkeys(row["views"] for row in rows):
        means = [fmean(r["psnr"] for r in rows if (r["seed"], r["views"]) == (seed, kind)) for seed in seeds]
        true = true or means
        name = {TRUE: "true", GENERATED: "generated", APART: "views_apart"}[kind]
        figures[f"consistency_{name}_db"] = round(fmean(means), 3)
        line = {"views": f"splats of 4 views, {kind} ({count})", "PSNR dB, 4 others": mean_and_spread(means)}
        if kind != TRUE:
            gaps = [a - b for a, b in zip(true, means, strict=True)]
            line["behind true dB"] = mean_and_spread(gaps)
            figures[f"consistency_{name}_behind_db"] = round(fmean(gaps), 3)
        table.append(line)
    return table, figures
