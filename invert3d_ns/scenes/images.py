"""Reading image files with their alpha."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from invert3d_ns.base.errors import InputError


def read_image(path: Path, mask_path: Path | None = None, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
    """Decode an image file to (H, W, 3 or 4) uint8.

    Args:
        path: the image.
        mask_path: a mask to be its alpha, resized to fit.
        size: (width, height) to resize to, colors weighted by alpha so that no background bleeds into edges.

    Raises:
        InputError: a file is missing or cannot be decoded.
    """
    image = _open(path)
    image = image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
    if mask_path is not None:
        mask = _open(mask_path).convert("L").resize(image.size)
        image.putalpha(mask)
    if size is not None and image.size != size:
        from PIL import Image

        if image.mode == "RGBA":
            image = image.convert("RGBa").resize(size, resample=Image.Resampling.BOX, reducing_gap=2.0).convert("RGBA")
        else:
            image = image.resize(size, resample=Image.Resampling.BOX, reducing_gap=2.0)
    return np.array(image)


def _open(path: Path):
    from PIL import Image

    if not path.exists():
        raise InputError(f"the image {path} is missing; restore it, or remove its entry from the list of cameras")
    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"the image {path} cannot be read ({error}); replace it") from error
    return image
