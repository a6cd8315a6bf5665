"""Checkpoints of a training: whole or as they were, and never gone on with under other settings."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.runs.resume import refuse_other_settings

_ENTRIES = ("model", "optimizers", "ema", "done", "history", "sums", "summed", "settings")


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write ``state`` to ``path``, or leave what is there.

    Raises:
        InputError: there is no space, or no permission, to write it.
    """
    # torch's own writer turns a full disk into a RuntimeError; a file's says which it was.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote, onto the CPU.

    Raises:
        InputError: the file is damaged, or of another version of this package.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: state[key] for key in _ENTRIES}
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path} is damaged or no checkpoint of this version of invert3d-ns; delete it to train that stage again, "
            "or train in another folder (--out)"
        ) from error


def refuse_other_training(
    path: Path, settings: Mapping[str, Any], *, steps: int | None = None, saved: dict[str, Any] | None = None
) -> None:
    """Refuse to go on with a training, if there is one at ``path``, under other settings than it was begun with.

    Args:
        path: of its checkpoint.
        settings: of now; compared where the checkpoint has them too.
        steps: to train in all, if that is to be looked at: more than before are fine, fewer than are done are not.
        saved: the checkpoint, if it is read already.

    Raises:
        InputError: names each setting that differs, with both values.
    """
    if saved is None:
        if not path.exists():
            return
        saved = read_checkpoint(path)
    refuse_other_settings({path.stem: saved["settings"]}, {path.stem: settings}, path)
    if steps is not None and saved["done"] > steps:
        raise InputError(
            f"{path} has {saved['done']} steps behind it, but --{path.stem}-steps is {steps}; give as many or more, or "
            "train in another folder (--out)"
        )


def clear_leftovers(path: Path) -> None:
    """Remove what an earlier process was writing to become ``path`` when it was killed."""
    for holder in path.parent.glob(f".{path.name}.*"):
        shutil.rmtree(holder, ignore_errors=True)
