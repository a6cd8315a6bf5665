"""Pictures of splats and radiance fields with their cameras: what a dataset of a .ply shows, and folders that any
reconstruction method reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.scenes.cameras import ELEVATION_RANGE, orbit_cameras
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.rendering import render_rgba

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras

    Draw = Callable[[Cameras], Float[Tensor, "1 H W 4"]]


def spread_orbit(
    count: int, band: tuple[float, float] = ELEVATION_RANGE
) -> tuple[Float[Tensor, " F"], Float[Tensor, " F"]]:
    """Azimuths and elevations in degrees of ``count`` cameras spread evenly over a band of elevations, by default the
    one that is trained on.

    The golden angle between neighbors makes every run of cameras cover all sides.
    """
    index = torch.arange(count) + 0.5
    low, high = (torch.tensor(e).deg2rad().sin() for e in band)
    elevations = torch.asin(low + (high - low) * (index / count % 1)).rad2deg()
    golden = 180.0 * (3.0 - 5.0**0.5)
    return (index - 0.5) * golden % 360.0, elevations


def rising_orbit(count: int) -> tuple[Float[Tensor, " F"], Float[Tensor, " F"]]:
    """Azimuths and elevations in degrees of ``count`` cameras in the order of a flight around: once up, once down.

    ``ns-render interpolate`` flies from one held-out camera to the next; neighbors must not lie on opposite sides.
    """
    azimuths = (torch.arange(count) + 0.5) * (360.0 / count)
    return azimuths, 0.7 * ELEVATION_RANGE[1] * azimuths.deg2rad().sin()


def check_empty(folder: Path) -> None:
    """Refuse a place for a new folder where there is something already.

    Raises:
        InputError: it is a file, or a folder with content.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already; choose another folder or remove it first")


def write_posed_images(
    scene: SplatCloud | Draw,
    out: Path | str,
    count: int = 40,
    size: int = 256,
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> None:
    """Write a folder of ``count`` RGBA pictures with their cameras: ``transforms.json`` and ``images/*.png``.

    The cameras are those of :func:`spread_orbit`, in the frame of ``scene``, which should be the object frame. The
    folder appears only when complete.

    Args:
        scene: splats, on the device that renders, or what draws a nerfstudio camera of shape (1,): RGBA in [0, 1],
            alpha not premultiplied.
        out: the folder to make; it must not exist, or be empty.
        count: number of pictures, at least 1.
        size: height and width of each in pixels, at least 16.
        progress: told what is done, of how much.

    Raises:
        InputError: ``out`` has content or cannot be written, or ``count`` or ``size`` is too small.
    """
    from PIL import Image

    out = Path(out)
    if count < 1 or size < 16:
        raise InputError(f"cannot make {count} images of {size} pixels; ask for at least 1 image of at least 16 pixels")
    check_empty(out)
    cameras = orbit_cameras(*spread_orbit(count), size)
    draw: Draw = partial(render_rgba, scene) if isinstance(scene, SplatCloud) else scene
    frames = []
    with atomic_path(out) as temporary:
        (temporary / "images").mkdir(parents=True)
        for index in range(count):
            progress("drawing", index, count)
            rgba = draw(cameras[index : index + 1])[0]
            name = f"images/view_{index:04d}.png"
            Image.fromarray((rgba * 255).round().byte().cpu().numpy()).save(temporary / name)
            matrix = torch.eye(4)
            matrix[:3] = cameras.camera_to_worlds[index]
            frames.append({"file_path": name, "transform_matrix": matrix.tolist()})
        focal, center = float(cameras.fx[0]), size / 2
        meta = {
            "camera_model": "OPENCV",
            "w": size,
            "h": size,
            "fl_x": focal,
            "fl_y": focal,
            "cx": center,
            "cy": center,
            "frames": frames,
        }
        (temporary / "transforms.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
