"""Which mask belongs to which image: as the list of cameras says, or by the names in a folder of masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from invert3d_ns.base.english import counted
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.notices import warn
from invert3d_ns.scenes.images import PICTURE_SUFFIXES, read_header, same_shape
from invert3d_ns.scenes.layouts.files import PictureFiles
from invert3d_ns.scenes.layouts.listing import Listing

if TYPE_CHECKING:
    from invert3d_ns.scenes.layouts.frames import Frame

_FOLDERS = ("masks", "mask", "images_masks", "image_masks", "images_mask")
_MARKS = ("", "_mask", "-mask", "mask_", ".mask")


def find_masks(listing: Listing, frames: Sequence[Frame]) -> list[Frame]:
    """The frames with their masks; without any, if there are none.

    Images that have none, where most do, are left out; masks that fit no image, or fewer than half of them, are
    ignored. All of this is said aloud.

    Raises:
        InputError: the shape of a mask is not that of its image.
    """
    if any(frame.listed.mask for frame in frames):
        files = PictureFiles(listing.folder, listing.roots)
        found = iter(files.find(frame.listed.mask for frame in frames if frame.listed.mask))
        masks = [next(found) if frame.listed.mask else None for frame in frames]
        source = listing.source
        for name, path in list(files.guessed.items())[:1]:
            warn(f"{len(files.guessed)} masks are not where {source} says; taken for {name}: {path}")
    else:
        folder = next((path for name in _FOLDERS if (path := listing.folder / name).is_dir()), None)
        if folder is None:
            return list(frames)
        source = folder
        masks = _by_name(folder, frames)
    found = sum(mask is not None for mask in masks)
    if found < len(frames) / 2:
        warn(f"the masks of {source} fit {found} of {len(frames)} images; they are ignored (name them as the images)")
        return list(frames)
    if source != listing.source:
        warn(f"masks are taken from {source}, for {counted(found, len(frames), 'images')}")
    if found < len(frames):
        unmasked = next(frame.image for frame, mask in zip(frames, masks, strict=True) if mask is None)
        warn(f"{counted(len(frames) - found, len(frames), 'images')} have no mask, such as {unmasked}; left out")
    masked = [replace(frame, mask=mask) for frame, mask in zip(frames, masks, strict=True) if mask is not None]
    for frame in masked:
        _check_shape(frame)
    return masked


def _by_name(folder: Path, frames: Sequence[Frame]) -> list[Path | None]:
    """Masks called as images are, with or without the image's own ending before theirs.

    Images in folders of their own have masks in folders of these names, or masks that no other image could mean.
    """
    by_name: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURE_SUFFIXES:
            by_name.setdefault(path.relative_to(folder).with_suffix("").as_posix().casefold(), path)

    def mask_of(frame: Frame) -> Path | None:
        parts = frame.image.parts
        for start in range(len(parts)):
            place = Path(*parts[start:])
            for name in (place, place.with_suffix("")):
                for mark in _MARKS:
                    marked = mark + name.name if mark.endswith("_") else name.name + mark
                    mask = by_name.get(name.with_name(marked).as_posix().casefold())
                    if mask is not None:
                        return mask
        return None

    masks = [mask_of(frame) for frame in frames]
    meant: dict[Path, set[Path]] = {}
    for mask, frame in zip(masks, frames, strict=True):
        if mask is not None:
            meant.setdefault(mask, set()).add(frame.image)
    return [mask if mask is not None and len(meant[mask]) == 1 else None for mask in masks]


def _check_shape(frame: Frame) -> None:
    assert frame.mask is not None
    mask, image = read_header(frame.mask), read_header(frame.image)
    size = (mask.width, mask.height)
    if not any(same_shape(size, other) for other in ((image.width, image.height), image.upright, frame.size)):
        raise InputError(
            f"the mask {frame.mask} has {size[0]}x{size[1]} pixels and its image {image.width}x{image.height}; give"
            " masks of the shape of the images"
        )
