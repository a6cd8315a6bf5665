"""Lists of cameras in JSON: transforms.json of nerfstudio and instant-ngp, transforms_train.json of Blender."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, CameraType

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.notices import warn
from invert3d_ns.scenes.layouts.files import PictureFiles, spellings
from invert3d_ns.scenes.layouts.listing import ListedImage, Listing, no_points, read_number
from invert3d_ns.scenes.layouts.points import read_ply_points

_NUMBERS: dict[str, tuple[str, ...]] = {
    "width": ("w", "width"),
    "height": ("h", "height"),
    "focal_x": ("fl_x", "fx", "focal_x"),
    "focal_y": ("fl_y", "fy", "focal_y"),
    "center_x": ("cx", "c_x", "principal_x"),
    "center_y": ("cy", "c_y", "principal_y"),
    "angle_x": ("camera_angle_x",),
    "angle_y": ("camera_angle_y",),
}
"""What each number is called; the first is nerfstudio's name."""
_FLAT = (CameraType.PERSPECTIVE, CameraType.FISHEYE)  # which the datamanager undistorts, side by side


def read_transforms(source: Path) -> Listing:
    """Read ``transforms.json``, or ``transforms_train.json`` with its ``test`` and ``val`` beside it.

    Raises:
        InputError: a file is no such list; by name.
    """
    folder = source.parent
    document = _read_json(source)
    if source.name == "transforms.json":
        images = _images(document, source)
        _assign_splits(images, document, source)
    else:
        images = _images(document, source, "train")
        for split in ("val", "test"):
            path = folder / f"transforms_{split}.json"
            if path.is_file():
                images += _images(_read_json(path), path, split)
    world, scale = _applied(document, source)
    points = document.get("ply_file_path")
    return Listing(
        folder,
        source,
        images,
        roots=(folder,),
        read_points=partial(read_ply_points, folder, points) if points is not None else no_points,
        world=world,
        world_scale=scale,
        by_name=source.name == "transforms.json",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read ({reason}); check it or make it again with ns-process-data") from error
    frames = document.get("frames") if isinstance(document, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise InputError(f"{path} has no list of frames; give cameras as nerfstudio, instant-ngp or Blender write them")
    return document


def _images(document: dict[str, Any], path: Path, split: str = "") -> list[ListedImage]:
    return [_image({**document, **frame}, frame, path, split) for frame in document["frames"]]


def _image(values: dict[str, Any], frame: dict[str, Any], path: Path, split: str) -> ListedImage:
    """One frame; ``values`` are its own and, where it has none, those of the whole file."""
    name = frame.get("file_path")
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{path} has a frame without file_path; name its image, or remove the frame")
    if frame.get("transform_matrix") is None:
        raise InputError(f"{path} has no transform_matrix for {name}; give its pose, or remove the frame")
    where = f"{path} ({name})"
    mask = frame.get("mask_path")
    return ListedImage(
        name,
        frame["transform_matrix"],
        path,
        **{field: read_number(values, names, where) for field, names in _NUMBERS.items()},  # type: ignore[arg-type]
        kind=_kind(values, where),  # before its numbers, of which other kinds have others
        distortion=_distortion(values, where),
        mask=mask if isinstance(mask, str) and mask.strip() else None,
        splits=frozenset({split} - {""}),
    )


def _distortion(values: dict[str, Any], where: str) -> tuple[float, ...]:
    given = values.get("distortion_params")
    if given is None:
        return tuple(read_number(values, (name,), where) or 0.0 for name in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if not isinstance(given, list) or len(given) != 6:
        raise InputError(f"{where} has distortion_params {given!r:.60}; give 6 numbers (k1, k2, k3, k4, p1, p2)")
    return tuple(read_number({"distortion_params": value}, ("distortion_params",), where) or 0.0 for value in given)


def _kind(values: dict[str, Any], where: str) -> CameraType:
    model = values.get("camera_model")
    if model is None:
        return CameraType.FISHEYE if values.get("is_fisheye") is True else CameraType.PERSPECTIVE
    kinds = {"PERSPECTIVE": CameraType.PERSPECTIVE, "FISHEYE": CameraType.FISHEYE, **CAMERA_MODEL_TO_TYPE}
    kind = kinds.get(str(model).upper())
    if kind is None or kind == CameraType.FISHEYE624:
        readable = ", ".join(name for name, kind in CAMERA_MODEL_TO_TYPE.items() if kind in _FLAT)
        raise InputError(f"{where} has camera_model {model!r:.60}; undistort the images, or give one of {readable}")
    if kind not in _FLAT:
        raise InputError(f"{where} has panoramic cameras ({model}); give images of perspective or fisheye cameras")
    return kind


def _assign_splits(images: list[ListedImage], document: dict[str, Any], source: Path) -> None:
    """Note which images the file itself sets aside, as ``train_filenames``, ``val_filenames``, ``test_filenames``."""
    listed = {split: document.get(f"{split}_filenames") for split in ("train", "val", "test")}
    listed = {split: {str(name) for name in names} for split, names in listed.items() if isinstance(names, list)}
    if not listed:
        return
    files = PictureFiles(source.parent)

    def key(name: str) -> Path | str:
        return files.exact(name) or spellings(name)[-1].removeprefix("./")

    paths = {split: {key(name): name for name in names} for split, names in listed.items()}
    unknown = {name for names in listed.values() for name in names}
    for image in images:
        path = key(image.name)
        unknown -= {names[path] for names in paths.values() if path in names}
        found = {split for split, names in paths.items() if path in names}
        image.splits = frozenset(found if found or "train" in paths else {"train"})
    images[:] = [image for image in images if image.splits]
    if unknown:
        warn(f"{source} sets aside {len(unknown)} images that no frame is about, such as {min(unknown)}; left out")


def _applied(document: dict[str, Any], source: Path) -> tuple[np.ndarray, float]:
    """What ns-process-data did to the world of COLMAP."""
    world = np.eye(4)
    given = document.get("applied_transform")
    if given is None and (source.parent / "colmap" / "sparse" / "0").exists():
        given = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]  # what it did before it said so
    if given is not None:
        try:
            world[:3] = np.array(given, dtype=np.float64)[:3]
        except (TypeError, ValueError, OverflowError):
            world[:] = np.nan
        if not np.isfinite(world).all() or np.linalg.det(world[:3, :3]) <= 0:
            raise InputError(f"{source} has an applied_transform that is no 3x4 rotation; correct or remove it")
    scale = read_number(document, ("applied_scale",), str(source))
    if scale is not None and scale <= 0:
        raise InputError(f"{source} has an applied_scale of {scale:g}; give one above 0, or remove it")
    return world, 1.0 if scale is None else scale
