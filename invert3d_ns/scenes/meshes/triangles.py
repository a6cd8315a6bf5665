"""Which pixels triangles cover, and with which parts of their corners: for textures, and for pictures of meshes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

_AT_ONCE = 1 << 21
"""Pixels that are looked at in one go."""


def covered_pixels(
    corners: Float[np.ndarray, "F 3 2"], size: int
) -> Iterator[tuple[Int[np.ndarray, " P"], Int[np.ndarray, " P"], Float[np.ndarray, "P 3"]]]:
    """The pixels of a square picture whose centers lie in triangles, in batches of triangles.

    Vectorized here, as rasterizers of triangles are made for graphics cards (nvdiffrast, pytorch3d) or for screens
    (pyrender), and those of pictures (scikit-image, Pillow) draw one triangle a call.

    Args:
        corners: x and y in pixels, y down; the center of the first pixel is (0.5, 0.5). Triangles may wind either way;
            those without area, or with corners that are not finite, cover nothing.
        size: width and height of the picture.

    Yields:
        Numbers of pixels (row by row), the triangle that covers each, and its barycentric coordinates there. A pixel
        comes once for each triangle that covers it.
    """
    corners = np.array(corners, dtype=np.float64)
    finite = np.isfinite(corners).all(axis=(1, 2))
    corners[~finite] = -1.0
    low = np.clip(np.ceil(corners.min(axis=1) - 0.5), 0, size).astype(np.int64)
    high = np.clip(np.floor(corners.max(axis=1) - 0.5) + 1, 0, size).astype(np.int64)
    spans = np.maximum(high - low, 0)
    counts = spans.prod(axis=1)
    counts[~finite] = 0
    ends = np.cumsum(counts)
    start = 0
    while start < len(corners):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _AT_ONCE, side="right")))
        yield _covered(corners[start:stop], low[start:stop], spans[start:stop], counts[start:stop], start, size)
        start = stop


def _covered(
    corners: np.ndarray, low: np.ndarray, spans: np.ndarray, counts: np.ndarray, first: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:func:`covered_pixels` of a batch: all pixels of all bounding boxes are tried."""
    face = np.repeat(np.arange(len(corners)), counts)
    within = np.arange(len(face)) - np.repeat(np.cumsum(counts) - counts, counts)
    column = low[face, 0] + within % spans[face, 0]
    row = low[face, 1] + within // spans[face, 0]
    a, b, c = (corners[:, index] for index in range(3))
    area = _cross(b - a, c - a)
    point = np.stack([column, row], axis=-1) + 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        beta = _cross((point - a[face]), (c - a)[face]) / area[face]
        gamma = _cross((b - a)[face], (point - a[face])) / area[face]
        parts = np.stack([1 - beta - gamma, beta, gamma], axis=-1)
        inside = (parts >= -1e-9).all(axis=-1)
    return (row * size + column)[inside], face[inside] + first, parts[inside]


def _cross(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left[..., 0] * right[..., 1] - left[..., 1] * right[..., 0]
