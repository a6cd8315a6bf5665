"""Write views to files: a grid as PNG, a turntable as a video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path

_PALETTE = "split[a][b];[a]palettegen[c];[b][c]paletteuse"
VIDEO_FORMATS: dict[str, dict[str, Any]] = {
    ".mp4": {"codec": "libx264", "quality": 8},
    ".webm": {
        "codec": "libvpx-vp9",
        "quality": None,
        "output_params": ["-crf", "28", "-b:v", "0", "-deadline", "good", "-cpu-used", "5"],
    },
    ".gif": {"codec": "gif", "quality": None, "pix_fmt_out": "pal8", "output_params": ["-filter_complex", _PALETTE]},
}
"""How ffmpeg is told to write a video, by the ending of its name."""


def to_pixels(images: Float[Tensor, "F 3 H W"], least: int = 1) -> UInt8[np.ndarray, "F h w 3"]:
    """Convert RGB in [0, 1] to bytes; views narrower than ``least`` pixels are enlarged by a whole factor."""
    factor = max(1, -(-least // images.shape[-1]))
    pixels = (images.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2).numpy()


def tile(images: Float[Tensor, "F 3 H W"], columns: int = 4, *, least: int = 192) -> UInt8[np.ndarray, "h w 3"]:
    """Views row by row as one picture; the last row is filled up with white.

    Args:
        images: RGB in [0, 1].
        columns: views in a row, at most.
        least: pixels; narrower views are enlarged by a whole factor.
    """
    pixels = to_pixels(images, least)
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    height, width = pixels.shape[1:3]
    grid = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, view in enumerate(pixels):
        top, left = index // columns * height, index % columns * width
        grid[top : top + height, left : left + width] = view
    return grid


def write_grid(path: Path | str, images: Float[Tensor, "F 3 H W"], *, columns: int = 4, least: int = 192) -> None:
    """Write views row by row as one PNG; the last row is filled up with white.

    Args:
        path: the file.
        images: RGB in [0, 1].
        columns: views in a row, at most.
        least: pixels; narrower views are enlarged by a whole factor.

    Raises:
        InputError: the file cannot be written.
    """
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(tile(images, columns, least=least)).save(temporary, format="PNG")


def write_video(path: Path | str, images: Float[Tensor, "F 3 H W"], *, fps: int, least: int = 256) -> None:
    """Write views as the frames of a video; see :func:`write_frames`.

    Args:
        path: the file.
        images: RGB in [0, 1].
        fps: frames a second.
        least: pixels; narrower views are enlarged by a whole factor.

    Raises:
        InputError: the file cannot be written.
    """
    write_frames(path, to_pixels(images, least), fps=fps)


def check_video_name(path: Path | str) -> None:
    """Refuse names that :func:`write_frames` cannot write to.

    Raises:
        InputError: the ending is none of :data:`VIDEO_FORMATS`, a folder has the name of the video, or the folder for
            pictures has content already.
    """
    path = Path(path)
    if path.suffix and path.suffix.lower() not in VIDEO_FORMATS:
        known = ", ".join(VIDEO_FORMATS)
        raise InputError(f"cannot write {path}; give a name that ends in {known}, or a folder for PNG files")
    if path.suffix and path.is_dir():
        raise InputError(f"{path} is a folder; choose another name for the video or remove it first")
    if not path.suffix and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists already; choose another folder or remove it first")


def write_frames(path: Path | str, frames: Iterable[UInt8[np.ndarray, "h w 3"]], *, fps: int) -> None:
    """Write pictures of one size as a video (with the ffmpeg that imageio-ffmpeg carries) or a folder of PNG files.

    Args:
        path: a name that ends in .mp4 (H.264, which every player shows), .webm or .gif; without an ending, a folder.
        frames: taken one by one, so that they may be made meanwhile; in videos of odd sizes the last row or column is
            cut off.
        fps: frames a second.

    Raises:
        InputError: see :func:`check_video_name`; or the file cannot be written.
    """
    check_video_name(path)
    if Path(path).suffix:
        _check_ffmpeg(path)
    with atomic_path(path) as temporary:
        if temporary.suffix:
            try:
                _write_video(temporary, iter(frames), fps)
            except OSError as error:  # its message begins with the reason; what ffmpeg says, it prints itself
                raise _no_video(path, (str(error).splitlines() or [type(error).__name__])[0]) from error
            if not temporary.is_file() or temporary.stat().st_size == 0:
                raise _no_video(path, "nothing was written")
        else:
            from PIL import Image

            temporary.mkdir()
            for index, frame in enumerate(frames):
                Image.fromarray(frame).save(temporary / f"{index:05d}.png")


def _write_video(path: Path, frames: Iterator[UInt8[np.ndarray, "h w 3"]], fps: int) -> None:
    import imageio_ffmpeg

    first = next(frames)
    # 4:2:0 chroma, the only kind that every player shows, needs even sizes.
    height, width = first.shape[0] // 2 * 2, first.shape[1] // 2 * 2
    options = VIDEO_FORMATS[path.suffix.lower()]
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=fps, macro_block_size=2, **options)
    try:
        writer.send(None)
        for frame in chain([first], frames):
            writer.send(np.ascontiguousarray(frame[:height, :width]))
    finally:
        writer.close()


def _check_ffmpeg(path: Path | str) -> None:
    import imageio_ffmpeg

    try:
        imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise InputError(
            f"cannot write {path}: there is no ffmpeg; run `pip install imageio-ffmpeg`, or write a folder of PNG files"
        ) from error


def _no_video(path: Path | str, reason: str) -> InputError:
    return InputError(
        f"cannot write {path}: ffmpeg did not finish it ({reason}); see what it says above, and whether there is space"
    )
