"""COLMAP's models, binary or text, wherever tools put them, and the images that they are about."""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE
from nerfstudio.data.utils import colmap_parsing_utils as parsing
from nerfstudio.process_data.colmap_utils import parse_colmap_camera_params

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.notices import warn
from invert3d_ns.scenes.layouts.files import IMAGE_FOLDERS, spellings
from invert3d_ns.scenes.layouts.listing import ListedImage, Listing
from invert3d_ns.scenes.layouts.points import read_colmap_points

_PLACES = (
    *("sparse/0", "colmap/sparse/0", "sparse", "colmap", "sparse/*", "colmap/sparse", "colmap/sparse/*", "."),
    *("dense/sparse", "dense/sparse/*", "dense", "dense/*/sparse", "undistorted/sparse", "undistorted/sparse/*"),
    *("model", "models/*", "distorted/sparse", "distorted/sparse/*", *IMAGE_FOLDERS),
)
"""Where models are looked for, the likeliest first."""
_BROKEN = (ArithmeticError, LookupError, MemoryError, OSError, TypeError, ValueError, struct.error)
_SPLITS = {"train": ("train",), "test": ("test",), "val": ("val", "validation")}
# COLMAP guesses that gravity is +y; nerfstudio's world has z up.
_WORLD = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def find_model(folder: Path, *, aloud: bool = False) -> Path | None:
    """The folder of the COLMAP model in ``folder``; of several, the one with the most images, which is said aloud."""
    found = [
        place
        for pattern in _PLACES
        for place in ([folder] if pattern == "." else sorted(folder.glob(pattern)))
        if _table(place, "cameras") is not None
    ]
    found = [place for place in dict.fromkeys(found) if _table(place, "images") is not None] or found[:1]
    if len(found) < 2:
        return found[0] if found else None
    counts = {place: _count_images(place) for place in found}
    best = max(found, key=lambda place: counts[place])
    if aloud:
        others = ", ".join(f"{place.relative_to(folder)} has {counts[place]}" for place in found if place != best)
        chosen = f"{best.relative_to(folder)} with {counts[best]} images is used"
        warn(f"{folder} has {len(found)} COLMAP models; {chosen} ({others})")
    return best


def read_model(folder: Path, model: Path) -> Listing:
    """Read the cameras of a COLMAP model.

    Raises:
        InputError: its files cannot be read, or it has a camera model that cannot be undone here.
    """
    cameras_file, images_file = _table(model, "cameras"), _table(model, "images")
    if cameras_file is None or images_file is None:
        raise InputError(f"{model} has no images.bin or images.txt beside its cameras; export the whole model")
    try:
        binary = cameras_file.suffix == ".bin"
        cameras = (parsing.read_cameras_binary if binary else parsing.read_cameras_text)(cameras_file)
    except KeyError as error:
        raise InputError(
            f"{cameras_file} has the camera model {error}, which is unknown here; undistort the images with colmap"
            " image_undistorter"
        ) from error
    except _BROKEN as error:
        _refuse(cameras_file, error)
    lenses = {key: _lens(camera, cameras_file) for key, camera in cameras.items()}
    try:
        binary = images_file.suffix == ".bin"
        images = list(parsing.read_images_binary(images_file).values()) if binary else _read_images_text(images_file)
    except _BROKEN as error:
        _refuse(images_file, error)
    splits = _splits(folder, images)
    listed = []
    for image in sorted(images, key=lambda image: image.id):
        if image.camera_id not in lenses:
            raise InputError(
                f"{images_file} has {image.name} with camera {image.camera_id}, which {cameras_file} lacks; export both"
                " again"
            )
        listed.append(
            ListedImage(
                image.name,
                _pose(image, images_file),
                images_file,
                splits=_splits_of(image.name, splits),
                **lenses[image.camera_id],
            )
        )
    return Listing(
        folder,
        model,
        [image for image in listed if image.splits or not splits],
        roots=_roots(folder, model),
        read_points=partial(_read_points, model),
        world=_WORLD,
        pixels_as_stored=True,
        every_eighth=True,
    )


def _table(model: Path, name: str) -> Path | None:
    """A model's table: text if the model is whole in text, else binary."""
    text = all((model / f"{table}.txt").is_file() for table in ("cameras", "images"))
    paths = [model / f"{name}.{ending}" for ending in (("txt", "bin") if text else ("bin", "txt"))]
    return next((path for path in paths if path.is_file()), None)


def _count_images(model: Path) -> int:
    path = _table(model, "images")
    try:
        if path is None:
            return 0
        if path.suffix == ".bin":
            with path.open("rb") as file:
                return struct.unpack("<Q", file.read(8))[0]
        return len(_read_images_text(path))
    except _BROKEN:
        return 0


def _refuse(path: Path, error: BaseException) -> Any:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise InputError(f"{path} cannot be read ({reason}); export the model from COLMAP again") from error


def _lens(camera: Any, path: Path) -> dict[str, Any]:
    """A camera's size, focal lengths, principal point and distortion, by the names of :class:`ListedImage`."""
    known = parsing.CAMERA_MODEL_NAMES.get(camera.model)
    try:
        if known is None:
            raise NotImplementedError
        if len(camera.params) != known.num_params:
            raise InputError(
                f"camera {camera.id} of {path} has {len(camera.params)} parameters, and {camera.model} has"
                f" {known.num_params}; export the model from COLMAP again"
            )
        lens = parse_colmap_camera_params(camera)
    except NotImplementedError as error:
        raise InputError(
            f"camera {camera.id} of {path} has the model {camera.model}, which cannot be undone here; undistort the"
            " images with colmap image_undistorter"
        ) from error
    if not np.isfinite(camera.params).all():
        raise InputError(f"camera {camera.id} of {path} has NaN or infinity; calibrate it again")
    return {
        "width": camera.width,
        "height": camera.height,
        "focal_x": lens["fl_x"],
        "focal_y": lens["fl_y"],
        "center_x": lens["cx"],
        "center_y": lens["cy"],
        "distortion": tuple(float(lens.get(name, 0.0)) for name in ("k1", "k2", "k3", "k4", "p1", "p2")),
        "kind": CAMERA_MODEL_TO_TYPE[lens["camera_model"]],
    }


def _read_images_text(path: Path) -> list[Any]:
    """Images of ``images.txt``. A name is the rest of its line; the lines of 2D points may be blank or left out."""
    images, points_follow = [], False
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        line = line.strip()
        if line.startswith("#"):
            continue
        if points_follow and (not line or _is_points(line)):
            points_follow = False
            continue
        if not line:
            continue
        fields = line.split(maxsplit=9)
        if len(fields) < 10:
            raise ValueError(f"a line with {len(fields)} fields where an image is expected")
        numbers = np.array(fields[1:8], dtype=np.float64)
        nothing = np.empty((0, 2)), np.empty(0)
        images.append(parsing.Image(int(fields[0]), numbers[:4], numbers[4:], int(fields[8]), fields[9], *nothing))
        points_follow = True
    return images


def _is_points(line: str) -> bool:
    """Whether a line holds 2D points (x, y, id), and not an image."""
    fields = line.split()
    try:
        return len(fields) % 3 == 0 and len([float(field) for field in fields]) > 0
    except ValueError:
        return False


def _pose(image: Any, path: Path) -> np.ndarray:
    """Camera to world with OpenGL axes, in nerfstudio's world."""
    length = float(np.linalg.norm(image.qvec))
    if not 1e-6 < length < 1e6:  # also true of NaN
        raise InputError(f"{image.name} in {path} has no rotation (its quaternion has length {length:g}); remove it")
    quaternion = image.qvec if abs(length - 1) < 1e-6 else image.qvec / length
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3], world_to_camera[:3, 3] = parsing.qvec2rotmat(quaternion), image.tvec
    pose = np.linalg.inv(world_to_camera)
    pose[:3, 1:3] *= -1
    pose = pose[[0, 2, 1, 3]]
    pose[2] *= -1
    return pose


def _splits(folder: Path, images: list[Any]) -> dict[str, set[str]]:
    """The images, as the model calls them, of ``train_list.txt``, ``test_list.txt`` and ``validation_list.txt``, where
    there are such files.
    """
    known, by_bare = {image.name for image in images}, {_bare(image.name): image.name for image in images}
    found = {}
    for split, stems in _SPLITS.items():
        path = next((p for stem in stems if (p := folder / f"{stem}_list.txt").is_file()), None)
        if path is not None:
            try:
                names = {line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")} - {""}
            except (OSError, ValueError) as error:
                raise InputError(f"{path} cannot be read ({error}); give one image's name a line") from error
            found[split] = {name if name in known else by_bare.get(_bare(name), name) for name in names}
            if split == "train" and not found[split] & known:
                raise InputError(f"{path} names none of the images of the model; name them as the model does")
    return found


def _bare(name: str) -> str:
    """A name within the folder of images, whether it begins with that folder or not."""
    plain = spellings(name)[-1].removeprefix("./")
    first, _, rest = plain.partition("/")
    return rest if rest and first in IMAGE_FOLDERS else plain


def _splits_of(name: str, splits: dict[str, set[str]]) -> frozenset[str]:
    found = {split for split, names in splits.items() if name in names}
    return frozenset(found if found or "train" in splits or not splits else {"train"})


def _roots(folder: Path, model: Path) -> tuple[Path, ...]:
    """Where the images may be: in a folder of images beside the model, or above it, or beside it themselves."""
    bases = [model]
    while bases[-1] != folder and folder in bases[-1].parents:
        bases.append(bases[-1].parent)
    inside = [base / name for base in (*bases[::-1][:1], *bases[:-1]) for name in IMAGE_FOLDERS]
    nearest = [base / "images" for base in bases[1:-1]]  # dense/images belongs to dense/sparse
    return tuple(path for path in dict.fromkeys([*nearest, *inside, *bases[::-1]]) if path.is_dir())


def _read_points(model: Path, *, quick: bool = False) -> Any:
    points = read_colmap_points(model, quick=quick)
    if points is not None:
        points.positions = points.positions @ _WORLD[:3, :3].T
    return points
