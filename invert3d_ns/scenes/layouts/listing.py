"""What every list of cameras says, whatever tool wrote it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from nerfstudio.cameras.cameras import CameraType

from invert3d_ns.base.errors import InputError


@dataclass
class ListedImage:
    """One entry of a list of cameras, its numbers as they are written; None is what it does not say."""

    name: str
    """The image, as the list calls it."""
    matrix: Any
    """Camera to world, OpenGL axes: 4x4 or 3x4."""
    source: Path
    """The file that lists it."""
    width: int | None = None
    height: int | None = None
    focal_x: float | None = None
    """Pixels, as the other focal length and the principal point."""
    focal_y: float | None = None
    center_x: float | None = None
    center_y: float | None = None
    angle_x: float | None = None
    """Field of view in radians."""
    angle_y: float | None = None
    distortion: tuple[float, ...] = (0.0,) * 6
    """k1, k2, k3, k4, p1, p2."""
    kind: CameraType = CameraType.PERSPECTIVE
    mask: str | None = None
    splits: frozenset[str] = frozenset()
    """Of "train", "val" and "test", those that it is said to belong to."""


@dataclass
class Points:
    """The points of a reconstruction."""

    positions: Float[np.ndarray, "N 3"]
    """In the frame of the cameras, double precision."""
    colors: Float[np.ndarray, "N 3"]
    """0 to 255."""


def no_points(quick: bool = False) -> None:
    """The points of a reconstruction that is not said to have any."""


@dataclass
class Listing:
    """A folder of posed images as its list of cameras describes it."""

    folder: Path
    source: Path
    """The file or folder that lists the cameras."""
    images: list[ListedImage]
    roots: tuple[Path, ...]
    """Folders that names start from, the likeliest first."""
    read_points: Callable[..., Points | None] = no_points
    """Reads the points of the reconstruction, large files too unless ``quick``; a warning says why there are none."""
    world: Float[np.ndarray, "4 4"] = field(default_factory=lambda: np.eye(4))
    """What the tool did to the original world, to arrive at the one that the cameras are in."""
    world_scale: float = 1.0
    pixels_as_stored: bool = False
    """Whether the tool looks at pixels as they are stored, without regard to EXIF orientation."""
    by_name: bool = False
    """Whether images are ordered by name, not as they are listed."""
    every_eighth: bool = False
    """Whether every eighth image is held out, as is usual for COLMAP's models, not a tenth of them."""


def read_number(values: dict[str, Any], names: tuple[str, ...], where: str) -> float | None:
    """The first of several names that ``values`` has, as a finite number; None if it has none of them.

    Raises:
        InputError: it is no number, by name; ``where`` is the file and the entry.
    """
    for name in names:
        value = values.get(name)
        if value is None:
            continue
        try:
            number = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not np.isfinite(number):
            raise InputError(f"{where} has {name} {value!r:.60}; give a finite number")
        return number
    return None
