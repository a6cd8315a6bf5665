"""Photographs as views: cut out, centered, scaled, on white; refused by name where there is no object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from invert3d_ns.base.errors import InputError
from invert3d_ns.words.photographs.object_views import LEAST_PIXELS, frame_view, largest_pieces, object_view

RED, GRAY = (200, 20, 20), (180, 190, 200)


def picture(path: Path, size: tuple[int, int], box: tuple[int, int, int, int], *, alpha: bool, background=GRAY) -> Path:
    """A red box (left, top, right, bottom) in a picture of ``size`` (width, height)."""
    pixels = np.full((size[1], size[0], 3), background, np.uint8)
    cover = np.zeros((size[1], size[0]), np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = RED
    cover[top:bottom, left:right] = 255
    if alpha:
        pixels = np.dstack([pixels, cover])
    Image.fromarray(pixels).save(path)
    return path


def bounds(view: torch.Tensor) -> tuple[int, int, int, int]:
    rows, columns = torch.nonzero((1 - view).amax(0) > 0.3, as_tuple=True)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


@pytest.mark.parametrize("alpha", [True, False])
@pytest.mark.parametrize("size", [(300, 200), (90, 500)])
def test_the_object_is_centered_and_scaled_on_white(tmp_path: Path, alpha: bool, size: tuple[int, int]) -> None:
    path = picture(tmp_path / "box.png", size, (10, 20, 70, 50), alpha=alpha)  # 60 by 30, far from the middle
    view = object_view(path, 64, extent=0.5)
    assert view.shape == (3, 64, 64) and view.min() >= 0 and view.max() <= 1
    left, top, right, bottom = bounds(view)
    assert abs(left - 16) <= 1 and abs(right - 48) <= 1 and abs(top - 24) <= 1 and abs(bottom - 40) <= 1
    assert torch.allclose(view[:, :10], torch.ones(()), atol=1e-3)
    assert torch.allclose(view[:, 32, 32], torch.tensor(RED) / 255, atol=0.01)


def test_background_does_not_tint_the_edges(tmp_path: Path) -> None:
    path = picture(tmp_path / "box.png", (160, 160), (20, 20, 131, 131), alpha=True, background=(0, 255, 0))
    view = object_view(path, 48, extent=0.7)
    assert (view[1] - view[2]).max() < 0.02  # red and white have equal green and blue; the hidden green does not


def test_an_object_at_the_edge_of_its_picture_is_frame_view_whole(tmp_path: Path) -> None:
    view = object_view(picture(tmp_path / "box.png", (100, 100), (0, 0, 40, 40), alpha=True), 64, extent=0.5)
    left, top, right, bottom = bounds(view)
    assert abs(left - 16) <= 1 and abs(top - 16) <= 1 and abs(right - 48) <= 1 and abs(bottom - 48) <= 1


@pytest.mark.parametrize("extent", [0.3, 0.52, 1.0])
def test_framing_shrinks_onto_white(extent: float) -> None:
    view = frame_view(torch.zeros(3, 100, 100), 64, extent)
    left, top, right, bottom = bounds(view)
    assert right - left == bottom - top == round(64 * extent) and abs(left + right - 64) <= 1
    assert (view == 1).sum() == 3 * (64**2 - round(64 * extent) ** 2)


def test_framing_shifts_but_keeps_the_object_whole() -> None:
    black = torch.zeros(3, 64, 64)
    assert bounds(frame_view(black, 64, 0.5, (0.125, -0.0625))) == (24, 12, 56, 44)
    assert bounds(frame_view(black, 64, 0.5, (0.9, -0.9))) == (32, 0, 64, 32)


def test_specks_do_not_move_the_object(tmp_path: Path) -> None:
    alpha = torch.zeros(60, 60)
    alpha[20:40, 20:40] = 1
    clean = alpha.clone()
    alpha[2, 55] = 1
    assert torch.equal(largest_pieces(alpha), clean)
    alpha[2:8, 50:58] = 1  # 48 of 400 pixels: a part that hangs apart, such as a lamp's shade
    assert torch.equal(largest_pieces(alpha), alpha)


def no_image(path: Path) -> None:
    path.write_text("not a picture")


def all_transparent(path: Path) -> None:
    Image.fromarray(np.zeros((80, 80, 4), np.uint8)).save(path)


def one_color(path: Path) -> None:
    Image.fromarray(np.full((80, 80, 3), 90, np.uint8)).save(path)


def busy(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)).save(path)


def small_object(path: Path) -> None:
    picture(path, (200, 200), (50, 50, 50 + LEAST_PIXELS - 4, 60), alpha=True)


def small_picture(path: Path) -> None:
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(path)


def full(path: Path) -> None:
    pixels = np.full((80, 80, 4), 255, np.uint8)
    pixels[0, 0, 3] = 0
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "missing"),
        (no_image, "cannot be read"),
        (all_transparent, "every pixel is transparent"),
        (one_color, "every pixel is of one color"),
        (busy, "no object is found"),
        (small_object, "spans 20 pixels"),
        (small_picture, "3x3 pixels"),
        (full, "fills"),
    ],
)
def test_refused_by_name(tmp_path: Path, make, message: str) -> None:
    make(tmp_path / "photo.png")
    with pytest.raises(InputError, match=message) as caught:
        object_view(tmp_path / "photo.png", 64)
    assert "photo.png" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("extent", [0.0, 1.5, float("nan")])
def test_bad_extents(tmp_path: Path, extent: float) -> None:
    with pytest.raises(InputError, match="extent"):
        object_view(tmp_path / "photo.png", 64, extent)
