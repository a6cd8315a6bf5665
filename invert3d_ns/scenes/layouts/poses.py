"""Camera poses as they are written, and as they must be: a rotation without scale, a finite place."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from invert3d_ns.base.english import counted
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.notices import warn
from invert3d_ns.scenes.layouts.listing import ListedImage

_EXACT = 1e-3
"""Rotations are taken as written when their axes are this near to length 1."""
_EVEN = 1.01
"""How much longer than the shortest axis the longest one may be."""


def read_poses(images: list[ListedImage]) -> list[Float[np.ndarray, "4 4"]]:
    """The camera-to-world matrices of listed images, in double precision; what scale they have is taken out, aloud.

    Raises:
        InputError: a matrix is none, not finite, mirrored, sheared or without a rotation; by the image's name.
    """
    poses, scales = [], []
    for image in images:
        pose = _matrix(image)
        axes, lengths, other = np.linalg.svd(pose[:3, :3])
        if lengths[2] <= 1e-6 * lengths[0] or lengths[0] < 1e-12:
            _refuse(image, "has no rotation: its axes have no length, or lie in one plane", "correct or remove it")
        if lengths[0] > _EVEN * lengths[2]:
            stretch = f"its axes differ in length by {lengths[0] / lengths[2]:.3g} times"
            _refuse(image, f"is sheared or scaled unevenly ({stretch})", "give a rotation and a translation")
        if np.linalg.det(pose[:3, :3]) < 0:
            _refuse(image, "is mirrored (its determinant is negative)", "give right-handed OpenGL axes")
        if np.abs(lengths - 1).max() > _EXACT:
            scales.append(float(lengths.mean()))
            pose[:3, :3] = axes @ other
        poses.append(pose)
    if scales:
        low, high = min(scales), max(scales)
        size = f"{low:.4g}" if high < 1.001 * low else f"{low:.4g} to {high:.4g}"
        warn(f"the rotations of {counted(len(scales), len(images), 'cameras')} have a scale ({size}); it is taken out")
    return poses


def _matrix(image: ListedImage) -> Float[np.ndarray, "4 4"]:
    pose = np.eye(4)
    rows: Any = image.matrix
    try:
        if not isinstance(rows, np.ndarray):
            plain = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
            if not plain or any(isinstance(value, str | bool) for row in rows for value in row):
                raise TypeError
        rows = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        rows = np.empty(0)
    if rows.shape not in ((3, 4), (4, 4)):
        _refuse(image, "is no matrix of 4x4 or 3x4 numbers", "give camera-to-world, row by row")
    if not np.isfinite(rows).all():
        _refuse(image, "has NaN or infinity", "remove that frame")
    if len(rows) == 4 and np.abs(rows[3] - [0, 0, 0, 1]).max() > 1e-4:
        _refuse(image, "does not end with the row 0 0 0 1", "give camera-to-world, row by row (is it transposed?)")
    pose[:3] = rows[:3]
    return pose


def _refuse(image: ListedImage, fault: str, cure: str) -> None:
    raise InputError(f"the camera pose of {image.name} in {image.source} {fault}; {cure}")
