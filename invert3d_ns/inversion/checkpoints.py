"""Checkpoints of a run on disk: complete or absent, whatever happens while one is written."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from invert3d_ns.errors import InputError
from invert3d_ns.files import atomic_path

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import TrainerConfig


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write ``state`` to ``path``, whose parent is a folder of nothing but checkpoints.

    Raises:
        InputError: there is no space, or no permission, to write it.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    # nerfstudio's commands take every name in the checkpoint folder for a checkpoint, so it is written beside it.
    complete = path.parent.parent / path.name
    with atomic_path(complete) as temporary, temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(complete, path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote, onto the CPU.

    Raises:
        InputError: the file is damaged, or another method's.
    """
    try:
        state = torch.load(path, map_location="cpu")
        if "inversion" not in state:
            raise KeyError("inversion")
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path} is damaged or no checkpoint of invert3d; choose another one to load") from error
    return state


def find_checkpoint(config: TrainerConfig, own_folder: Path) -> Path | None:
    """The checkpoint that --load-checkpoint or --load-dir names, else the latest in the run's own folder, if any.

    Raises:
        InputError: the named one does not exist.
    """
    if config.load_checkpoint is not None:
        if not config.load_checkpoint.is_file():
            raise InputError(f"no checkpoint at {config.load_checkpoint}; check --load-checkpoint")
        return config.load_checkpoint
    folder = config.load_dir or own_folder
    steps = {int(path.stem.removeprefix("step-")): path for path in folder.glob("step-*.ckpt")}
    if config.load_dir is not None and not steps:
        raise InputError(f"no checkpoint in {folder}; give the nerfstudio_models folder of a run to --load-dir")
    if config.load_step is not None and config.load_step not in steps:
        raise InputError(f"no checkpoint of step {config.load_step} in {folder}; there are {sorted(steps)}")
    return steps[max(steps) if config.load_step is None else config.load_step] if steps else None


def clear_leftovers(run_folder: Path) -> None:
    """Remove what an earlier process was writing into ``run_folder`` when it was killed."""
    for path in run_folder.glob(".*.*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    for path in run_folder.glob("step-*.ckpt"):
        path.unlink()
