"""The colors of a scene in words, and an edit of its color that anybody can try."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.editing.view_sets import spread_cameras
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.rendering import render_splats
from invert3d_ns.world.vocabulary import COLORS

_WHEEL = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
_TARGETS = ("green", "blue", "red", "yellow", "purple")
_ORBITS, _VIEWS, _SIZE = 2, 3, 128
_PRESENT = 0.1


@torch.no_grad()
def color_shares(cloud: SplatCloud) -> dict[str, float]:
    """Shares of an object's pixels by the name of their color, largest first, on six renders from all around.

    Args:
        cloud: in the object frame, on the device that renders.

    Returns:
        All names of :data:`~invert3d_ns.world.vocabulary.COLORS`; shares add up to 1 unless nothing is seen.
    """
    poses = orbit_camera_to_world(*spread_cameras(_ORBITS, _VIEWS)).flatten(0, 1)
    images, alphas = render_splats(cloud, poses, _SIZE)
    pixels = images.clamp(0, 1).permute(0, 2, 3, 1)[alphas[:, 0] > 0.5].cpu()
    nearest = torch.cdist(_shaded(pixels), _shaded(torch.tensor(list(COLORS.values())))).argmin(dim=1)
    counts = torch.bincount(nearest, minlength=len(COLORS)).tolist()
    shares = {name: count / max(len(pixels), 1) for name, count in zip(COLORS, counts, strict=True)}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _shaded(colors: Float[Tensor, "P 3"]) -> Float[Tensor, "P 4"]:
    """Colors so that light and shade on one of them count for little: at full brightness, and a bit of brightness."""
    brightness = colors.amax(dim=-1, keepdim=True)
    return torch.cat([colors / brightness.clamp_min(0.05), 0.4 * brightness], dim=-1)


def recoloring(shares: dict[str, float]) -> tuple[str, str]:
    """A target and a source for an edit that shows: another color in place of the one that most of the object has.

    Args:
        shares: of :func:`color_shares`.

    Example:
        >>> recoloring({"orange": 0.6, "blue": 0.4})
        ('green', 'orange')
    """
    source = max(shares, key=lambda name: shares[name])
    for target in _TARGETS:
        if target != source and not _neighbors(target, source) and shares.get(target, 0.0) < _PRESENT:
            return target, source
    return next(name for name in _TARGETS if name != source), source


def _neighbors(first: str, second: str) -> bool:
    if first not in _WHEEL or second not in _WHEEL:
        return False
    return abs(_WHEEL.index(first) - _WHEEL.index(second)) in (1, len(_WHEEL) - 1)
