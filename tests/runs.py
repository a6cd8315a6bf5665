"""Tiny runs of ``ns-train invert3d``: in this process, or in one of their own that kills itself."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

SPLAT_STEPS = 6
STEPS = 6
EDIT_STEPS = 4


def tiny_config(data: Path, prior: Path | None, output_dir: Path, *, method: str = "invert3d", **options: Any):
    """The method's own configuration with small numbers; ``options`` are dotted names with ``__`` for the dots."""
    from invert3d_ns import configs

    config = copy.deepcopy(getattr(configs, method).config)
    small: dict[str, Any] = {
        "data": data,
        "output_dir": output_dir,
        "timestamp": "run",
        "machine__device_type": "cpu",
        "steps_per_eval_image": 3,
        "logging__steps_per_log": 1,
        "pipeline__vectors": 3,
        "pipeline__clip": "none",
        "pipeline__bank_groups": 3,
        "pipeline__heldout_groups": 2,
        "pipeline__heldout_every": 2,
        "pipeline__preview_every": 3,
        "pipeline__sampling_steps": 2,
        "pipeline__datamanager__dataparser__image_size": 32,
        "pipeline__model__num_random": 200,
        "pipeline__model__warmup_length": 2,
        "pipeline__model__refine_every": 2,
        "pipeline__edit__orbits": 1,
        "pipeline__edit__fit_steps": EDIT_STEPS,
        "pipeline__edit__supersampling": 1,
    }
    if prior is not None:
        small["pipeline__prior"] = str(prior)
    if method == "invert3d":
        small |= {"pipeline__splat_steps": SPLAT_STEPS, "pipeline__steps": STEPS}
    if options.get("prompt"):
        small["pipeline__edit_options__edit__steps"] = 2
    for name, value in {**small, **options}.items():
        _assign(config, name.split("__"), value)
    return config


class QuietRun:
    """What a phase may use of a run, for phases that are looked at one by one: nothing is shown, saved or stopped."""

    def __init__(self, folder: Path = Path()) -> None:
        self.folder, self.seed, self.step = folder, 0, -1
        self.lock, self.callbacks, self.seconds = nullcontext(), [], {}
        self.pictures: list[str] = []

    def timed(self, name: str):
        return nullcontext()

    def progress(self, title: str):
        return nullcontext(lambda done, total: None)

    def should_stop(self) -> bool:
        return False

    def show_picture(self, name: str, picture) -> None:
        self.pictures.append(name)

    def log_scalar(self, name: str, value: float) -> None:
        self.seconds[name] = value

    def show_status(self, title: str, detail: str = "", lines=()) -> None: ...

    def redraw(self, *, now: bool = False) -> None: ...

    def update_viewer(self) -> None: ...


def _assign(owner: Any, names: list[str], value: Any) -> Any:
    """``owner`` with another value below it; a copy if it is frozen."""
    name, *below = names
    assert hasattr(owner, name), name
    if below:
        value = _assign(getattr(owner, name), below, value)
    if owner.__dataclass_params__.frozen:
        return replace(owner, **{name: value})
    setattr(owner, name, value)
    return owner


def train(config) -> Path:
    """What ``ns-train`` does once its arguments are parsed. Returns the run's folder."""
    from nerfstudio.scripts.train import main

    main(config)
    return config.get_base_dir()


def go_on(folder: Path) -> Path:
    """What ``ns-train invert3d --load-config <run>/config.yml`` does."""
    import yaml

    return train(yaml.load((folder / "config.yml").read_text(), Loader=yaml.Loader))


def resume(path: Path, method: str = "invert3d", **options: Any) -> Path:
    """What ``ns-train METHOD --load-config PATH`` does, run or ``config.yml``. Returns the run's folder."""
    from nerfstudio.scripts import train as command

    from invert3d_ns import configs

    given = copy.deepcopy(getattr(configs, method.replace("-", "_")).config)
    for name, value in {**options, "load_config": path}.items():
        setattr(given, name, value)
    folders, launch = [], command.launch

    def noted(*args: Any, **kwargs: Any) -> None:
        folders.append(kwargs["config"].get_base_dir())
        launch(*args, **kwargs)

    command.launch = noted
    try:
        command.main(given)
    finally:
        command.launch = launch
    return folders[0]


def train_and_die(*deaths: dict[str, Any]) -> None:
    """Train in processes of their own, at the same time, that die of SIGKILL: after a step, or while it is saved.

    Args:
        deaths: arguments of :func:`tiny_config`, and either ``die_after_step`` or ``die_saving_step``.
    """
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    children = [
        subprocess.Popen(
            [sys.executable, __file__, json.dumps(death, default=str)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for death in deaths
    ]
    for child in children:
        output, _ = child.communicate(timeout=400)
        assert child.returncode == -signal.SIGKILL, output[-4000:]


def _main() -> None:
    arguments = json.loads(sys.argv[1])
    die_after, die_saving = arguments.pop("die_after_step", None), arguments.pop("die_saving_step", None)
    from invert3d_ns.runs import trainer

    observe, fsync = trainer.PhasedTrainer._observe, os.fsync

    def observe_or_die(self, step: int) -> None:
        observe(self, step)
        if step == die_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync_or_die(descriptor: int) -> None:
        # The file is written but has not got its name yet: the most awkward moment.
        if any(Path(arguments["output_dir"]).rglob(f"step-{die_saving:09d}.ckpt")) if die_saving is not None else False:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    trainer.PhasedTrainer._observe = observe_or_die
    os.fsync = fsync_or_die
    for name in ("data", "prior", "output_dir"):
        arguments[name] = Path(arguments[name]) if arguments.get(name) else None
    train(tiny_config(**arguments))


if __name__ == "__main__":
    _main()
