"""Which splats words are about, as CLIP sees it in crops of views: where a style goes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from invert3d_ns.alignment.augmentation import apply_crops
from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.relevance import above_threshold
from invert3d_ns.scenes.rendering import render_channels

if TYPE_CHECKING:
    from invert3d_ns.alignment.clip import ClipTowers
    from invert3d_ns.methods.style_views import StyleViews

SIDES = (0.25, 0.4)
"""Sides of the crops that are asked about, in sides of a view; their middles are half a side apart."""
_VIEWS = 16


@torch.no_grad()
def crop_relevance(
    towers: ClipTowers, words: str, otherwise: str, views: Float[Tensor, "F 3 H W"]
) -> Float[Tensor, "F 1 H W"]:
    """How much more words are about the crops that show a pixel than other words are, on average over crops.

    Args:
        words: a part or a material, "wheels".
        otherwise: what is shown as a whole, "a car".
        views: RGB in [0, 1].
    """
    vectors = towers.encode_text([words, otherwise])
    height, width = views.shape[-2:]
    total, count = torch.zeros_like(views[:, :1]), torch.zeros_like(views[:, :1])
    for side in SIDES:
        steps = max(math.ceil((1 - side) / (side / 2)), 1)
        middles = torch.linspace(side - 1, 1 - side, steps + 1)
        for y in middles.tolist():
            for x in middles.tolist():
                frame = torch.tensor([[side, 0.0, x], [0.0, side, y], [0.0, 0.0, 1.0]]).expand(len(views), 3, 3)
                seen = towers.encode_image(apply_crops(views, frame, min(towers.size)))
                more = (seen @ (vectors[0] - vectors[1]))[:, None, None, None]
                rows = slice(int((y - side + 1) / 2 * height), max(int((y + side + 1) / 2 * height), 1))
                columns = slice(int((x - side + 1) / 2 * width), max(int((x + side + 1) / 2 * width), 1))
                total[:, :, rows, columns] += more
                count[:, :, rows, columns] += 1
    return total / count.clamp_min(1)


def splats_about(
    towers: ClipTowers, words: str, otherwise: str, views: StyleViews, threshold: float
) -> Bool[Tensor, " N"]:
    """The splats whose relevance to words reaches ``threshold`` of the way from the least to the greatest.

    Raises:
        InputError: the words are about no splat more than about others.
    """
    cloud = views.source
    sums = torch.zeros(len(cloud), 2, device=cloud.means.device)
    for index, group in enumerate(views.groups):
        rows = torch.arange(0, len(group), max(len(group) // _VIEWS, 1))[:_VIEWS]
        maps = crop_relevance(towers, words, otherwise, views.before(index, rows)[0])
        with torch.enable_grad():
            values = torch.zeros(len(cloud), 2, device=cloud.means.device, requires_grad=True)
            drawn, _ = render_channels(cloud, values, views.cameras(index, rows))
            (added,) = torch.autograd.grad((drawn * torch.cat([maps, torch.ones_like(maps)], 1)).sum(), values)
        sums += added
    relevance = sums[:, 0] / sums[:, 1].clamp_min(1e-12)
    chosen = above_threshold(relevance, sums[:, 1] > 0, threshold)
    if not bool(chosen.any()):
        raise InputError(f"the words {words!r} are about no splat more than about others; name something else")
    return chosen
