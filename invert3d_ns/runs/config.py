"""Settings of a run of any method: what is checked before it begins, its folder, and what it says at the start."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.engine.trainer import TrainerConfig
from rich.markup import escape

from invert3d_ns import compat
from invert3d_ns.base.commandline import quoted_command
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.ranges import Range, above, at_least, check_numbers
from invert3d_ns.runs.checkpoints import discard_new_run, list_checkpoints
from invert3d_ns.runs.pipeline import PhasedPipelineConfig
from invert3d_ns.runs.progress import ProgressWriterConfig
from invert3d_ns.runs.report import print_lines
from invert3d_ns.runs.run_folder import (
    CONFIG,
    RunConfigFile,
    cannot_make,
    check_names,
    check_within,
    claim_folder,
    make_paths_absolute,
)
from invert3d_ns.runs.splat_fit import OPTIMIZERS

_AUTOMATIC = "{timestamp}"
"""nerfstudio's word for a folder that is named after the time."""
_new_folders: set[Path] = set()
"""Folders of runs that did not exist before this process; no part of a configuration, which is written to files."""

Visualizer = Literal[
    "viewer",
    "wandb",
    "tensorboard",
    "comet",
    "viewer+wandb",
    "viewer+tensorboard",
    "viewer+comet",
    "viewer_legacy",
]
"""nerfstudio's choices of --vis."""


@dataclass
class RunMachineConfig(MachineConfig):
    """nerfstudio's settings of the machine, and the ranges of their numbers."""

    number_ranges: ClassVar[dict[str, Range]] = {
        "seed": at_least(0, 2**32 - 1),
        "num_devices": at_least(1),
        "num_machines": at_least(1),
        "machine_rank": at_least(0),
    }


@dataclass
class RunLoggingConfig(LoggingConfig):
    """nerfstudio's settings of its logs, and the ranges of their numbers."""

    number_ranges: ClassVar[dict[str, Range]] = {"steps_per_log": at_least(0), "max_buffer_size": at_least(1)}


@dataclass
class RunViewerConfig(ViewerConfig):
    """nerfstudio's settings of its viewer, and the ranges of their numbers."""

    number_ranges: ClassVar[dict[str, Range]] = {
        "websocket_port": at_least(0, 65535),
        "websocket_port_default": at_least(1, 65535),
        "num_rays_per_chunk": at_least(1),
        "max_num_display_images": at_least(-1),
        "jpeg_quality": at_least(1, 100),
        "camera_frustum_scale": above(0),
    }


def _logging() -> LoggingConfig:
    return RunLoggingConfig(local_writer=ProgressWriterConfig(), profiler="none")


@dataclass
class RunConfig(TrainerConfig):
    """Settings of a run of any method of this package.

    Its folder is ``<output-dir>/<scene>/<method>/<time>``; once that was written, wherever its ``config.yml`` lies.
    """

    number_ranges: ClassVar[dict[str, Range]] = {
        "steps_per_save": at_least(0),
        "steps_per_eval_batch": at_least(0),
        "steps_per_eval_image": at_least(0),
        "steps_per_eval_all_images": at_least(0),
        "seconds_per_save": at_least(0),
        "max_num_iterations": at_least(1),
        "load_step": at_least(0),
        "gradient_accumulation_steps": at_least(1),
    }
    _folder: ClassVar[str | None] = None
    _data: ClassVar[str | None] = None
    _started_on: ClassVar[Any] = None

    pipeline: PhasedPipelineConfig = field(default_factory=PhasedPipelineConfig)  # type: ignore[assignment]
    """The scene, the prior, and the steps of each phase."""
    optimizers: dict[str, Any] = field(default_factory=lambda: dict(OPTIMIZERS))
    """Dictionary of optimizer groups and their schedulers"""
    max_num_iterations: int = 1_000_000
    """Stop after so many steps of all phases. The length of each phase is a setting of --pipeline."""
    prompt: str | None = None
    """What to change once the scene is words: "in van gogh style", "blue instead of red", or a whole prompt such as "a
    photo of <object> on a table". Where words make the scene, what it shall be."""
    steps_per_save: int = 1000
    """Number of steps between saves, at most; see also seconds-per-save."""
    seconds_per_save: float = 60.0
    """Seconds of work between saves, at most: what a crash can cost."""
    steps_per_eval_batch: int = 0
    """Number of steps between randomly sampled batches of rays."""
    steps_per_eval_image: int = 200
    """Number of steps between single eval images."""
    steps_per_eval_all_images: int = 0
    """Number of steps between eval all images."""
    project_name: str | None = "invert3d"
    """Project name."""
    machine: MachineConfig = field(default_factory=lambda: RunMachineConfig(device_type=compat.device_type()))
    """Machine configuration"""
    logging: LoggingConfig = field(default_factory=_logging)
    """Logging configuration"""
    viewer: ViewerConfig = field(default_factory=lambda: RunViewerConfig(num_rays_per_chunk=1 << 15))
    """Viewer configuration"""
    vis: Visualizer = "tensorboard"
    """Which visualizer to use."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "load_config" and value is not None:  # nerfstudio reads it with its read_text()
            value = RunConfigFile(value)
            value.given = self
        super().__setattr__(name, value)

    # The folder

    def set_experiment_name(self) -> None:
        """Name the run's folder after the scene: the .ply file or folder, or the demo, or what the run was called."""
        if self.experiment_name is None:
            self.experiment_name = self.pipeline.scene_name(self.prompt)

    def get_base_dir(self) -> Path:
        """The run's folder: where its ``config.yml`` was found, or where its names say.

        Raises:
            InputError: names that lead out of --output-dir.
        """
        if self._folder is not None:
            return Path(self._folder)
        self.set_experiment_name()
        check_names(experiment_name=self.experiment_name, method_name=self.method_name, timestamp=self.timestamp)
        return super().get_base_dir()

    def set_timestamp(self) -> None:
        """Refuse what can be refused before any work, then claim the run's folder: nerfstudio's first call of a run.

        Raises:
            InputError: a number out of range, names or paths that lead out of the folder, a scene that is not there, a
                device that is not, or a folder that cannot be written to.
        """
        self._take_up()
        self._check()
        named = self.timestamp != _AUTOMATIC or self._folder is not None
        super().set_timestamp()
        if not named:
            self.timestamp = claim_folder(self.get_base_dir().parent, self.timestamp)
            _new_folders.add(self.get_base_dir().absolute())

    def save_config(self, *, settled: bool = False) -> None:
        """Write ``config.yml`` into the run's folder, with absolute paths, and remember whether the folder is new.

        Args:
            settled: that the run begins with these settings; until then those of a run that is there already are kept.

        Raises:
            InputError: it cannot be written.
        """
        folder = self.get_base_dir()
        if not settled and (folder / CONFIG).exists():
            return
        written = copy.deepcopy(self)
        for name in ("_folder", "_data", "_started_on"):
            written.__dict__.pop(name, None)
        written.machine.device_type = self._started_on or written.machine.device_type  # it may be there again later
        written.output_dir = written.output_dir.absolute()
        make_paths_absolute(written)
        written.pipeline.make_names_absolute()
        try:
            if not folder.exists():
                folder.mkdir(parents=True)
                _new_folders.add(folder.absolute())
        except OSError as error:
            raise cannot_make(folder, error) from error
        try:
            with atomic_path(folder / CONFIG) as temporary:
                temporary.write_text(yaml.dump(written), encoding="utf-8")
        except InputError:
            if self.is_new() and not self.get_checkpoint_dir().exists():
                discard_new_run(folder)
            raise

    def is_new(self) -> bool:
        """Whether this process made the run's folder."""
        return self.get_base_dir().absolute() in _new_folders

    def resume_command(self) -> str:
        """What to type to go on with this run, from any folder."""
        return quoted_command("ns-train", self.method_name, "--load-config", self.get_base_dir().absolute() / CONFIG)

    # Before a run begins

    def _take_up(self) -> None:
        """Settle what a configuration that was read from a file finds where it is used now."""
        if self._folder is None:
            return
        if self._data is not None:
            self.data = self.pipeline.datamanager.data = Path(self._data)
        self.pipeline.find_own_files(Path(self._folder))
        if self.machine.device_type == "cuda" and compat.device_type() != "cuda":
            print_lines("Warning: the run was started on CUDA, which is not here; going on with the CPU")
            self.__dict__["_started_on"] = self.machine.device_type
            self.machine.device_type = "cpu"

    def _check(self) -> None:
        check_numbers(self)
        check_within(
            relative_model_dir=self.relative_model_dir,
            **{"logging.relative_log_dir": self.logging.relative_log_dir},
            **{"viewer.relative_log_filename": self.viewer.relative_log_filename},
        )
        self.get_base_dir()
        machine = self.machine
        if machine.num_devices != 1 or machine.num_machines != 1:
            raise InputError("a run is on one device; leave --machine.num-devices and --machine.num-machines at 1")
        if machine.device_type not in ("cpu", compat.device_type()):
            raise InputError(
                f"--machine.device-type is {machine.device_type}, which this machine has not or this method does not "
                "use; give cpu"
            )
        self._check_scene("say where it is now with --data")

    def _check_scene(self, advice: str) -> None:
        data = self.pipeline.datamanager.data
        if self._folder is not None and data is not None and not Path(data).exists():
            raise InputError(f"{data}, the scene of this run, is not there any more; {advice}")

    def settle_for_looking(self) -> None:
        """Prepare for nerfstudio's commands on a run: its last checkpoint is loaded, whatever else is in the folder.

        Raises:
            InputError: there is no checkpoint yet, or the scene is not there any more.
        """
        steps = list_checkpoints(self.get_checkpoint_dir())
        if not steps:
            raise InputError(f"{self.get_base_dir()} has no checkpoint yet; go on first: {self.resume_command()}")
        self.load_step = max(steps)
        self._check_scene(f"put it back, or say where it is: {self.resume_command()} --data PATH")

    # What it says

    def print_to_terminal(self) -> None:
        """Say in a few lines what the run is about; all settings are in its ``config.yml``."""
        folder = self.get_base_dir()
        lines: Sequence[tuple[str, str]] = (
            ("method", str(self.method_name)),
            ("scene", self.pipeline.scene_in_words()),
            *self.pipeline.summary(),
            ("device", f"{self.machine.device_type}, seed {self.machine.seed}"),
            ("folder", str(folder)),
            ("settings", f"{folder / CONFIG} (all of them)"),
        )
        print_lines(*(f"  {name:9}{escape(text)}" for name, text in lines))
