"""Masks as tools write them: white on black, labels, palettes, cut-outs, lossy or 16-bit, all read as coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


def coverage(mask: Image.Image) -> Image.Image:
    """Where a mask says that the object is, as an 8-bit picture (mode L) of the same size, 255 for the object.

    A picture with transparency is its alpha. Values that stay in the lower half of their range, palettes, and one value
    beside zero are labels: all but zero is the object. JPEG is cut at half, because compression leaves noise; anything
    else keeps its soft edges.
    """
    from PIL import Image

    if "A" in mask.getbands() or "transparency" in mask.info:
        alpha = mask.convert("RGBA").getchannel("A")
        low, high = alpha.getextrema()
        if low != high:
            return alpha
    if mask.mode == "F" or mask.mode.startswith("I"):
        values = np.nan_to_num(np.asarray(mask).astype(np.float64))
        full = 65535.0 if mask.mode != "F" else 1.0 if values.max(initial=0.0) <= 1 else 255.0
        values = values * (255.0 / full)
    else:
        values = np.asarray(mask.convert("L")).astype(np.float64)
    most = values.max(initial=0.0)
    if mask.mode == "P" or most < 127.5 or ((values == 0) | (values == most)).all():
        values = np.where(values > 0, 255.0, 0.0)
    elif mask.format in ("JPEG", "MPO"):
        values = np.where(values >= 127.5, 255.0, 0.0)
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
