"""Does the prior do what words say? Views of prompts that were held out from training, graded by the judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.metrics.judge import Judge
from invert3d_ns.scenes.cameras import camera_condition, random_orbit

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

_TRUTH_SEED = 4242


@dataclass(frozen=True)
class Prompt:
    """One prompt and what it asks for."""

    text: str
    name: str
    colour: str
    held_out: bool


def prompts(held_out_side: bool, count: int | None = None, seed: int = 0) -> list[Prompt]:
    """Prompts "a <colour> <class>" of the combinations on one side of the split, in a shuffled order."""
    import numpy as np

    from invert3d_ns.prior.training.shapes import CLASSES
    from invert3d_ns.prior.training.world import COLOURS, held_out

    found = [
        Prompt(f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {name}", name, colour, held_out_side)
        for name in CLASSES
        for colour in COLOURS
        if held_out(name, colour) == held_out_side
    ]
    order = np.random.default_rng(seed).permutation(len(found))
    return [found[i] for i in order[:count]]


def grade_true_renders(judge: Judge, objects: int = 64) -> tuple[float, float]:
    """The judge's own share of right classes and colours on true renders of held-out combinations."""
    import numpy as np

    from invert3d_ns.prior.training.data import render_set
    from invert3d_ns.prior.training.shapes import CLASSES
    from invert3d_ns.prior.training.world import COLOURS, sample_object

    rng = np.random.default_rng(_TRUTH_SEED)
    items = [sample_object(rng, split="held-out", plain=True) for _ in range(objects)]
    rgb = torch.from_numpy(render_set(items, _TRUTH_SEED, 64)[0]).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    classes = torch.tensor([list(CLASSES).index(o.name) for o in items]).repeat_interleave(4)
    colours = torch.tensor([list(COLOURS).index(o.colour) for o in items]).repeat_interleave(4)
    return judge.accuracy(rgb, classes, colours)


def evaluate_prior(
    prior: MultiViewPrior, judge: Judge, cases: list[Prompt], seeds: list[int], *, steps: int = 20, batch: int = 8,
    guidance_scale: float | None = None, progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], Float[Tensor, "P F 3 H W"]]:  # fmt: skip
    """Sample every prompt with every seed and grade each view.

    Returns:
        A row for each prompt and seed with the share of its views that show the class, the colour and both; and the
        views of the first seed.
    """
    from invert3d_ns.prior.training.shapes import CLASSES
    from invert3d_ns.prior.training.world import COLOURS

    rows: list[dict[str, Any]] = []
    pictures: list[Tensor] = []
    for seed in seeds:
        azimuths, elevations = random_orbit(
            len(cases), prior.info.num_views, generator=torch.Generator().manual_seed(seed)
        )
        for start in range(0, len(cases), batch):
            part = cases[start : start + batch]
            cameras = camera_condition(azimuths, elevations)[start : start + batch]
            views = prior.sample(
                [c.text for c in part], cameras, steps=steps, seed=seed * 100_003 + start, guidance_scale=guidance_scale
            ).cpu()
            for case, images in zip(part, views, strict=True):
                a, b = judge.name(images)
                right = a == list(CLASSES).index(case.name)
                colour = b == list(COLOURS).index(case.colour)
                rows.append({
                    "prompt": case.text, "held out": case.held_out, "seed": seed, "class": right.float().mean().item(),
                    "colour": colour.float().mean().item(), "both": (right & colour).float().mean().item(),
                })  # fmt: skip
            if seed == seeds[0]:
                pictures.append(views)
            if progress is not None:
                progress(len(rows), len(seeds) * len(cases))
    return rows, torch.cat(pictures)


def summary(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Means over prompts of class, colour and both, one number a seed."""
    seeds = sorted({row["seed"] for row in rows})
    return {key: [mean(r[key] for r in rows if r["seed"] == s) for s in seeds] for key in ("class", "colour", "both")}
