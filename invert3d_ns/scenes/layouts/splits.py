"""Which images are trained on and which are held out."""

from __future__ import annotations

from nerfstudio.data.utils.dataparsers_utils import get_train_eval_split_fraction, get_train_eval_split_interval

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.layouts.frames import Frame

_HELD_OUT = ("val", "test")


def choose_split(frames: list[Frame], split: str, *, every_eighth: bool = False) -> list[Frame]:
    """The frames of "train", "val" or "test".

    As their list says; where it holds out none, or says nothing, some are: every eighth (usual for COLMAP's models),
    or a tenth, and at least two, so that a path leads from one to another. With too few to spare, all are in both.

    Raises:
        InputError: no image is left to train on.
    """
    train = [frame for frame in frames if not frame.listed.splits or "train" in frame.listed.splits]
    if not train:
        raise InputError("all images are held out and none is left to train on; set aside fewer of them")
    order = [split, *_HELD_OUT]
    held_out = next((h for name in order if name != "train" and (h := _of(frames, name))), [])
    if not held_out:
        train, held_out = _spared(train, every_eighth)
    return train if split == "train" else held_out or train


def _of(frames: list[Frame], split: str) -> list[Frame]:
    return [frame for frame in frames if split in frame.listed.splits]


def _spared(frames: list[Frame], every_eighth: bool) -> tuple[list[Frame], list[Frame]]:
    """Frames to train on and frames to hold out."""
    count = len(frames)
    if every_eighth and count > 8:
        chosen = get_train_eval_split_interval(frames, 8)
    else:
        # Nerfstudio's nine tenths, less for small folders: two images are held out once there are eight.
        chosen = get_train_eval_split_fraction(frames, min(0.9, (count - 2.5) / count) if count >= 8 else 0.9)
    train, held_out = ([frames[index] for index in indices] for indices in chosen)
    return train, held_out
