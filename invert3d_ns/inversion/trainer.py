"""The trainer of invert3d: two phases in one run that can be killed at any moment and resumed exactly."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.misc import step_check
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.utils.writer import EventName, TimeWriter
from rich.progress import Progress

from invert3d_ns.errors import InputError
from invert3d_ns.inversion import report
from invert3d_ns.inversion.checkpoints import clear_leftovers, find_checkpoint, read_checkpoint, write_checkpoint
from invert3d_ns.inversion.pipeline import InversionPipeline
from invert3d_ns.inversion.progress import ProgressWriter
from invert3d_ns.prior.memory import explain_out_of_memory


@dataclass
class InversionTrainerConfig(TrainerConfig):
    """Settings of a run of invert3d."""

    _target: type = field(default_factory=lambda: InversionTrainer)
    max_num_iterations: int = 1_000_000
    """Stop after so many steps of both phases. Their lengths are --pipeline.splat-steps and --pipeline.steps."""
    steps_per_save: int = 1000
    """Number of steps between saves, at most; see also seconds-per-save."""
    seconds_per_save: float = 60.0
    """Seconds of work between saves, at most: what a crash can cost."""

    def set_experiment_name(self) -> None:
        """Name the run's folder after the scene: the .ply file or folder, or the demo."""
        if self.experiment_name is None:
            data = self.pipeline.datamanager.data
            self.experiment_name = "demo" if data is None else Path(data).resolve().stem


class InversionTrainer(Trainer):
    """Trains an :class:`InversionPipeline`.

    Differs from nerfstudio's trainer in that steps are counted over both phases and a resumed run ends where an
    unbroken one would; each phase optimises its own parameters only; a checkpoint is complete or absent, and holds all
    random state; a run that is started again from its own ``config.yml`` goes on from its last checkpoint.
    """

    config: InversionTrainerConfig
    pipeline: InversionPipeline

    def __init__(self, config: InversionTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        super().__init__(config, local_rank, world_size)
        self.seconds: dict[str, float] = {"splats": 0.0, "bank": 0.0, "words": 0.0}
        self._resumed: dict[str, Any] | None = None
        self._random_state: dict[str, Any] | None = None
        self._stop_signal: int | None = None
        self._loss = float("nan")
        self._heldout_loss: float | None = None

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build everything and load the prior. Bad input leaves no run folder behind.

        Raises:
            InputError: whatever is wrong with the scene, the prior, the settings or the checkpoint.
        """
        writer.EVENT_WRITERS.clear()  # of an earlier run in the same process
        try:
            super().setup(test_mode)
            self.pipeline.load_prior(seed=self.config.machine.seed)
        except InputError:
            self._discard_unused_run()
            raise
        writer.GLOBAL_BUFFER["max_iter"] = self._last_step()

    def setup_optimizers(self) -> Optimizers:
        """Optimizers of the current phase only."""
        groups = self.pipeline.get_param_groups()
        if self.pipeline.phase == "words":
            configs = {"words": self.pipeline.words_optimizer()} if groups else {}
        else:
            configs = self.config.optimizers.copy()
        return Optimizers(configs, groups)

    def _last_step(self) -> int:
        return min(self.pipeline.total_steps, self.config.max_num_iterations)

    # The loop

    def train(self) -> None:
        """Run both phases from the step that was reached, then write the outputs."""
        scene: DataparserOutputs = self.pipeline.datamanager.train_dataparser_outputs  # type: ignore[assignment]
        scene.save_dataparser_transform(self.base_dir / "dataparser_transforms.json")
        self._init_viewer_state()
        self.stop_training = False
        self._saved_at = time.monotonic()
        self.step = self._start_step - 1  # the last step that was completed
        if self._random_state is not None:
            self._restore_random_state(self._random_state)
        with self._signals_stop_the_run(), TimeWriter(writer, EventName.TOTAL_TRAIN_TIME):
            if self.pipeline.phase == "splats":
                self._progress("splats", 0, min(self.pipeline.splat_steps, self._last_step()))
            for step in range(self._start_step, self._last_step()):
                if step >= self.pipeline.splat_steps and self.pipeline.bank is None:
                    self._begin_words()
                self._wait_while_paused()
                if self.stop_training or self._stop_signal is not None:
                    break
                self._train_step(step)
                self.step = step
                self._observe(step)
                if step_check(step, self.config.steps_per_save) or self._save_is_due():
                    self.save_checkpoint(step)
                writer.write_out_storage()
        if self._stop_signal is not None:
            self._stop_early()
        self._after_train()

    def _train_step(self, step: int) -> None:
        phase = self.pipeline.phase
        callbacks = self.callbacks if phase == "splats" else []
        started = time.perf_counter()
        with self.train_lock, TimeWriter(writer, EventName.ITER_TRAIN_TIME, step=step):
            if phase == "splats":
                self.pipeline.train()
            for callback in callbacks:
                callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
            with self._explained(phase):
                loss, losses, metrics = self.train_iteration(step)
            for callback in callbacks:
                callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
        self.seconds[phase] += time.perf_counter() - started
        if step_check(step, self.config.logging.steps_per_log, run_at_zero=True) or step + 1 == self._last_step():
            self._loss = float(loss.detach())
            writer.put_scalar("Train Loss", self._loss, step)
            for name, values in {"Train Loss Dict": losses, "Train Metrics Dict": metrics}.items():
                writer.put_dict(
                    name, {key: float(torch.as_tensor(value).detach()) for key, value in values.items()}, step
                )

    def _explained(self, phase: str) -> AbstractContextManager[None]:
        # The backward pass runs in nerfstudio's own code, outside what the prior guards.
        if phase != "words":
            return nullcontext()
        return explain_out_of_memory("inversion", self.pipeline.config.prior_options)

    def _begin_words(self) -> None:
        """Enter phase 2; what the phase before left on the optimizers is dropped."""
        if self.pipeline.splat_steps and self._resumed is None:
            self.save_checkpoint(self.pipeline.splat_steps - 1)
        started = time.perf_counter()
        CONSOLE.print("Rendering and encoding the scene's orbits ...")
        with self.train_lock, Progress(console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal) as bar:
            task = bar.add_task("Rendering and encoding the scene")
            self.pipeline.begin_words(lambda done, total: bar.update(task, completed=done, total=total))
            self.optimizers = self.setup_optimizers()
            if self._resumed is not None:
                self.optimizers.load_optimizers(self._resumed["optimizers"])
                self.optimizers.load_schedulers(self._resumed["schedulers"])
                self._resumed = None
        self.seconds["bank"] += time.perf_counter() - started
        self._progress("words", self.pipeline.splat_steps, self._last_step())

    def _observe(self, step: int) -> None:
        """Whatever people look at while a run lasts. Nothing here changes what is learnt."""
        pipeline = self.pipeline
        self._update_viewer_state(step)
        if pipeline.phase == "splats":
            if pipeline.datamanager.eval_dataset:
                with self.train_lock:
                    self.eval_iteration(step)
        else:
            done = step + 1 - pipeline.splat_steps
            if step_check(done, pipeline.config.heldout_every):
                self._heldout_loss = pipeline.heldout_loss()
                writer.put_scalar("Held-out Loss", self._heldout_loss, step)
            if step_check(done, pipeline.config.preview_every) and step + 1 < self._last_step():
                self._show_picture(report.preview(pipeline), step)
        if step_check(step, self.config.logging.steps_per_log, run_at_zero=True):
            self._show_status(step)

    def _show_status(self, step: int) -> None:
        first = 0 if self.pipeline.phase == "splats" else self.pipeline.splat_steps
        title = "Fitting splats" if self.pipeline.phase == "splats" else "Learning words"
        steps = self.pipeline.splat_steps if self.pipeline.phase == "splats" else self.pipeline.config.steps
        lines = [f"**{title}**: step {step + 1 - first} of {steps}", f"Loss {self._loss:.4f}"]
        if self._heldout_loss is not None:
            lines.append(f"Held-out loss {self._heldout_loss:.4f}")
        self.pipeline.panel.show("  \n".join(lines))

    def _show_picture(self, picture: UInt8[np.ndarray, "H W 3"], step: int) -> None:
        writer.put_image("Held-out views (truth above, generated below)", torch.from_numpy(picture) / 255, step)
        self.pipeline.panel.show(picture=picture)

    def _wait_while_paused(self) -> None:
        while self.training_state == "paused" and not self.stop_training and self._stop_signal is None:
            time.sleep(0.01)

    def _update_viewer_state(self, step: int) -> None:
        # nerfstudio paces its viewer by rays per second, a number that the words phase does not have.
        if self.viewer_state is not None and self.pipeline.phase == "splats":
            super()._update_viewer_state(step)

    def _progress(self, name: str, first: int, last: int) -> None:
        for event_writer in writer.EVENT_WRITERS:
            if isinstance(event_writer, ProgressWriter):
                event_writer.begin_phase(name, first, last)

    def _after_train(self) -> None:
        """Save, write the outputs, say where they are, and keep the viewer open if there is one."""
        self.training_state = "completed"
        finished = self.step + 1 >= self.pipeline.total_steps
        if self.step >= self._start_step:
            self.save_checkpoint(self.step)
        if finished:
            if self.pipeline.bank is None:  # resumed when nothing was left to do, or no step asked for
                self._begin_words()
            with self.train_lock:
                outputs = report.write_outputs(self.pipeline, self.config, self.base_dir, self.seconds)
            self._show_picture(outputs.picture, self.step)
            self.pipeline.panel.show("**Done.**")
            report.announce(outputs, self.base_dir)
        else:
            self._say_how_to_resume()
        writer.write_out_storage()
        for callback in self.callbacks:
            callback.run_callback_at_location(step=self.step, location=TrainingCallbackLocation.AFTER_TRAIN)
        if not self.config.viewer.quit_on_train_completion:
            self._train_complete_viewer()

    # Interruptions

    @contextmanager
    def _signals_stop_the_run(self) -> Iterator[None]:
        """Let Ctrl-C and a scheduler's SIGTERM end the run after the step at hand; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: Any) -> None:
            if self._stop_signal is not None:
                raise KeyboardInterrupt
            self._stop_signal = number

        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop_early(self) -> None:
        if self.step >= self._start_step:
            self.save_checkpoint(self.step)
        writer.write_out_storage()
        self._say_how_to_resume()
        raise SystemExit(128 + (self._stop_signal or 0))

    def _say_how_to_resume(self) -> None:
        CONSOLE.print(
            f"Stopped after step {self.step + 1} of {self.pipeline.total_steps}. To go on:\n"
            f"  [bold]ns-train {self.config.method_name} --load-config {self.base_dir / 'config.yml'}[/bold]",
            highlight=False, soft_wrap=True,
        )  # fmt: skip

    def _discard_unused_run(self) -> None:
        """Remove the folder that nerfstudio made before it knew of the bad input, unless a run left something in it."""
        if self.checkpoint_dir.exists():
            return
        for name in ("config.yml", "dataparser_transforms.json"):
            (self.base_dir / name).unlink(missing_ok=True)
        for events in self.base_dir.glob("events.out.tfevents*"):
            events.unlink()
        for folder in (self.base_dir, *list(self.base_dir.parents)[:3]):
            try:
                folder.rmdir()
            except OSError:
                return

    # Checkpoints

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._saved_at > self.config.seconds_per_save

    def save_checkpoint(self, step: int) -> None:
        """Write a checkpoint that holds everything a resumed run needs to continue exactly, then remove older ones.

        Raises:
            InputError: there is no space, or no permission, to write it.
        """
        data = self.pipeline.datamanager
        state = {
            "step": step,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.optimizers.items()},
            "schedulers": {name: scheduler.state_dict() for name, scheduler in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
            "inversion": {
                "phase": self.pipeline.phase,
                "splat_steps": self.pipeline.splat_steps,
                "seed": self.config.machine.seed,
                "seconds": dict(self.seconds),
                "random": {"torch": torch.get_rng_state()},
                "densification": dict(self.pipeline.model.strategy_state),
                "unseen_cameras": list(getattr(data, "train_unseen_cameras", [])),
                "camera_order": _random_state(data),
            },
        }
        if self.device.startswith("cuda"):
            state["inversion"]["random"]["cuda"] = torch.cuda.get_rng_state(self.device)
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        write_checkpoint(state, path)
        if self.config.save_only_latest_checkpoint:
            for old in self.checkpoint_dir.glob("*.ckpt"):
                if old != path:
                    old.unlink()
        self._saved_at = time.monotonic()

    def _load_checkpoint(self) -> None:
        clear_leftovers(self.base_dir)
        path = find_checkpoint(self.config, self.checkpoint_dir)
        if path is None:
            return
        state = read_checkpoint(path)
        extras = state["inversion"]
        if extras["splat_steps"] != self.pipeline.splat_steps:
            raise InputError(
                f"{path} belongs to a run with {extras['splat_steps']} splat steps, not {self.pipeline.splat_steps}; "
                "resume with the scene and the settings that the run was started with"
            )
        self._start_step = state["step"] + 1
        self.seconds = dict(extras["seconds"])
        self.pipeline.load_pipeline(state["pipeline"], state["step"])
        CONSOLE.print(f"Going on after step {self._start_step} of {path}", highlight=False, soft_wrap=True)
        if extras["phase"] == "words":
            self._resumed = state
            return
        self.optimizers = self.setup_optimizers()
        self.optimizers.load_optimizers(state["optimizers"])
        if self.config.load_scheduler:
            self.optimizers.load_schedulers(state["schedulers"])
        self.grad_scaler.load_state_dict(state["scalers"])
        self.pipeline.model.strategy_state.update(extras["densification"])
        self._random_state = extras

    def _restore_random_state(self, extras: dict[str, Any]) -> None:
        data: Any = self.pipeline.datamanager
        if extras["camera_order"] is not None:
            data.train_unseen_cameras = list(extras["unseen_cameras"])
            data.random_generator.setstate(extras["camera_order"])
        torch.set_rng_state(extras["random"]["torch"])
        if self.device.startswith("cuda") and "cuda" in extras["random"]:
            torch.cuda.set_rng_state(extras["random"]["cuda"], self.device)


def _random_state(datamanager: Any) -> Any:
    generator = getattr(datamanager, "random_generator", None)
    return None if generator is None else generator.getstate()
