"""Pictures of people: every bit depth and color model is read for what it shows, or refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.images import read_header, read_image, same_shape
from invert3d_ns.scenes.masks import coverage
from invert3d_ns.words.photographs.object_views import object_view

RED = (200, 20, 20)


def pixels(alpha: bool = False) -> np.ndarray:
    """A red box off center on gray, 24 wide and 16 high."""
    picture = np.full((16, 24, 4), 130, np.uint8)
    picture[..., 3] = 0
    picture[4:12, 2:10] = (*RED, 255)
    return picture if alpha else picture[..., :3]


def save_png_16(path: Path, values: np.ndarray) -> None:
    """A PNG of 16 bits a channel, which Pillow does not write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def write(kind: str, folder: Path) -> Path:
    rgb = Image.fromarray(pixels())
    rgba = Image.fromarray(pixels(alpha=True))
    gray = np.asarray(rgb.convert("L"))
    path = folder / "a.png"
    if kind == "CMYK":
        rgb.convert("CMYK").save(path := folder / "a.jpg", quality=95)
    elif kind == "palette":
        rgb.quantize(8).save(path)
    elif kind == "palette with transparency":
        rgba.quantize(8).save(path)
    elif kind == "gray with alpha":
        rgba.convert("LA").save(path)
    elif kind == "1 bit":
        Image.fromarray(gray < 100).save(path)
    elif kind == "16-bit gray":
        Image.fromarray(gray.astype(np.uint16) * 257).save(path)
    elif kind == "16-bit gray TIFF, big-endian":
        Image.fromarray((gray.astype(np.uint16) * 257).astype(">u2")).save(path := folder / "a.tif")
    elif kind == "32-bit integer":
        Image.fromarray(gray.astype(np.int32) * 257).save(path := folder / "a.tif")
    elif kind == "float":
        Image.fromarray(gray.astype(np.float32) / 255).save(path := folder / "a.TIFF")
    elif kind == "16-bit RGB":
        save_png_16(path, pixels().astype(np.uint16) * 257)
    elif kind == "16-bit RGBA":
        save_png_16(path, pixels(alpha=True).astype(np.uint16) * 257)
    elif kind == "another ending":
        rgb.save(path := folder / "a.jpg", format="PNG")
    return path


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize(
    ("kind", "channels", "color"),
    [
        ("CMYK", 3, RED),
        ("palette", 3, RED),
        ("palette with transparency", 4, RED),
        ("gray with alpha", 4, (74, 74, 74)),
        ("1 bit", 3, (255, 255, 255)),
        ("16-bit gray", 3, (74, 74, 74)),
        ("16-bit gray TIFF, big-endian", 3, (74, 74, 74)),
        ("32-bit integer", 3, (74, 74, 74)),
        ("float", 3, (74, 74, 74)),
        ("16-bit RGB", 3, RED),
        ("16-bit RGBA", 4, RED),
        ("another ending", 3, RED),
    ],
)
def test_every_kind_of_picture_is_read_for_what_it_shows(tmp_path, kind, channels, color, mask):
    path = write(kind, tmp_path)
    cover = None
    if mask:
        cover = tmp_path / "mask.png"
        Image.fromarray(pixels(alpha=True)[..., 3]).save(cover)
    image = read_image(path, cover)
    assert image.shape == (16, 24, 4 if mask else channels) and image.dtype == np.uint8
    assert np.abs(image[8, 6, :3].astype(int) - color).max() <= 12  # JPEG, and the palette's nearest
    if image.shape[-1] == 4:
        assert image[8, 6, 3] == 255 and image[0, 0, 3] == 0
    assert read_header(path).upright == (24, 16)


def refused(kind: str, folder: Path) -> Path:
    path = folder / "a.png"
    rgb = Image.fromarray(pixels())
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "damaged header":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    elif kind == "HEIC":
        (path := folder / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))
    elif kind == "HEIC called JPEG":
        (path := folder / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))
    elif kind == "raw":
        rgb.save(path := folder / "a.NEF", format="TIFF")
    elif kind == "SVG":
        (path := folder / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    elif kind == "PDF":
        (path := folder / "a.pdf").write_bytes(b"%PDF-1.7\n")
    elif kind == "video":
        (path := folder / "a.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(60))
    elif kind == "animated":
        rgb.save(path := folder / "a.gif", save_all=True, append_images=[rgb.rotate(90, expand=False)])
    elif kind == "pages":
        rgb.save(path := folder / "a.tiff", save_all=True, append_images=[rgb])
    elif kind == "high dynamic range":
        Image.fromarray(np.full((8, 8), 37.5, np.float32)).save(path := folder / "a.tif")
    elif kind == "NaN":
        Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(path := folder / "a.tif")
    elif kind == "negative":
        Image.fromarray(np.full((8, 8), -5, np.int32)).save(path := folder / "a.tif")
    elif kind == "git":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("empty", "an empty file"),
        ("truncated", "cannot be read"),
        ("text", "a text file"),
        ("damaged header", "a PNG image that is damaged|cannot be read"),
        ("HEIC", "a HEIC image"),
        ("HEIC called JPEG", "a HEIC image"),
        ("raw", "a camera raw file"),
        ("SVG", "an SVG drawing"),
        ("PDF", "a PDF document"),
        ("video", "an MP4 video; save its frames"),
        ("animated", "holds 2 pictures"),
        ("pages", "holds 2 pictures"),
        ("high dynamic range", "values outside 0 to 1"),
        ("NaN", "values outside 0 to 1"),
        ("negative", "values outside 0 to 65535"),
        ("git", "git lfs pull"),
        ("folder", "is missing"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(tmp_path, kind, says):
    path = refused(kind, tmp_path)
    with pytest.raises(InputError, match=says) as caught:
        object_view(path, 64)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and ";" in str(caught.value)


def with_orientation(path: Path, orientation: int) -> Path:
    """The red box, upright, stored as a camera held otherwise stores it."""
    turns = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    image, turn, exif = Image.fromarray(pixels()), turns[orientation], Image.Exif()
    exif[0x0112] = orientation
    (image if turn is None else image.transpose(turn)).save(path, exif=exif, quality=95)
    return path


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("ending", ["jpg", "tif", "png"])
def test_pictures_are_turned_as_viewers_turn_them(tmp_path, orientation, ending):
    path = with_orientation(tmp_path / f"a.{ending}", orientation)
    image = read_image(path)
    assert image.shape == (16, 24, 3) and read_header(path).upright == (24, 16)
    assert np.abs(image[8, 6].astype(int) - RED).max() < 30 and image[8, 16, 1] > 100
    if ending != "tif":  # Pillow turns those by itself
        stored = read_image(path, upright=False)
        assert stored.shape == ((24, 16, 3) if orientation in (6, 8) else (16, 24, 3))


def test_a_mask_turns_with_its_image(tmp_path):
    path = with_orientation(tmp_path / "a.jpg", 6)
    upright = Image.fromarray(pixels(alpha=True)[..., 3])
    for name, mask in {"upright": upright, "stored": upright.transpose(Image.Transpose.ROTATE_90)}.items():
        mask.save(tmp_path / f"{name}.png")
        assert np.array_equal(read_image(path, tmp_path / f"{name}.png")[..., 3], np.asarray(upright)), name


def mask_of(kind: str, folder: Path) -> tuple[Path, np.ndarray]:
    """A file of a mask and where the object is in it."""
    inside = pixels(alpha=True)[..., 3] > 0
    white = inside.astype(np.uint8) * 255
    path = folder / "a.png"
    if kind.startswith("0 and "):
        Image.fromarray(inside.astype(np.uint8) * int(kind.removeprefix("0 and "))).save(path)
    elif kind == "16-bit 0 and 40000":
        Image.fromarray(inside.astype(np.uint16) * 40000).save(path)
    elif kind == "palette of labels":
        image = Image.fromarray(inside.astype(np.uint8), mode="P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        image.save(path)
    elif kind == "1 bit":
        Image.fromarray(inside).save(path)
    elif kind == "16-bit":
        Image.fromarray(white.astype(np.uint16) * 257).save(path)
    elif kind == "16-bit 0 and 1":
        Image.fromarray(inside.astype(np.uint16)).save(path)
    elif kind == "float":
        Image.fromarray(inside.astype(np.float32)).save(path := folder / "a.tif")
    elif kind == "RGB":
        Image.fromarray(np.dstack([white] * 3)).save(path)
    elif kind == "cut-out":
        Image.fromarray(pixels(alpha=True)).save(path)
    elif kind == "opaque RGBA":
        Image.fromarray(np.dstack([white] * 3 + [np.full_like(white, 255)])).save(path)
    elif kind == "JPEG":
        Image.fromarray(white).save(path := folder / "a.jpg", quality=40)
    return path, inside


@pytest.mark.parametrize(
    "kind",
    [
        *("0 and 1", "0 and 38", "0 and 127", "0 and 128", "0 and 200", "16-bit 0 and 40000"),
        *("palette of labels", "1 bit", "16-bit", "16-bit 0 and 1", "float", "RGB", "cut-out"),
        *("opaque RGBA", "JPEG"),
    ],
)
def test_every_kind_of_mask_covers_the_object(tmp_path, kind):
    path, inside = mask_of(kind, tmp_path)
    cover = np.asarray(coverage(Image.open(path)))
    assert set(np.unique(cover)) == {0, 255}
    assert (cover == 255)[inside].mean() > 0.95 and (cover == 0)[~inside].mean() > 0.95
    if kind != "JPEG":
        assert np.array_equal(cover == 255, inside)


def test_soft_edges_stay_soft():
    soft = np.linspace(0, 255, 24).astype(np.uint8)[None].repeat(4, axis=0)
    assert np.array_equal(np.asarray(coverage(Image.fromarray(soft))), soft)


def test_shapes_may_differ_by_a_pixel_of_the_smaller_one():
    assert same_shape((4000, 2993), (1000, 748)) and same_shape((1297, 840), (5187, 3361))
    assert not same_shape((96, 72), (72, 96)) and not same_shape((640, 480), (640, 360))


def test_a_picture_that_is_too_large_is_refused(tmp_path, monkeypatch):
    path = write("palette", tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="cannot be read"):
        read_image(path)
