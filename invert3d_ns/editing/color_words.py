"""The colors of a scene in words, and an edit of its color that anybody can try."""

from __future__ import annotations

import torch

from invert3d_ns.editing.view_sets import spread_cameras
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.rendering import render_splats
from invert3d_ns.world.color_names import shares_of_pixels

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
    return shares_of_pixels(images.clamp(0, 1).permute(0, 2, 3, 1)[alphas[:, 0] > 0.5].cpu())


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
