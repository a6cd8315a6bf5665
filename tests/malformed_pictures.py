"""Photographs for ``invert3d image`` that show nothing, are cut off, or are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from malformed import case
from PIL import Image

_IMAGE = "invert3d image case/photo.png --prior prior --out case/out"


def _picture(mode: str, size: tuple[int, int], color: Any = 0) -> Callable[[Path], None]:
    return lambda folder: Image.new(mode, size, color).save(folder / "photo.png")


def _as(content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / "photo.png").write_bytes(content)


def _cut(folder: Path) -> None:
    content = (folder.parent / "photo.png").read_bytes()
    (folder / "photo.png").write_bytes(content[: len(content) // 2])


def _stripes(folder: Path) -> None:
    picture = Image.new("RGB", (64, 64))
    for column in range(64):
        picture.paste((column * 4, 255 - column * 4, column % 2 * 255), (column, 0, column + 1, 64))
    picture.save(folder / "photo.png")


CASES = [
    case(f"photograph {name}", _IMAGE, says, make)
    for name, make, says in (
        ("missing", None, "photo.png is missing|does not exist"),
        ("empty", _as(b""), "photo.png"),
        ("of text", _as(b"hello"), "photo.png"),
        ("cut off", _cut, "photo.png"),
        ("that is a folder", lambda folder: (folder / "photo.png").mkdir(), "photo.png"),
        ("that is a web page", _as(b"<html>"), "photo.png"),
        ("of one pixel", _picture("RGB", (1, 1)), "photo.png has 1x1 pixels"),
        ("of one color", _picture("RGB", (64, 64), (9, 9, 9)), "all background"),
        ("that is transparent", _picture("RGBA", (64, 64), (0, 0, 0, 0)), "all background"),
        ("that is opaque noise", _stripes, "no object is found"),
    )
]
_RIGHT = "invert3d image photo.png --prior prior --out case/out"
CASES += [
    case("no photograph", "invert3d image --out case/out", "no photograph is given"),
    case("azimuths for more photographs", f"{_RIGHT} --azimuths 0 90", "2 --azimuths for 1 photographs"),
    case("no extents", f"{_RIGHT} --extents", "--extents"),
    case("photograph of an unknown prior", "invert3d image photo.png --prior midas --out case/out", "midas"),
    case("too many vectors", f"{_RIGHT} --vectors 500", "500 vectors|--vectors is 500"),
    case("words for splats", "invert3d image ball.ply --prior prior --out case/out", "ball.ply"),
]
