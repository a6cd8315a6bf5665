"""Checkpoints of a run on disk: complete or absent, whatever happens while one is written."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.runs.run_folder import FOLDER
from invert3d_ns.scenes.runs import list_checkpoints

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import TrainerConfig

FORMAT_VERSION = 1
"""Of the entry "run" in checkpoints, which says how far a run has come."""


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
        InputError: the file is damaged, another method's, or of another version of this package.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if "run" not in state:
            raise KeyError("run")
        version = state["run"]["version"]
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"{path} is damaged or no checkpoint of this version of invert3d-ns; choose another one to load"
        ) from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has checkpoint version {version}, this package reads {FORMAT_VERSION}; resume it with the version "
            "of invert3d-ns that wrote it"
        )
    return state


def checkpoint_path(folder: Path, step: int) -> Path:
    """The file of a checkpoint, under the name that nerfstudio's commands look for."""
    return folder / f"step-{step:09d}.ckpt"


def find_checkpoint(config: TrainerConfig, own_folder: Path) -> Path | None:
    """The checkpoint that --load-checkpoint or --load-dir names, else the latest in the run's own folder, if any.

    A run that began from a named one and has checkpoints of its own meanwhile goes on from these: its config.yml still
    names the other. Whoever types --load-step means that step and no later one.

    Raises:
        InputError: the named one does not exist, or the run has checkpoints of its own and a step of others is asked
            for.
    """
    own, named = list_checkpoints(own_folder), config.load_checkpoint or config.load_dir
    if own and (config.load_step is None or getattr(config, FOLDER, None) is not None):
        return own[max(own)]
    if own and named and Path(named).resolve() != own_folder.resolve():
        raise InputError(
            f"{own_folder} has checkpoints of its own, from which the run goes on; leave --load-step out, or start a "
            "new run with another --timestamp"
        )
    if config.load_checkpoint is not None:
        if not config.load_checkpoint.is_file():
            raise InputError(f"no checkpoint at {config.load_checkpoint}; check --load-checkpoint")
        return config.load_checkpoint
    folder = config.load_dir or own_folder
    steps = list_checkpoints(folder)
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
    for path in list_checkpoints(run_folder).values():
        path.unlink()


def discard_new_run(run_folder: Path) -> None:
    """Remove the folder of a run that never began, and the folders above it that nerfstudio made and that are empty.

    Only what nerfstudio writes before it knows of bad input is removed. Not for folders that were there before.
    """
    for name in ("config.yml", "dataparser_transforms.json"):
        (run_folder / name).unlink(missing_ok=True)
    for events in run_folder.glob("events.out.tfevents*"):
        events.unlink()
    for folder in (run_folder, *list(run_folder.parents)[:3]):
        try:
            folder.rmdir()
        except OSError:
            return
