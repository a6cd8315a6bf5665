"""Strips of views: one measurement's, side by side, kept in a file each until all are shown together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.pictures import write_grid


def keep_strip(path: Path, views: Float[Tensor, "F 3 H W"], *, columns: int) -> None:
    """Write RGB in [0, 1] as a PNG, in a folder that is made when missing; small views are enlarged to 64 pixels.

    Raises:
        InputError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_grid(path, views, columns=columns, least=64)


def join_strips(path: Path, rows: Sequence[Sequence[Path]], *, gap: int = 0, background: str = "white") -> None:
    """Write strips as one PNG: columns as wide as the widest strip, each row as high as its highest.

    Args:
        path: the file.
        rows: the strips' files, one or more in all; a row may have fewer than another, or none.
        gap: pixels to the right of each column.
        background: what is seen where no strip is, by name.

    Raises:
        InputError: the file cannot be written.
    """
    from PIL import Image

    opened = [[Image.open(strip) for strip in row] for row in rows]
    width, height = (max(getattr(strip, side) for row in opened for strip in row) for side in ("width", "height"))
    width, heights = width + gap, [max((strip.height for strip in row), default=height) for row in opened]
    joined = Image.new("RGB", (max(map(len, opened)) * width, sum(heights)), background)
    for index, row in enumerate(opened):
        for column, strip in enumerate(row):
            joined.paste(strip, (column * width, sum(heights[:index])))
    with atomic_path(path) as temporary:
        joined.save(temporary, format="PNG")
