"""Grade edited views: what the independent judge reads in them, and how well silhouettes are kept."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from invert3d_ns.metrics.edit_cases import EditCase, Truth, read_colors
from invert3d_ns.metrics.edit_rows import Row
from invert3d_ns.metrics.judge import ASPECTS, Judge

_WHITE = 0.1
"""How far a pixel is from white, in its farthest channel, when it is the object's. Of those tried the one at which both
a recolored truth and an unchanged decoded view overlap the original best."""


def silhouettes(views: Float[Tensor, "F 3 H W"]) -> Bool[Tensor, "F H W"]:
    """Find the object's pixels: what is not white, with its holes filled."""
    from scipy.ndimage import binary_fill_holes

    differs = ((1 - views).amax(1) > _WHITE).cpu().numpy()
    return torch.from_numpy(np.stack([np.asarray(binary_fill_holes(one)) for one in differs]))


def silhouette_overlap(views: Float[Tensor, "F 3 H W"], others: Float[Tensor, "F 3 H W"]) -> Float[Tensor, " F"]:
    """Intersection over union of the silhouettes of views in pairs, in [0, 1]; 1 where both are empty."""
    a, b = silhouettes(views), silhouettes(others)
    union = (a | b).flatten(1).sum(1)
    return torch.where(union > 0, (a & b).flatten(1).sum(1) / union.clamp_min(1), torch.ones(len(a)))


def grade_edited_views(
    judge: Judge,
    case: EditCase,
    color: str,
    truth: Truth,
    views: Float[Tensor, "F 3 H W"],
    originals: Float[Tensor, "F 3 H W"],
) -> Row:
    """Grade edited views of one object from one set of cameras.

    Args:
        judge: reads the attributes that views show.
        case: what was to be changed.
        color: of the object's largest part, before the edit.
        truth: renders of the object before and after the edit, from the same cameras.
        views: what the edit made, RGB in [0, 1].
        originals: the views before it.

    Returns:
        ``changed``: for each view 1 where the edited attribute reads as asked, else 0, None where it cannot be seen.
        ``kept``: for each other attribute, of how many views it was read right on true renders before the edit, and
        for how many of these it still is; [right, of]. ``iou``: overlap of each view's silhouette with the original's.
    """
    from invert3d_ns.world.vocabulary import COLORS

    found = judge.judge(views).right(truth.expected_after)
    read_before = judge.judge(truth.original).right(truth.expected_before)
    colors = list(COLORS)
    if case.kind == "part":
        seen, main = (read_colors(views, truth, key) for key in ("part", "main"))
        changed = (seen == colors.index(case.target)).float().masked_fill(part_hidden(truth, "part"), torch.nan)
        found["color"] = (main == colors.index(color)).float()
        main_before = read_colors(truth.original, truth, "main")
        read_before["color"] = (main_before == colors.index(color)).float()
    else:
        changed = found[case.kind]
    kept = {}
    for aspect in ASPECTS:
        if aspect == case.kind:
            continue
        known = (read_before[aspect] == 1) & ~found[aspect].isnan()
        kept[aspect] = [int(found[aspect][known].sum()), int(known.sum())]
    marks = [None if value != value else int(value) for value in changed.tolist()]
    return {
        "changed": marks,
        "kept": kept,
        "iou": [round(v, 4) for v in silhouette_overlap(views, originals).tolist()],
        "read": {aspect: [int(v.nansum()), int((~v.isnan()).sum())] for aspect, v in read_before.items()},
    }


def part_hidden(truth: Truth, key: str) -> Bool[Tensor, " F"]:
    """Views in which a part ("part" or "main") shows too few pixels for its color to be read."""
    return truth.shades[key].isnan().flatten(2).any(2).any(0)
