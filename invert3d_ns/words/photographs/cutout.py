"""Cut an object out of a photograph: by its transparency, before a plain wall, or by a segmenter that is installed.

A wall is one color, or one that changes softly from side to side, with a soft shadow of the object on it. Whatever is
behind the object otherwise needs a network that knows what objects look like: rembg, a well-kept package around
U²-Net and others, which is an extra since it downloads its weights (5 MB for the default here) when it is first used.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.silhouettes import alpha_from_background, uniform_background

SEGMENTER = "u2netp"
"""rembg's name of the network: the smallest of U²-Net (Apache-2.0)."""
_LEAST_COVER, _MOST_COVER = 1e-3, 0.98
_SMOOTH, _SHARE = 10 / 255, 0.8
"""How near the border of a picture must lie to a quadratic surface, and how much of it."""
_SHADOW, _TINT, _EDGE = 0.55, 0.035, 0.06
"""Darkest shadow, as a share of the wall's light; how far its color may differ from the wall's; its steepest slope."""


def cut_out(path: Path, pixels: np.ndarray, rgb: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W"]:
    """Coverage of the picture by its object, in [0, 1].

    Args:
        path: for messages.
        pixels: as read, with or without an alpha channel.
        rgb: their colors in [0, 1].

    Raises:
        InputError: no object is told from what is behind it.
    """
    if min(rgb.shape[:2]) < 4:
        raise InputError(f"{path} has {rgb.shape[1]}x{rgb.shape[0]} pixels; give a larger picture")
    transparent = pixels.shape[-1] == 4 and pixels[..., 3].min() < 250
    if transparent:
        alpha = torch.from_numpy(pixels[..., 3].copy()).float() / 255
    else:
        alpha = _before_wall(rgb)
        if alpha is None:
            alpha = _segmented(path, rgb)
    covered = (alpha > 0.5).float().mean().item()
    if covered < _LEAST_COVER:
        what = "is transparent" if transparent else "is of one color"
        raise InputError(f"{path} is all background: every pixel {what}; give a picture that shows an object")
    if covered > _MOST_COVER:
        raise InputError(f"the object fills {path} to the edges, so its outline is unknown; give a picture of it whole")
    return alpha


def _before_wall(rgb: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W"] | None:
    """Coverage of what stands before a wall of one color or of a soft gradient; None if there is no such wall."""
    color = uniform_background([rgb])
    if color is not None:
        return alpha_from_background(rgb, color)
    wall = smooth_background(rgb)
    return None if wall is None else alpha_from_background(without_shadow(rgb, wall), wall)


def smooth_background(rgb: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"] | None:
    """The wall behind an object, if the picture's border shows one: a quadratic surface in each channel.

    Returns:
        None where a fifth of the border or more lies off every such surface.
    """
    height, width = rgb.shape[:2]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], -1).double()
    rim = max(1, min(height, width) // 40)
    border = torch.ones(height, width, dtype=torch.bool)
    border[rim:-rim, rim:-rim] = False
    design, values = terms[border], rgb[border].double()
    surface, off = values[:6], torch.zeros(len(values), dtype=torch.float64)
    for _ in range(4):  # what crosses the border, feet or shadows, is left out step by step
        kept = off <= max(float(off.median()) * 3, _SMOOTH)
        surface = torch.linalg.lstsq(design[kept], values[kept], driver="gelsd").solution
        off = (design @ surface - values).abs().amax(-1)
    if float(off.lt(_SMOOTH).float().mean()) < _SHARE:
        return None
    return (terms @ surface).clamp(0, 1).float()


def without_shadow(rgb: Float[Tensor, "H W 3"], wall: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
    """The picture with soft shadows on the wall taken back: pixels of the wall's own color, darker, without an edge."""
    light = rgb / wall.clamp_min(0.05)
    mean = light.mean(-1)
    tinted = (light - mean[..., None]).abs().amax(-1)
    across = torch.zeros_like(mean)
    across[:, 1:] = (mean[:, 1:] - mean[:, :-1]).abs()
    across[1:] = torch.maximum(across[1:], (mean[1:] - mean[:-1]).abs())
    steep = torch.nn.functional.max_pool2d(across[None], 5, stride=1, padding=2)[0]
    shaded = (mean > _SHADOW) & (mean < 1.04) & (tinted < _TINT) & (steep < _EDGE)
    return torch.where(shaded[..., None], wall, rgb)


def _segmented(path: Path, rgb: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W"]:
    if importlib.util.find_spec("rembg") is None:
        raise InputError(
            f"no object is found in {path}: what surrounds it is not a plain wall; `pip install 'invert3d-ns[photos]'` "
            "for a segmenter, or cut the object out (a PNG with a transparent background)"
        )
    import rembg  # type: ignore[import-not-found]

    try:
        session = rembg.new_session(SEGMENTER)
        mask = rembg.remove((rgb.numpy() * 255).round().astype(np.uint8), session=session, only_mask=True)
    except Exception as error:  # its weights come from the network when it is first used, by a library of its own
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"the segmenter cannot cut out the object in {path} ({reason}); run `rembg d {SEGMENTER}` where there is a "
            "network, or give a PNG with a transparent background"
        ) from error
    return torch.from_numpy(np.array(mask)).float() / 255
