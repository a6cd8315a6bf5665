"""Images with their cameras, whole: each image found, its size compared with the camera's, the lens completed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType

from invert3d_ns.base.english import counted
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.notices import warn
from invert3d_ns.scenes.images import ImageHeader, read_header, same_shape
from invert3d_ns.scenes.layouts.files import PictureFiles
from invert3d_ns.scenes.layouts.listing import ListedImage, Listing
from invert3d_ns.scenes.layouts.mask_files import find_masks
from invert3d_ns.scenes.layouts.poses import read_poses

_LARGE = 1600
"""Pixels; of larger images, smaller copies in images_2, images_4 ... beside them are read instead."""


@dataclass
class Frame:
    """One image and its camera, complete."""

    listed: ListedImage
    image: Path
    pose: Float[np.ndarray, "4 4"]
    """Camera to world, OpenGL axes, double precision."""
    size: tuple[int, int]
    """Width and height of the camera's image in pixels; the file is resized to it."""
    focals: tuple[float, float]
    """Pixels."""
    center: tuple[float, float]
    """Principal point in pixels."""
    upright: bool
    """Whether the file is turned by its EXIF orientation."""
    either: bool
    """Whether its shape fits the camera turned as well as not."""
    mask: Path | None = None


def read_frames(listing: Listing) -> list[Frame]:
    """All images of a listing that are there, in its order.

    Images that are missing are left out, with a warning; so are repeated entries. Without ``train`` images nothing can
    be done, without held-out ones something can.

    Raises:
        InputError: there is no image to train on, an image belongs to another camera, or numbers make no camera.
    """
    if not listing.images:
        raise InputError(f"{listing.source} lists no images; add frames with file_path and transform_matrix")
    files = PictureFiles(listing.folder, listing.roots)
    found = list(zip(listing.images, files.find(listed.name for listed in listing.images), strict=True))
    _report_missing(found)
    _report_guesses(files, listing)
    present = [(listed, path) for listed, path in found if path is not None]
    poses = read_poses([listed for listed, _ in present])
    frames = []
    for (listed, path), pose in zip(present, poses, strict=True):
        path = _smaller_copy(path) if _has_own_size(listed) else path
        frames.append(_frame(listed, path, pose, listing.pixels_as_stored))
    frames = _without_repetitions(frames)
    if listing.by_name:
        frames.sort(key=lambda frame: frame.image)
    return find_masks(listing, frames)


def cameras_of(frames: list[Frame], offset: Float[np.ndarray, "3"]) -> Cameras:
    """Nerfstudio's cameras, in single precision, of frames whose world is moved by ``-offset`` before."""
    poses = np.stack([frame.pose[:3] for frame in frames])
    poses[:, :, 3] -= offset
    return Cameras(
        camera_to_worlds=torch.from_numpy(poses.astype(np.float32)),
        fx=torch.tensor([frame.focals[0] for frame in frames], dtype=torch.float32),
        fy=torch.tensor([frame.focals[1] for frame in frames], dtype=torch.float32),
        cx=torch.tensor([frame.center[0] for frame in frames], dtype=torch.float32),
        cy=torch.tensor([frame.center[1] for frame in frames], dtype=torch.float32),
        width=torch.tensor([frame.size[0] for frame in frames]),
        height=torch.tensor([frame.size[1] for frame in frames]),
        distortion_params=torch.tensor([frame.listed.distortion for frame in frames]),
        camera_type=[frame.listed.kind for frame in frames],
        metadata={},
    )


def _report_missing(found: list[tuple[ListedImage, Path | None]]) -> None:
    """Say what is left out, list by list; refuse if nothing to train on is left."""
    for source in dict.fromkeys(listed.source for listed, _ in found):
        names = [listed.name for listed, _ in found if listed.source == source]
        missing = [listed.name for listed, path in found if listed.source == source and path is None]
        if not missing:
            continue
        held_out = all("train" not in listed.splits and listed.splits for listed, _ in found if listed.source == source)
        if len(missing) < len(names):
            what = f"{counted(len(missing), len(names), 'images')} of {source} are missing, such as {missing[0]}"
            warn(f"{what}; they are left out")
        elif held_out:
            what = f"none of the {len(names)} images of {source} is there (the first: {missing[0]})"
            warn(f"{what}; other images are held out instead")
        else:
            raise InputError(
                f"the image {missing[0]} of {source} is missing, as are all {len(names)}; restore the images, or"
                " correct file_path"
            )


def _report_guesses(files: PictureFiles, listing: Listing) -> None:
    if not files.guessed:
        return
    name, path = next(iter(files.guessed.items()))
    source = next(listed.source for listed in listing.images if listed.name == name)
    images = "1 image is" if len(files.guessed) == 1 else f"{len(files.guessed)} images are"
    warn(f"{images} not where {source} says; taken for {name}: {path}")
    names: dict[Path, str] = {}
    for name, path in files.guessed.items():
        if names.setdefault(path, name) != name:
            raise InputError(
                f"{listing.source} means different images by {names[path]} and {name}, and only {path} is there;"
                " restore the folders that it names"
            )


def _has_own_size(listed: ListedImage) -> bool:
    """Whether a camera means the same with a picture of any size: its own is said, or it has no number in pixels."""
    in_pixels = (listed.focal_x, listed.focal_y, listed.center_x, listed.center_y)
    return None not in (listed.width, listed.height) or in_pixels == (None,) * 4


def _smaller_copy(path: Path) -> Path:
    """The image, or its copy in ``images_2``, ``images_4`` or ``images_8`` beside it, if it is large and has one."""
    header = read_header(path)
    chosen = path
    for exponent in range(1, 4):
        if max(header.width, header.height) / 2 ** (exponent - 1) <= _LARGE:
            break
        smaller = path.parent.with_name(f"{path.parent.name}_{2**exponent}") / path.name
        if not smaller.is_file():
            break
        chosen = smaller
    return chosen


def _frame(listed: ListedImage, path: Path, pose: Float[np.ndarray, "4 4"], as_stored: bool) -> Frame:
    header = read_header(path)
    where = f"{listed.source} ({listed.name})"
    size, upright, either = _fit(listed, header, path, as_stored)
    width, height = size
    focals = _focals(listed, size, where)
    center = (
        width / 2 if listed.center_x is None else listed.center_x,
        height / 2 if listed.center_y is None else listed.center_y,
    )
    in_shares = max(center) <= 1 and min(size) > 16
    # Where the size is the file's own, a principal point that is far off belongs to images of another size.
    far = 1.0 if listed.width is not None and listed.height is not None else 0.25
    if in_shares or not all(abs(place / side - 0.5) < far for place, side in zip(center, size, strict=True)):
        raise InputError(
            f"{where} has its principal point at ({center[0]:g}, {center[1]:g}) of {width}x{height} pixels; give cx,"
            " cy, w and h in pixels"
        )
    if listed.kind == CameraType.PERSPECTIVE and listed.distortion[3] != 0:
        raise InputError(f"{where} has the distortion k4, which is not undone here; undistort the images first")
    return Frame(listed, path, pose, size, focals, center, upright, either)


def _fit(listed: ListedImage, header: ImageHeader, path: Path, as_stored: bool) -> tuple[tuple[int, int], bool, bool]:
    """The camera's image size, whether the file is to be turned by EXIF to fit it, and whether either way fits."""
    stored = (header.width, header.height)
    if listed.width is None or listed.height is None:
        upright = not as_stored
        if listed.center_x is not None and listed.center_y is not None and header.upright != stored:
            # The principal point is near the middle of what the camera saw.
            off = [
                abs(listed.center_x / width - 0.5) + abs(listed.center_y / height - 0.5)
                for width, height in (stored, header.upright)
            ]
            upright = off[1] <= off[0]
        return header.upright if upright else stored, upright, False
    size = (int(listed.width), int(listed.height))
    if min(size) < 1:
        raise InputError(f"{listed.source} ({listed.name}) has a size of {size[0]}x{size[1]} pixels; correct w and h")
    fits, fits_upright = same_shape(stored, size), same_shape(header.upright, size)
    if not fits and not fits_upright:
        raise InputError(
            f"the image {path} has {stored[0]}x{stored[1]} pixels and its camera {size[0]}x{size[1]} in"
            f" {listed.source}; give the image that the camera was made for"
        )
    if header.orientation == 1:
        return size, False, False
    return size, fits_upright and not (fits and as_stored), fits and fits_upright


def _focals(listed: ListedImage, size: tuple[int, int], where: str) -> tuple[float, float]:
    """Focal lengths in pixels: as they are, or from a field of view; one serves for both."""

    def focal(given: float | None, angle: float | None, side: int) -> float | None:
        if given is not None or angle is None:
            return given
        if not 0 < angle < math.pi:
            raise InputError(f"{where} has a field of view of {angle:g}; give radians, between 0 and 3.14")
        return 0.5 * side / math.tan(0.5 * angle)

    x, y = focal(listed.focal_x, listed.angle_x, size[0]), focal(listed.focal_y, listed.angle_y, size[1])
    x, y = (y if x is None else x), (x if y is None else y)
    if x is None or y is None:
        raise InputError(f"{where} has no focal length; add fl_x (pixels) or camera_angle_x (radians)")
    least = 0.05 * max(size) if listed.kind == CameraType.PERSPECTIVE else 0.0
    if min(x, y) <= least:
        raise InputError(
            f"{where} has a focal length of {min(x, y):g} pixels for {size[0]}x{size[1]}; give fl_x and fl_y in pixels"
        )
    return x, y


def _without_repetitions(frames: list[Frame]) -> list[Frame]:
    """Each image of a split once; the same entry twice is said aloud, another camera for the same image refused."""
    kept: dict[tuple[Path, frozenset[str]], Frame] = {}
    for frame in frames:
        first = kept.setdefault((frame.image, frame.listed.splits), frame)
        if first is not frame and not np.allclose(first.pose, frame.pose, rtol=1e-6, atol=1e-9):
            raise InputError(
                f"{frame.listed.source} lists {frame.listed.name} twice, with different cameras; remove one of them"
            )
    if len(kept) < len(frames):
        twice = len(frames) - len(kept)
        warn(f"{frames[0].listed.source} lists {twice} of its images again; the repetitions are left out")
    return list(kept.values())


def turned_over(frames: list[Frame]) -> list[Frame]:
    """The frames with the other choice wherever EXIF orientation leaves one."""
    return [replace(frame, upright=not frame.upright) if frame.either else frame for frame in frames]
