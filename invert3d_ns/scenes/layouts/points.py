"""Points of a reconstruction. They are a help, not a need: whatever is wrong with them is a warning."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from invert3d_ns.base.english import counted
from invert3d_ns.base.notices import warn
from invert3d_ns.scenes.layouts.listing import Points
from invert3d_ns.scenes.ply_file import white_of

_UNREADABLE = (ArithmeticError, LookupError, MemoryError, OSError, TypeError, ValueError, struct.error)
_COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))


_QUICK = 4 << 20
"""Bytes of a file whose points take no time to read."""


def read_ply_points(folder: Path, name: Any, *, quick: bool = False) -> Points | None:
    """The points of the ``.ply`` that a list of cameras names, gray where it has no colors.

    Args:
        quick: leave large files alone, for a caller who only wants to warn about points that are not there.
    """
    path = folder / str(name).replace("\\", "/")
    if not path.is_file():
        path = next((p for p in (folder / path.name, folder / "sparse_pc.ply") if p.is_file()), path)
    return _checked(path, _from_ply, quick)


def read_colmap_points(model: Path, *, quick: bool = False) -> Points | None:
    """The points of a COLMAP model, from ``points3D.bin``, ``.txt`` or ``.ply``; see :func:`read_ply_points`."""
    binary_first = (model / "images.bin").is_file() and not (model / "images.txt").is_file()
    endings = ("bin", "txt", "ply") if binary_first else ("txt", "bin", "ply")
    paths = [model / f"points3D.{ending}" for ending in endings]
    return _checked(next((path for path in paths if path.is_file()), paths[0]), _from_colmap, quick)


def _checked(path: Path, read: Any, quick: bool) -> Points | None:
    """Points that are finite, or None, with a warning that says why."""
    if quick and path.is_file() and path.stat().st_size > _QUICK:
        return None
    if not path.is_file():
        warn(f"there are no points of the reconstruction ({path} is missing); splats start without them")
        return None
    try:
        points = read(path)
    except _UNREADABLE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warn(f"the points of {path} cannot be read ({reason}); splats start without them")
        return None
    good = np.isfinite(points.positions).all(axis=1)
    if not good.any():
        what = "holds no points" if len(good) == 0 else f"holds {len(good)} points, none of them finite"
        warn(f"{path} {what}; splats start without them")
        return None
    if not good.all():
        warn(f"{counted(int((~good).sum()), len(good), 'points')} of {path} are not finite; they are left out")
    return Points(points.positions[good], np.nan_to_num(points.colors[good], nan=128.0).clip(0, 255))


def _from_ply(path: Path) -> Points:
    from plyfile import PlyData, PlyHeaderParseError, PlyParseError

    try:
        vertex = PlyData.read(str(path))["vertex"]
    except (PlyHeaderParseError, PlyParseError) as error:
        raise ValueError(str(error)) from error
    kinds = {prop.name: vertex.data.dtype[prop.name] for prop in vertex.properties}

    def columns(names: tuple[str, ...]) -> np.ndarray:
        return np.stack([np.asarray(vertex[name]).astype(np.float64) for name in names], axis=-1)

    positions = columns(("x", "y", "z"))
    names = next((names for names in _COLORS if set(names) <= kinds.keys()), None)
    if names is None:
        return Points(positions, np.full_like(positions, 128.0))
    colors = columns(names)
    return Points(positions, colors * (255.0 / white_of(colors, [kinds[name] for name in names])[0]))


def _from_colmap(path: Path) -> Points:
    from nerfstudio.data.utils import colmap_parsing_utils as colmap

    if path.suffix == ".ply":
        return _from_ply(path)
    read = colmap.read_points3D_binary if path.suffix == ".bin" else colmap.read_points3D_text
    points = list(read(path).values())
    return Points(
        np.array([point.xyz for point in points], dtype=np.float64).reshape(-1, 3),
        np.array([point.rgb for point in points], dtype=np.float64).reshape(-1, 3),
    )
