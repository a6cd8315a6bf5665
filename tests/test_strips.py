"""Strips of views: where each lies in the picture that shows them all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from invert3d_ns.metrics.strips import join_strips, keep_strip


def _strip(path: Path, value: float, views: int, size: int = 64) -> Path:
    keep_strip(path, torch.full((views, 3, size, size), value), columns=10)
    return path


def test_a_strip_is_a_row_of_views_of_64_pixels_or_more(tmp_path: Path) -> None:
    with Image.open(_strip(tmp_path / "views" / "small.png", 0.0, 3, size=32)) as strip:
        assert strip.size == (3 * 64, 64)
    with Image.open(_strip(tmp_path / "views" / "large.png", 0.0, 2, size=80)) as strip:
        assert strip.size == (2 * 80, 80)


def test_strips_lie_where_their_row_and_column_are(tmp_path: Path) -> None:
    wide, narrow, high = (
        _strip(tmp_path / f"{name}.png", value, views, size)
        for name, value, views, size in (("wide", 0.2, 2, 64), ("narrow", 0.4, 1, 64), ("high", 0.6, 1, 72))
    )
    join_strips(tmp_path / "all.png", [[wide, narrow], [], [high]], gap=8, background="red")
    expected = np.zeros((64 + 72 + 72, 2 * (2 * 64 + 8), 3), np.uint8)
    expected[..., 0] = 255
    expected[:64, :128], expected[:64, 136:200], expected[136:, :72] = 51, 102, 153
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "all.png")), expected)
