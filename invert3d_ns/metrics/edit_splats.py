"""Evaluation of edited splats: views from cameras that no step saw, graded by the independent judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from invert3d_ns.metrics.edit_cases import chosen_cases, object_of, truth_of
from invert3d_ns.metrics.edit_grading import grade_edited_views
from invert3d_ns.metrics.edit_quality import Method, Plan
from invert3d_ns.metrics.edit_rows import Row, append_row, read_rows
from invert3d_ns.metrics.judge import Judge
from invert3d_ns.metrics.report import mean_and_spread

if TYPE_CHECKING:
    from invert3d_ns.editing.scene_edit_config import SceneEditConfig
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.scenes.cloud import SplatCloud

SPLAT_ROWS_FILE = "splats.jsonl"
UNSEEN_VIEWS = 16
UNSEEN_ELEVATION = 8.0
"""Degrees; the edited views look from other elevations."""
WARP_SIZE = 128
RECONSTRUCTION, LOCAL = "from z* alone", "upper half"
"""Rows beside the edits: splats made of the words, and an edit that may change the upper half only."""
_TOLERANCE = 0.03
"""World units by which depths may differ where two views see the same point."""


def unseen_orbit() -> tuple[Float[Tensor, "16"], Float[Tensor, "16"]]:
    """Azimuths and elevations (degrees) of the views that edited splats are judged in."""
    azimuths = torch.arange(UNSEEN_VIEWS) * (360.0 / UNSEEN_VIEWS) + 2.0
    return azimuths, torch.full_like(azimuths, UNSEEN_ELEVATION)


@torch.no_grad()
def warp_error(cloud: SplatCloud, size: int = WARP_SIZE) -> float:
    """Mean absolute difference of RGB in [0, 1] between neighboring unseen views, where they show the same point.

    Every view's pixels are carried by their depth into the next view, and compared with what is seen there unless
    something else hides it.
    """
    from invert3d_ns.scenes.cameras import gsplat_viewmats, intrinsics, orbit_camera_to_world
    from invert3d_ns.scenes.rendering import render_channels, render_splats

    poses = orbit_camera_to_world(*unseen_orbit())
    views = gsplat_viewmats(poses)
    colors, alphas = render_splats(cloud, poses, size)
    ones = torch.cat([cloud.means, torch.ones(len(cloud), 1)], 1)
    depth_of_splats = torch.stack([(ones @ view.T)[:, 2:3] for view in views])
    depths = render_channels(cloud, depth_of_splats, poses, size)[0][:, 0] / alphas[:, 0].clamp_min(1e-3)
    k = intrinsics(size)
    rows, columns = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    rays = torch.stack([columns, rows, torch.ones_like(rows)], -1) @ torch.linalg.inv(k).T
    errors = []
    for here in range(UNSEEN_VIEWS):
        there = (here + 1) % UNSEEN_VIEWS
        solid = alphas[here, 0] > 0.95
        points = (rays * depths[here][..., None])[solid]
        across = views[there] @ torch.linalg.inv(views[here])
        moved = points @ across[:3, :3].T + across[:3, 3]
        image = moved @ k.T
        grid = (image[:, :2] / image[:, 2:].clamp_min(1e-6) / size * 2 - 1)[None, None]
        there_views = torch.cat([colors[there], depths[there][None], alphas[there]])[None]
        sampled = functional.grid_sample(there_views, grid, align_corners=False)[0, :, 0].T
        same = ((sampled[:, 3] - moved[:, 2]).abs() < _TOLERANCE) & (sampled[:, 4] > 0.95)
        if same.any():
            errors.append((sampled[same, :3] - colors[here].permute(1, 2, 0)[solid][same]).abs().mean().item())
    return fmean(errors) if errors else math.nan


def evaluate_splats(
    prior: MultiViewPrior,
    judge: Judge,
    out: Path,
    plan: Plan,
    config: SceneEditConfig | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Row]:
    """Carry every edit of ``plan`` (its first method) into splats and grade what unseen cameras show of them.

    Rows go to ``splats.jsonl`` and are not made again; a picture of each edit's unseen views goes to ``splats``.

    Returns:
        A row for each object, edit and seed with the grades of unseen views (see :mod:`.edit_grading`),
        ``edited``: the marks of the edited views that the splats follow, ``warp``: the warp error over that of the
        unedited splats. For each object and seed one with ``outside``: the largest change of a number of a splat
        outside the upper half, which alone may change; and one with ``psnr`` of splats from z* alone on unseen views.
    """
    from invert3d_ns.base.metrics import psnr
    from invert3d_ns.base.pictures import write_grid
    from invert3d_ns.editing.edit import Region
    from invert3d_ns.editing.scene_editor import SceneEditConfig, SceneEditor
    from invert3d_ns.editing.view_sets import spread_cameras
    from invert3d_ns.scenes.cameras import orbit_camera_to_world
    from invert3d_ns.scenes.rendering import render_splats
    from invert3d_ns.world.splats import splats_of

    config = config or SceneEditConfig()
    method = Method.parse(plan.methods[0])
    things = {name: object_of(name) for name in plan.objects}
    jobs = {name: chosen_cases(item, plan.edits) for name, item in things.items()}
    total = sum(len(cases) + 2 for cases in jobs.values()) * len(plan.seeds)
    done = read_rows(out / SPLAT_ROWS_FILE, plan.stamp(prior))
    size = prior.info.image_size
    unseen, rings = unseen_orbit(), spread_cameras(config.orbits, config.views)
    seen = rings[0].flatten(), rings[1].flatten()
    poses = orbit_camera_to_world(*unseen)
    rows: list[Row] = []

    def draw(cloud: SplatCloud) -> Tensor:
        return render_splats(cloud, poses, size, supersampling=2)[0].detach().clamp(0, 1)

    def finished(editor: SceneEditor) -> SplatCloud:
        if not editor.prepared:
            editor.prepare()
        while editor.done < editor.total_steps:
            editor.step()
        return editor.cloud()

    for seed in plan.seeds:
        for name, item in things.items():
            cloud = splats_of(item)
            before, calm = draw(cloud), None
            for case in [*jobs[name], LOCAL, RECONSTRUCTION]:
                label = case if isinstance(case, str) else case.label
                key = (name, label, method.name, str(seed))
                if key in done:
                    rows.append(done[key])
                    continue
                if progress is not None:
                    progress(f"splats of {name}, {label}, seed {seed}", len(rows), total)
                embedding = plan.embedding(prior, name, cloud, seed, out)
                row: Row = {"object": name, "edit": label, "kind": "", "method": method.name, "seed": seed}
                row |= plan.stamp(prior)
                chosen = jobs[name][0] if isinstance(case, str) else case
                number = [c.label for c in chosen_cases(item, None)].index(chosen.label)
                edit = plan.edit(method, chosen, item, seed * 1009 + number)
                if case == RECONSTRUCTION:
                    plain = [replace(edit, prompt="<object>", source="", target="", noun="", weights={})]
                    made = draw(finished(SceneEditor.from_words(prior, embedding, plain, config, seed=seed)))
                    true = truth_of(item, chosen, *unseen, size).original
                    row |= {"psnr": psnr(made, true), "psnr_splats": psnr(before, true)}
                elif case == LOCAL:
                    reach = 1e3
                    upper = Region(box=(-reach, -reach, 0.0, reach, reach, reach), box_holds="part")
                    local = replace(edit, region=upper)
                    edited = finished(SceneEditor(cloud, prior, embedding, [local], config, seed=seed))
                    made = draw(edited)
                    row |= local_change(cloud, edited)
                else:
                    editor = SceneEditor(cloud, prior, embedding, [edit], config, seed=seed)
                    edited = finished(editor)
                    made = draw(edited)
                    calm = calm or warp_error(cloud)
                    shown = grade_edited_views(
                        judge,
                        chosen,
                        item.color,
                        truth_of(item, chosen, *seen, size),
                        editor.edited.flatten(0, 1).cpu(),
                        editor.originals.flatten(0, 1).cpu(),
                    )
                    row |= grade_edited_views(
                        judge, chosen, item.color, truth_of(item, chosen, *unseen, size), made, before
                    )
                    row |= {"kind": chosen.kind, "edited": shown["changed"], "warp": warp_error(edited) / calm}
                append_row(out / SPLAT_ROWS_FILE, row)
                rows.append(row)
                if seed == plan.seeds[0]:
                    word = "".join(c if c.isalnum() else "_" for c in label)
                    (out / "splats").mkdir(parents=True, exist_ok=True)
                    write_grid(out / "splats" / f"{name}_{word}.png", torch.cat([before[::2], made[::2]]), columns=8)
    if progress is not None:
        progress("done", len(rows), total)
    return rows


def local_change(before: SplatCloud, after: SplatCloud) -> dict[str, float]:
    """The largest change of any number of a splat below z = 0, and above."""
    above = before.means[:, 2] >= 0
    names = ("means", "scales", "quats", "opacities", "features_dc", "features_rest")

    def most(rows: Tensor) -> float:
        changes = [(getattr(after, n)[rows] - getattr(before, n)[rows]).abs().flatten() for n in names]
        return float(torch.cat([change for change in changes if len(change)]).max()) if rows.any() else 0.0

    return {"outside": most(~above), "inside": most(above)}


def tabulate_splats(rows: Sequence[Row]) -> tuple[list[dict[str, str]], dict[str, float]]:
    """Put rows of :func:`evaluate_splats` into lines of a table and flat figures, mean ± spread over seeds."""
    table: list[dict[str, str]] = []
    figures: dict[str, float] = {}
    edits = [row for row in rows if "edited" in row]
    kinds = [("all edits", edits)] + [
        (kind, [row for row in edits if row["kind"] == kind]) for kind in dict.fromkeys(row["kind"] for row in edits)
    ]
    for kind, some in kinds:
        of_seeds = [[r for r in some if r["seed"] == seed] for seed in sorted({row["seed"] for row in some})]
        if not of_seeds:
            continue
        columns = {
            "edited views changed %": ([100 * _marks(of, "edited") for of in of_seeds], 1),
            "unseen views changed %": ([100 * _marks(of, "changed") for of in of_seeds], 1),
            "warp error, times unedited": ([fmean(r["warp"] for r in of) for of in of_seeds], 3),
            "IoU": ([fmean(fmean(r["iou"]) for r in of) for of in of_seeds], 3),
        }
        before, after = (values for values, _ in list(columns.values())[:2])
        shares = [b / a for a, b in zip(before, after, strict=True) if a > 0]
        line = {"splats": kind} | {name: mean_and_spread(values, digits) for name, (values, digits) in columns.items()}
        if shares:
            line["share of success"] = mean_and_spread(shares)
        table.append(line)
        if kind == "all edits":
            names = ("edited_views_changed", "unseen_views_changed", "warp_ratio", "splats_iou")
            figures |= {name: round(fmean(v), 4) for name, (v, _) in zip(names, columns.values(), strict=True)}
            if shares:
                figures["share_of_success"] = round(fmean(shares), 4)
    for row in rows:
        if "psnr" in row or "outside" in row:
            keys = ("psnr", "psnr_splats", "outside", "inside")
            cells = {key: f"{row[key]:.4g}" for key in keys if key in row}
            table.append({"splats": f"{row['object']}, {row['edit']}, seed {row['seed']}"} | cells)
    for key, name in (("psnr", "reconstruction_psnr"), ("psnr_splats", "splats_psnr")):
        values = [row[key] for row in rows if key in row]
        if values:
            figures[name] = round(fmean(values), 3)
    outside = [row["outside"] for row in rows if "outside" in row]
    if outside:
        figures["largest_change_outside"] = max(outside)
    return table, figures


def _marks(rows: Sequence[Row], field: str) -> float:
    return fmean([fmean(marks) for row in rows if (marks := [m for m in row[field] if m is not None])] or [math.nan])
