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

if TYPE_CHECKING:
    from nerfstudio.engine.trainer import TrainerConfig

    from invert3d_ns.runs.trainer import InversionTrainer


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


def discard_unused_run(run_folder: Path, checkpoint_folder: Path) -> None:
    """Remove the folder that nerfstudio made before it knew of bad input, unless a run left something in it."""
    if checkpoint_folder.exists():
        return
    for name in ("config.yml", "dataparser_transforms.json"):
        (run_folder / name).unlink(missing_ok=True)
    for events in run_folder.glob("events.out.tfevents*"):
        events.unlink()
    for folder in (run_folder, *list(run_folder.parents)[:3]):
        try:
            folder.rmdir()
        except OSError:
            return


def run_state(trainer: InversionTrainer, step: int) -> dict[str, Any]:
    """Everything that a resumed run needs to continue exactly after ``step``."""
    pipeline, optimizers = trainer.pipeline, trainer.optimizers
    data: Any = pipeline.datamanager
    random: dict[str, Any] = {"torch": torch.get_rng_state()}
    if trainer.device.startswith("cuda"):
        random["cuda"] = torch.cuda.get_rng_state(trainer.device)
    return {
        "step": step,
        "pipeline": pipeline.state_dict(),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.optimizers.items()},
        "schedulers": {name: scheduler.state_dict() for name, scheduler in optimizers.schedulers.items()},
        "scalers": trainer.grad_scaler.state_dict(),
        "inversion": {
            "phase": pipeline.phase,
            "splat_steps": pipeline.splat_steps,
            "seed": trainer.config.machine.seed,
            "seconds": dict(trainer.seconds),
            "random": random,
            "densification": dict(pipeline.model.strategy_state),
            "unseen_cameras": list(getattr(data, "train_unseen_cameras", [])),
            "camera_order": _camera_order(data),
            "edit": None if pipeline.editing is None else pipeline.editing.state_dict(),
        },
    }


def restore_random_state(trainer: InversionTrainer, extras: dict[str, Any]) -> None:
    """Put every generator back where :func:`run_state` found it; ``extras`` is its entry "inversion"."""
    data: Any = trainer.pipeline.datamanager
    if extras["camera_order"] is not None:
        data.train_unseen_cameras = list(extras["unseen_cameras"])
        data.random_generator.setstate(extras["camera_order"])
    torch.set_rng_state(extras["random"]["torch"])
    if trainer.device.startswith("cuda") and "cuda" in extras["random"]:
        torch.cuda.set_rng_state(extras["random"]["cuda"], trainer.device)


def _camera_order(datamanager: Any) -> Any:
    generator = getattr(datamanager, "random_generator", None)
    return None if generator is None else generator.getstate()
