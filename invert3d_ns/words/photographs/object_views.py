"""Turn photographs into views as a prior knows them: one object, cut out, in the middle of a white square."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.images import read_image
from invert3d_ns.words.photographs.cutout import cut_out

LEAST_PIXELS = 24
"""Smallest larger side, in pixels, of an object that something can be learned from."""
_FRAGMENT = 0.02


def object_view(path: Path, size: int, extent: float = 1.0) -> Float[Tensor, "3 S S"]:
    """Read a photograph of one object and make it a view: RGB in [0, 1] on white.

    The object is what the alpha channel covers, or else what :func:`.cutout.cut_out` tells from what is behind it.

    Args:
        path: an image file of any size and proportions.
        size: pixels of the square view.
        extent: share of the frame that the larger side of the object's bounding box takes, in (0, 1].

    Raises:
        InputError: no image, an empty one, no object told from its background, an object too small, or a bad extent.
    """
    if not 0 < extent <= 1:
        raise InputError(f"extent {extent:g} is no share of the frame; give a number above 0 and up to 1")
    pixels = read_image(path)
    rgb = torch.from_numpy(pixels[..., :3].copy()).float() / 255
    alpha = largest_pieces(cut_out(path, pixels, rgb))
    rows, columns = torch.nonzero(alpha > 0.5, as_tuple=True)
    top, bottom, left, right = (int(v) for v in (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
    side = max(bottom - top, right - left)
    if side < LEAST_PIXELS:
        raise InputError(
            f"the object in {path} spans {side} pixels; give a picture in which it spans {LEAST_PIXELS} or more"
        )
    frame = side / extent
    middle = ((top + bottom) / 2, (left + right) / 2)
    # Colors weighted by coverage, so that what was behind the object does not tint its edges.
    layers = torch.cat([rgb * alpha[..., None], alpha[..., None]], dim=-1).permute(2, 0, 1)
    cut = _window(layers, middle, frame, size)
    return (cut[:3] + 1 - cut[3:]).clamp(0, 1)


def largest_pieces(alpha: Float[Tensor, "H W"]) -> Float[Tensor, "H W"]:
    """Remove specks from coverage in [0, 1]: connected pieces of less than a fiftieth of the largest one's area."""
    from scipy.ndimage import label

    labeled: Any = label(alpha.numpy() > 0.1, structure=np.ones((3, 3)))
    pieces, count = labeled
    if count < 2:
        return alpha
    areas = np.bincount(pieces.ravel())
    areas[0] = 0
    keep = areas >= _FRAGMENT * areas.max()
    return alpha * torch.from_numpy(keep[pieces])


def _window(
    layers: Float[Tensor, "c H W"], middle: tuple[float, float], frame: float, size: int
) -> Float[Tensor, "c S S"]:
    """Resample the square of side ``frame`` (pixels) around ``middle`` (row, column); outside the picture is zero."""
    # Whole pixels around a box with a fraction are kept out by resampling from a padded picture.
    pad = int(np.ceil(frame))
    padded = torch.nn.functional.pad(layers, (pad, pad, pad, pad))
    half = max(1, round(frame / 2))
    row, column = round(middle[0]) + pad, round(middle[1]) + pad
    window = padded[:, row - half : row + half, column - half : column + half]
    if window.shape[-1] == size:
        return window
    return torch.nn.functional.interpolate(
        window[None], (size, size), mode="bilinear", antialias=True, align_corners=False
    )[0]


def frame_view(
    view: Float[Tensor, "3 S S"], size: int, extent: float, shift: tuple[float, float] = (0.0, 0.0)
) -> Float[Tensor, "3 size size"]:
    """Shrink a view that its object fills, so that it spans ``extent`` (in (0, 1]) of ``size`` pixels, on white.

    ``shift``: how far right and down of the middle it lies, in shares of the frame; it is kept whole.
    """
    inside = max(1, round(size * extent))
    small = torch.nn.functional.interpolate(
        view[None], (inside, inside), mode="bilinear", antialias=True, align_corners=False
    )[0]
    room = size - inside
    left, top = (min(max(room // 2 + round(size * value), 0), room) for value in shift)
    return torch.nn.functional.pad(small, (left, room - left, top, room - top), value=1.0).clamp(0, 1)
