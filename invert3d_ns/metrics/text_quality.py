"""Evaluation of splats from words: does what they show from all sides say what the words said, and how does it look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from invert3d_ns.base.files import atomic_path
from invert3d_ns.metrics.held_out import Prompt, expected_judgment
from invert3d_ns.metrics.judge import Judge, mean_shares
from invert3d_ns.metrics.prior_quality import sample_views, true_views
from invert3d_ns.metrics.report import mean_and_spread
from invert3d_ns.metrics.text_runs import Variant, make_splats
from invert3d_ns.scenes.cameras import camera_condition

if TYPE_CHECKING:
    from invert3d_ns.alignment.clip import ClipTowers
    from invert3d_ns.prior.multiview import MultiViewPrior

AZIMUTHS = torch.arange(16) * 22.5 + 11.0
"""Degrees of the views that splats are graded on: none of them is one that they were made from."""
ELEVATIONS = torch.tensor([-10.0, 5.0, 20.0, 30.0]).repeat(4)
"""Degrees of the same."""
TRUTH, SAMPLED, DEFAULT = "true renders", "the prior's own views", "default"
"""Rows beside the variants': what the judge says of the truth, of views that no splats were made from, and of a run
without flags."""
_OBJECT = 0.95


@dataclass(frozen=True)
class TextPlan:
    """What is measured."""

    prior: str
    """Name or path of the prior; not what it is called, which others are called, too."""
    cases: Sequence[Prompt]
    seeds: Sequence[int]
    variants: Sequence[Variant | None]
    """None for the method's default."""
    samples: Sequence[int]
    """Views that the UNet may be called for in guidance; of several, each kind of guidance is measured with each."""
    start: str | None = None

    def runs(self) -> dict[str, tuple[Variant | None, int]]:
        """What is run of every prompt: variant and samples, by name."""
        found: dict[str, tuple[Variant | None, int]] = {}
        for variant in self.variants:
            name = DEFAULT if variant is None else variant.name
            guided = variant is not None and variant.guidance
            for samples in self.samples if guided else self.samples[:1]:
                found[f"{name}, {samples} samples" if guided and len(self.samples) > 1 else name] = variant, samples
        return found


def saturation(images: Float[Tensor, "N 3 H W"]) -> float:
    """Mean saturation (of HSV: 0 gray, 1 pure) of the pixels of an object on white, RGB in [0, 1]."""
    most, least = images.amax(1), images.amin(1)
    shown = least < _OBJECT
    return float(((most - least) / most.clamp_min(1e-3))[shown].mean()) if shown.any() else 0.0


def kernel_distance(images: Float[Tensor, "N 3 H W"], others: Float[Tensor, "M 3 H W"], towers: ClipTowers) -> float:
    """Kernel distance (KID, Binkowski et al. 2018) of two sets of views on features of a CLIP image tower, times 100.

    Not comparable with figures on Inception's features, whose weights are a download.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    class Features(nn.Module):
        num_features = 0

        def forward(self, images: Tensor) -> Tensor:
            return towers.encode_image(images)

    size = min(len(images), len(others))
    metric = KernelInceptionDistance(feature=Features(), subsets=1, subset_size=size, normalize=True)
    metric.update(others, real=True)
    metric.update(images, real=False)
    torch.manual_seed(0)
    return 100 * float(metric.compute()[0])


@torch.no_grad()
def grade(
    images: Float[Tensor, "F 3 H W"],
    case: Prompt,
    judge: Judge,
    towers: ClipTowers,
    azimuths: Float[Tensor, " F"] = AZIMUTHS,
) -> dict[str, float]:
    """What the judge and CLIP say of views of what a prompt asks for, from azimuths in degrees; shares in [0, 1]."""
    right = judge.judge(images).right(expected_judgment([case], azimuths[None]))
    both = right["class"] * right["color"].nan_to_num(1.0)
    return {
        **mean_shares(right),
        "class and color": float(both.mean()),
        "clip": towers.similarity(images, case.text),
        "saturation": saturation(images),
    }


def measure_text(
    prior: MultiViewPrior,
    judge: Judge,
    towers: ClipTowers,
    out: Path,
    plan: TextPlan,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[dict[str, str]], dict[str, float]]:
    """Make splats of every prompt, seed and variant, and grade 16 views of each that they were not made from.

    Returns:
        A line for each variant, for true renders and for the prior's own views; and the headline figures. Writes
        ``splats.png``: a row for each prompt, four views of each variant, first seed.
    """
    from invert3d_ns.base.pictures import write_grid
    from invert3d_ns.scenes.rendering import render_orbit

    size = prior.info.image_size
    runs = plan.runs()
    names = list(runs)
    found: list[dict[str, Any]] = []
    pictures: dict[str, list[Tensor]] = {name: [] for name in (TRUTH, SAMPLED, *names)}
    done, total = 0, len(plan.cases) * len(plan.seeds) * len(names)
    for seed in plan.seeds:
        for index, case in enumerate(plan.cases):
            truth = true_views([case], AZIMUTHS[None], ELEVATIONS[None], size)[0]
            cameras = camera_condition(AZIMUTHS, ELEVATIONS).reshape(4, 4, 16).transpose(0, 1)
            own = sample_views(prior, [case.text] * 4, cameras, seed=seed * 100_003 + index)
            own = own.transpose(0, 1).flatten(0, 1)
            made: list[tuple[str, Tensor, float, float, int]] = [(TRUTH, truth, 0, 0, 0), (SAMPLED, own, 0, 0, 0)]
            for name, (variant, samples) in runs.items():
                splats = make_splats(variant, case.text, seed, plan.prior, samples, start=plan.start)
                views = render_orbit(splats.cloud.to(prior.device), AZIMUTHS, ELEVATIONS, size)
                made.append((name, views, splats.seconds, splats.samples, len(splats.cloud)))
                done += 1
                if progress is not None:
                    progress(f"{name}: {case.text}", done, total)
            for name, views, seconds, samples, count in made:
                graded = grade(views.cpu(), case, judge, towers)
                found.append(
                    {"seed": seed, "prompt": case.text, "name": name, "seconds": seconds, "samples": samples,
                     "splats": count, "images": views.cpu(), **graded}
                )  # fmt: skip
                if seed == plan.seeds[0]:
                    pictures[name].append(views[::4].cpu())
    shown = [name for name in pictures if name != TRUTH]
    rows = torch.cat([torch.cat([pictures[name][i] for name in shown]) for i in range(len(plan.cases))])
    write_grid(out / "splats.png", rows, columns=4 * len(shown), least=64)
    draw_quality(out / "quality.png", found, runs)
    return tabulate(found, plan, towers)


def draw_quality(path: Path, found: Sequence[dict[str, Any]], runs: dict[str, tuple[Variant | None, int]]) -> None:
    """Draw CLIP similarity over seconds: a line for each variant, a point for each number of samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="seconds on this machine", ylabel="CLIP similarity")
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, (variant, _) in runs.items():
        rows = [row for row in found if row["name"] == name]
        point = fmean(row["seconds"] for row in rows), fmean(row["clip"] for row in rows)
        lines.setdefault(DEFAULT if variant is None else variant.name, []).append(point)
    for name, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), "o-", label=name)
    axes.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def tabulate(
    found: Sequence[dict[str, Any]], plan: TextPlan, towers: ClipTowers
) -> tuple[list[dict[str, str]], dict[str, float]]:
    """Lines of a table from graded views: means over prompts, and their spread over seeds."""
    table, figures = [], {}

    def of(name: str, seed: int) -> list[dict[str, Any]]:
        return [row for row in found if (row["name"], row["seed"]) == (name, seed)]

    def images(name: str, seed: int) -> Tensor:
        return torch.cat([row["images"] for row in of(name, seed)])

    for name in dict.fromkeys(row["name"] for row in found):
        line: dict[str, str] = {"splats": f"{name} ({len(plan.cases)} prompts)"}
        for key in ("class and color", "class", "color", "pattern", "style", "azimuth"):
            shares = [[row[key] for row in of(name, seed) if row[key] == row[key]] for seed in plan.seeds]
            if all(shares):
                means = [100 * fmean(some) for some in shares]
                line[f"{key} %"] = mean_and_spread(means, 1)
                figures[f"{name}, {key}"] = round(fmean(means), 2)
        for key, digits in (("clip", 3), ("saturation", 3)):
            means = [fmean(row[key] for row in of(name, seed)) for seed in plan.seeds]
            line[key] = mean_and_spread(means, digits)
            figures[f"{name}, {key}"] = round(fmean(means), 4)
        for title, other in (("KID to truth", TRUTH), ("KID to the prior's views", SAMPLED)):
            if name != other:
                values = [kernel_distance(images(name, seed), images(other, seed), towers) for seed in plan.seeds]
                line[title] = mean_and_spread(values, 2)
                figures[f"{name}, {title}"] = round(fmean(values), 3)
        if len(plan.seeds) > 1:
            line["diversity"] = f"{diversity([images(name, seed) for seed in plan.seeds], towers):.3f}"
        if name not in (TRUTH, SAMPLED):
            line["UNet samples"] = f"{fmean(row['samples'] for row in found if row['name'] == name):.0f}"
            line["seconds"] = f"{fmean(row['seconds'] for row in found if row['name'] == name):.1f}"
            figures[f"{name}, seconds"] = round(fmean(row["seconds"] for row in found if row["name"] == name), 2)
        table.append(line)
    return table, figures


@torch.no_grad()
def diversity(sets: Sequence[Float[Tensor, "N 3 H W"]], towers: ClipTowers) -> float:
    """Mean distance (1 - cosine, by CLIP) of the same view of the same prompt under two seeds."""
    features = [torch.nn.functional.normalize(towers.encode_image(images), dim=-1) for images in sets]
    pairs = [(a, b) for i, a in enumerate(features) for b in features[i + 1 :]]
    return fmean(float((1 - (a * b).sum(-1)).mean()) for a, b in pairs)
