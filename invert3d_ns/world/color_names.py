"""Names of the colors of pixels."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invert3d_ns.base.metrics import object_pixels
from invert3d_ns.world.vocabulary import COLORS


def color_shares_of_views(views: Float[Tensor, "F 3 H W"]) -> dict[str, float]:
    """Shares of an object's pixels by the name of their color, largest first, in views on white: RGB in [0, 1]."""
    views = views.clamp(0, 1).cpu()
    return shares_of_pixels(views.permute(0, 2, 3, 1)[object_pixels(views)])


def heights_of_colors(views: Float[Tensor, "F 3 H W"]) -> dict[str, float]:
    """How high each color stands on an object, 0 at its foot to 1 at its top, on average over views on white.

    Colors that are not seen are left out.
    """
    seen = object_pixels(views).cpu()
    rows = torch.arange(views.shape[-2], dtype=torch.float32)
    heights, names = [], []
    for view, mask in zip(views.cpu(), seen, strict=True):
        if not mask.any():
            continue
        own = rows[mask.any(1)]
        height = 1 - (rows - own[0]) / (own[-1] - own[0]).clamp_min(1)
        heights.append(height[:, None].expand_as(mask)[mask])
        names.append(_nearest(view.clamp(0, 1).permute(1, 2, 0)[mask]))
    if not heights:
        return {}
    height, name = torch.cat(heights), torch.cat(names)
    return {color: float(height[name == index].mean()) for index, color in enumerate(COLORS) if (name == index).any()}


def shares_of_pixels(pixels: Float[Tensor, "P 3"]) -> dict[str, float]:
    """Shares of some pixels by the name of their color, largest first.

    Returns:
        All names of :data:`.vocabulary.COLORS`; shares add up to 1 unless there are no pixels.
    """
    counts = torch.bincount(_nearest(pixels), minlength=len(COLORS)).tolist()
    shares = {name: count / max(len(pixels), 1) for name, count in zip(COLORS, counts, strict=True)}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _nearest(pixels: Float[Tensor, "P 3"]) -> Int[Tensor, " P"]:
    return torch.cdist(_shaded(pixels), _shaded(torch.tensor(list(COLORS.values())))).argmin(dim=1)


def _shaded(colors: Float[Tensor, "P 3"]) -> Float[Tensor, "P 4"]:
    """Colors so that light and shade on one of them count for little: at full brightness, and a bit of brightness."""
    brightness = colors.amax(dim=-1, keepdim=True)
    return torch.cat([colors / brightness.clamp_min(0.05), 0.4 * brightness], dim=-1)
