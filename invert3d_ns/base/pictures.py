"""Write views to files: a grid as PNG, a turntable as MP4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path


def to_pixels(images: Float[Tensor, "F 3 H W"], least: int = 1) -> UInt8[np.ndarray, "F h w 3"]:
    """Convert RGB in [0, 1] to bytes; views narrower than ``least`` pixels are enlarged by a whole factor."""
    factor = max(1, -(-least // images.shape[-1]))
    pixels = (images.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2).numpy()


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

    pixels = to_pixels(images, least)
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    height, width = pixels.shape[1:3]
    grid = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, view in enumerate(pixels):
        top, left = index // columns * height, index % columns * width
        grid[top : top + height, left : left + width] = view
    with atomic_path(path) as temporary:
        Image.fromarray(grid).save(temporary, format="PNG")


def write_video(path: Path | str, images: Float[Tensor, "F 3 H W"], *, fps: int, least: int = 256) -> None:
    """Write views as the frames of an MP4 (H.264), with the ffmpeg that imageio-ffmpeg carries.

    Args:
        path: the file.
        images: RGB in [0, 1]; of odd sizes the last row or column is cut off.
        fps: frames a second.
        least: pixels; narrower views are enlarged by a whole factor.

    Raises:
        InputError: the file cannot be written.
    """
    import imageio_ffmpeg

    # H.264 with 4:2:0 chroma, the only kind that every player shows, needs even sizes.
    frames = to_pixels(images[..., : images.shape[-2] // 2 * 2, : images.shape[-1] // 2 * 2], least)
    with atomic_path(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary), (frames.shape[2], frames.shape[1]), fps=fps, codec="libx264", macro_block_size=2, quality=8
        )
        try:
            writer.send(None)
            for frame in frames:
                writer.send(np.ascontiguousarray(frame))
            writer.close()
        except OSError as error:  # with ffmpeg's log, many lines of it, as its message
            raise _no_video(path) from error
        finally:
            writer.close()
        if not temporary.is_file() or temporary.stat().st_size == 0:
            raise _no_video(path)


def _no_video(path: Path | str) -> InputError:
    return InputError(f"cannot write {path}: ffmpeg did not finish it; free some space or choose another place")
