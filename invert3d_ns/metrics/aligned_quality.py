"""Evaluation of aligned objects: how alike they are, part by part, and whether each is still what its prompt says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.metrics.aligned_runs import MadePair, Pairing, make_pair
from invert3d_ns.metrics.correspondence import correspondence_distance, silhouette_iou
from invert3d_ns.metrics.diffusion_features import diffusion_features
from invert3d_ns.metrics.edge_smoothness import CLIP, edge_smoothness
from invert3d_ns.metrics.edit_rows import ROWS_FILE, Row, append_row, read_rows
from invert3d_ns.metrics.parts import IN_SPACE, SAME, compare_pairings
from invert3d_ns.metrics.report import mean_and_spread
from invert3d_ns.metrics.strips import join_strips, keep_strip
from invert3d_ns.metrics.text_quality import AZIMUTHS, ELEVATIONS, grade
from invert3d_ns.scenes.aligned_splats import mix_splats
from invert3d_ns.scenes.blending import SameEverywhere
from invert3d_ns.scenes.cameras import camera_condition

if TYPE_CHECKING:
    from invert3d_ns.alignment.clip import ClipTowers
    from invert3d_ns.metrics.held_out import Prompt
    from invert3d_ns.metrics.judge import Judge
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.world.objects import WorldObject

VIEWS, ELEVATION = 8, 15.0
"""Views, and degrees from which they look down, that objects are compared in; none is one that they were made from."""
STOPS = 9
"""Points of an edge."""
DRAWS, NEAR = 40, 0.12
"""True objects that made ones are compared with, part by part, and how far from their surface splats count."""
_OPAQUE = 0.3
"""Splats of less opacity show no part."""
COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("dift", "DIFT distance", 3),
    ("iou", "silhouette IoU", 3),
    ("class and color", "class and color %", 1),
    ("second", "of the second", 1),
    ("clip", "CLIP", 3),
    ("parts", "parts (NMI)", 2),
    ("parts by place", "by place", 2),
    ("unevenness", "unevenness", 2),
    ("detour", "detour", 2),
    ("between", "between", 3),
    ("samples", "UNet samples", 0),
    ("seconds", "seconds", 0),
)
"""Measures of a pair: key of a row, title, digits."""


@dataclass(frozen=True)
class AlignedPlan:
    """What is measured."""

    prior: str
    """Name or path of the prior; not what it is called, which others are called, too."""
    cases: Sequence[tuple[Prompt, Prompt]]
    pairings: Sequence[Pairing]
    seeds: Sequence[int]

    def stamp(self, prior: MultiViewPrior) -> dict[str, Any]:
        """What tells rows of this plan from those of others, besides pair, way and seed."""
        return {"prior": prior.info.fingerprint}


@torch.no_grad()
def measure_pair(
    made: MadePair, case: tuple[Prompt, Prompt], prior: MultiViewPrior, judge: Judge, towers: ClipTowers
) -> tuple[dict[str, float], Float[Tensor, "T F 3 S S"]]:
    """Figures of a pair, and views along its edge, of which the ends are the objects."""
    from invert3d_ns.scenes.rendering import render_orbit, render_splats

    size = prior.info.image_size
    azimuths, elevation = torch.arange(VIEWS) * (360.0 / VIEWS) + 11.0, torch.tensor(ELEVATION)
    poses = _poses(azimuths, elevation)
    ends = [render_splats(cloud, poses, size, supersampling=2) for cloud in made.objects]
    cameras = camera_condition(azimuths, elevation.expand(VIEWS)).to(prior.device)
    features = [diffusion_features(prior, views.clamp(0, 1), cameras) for views, _ in ends]
    graded = [
        grade(render_orbit(cloud, AZIMUTHS, ELEVATIONS, size).cpu(), prompt, judge, towers)
        for cloud, prompt in zip(made.objects, case, strict=True)
    ]
    figures = {
        "dift": correspondence_distance(features[0], features[1], ends[0][1], ends[1][1]),
        "iou": silhouette_iou(ends[0][1], ends[1][1]),
        "class and color": 100 * fmean(one["class and color"] for one in graded),
        "second": 100 * graded[1]["class and color"],
        "clip": fmean(one["clip"] for one in graded),
        "samples": float(made.samples),
        "seconds": made.seconds,
    }
    one, two = made.objects
    weights = torch.linspace(0, 1, STOPS)
    if len(one) != len(two) or one.sh_degree != two.sh_degree:
        return figures, torch.stack([views.clamp(0, 1).cpu() for views, _ in ends])
    edge = torch.stack(
        [
            render_orbit(
                mix_splats((one, two), SameEverywhere.of([1 - float(w), float(w)])), azimuths, elevation, size
            ).cpu()
            for w in weights
        ]
    )
    path = edge_smoothness(edge, towers)[CLIP]
    seen = (one.opacities.sigmoid() > _OPAQUE)[:, 0] & (two.opacities.sigmoid() > _OPAQUE)[:, 0]
    places = one.means[seen].cpu(), two.means[seen].cpu()
    truths = [likely_truth(prompt, points) for prompt, points in zip(case, places, strict=True)]
    parts = compare_pairings(*places, *truths, within=NEAR)
    middle = edge[STOPS // 2]
    both = towers.encode_text([prompt.text for prompt in case])
    similar = torch.nn.functional.cosine_similarity(towers.encode_image(middle)[:, None], both[None], dim=-1)
    figures |= {
        "unevenness": path.unevenness,
        "detour": path.detour,
        "between": float(similar.mean()),
        "parts": parts[SAME].mutual_information,
        "parts by place": parts[IN_SPACE].mutual_information,
    }
    return figures, edge


def likely_truth(prompt: Prompt, points: Float[Tensor, "M 3"]) -> WorldObject:
    """The true object of a prompt on whose surface points lie best: of the proportions that its class may have."""
    from invert3d_ns.world.distances import signed_distances

    drawn = [prompt.object(seed) for seed in range(DRAWS)]
    away = [float(signed_distances(item.primitives, points).amin(1).abs().mean()) for item in drawn]
    return drawn[away.index(min(away))]


def _poses(azimuths: Tensor, elevation: Tensor) -> Tensor:
    from invert3d_ns.scenes.cameras import orbit_camera_to_world

    return orbit_camera_to_world(azimuths, elevation)


def measure_aligned(
    prior: MultiViewPrior,
    judge: Judge,
    towers: ClipTowers,
    out: Path,
    plan: AlignedPlan,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Row]:
    """Make every pair in every way with every seed, and measure it.

    Rows are appended to ``rows.jsonl`` in ``out`` one by one, and what is there already is not made again. Views along
    the edges of the first seed are kept in ``views``, and shown together in ``pairs.png``.
    """
    stamp = plan.stamp(prior)
    done, rows = read_rows(out / ROWS_FILE, stamp), []
    total = len(plan.cases) * len(plan.pairings) * len(plan.seeds)
    for seed in plan.seeds:
        for case in plan.cases:
            for pairing in plan.pairings:
                words = " | ".join(prompt.text for prompt in case)
                if progress is not None:
                    progress(f"{pairing.name}: {words}", len(rows), total)
                key = (words, "", pairing.name, str(seed))
                if key not in done:
                    made = make_pair(pairing, (case[0].text, case[1].text), seed, plan.prior)
                    figures, edge = measure_pair(made, case, prior, judge, towers)
                    done[key] = {"object": words, "edit": "", "method": pairing.name, "seed": seed, **stamp, **figures}
                    _keep_strip(out, key, edge)
                    append_row(out / ROWS_FILE, done[key])
                rows.append(done[key])
    write_pairs(out, plan)
    return rows


def _strip(out: Path, key: Sequence[str]) -> Path:
    name = "_".join("".join(c if c.isalnum() else "-" for c in part) for part in key if part)
    return out / "views" / f"{name}.png"


def _keep_strip(out: Path, key: Sequence[str], edge: Float[Tensor, "T F 3 S S"]) -> None:
    """Two views of five points of an edge, side by side, or of its ends."""
    some = edge[:: max((len(edge) - 1) // 4, 1), [1, 4]]
    keep_strip(_strip(out, key), some.flatten(0, 1), columns=10)


def write_pairs(out: Path, plan: AlignedPlan) -> Path | None:
    """Write the strips of the first seed as one picture: a row for each pair, a column for each way."""
    rows = []
    for case in plan.cases:
        words = " | ".join(prompt.text for prompt in case)
        paths = [_strip(out, (words, "", pairing.name, str(plan.seeds[0]))) for pairing in plan.pairings]
        rows.append([path for path in paths if path.exists()])
    if not any(rows):
        return None
    join_strips(out / "pairs.png", rows, gap=8, background="lightgray")
    return out / "pairs.png"


def tabulate(rows: Sequence[Row], plan: AlignedPlan) -> tuple[list[dict[str, str]], dict[str, float]]:
    """Lines of a table: means over pairs, and their spread over seeds; and the headline figures."""
    table, figures = [], {}
    for pairing in plan.pairings:
        mine = [row for row in rows if row["method"] == pairing.name]
        line = {"way": f"{pairing.name} ({len(plan.cases)} pairs)"}
        for key, title, digits in COLUMNS:
            means = []
            for seed in plan.seeds:
                values = [row[key] for row in mine if row["seed"] == seed and row.get(key) is not None]
                values = [value for value in values if value == value]
                if values:
                    means.append(fmean(values))
            if means:
                line[title] = mean_and_spread(means, digits)
                figures[f"{pairing.name}, {title}"] = round(fmean(means), 4)
        table.append(line)
    alone = {row["object"]: [] for row in rows}
    for name in ("dift", "iou"):
        for words in alone:
            own, other = (
                [row[name] for row in rows if row["object"] == words and row["method"] == way]
                for way in ("a3d", "independent")
            )
            if own and other:
                better = fmean(own) < fmean(other) if name == "dift" else fmean(own) > fmean(other)
                figures[f"{name}: better than independent, pairs"] = (
                    figures.get(f"{name}: better than independent, pairs", 0) + better
                )
    return table, figures
