"""Pictures of people, decoded to 8-bit RGB or RGBA whatever their bit depth and color model, or refused by name."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import numpy.typing as npt

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.filetypes import LFS_POINTER, describe_file
from invert3d_ns.scenes.masks import coverage

if TYPE_CHECKING:
    from PIL import Image

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".tga", ".gif", ".ppm", ".pgm", ".jp2")
"""Endings of the pictures that are read, the likeliest first; files are told apart by content."""
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "TGA", "GIF", "PPM", "JPEG2000", "AVIF")
_RAW = (".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".iiq", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")
"""Endings of camera raw files, many of which would be read as the small TIFF preview in them."""
_KINDS = {".heic": "a HEIC image", ".heif": "a HEIC image", ".svg": "an SVG drawing", ".psd": "a Photoshop document"}
_READABLE_KINDS = ("a PNG image", "a JPEG image", "a GIF image", "a BMP image", "a TIFF image", "a WebP image")
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error)
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class ImageHeader:
    """Size of a picture in pixels as it is stored, and the EXIF orientation (1 to 8) that viewers turn it by."""

    width: int
    height: int
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height in pixels once it is turned."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(path: Path) -> ImageHeader:
    """Size and orientation of an image file, without decoding it.

    Raises:
        InputError: the file is missing or no picture.
    """
    image = _open(path)
    orientation = _orientation(image)
    if image.format == "TIFF" and orientation != 1:
        _load(image, path)  # turns it by itself
        orientation = 1
    return ImageHeader(*image.size, orientation)


def read_image(
    path: Path, mask_path: Path | None = None, size: tuple[int, int] | None = None, *, upright: bool = True
) -> npt.NDArray[np.uint8]:
    """Decode an image file to (H, W, 3 or 4) uint8.

    Gray, palettes, CMYK, 16 bits a channel (scaled to their whole range) and floats from 0 to 1 are converted.

    Args:
        path: the image.
        mask_path: a mask to be its alpha, resized to fit; see :func:`~invert3d_ns.scenes.masks.coverage`.
        size: (width, height) to resize to, colors weighted by alpha so that no background bleeds into edges.
        upright: turn it by its EXIF orientation, as viewers do; otherwise pixels stay as they are stored.

    Raises:
        InputError: a file is missing, cannot be decoded, is animated, or has values that mean no color.
    """
    from PIL import Image

    image = _open(path)
    orientation = _orientation(image)
    _load(image, path)
    if image.format == "TIFF":
        orientation = 1
    image = _eight_bit(image, path)
    turn = _turns().get(orientation) if upright else None
    stored = image.size
    if turn is not None:
        image = image.transpose(turn)
    if mask_path is not None:
        mask = _open(mask_path)
        _load(mask, mask_path)
        mask = coverage(mask)
        if turn is not None and same_shape(mask.size, stored) and not same_shape(mask.size, image.size):
            mask = mask.transpose(turn)
        image.putalpha(mask.resize(image.size))
    if size is not None and image.size != size:
        if image.mode == "RGBA":
            image = image.convert("RGBa").resize(size, resample=Image.Resampling.BOX, reducing_gap=2.0).convert("RGBA")
        else:
            image = image.resize(size, resample=Image.Resampling.BOX, reducing_gap=2.0)
    return np.array(image)


def same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two sizes have the same proportions, up to one pixel of the smaller one."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= max(*a, *b)


def _open(path: Path) -> Image.Image:
    """The picture with its header read; only kinds of files that are pictures, and nothing that moves."""
    from PIL import Image

    if not path.is_file():
        raise InputError(f"the image {path} is missing; restore it, or remove its entry from the list of cameras")
    if path.suffix.lower() in _RAW:
        _refuse_kind(path, "a camera raw file")
    try:
        image = Image.open(path, formats=_formats())
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Image.UnidentifiedImageError:
        _refuse_kind(path, _KINDS.get(path.suffix.lower()) or describe_file(path))
    except (*_BROKEN, Image.DecompressionBombError) as error:
        _refuse(path, error)
    if frames > 1:
        raise InputError(f"the image {path} holds {frames} pictures; give one of them as PNG or JPEG")
    return image


def _load(image: Image.Image, path: Path) -> None:
    try:
        image.load()
    except (*_BROKEN, MemoryError) as error:
        _refuse(path, error)


def _refuse(path: Path, error: BaseException) -> NoReturn:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise InputError(f"the image {path} cannot be read ({reason}); replace it") from error


def _refuse_kind(path: Path, kind: str) -> NoReturn:
    if kind == LFS_POINTER:
        raise InputError(f"the image {path} cannot be read: it is {kind}; fetch it with git lfs pull")
    if kind in _READABLE_KINDS:
        raise InputError(f"the image {path} cannot be read: it is {kind} that is damaged; replace it")
    what = "its frames" if kind.endswith("video") else "it"
    raise InputError(f"the image {path} cannot be read: it is {kind}; save {what} as PNG or JPEG")


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@cache
def _turns() -> dict[int, Image.Transpose]:
    """What makes a picture of each EXIF orientation upright."""
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _BROKEN:  # damaged EXIF in a picture that is fine
        return 1
    return value if value in _turns() else 1


def _eight_bit(image: Image.Image, path: Path) -> Image.Image:
    """The picture as RGB, or RGBA where it has transparency, 8 bits a channel."""
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        full = 1.0 if image.mode == "F" else 65535.0
        if not ((values >= 0) & (values <= full * 1.001)).all():  # also false of NaN
            allowed = "0 to 1" if image.mode == "F" else "0 to 65535"
            raise InputError(
                f"the image {path} has values outside {allowed} (mode {image.mode});"
                " save it as a PNG with 8 bits a channel"
            )
        image = Image.fromarray((values * (255.0 / full)).clip(0, 255).round().astype(np.uint8))
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    try:
        return image.convert("RGBA" if has_alpha else "RGB")
    except ValueError as error:
        raise InputError(f"the image {path} has the color mode {image.mode}; save it as an RGB PNG") from error
