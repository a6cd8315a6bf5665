"""The trainer of invert3d: up to three phases in one run that can be killed at any moment and resumed exactly."""

from __future__ import annotations

import time
from contextlib import nullcontext, suppress
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

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.views import Cancelled
from invert3d_ns.methods import edit_report
from invert3d_ns.methods.invert3d import InversionPipeline, InversionPipelineConfig, Phase
from invert3d_ns.prior.out_of_memory import explain_out_of_memory
from invert3d_ns.runs import report
from invert3d_ns.runs.checkpoints import (
    clear_leftovers,
    discard_unused_run,
    find_checkpoint,
    read_checkpoint,
    restore_random_state,
    run_state,
    write_checkpoint,
)
from invert3d_ns.runs.interruption import StopSignal
from invert3d_ns.runs.progress import ProgressWriter
from invert3d_ns.scenes.assets import scene_name

_TITLES = {"splats": "Fitting splats", "words": "Learning words", "edit": "Editing splats"}
_SHOWN_EVERY = 0.4
"""Seconds between two looks of the viewer at splats that follow an edit: each takes time from them."""


@dataclass
class InversionTrainerConfig(TrainerConfig):
    """Settings of a run of invert3d."""

    _target: type = field(default_factory=lambda: InversionTrainer)
    pipeline: InversionPipelineConfig = field(default_factory=InversionPipelineConfig)  # type: ignore[assignment]
    """The scene, the prior, and the steps of each phase."""
    max_num_iterations: int = 1_000_000
    """Stop after so many steps of all phases. Their lengths are --pipeline.splat-steps, --pipeline.steps, and
    --pipeline.edit.fit-steps with --pipeline.edit.refine-steps."""
    prompt: str | None = None
    """What to change once the scene is words: "in van gogh style", "blue instead of red", or a whole prompt such as "a
    photo of <object> on a table"."""
    steps_per_save: int = 1000
    """Number of steps between saves, at most; see also seconds-per-save."""
    seconds_per_save: float = 60.0
    """Seconds of work between saves, at most: what a crash can cost."""

    def set_experiment_name(self) -> None:
        """Name the run's folder after the scene: the .ply file or folder, or the demo, or what the run was called."""
        if self.experiment_name is None:
            data = self.pipeline.datamanager.data
            self.experiment_name = scene_name(None if data is None else Path(data))


class InversionTrainer(Trainer):
    """Trains an :class:`InversionPipeline`.

    Differs from nerfstudio's trainer in that steps are counted over all phases and a resumed run ends where an unbroken
    one would; each phase optimizes its own parameters only; a checkpoint is complete or absent, and holds all random
    state; a run that is started again from its own ``config.yml`` goes on from its last checkpoint.
    """

    config: InversionTrainerConfig
    pipeline: InversionPipeline

    def __init__(self, config: InversionTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        super().__init__(config, local_rank, world_size)
        if config.prompt is not None:
            config.pipeline.model.prompt = config.prompt  # nerfstudio's command leaves an empty one aside
        self.seconds: dict[str, float] = {"splats": 0.0, "bank": 0.0, "words": 0.0, "views": 0.0, "edit": 0.0}
        self._resumed: dict[str, Any] | None = None
        self._random_state: dict[str, Any] | None = None
        self._stop_signal = StopSignal()
        self._loss = float("nan")
        self._heldout_loss: float | None = None
        self._shown_at = 0.0

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build everything and load the prior. Bad input leaves no run folder behind.

        Raises:
            InputError: whatever is wrong with the scene, the prior, the settings or the checkpoint.
        """
        writer.EVENT_WRITERS.clear()  # of an earlier run in the same process
        try:
            super().setup(test_mode)
            self.pipeline.load_prior(seed=self.config.machine.seed)
            if self.config.pipeline.prior != self.pipeline.prior_name:  # that of the words which are edited
                self.config.pipeline.prior = self.pipeline.prior_name
                self.config.save_config()
            if self._resumed is None and self._start_step == 0 and self.pipeline.phase_at(0) == "edit":
                self.pipeline.begin_edit()
        except InputError:
            discard_unused_run(self.base_dir, self.checkpoint_dir)
            raise
        self.pipeline.output_folder = self.base_dir
        writer.GLOBAL_BUFFER["max_iter"] = self._last_step()

    def setup_optimizers(self) -> Optimizers:
        """Optimizers of the current phase only."""
        groups = self.pipeline.get_param_groups()
        if self.pipeline.phase == "words":
            configs = {"words": self.pipeline.words_optimizer()} if groups else {}
        elif self.pipeline.phase == "edit":
            configs = {}  # the editor has its own
        else:
            configs = self.config.optimizers.copy()
        return Optimizers(configs, groups)

    def _last_step(self) -> int:
        return min(self.pipeline.total_steps, self.config.max_num_iterations)

    # The loop

    def train(self) -> None:
        """Run all phases from the step that was reached, then write the outputs."""
        scene: DataparserOutputs = self.pipeline.datamanager.train_dataparser_outputs  # type: ignore[assignment]
        scene.save_dataparser_transform(self.base_dir / "dataparser_transforms.json")
        self._init_viewer_state()
        self.stop_training = False
        self._saved_at = time.monotonic()
        self.step = self._start_step - 1  # the last step that was completed
        if self._random_state is not None:
            restore_random_state(self, self._random_state)
        with self._stop_signal.listening(), TimeWriter(writer, EventName.TOTAL_TRAIN_TIME):
            entered = None
            for step in range(self._start_step, self._last_step()):
                phase = self.pipeline.phase_at(step)
                if phase != entered:
                    entered = phase
                    self._enter(phase)
                self._wait_while_paused()
                if self.stop_training or self._stop_signal:
                    break
                self._train_step(step)
                self.step = step
                self._observe(step)
                if step_check(step, self.config.steps_per_save) or self._save_is_due():
                    self.save_checkpoint(step)
                writer.write_out_storage()
        if self._stop_signal:
            self._stop_early()
        self._after_training()
        self._stay_open()

    def _train_step(self, step: int) -> None:
        phase, options = self.pipeline.phase, self.pipeline.config.prior_options
        callbacks = self.callbacks if phase == "splats" else []
        started = time.perf_counter()
        with self.train_lock, TimeWriter(writer, EventName.ITER_TRAIN_TIME, step=step):
            if phase == "splats":
                self.pipeline.train()
            for callback in callbacks:
                callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
            # The backward pass runs in nerfstudio's own code, outside what the prior guards.
            with nullcontext() if phase == "splats" else explain_out_of_memory("inversion", options):
                loss, losses, metrics = self._edit_iteration() if phase == "edit" else self.train_iteration(step)
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

    def _edit_iteration(self) -> tuple[torch.Tensor, dict[str, Any], dict[str, Any]]:
        assert self.pipeline.editing is not None
        losses = self.pipeline.editing.step()
        return torch.tensor(sum(losses.values())), losses, {}

    def _enter(self, phase: Phase) -> None:
        """Enter a phase; what the phase before left on the optimizers is dropped."""
        if phase == "words":
            self._begin_words()
        elif phase == "edit":
            self._begin_edit()
        self._progress(phase)

    def _begin_words(self) -> None:
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

    def _begin_edit(self) -> None:
        """Finish the words, if this run learns them, then generate the views that the splats shall follow."""
        pipeline = self.pipeline
        state = None if self._resumed is None else self._resumed["inversion"].get("edit")
        if self._resumed is None and self.step >= 0:
            self.save_checkpoint(self.step)
        if pipeline.word_steps:
            self._finish_words(measure=state is None)
        self._resumed = None
        with self.train_lock:
            editing = pipeline.editing or pipeline.begin_edit(state)
            self.optimizers = self.setup_optimizers()
        CONSOLE.print(f"Generating views of the edit: {editing.label}", highlight=False, markup=False)
        started = time.perf_counter()
        pipeline.panel.show(f"**Generating views**: {editing.label}")
        with Progress(console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal) as bar:
            task = bar.add_task("Generating edited views")
            with suppress(Cancelled):
                editing.prepare(
                    lambda done, total: bar.update(task, completed=done, total=total), lambda: bool(self._stop_signal)
                )
        self.seconds["views"] += time.perf_counter() - started
        if editing.prepared:
            self._show_picture(editing.picture(), max(self.step, 0), edit_report.PICTURE)

    def _finish_words(self, measure: bool = True) -> None:
        """Write the words' outputs; without measuring where the splats are no longer those that were inverted."""
        if not measure:
            self.pipeline.embedding().save(self.base_dir / report.EMBEDDING)
            return
        if self.pipeline.bank is None:  # resumed when nothing was left to do, or no step asked for
            self._begin_words()
        with self.train_lock:
            outputs = report.write_outputs(self.pipeline, self.config, self.base_dir, self.seconds)
        self._show_picture(outputs.picture, max(self.step, 0))
        report.announce(outputs)

    def _observe(self, step: int) -> None:
        """Whatever people look at while a run lasts. Nothing here changes what is learned."""
        pipeline = self.pipeline
        self._update_viewer_state(step)
        if pipeline.phase == "splats":
            if pipeline.datamanager.eval_dataset:
                with self.train_lock:
                    self.eval_iteration(step)
        elif pipeline.phase == "words":
            done = step + 1 - pipeline.splat_steps
            if step_check(done, pipeline.config.heldout_every):
                self._heldout_loss = pipeline.heldout_loss()
                writer.put_scalar("Held-out Loss", self._heldout_loss, step)
            if step_check(done, pipeline.config.preview_every) and step + 1 < self._last_step():
                self._show_picture(report.preview(pipeline), step)
        if step_check(step, self.config.logging.steps_per_log, run_at_zero=True):
            self._show_status(step)
        pipeline.edit_panel.session.run_pending()

    def _show_status(self, step: int) -> None:
        phase = self.pipeline.phase
        first, last = self.pipeline.steps_of(phase)
        lines = [f"**{_TITLES[phase]}**: step {step + 1 - first} of {last - first}", f"Loss {self._loss:.4f}"]
        if self._heldout_loss is not None:
            lines.append(f"Held-out loss {self._heldout_loss:.4f}")
        self.pipeline.panel.show("  \n".join(lines))

    def _show_picture(self, picture: UInt8[np.ndarray, "H W 3"], step: int, name: str = report.PICTURE) -> None:
        writer.put_image(name, torch.from_numpy(picture) / 255, step)
        self.pipeline.panel.show(picture=picture)

    def _wait_while_paused(self) -> None:
        while self.training_state == "paused" and not self.stop_training and not self._stop_signal:
            time.sleep(0.01)

    def _update_viewer_state(self, step: int) -> None:
        # nerfstudio paces its viewer by rays per second, a number that the words phase does not have.
        if self.viewer_state is not None and self.pipeline.phase == "splats":
            super()._update_viewer_state(step)
        if self.pipeline.phase == "edit" and time.monotonic() - self._shown_at > _SHOWN_EVERY:
            self.pipeline.edit_panel.session.scene.rerender()
            self._shown_at = time.monotonic()

    def _progress(self, phase: Phase) -> None:
        first, last = self.pipeline.steps_of(phase)
        for event_writer in writer.EVENT_WRITERS:
            if isinstance(event_writer, ProgressWriter):
                event_writer.begin_phase(phase, first, min(last, self._last_step()))

    def _after_training(self) -> None:
        """Save, write the outputs, and say where they are."""
        pipeline = self.pipeline
        if self.step + 1 < pipeline.total_steps:
            if self.step >= self._start_step:
                self.save_checkpoint(self.step)
            self._say_how_to_resume()
            return
        if pipeline.phase_at(self.step + 1) == "edit":
            if pipeline.editing is None:  # resumed when nothing was left to do
                self._begin_edit()
            self._finish_edit()
        else:
            if self.step >= self._start_step:
                self.save_checkpoint(self.step)
            self._finish_words()
            report.say_what_next(self.base_dir)
        pipeline.panel.show("**Done.**")

    def _finish_edit(self) -> None:
        editing = self.pipeline.editing
        assert editing is not None
        with self.train_lock:
            editing.finish()
        self.save_checkpoint(self.step)
        with self.train_lock:
            outputs = edit_report.write_outputs(self.pipeline, editing, self.config, self.base_dir, self.seconds)
        self._show_picture(outputs.picture, self.step, edit_report.PICTURE)
        self.pipeline.edit_panel.session.scene.rerender()
        edit_report.announce(outputs, self.base_dir)

    def _stay_open(self) -> None:
        """End the training, and keep the viewer open if there is one."""
        self.training_state = "completed"
        writer.write_out_storage()
        for callback in self.callbacks:
            callback.run_callback_at_location(step=self.step, location=TrainingCallbackLocation.AFTER_TRAIN)
        if not self.config.viewer.quit_on_train_completion:
            self._train_complete_viewer()

    # Interruptions

    def _stop_early(self) -> None:
        if self.step >= self._start_step:
            self.save_checkpoint(self.step)
        writer.write_out_storage()
        self._say_how_to_resume()
        raise SystemExit(128 + (self._stop_signal.number or 0))

    def _say_how_to_resume(self) -> None:
        report.say(
            f"Stopped after step {self.step + 1} of {self.pipeline.total_steps}. To go on:",
            f"  [bold]ns-train {self.config.method_name} --load-config {self.base_dir / 'config.yml'}[/bold]",
        )

    # Checkpoints

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._saved_at > self.config.seconds_per_save

    def save_checkpoint(self, step: int) -> None:
        """Write a checkpoint that holds everything a resumed run needs to continue exactly, then remove older ones.

        Raises:
            InputError: there is no space, or no permission, to write it.
        """
        path = self.checkpoint_dir / f"step-{step:09d}.ckpt"
        write_checkpoint(run_state(self, step), path)
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
        if extras["phase"] != "splats":
            self._resumed = state
            return
        self.optimizers = self.setup_optimizers()
        self.optimizers.load_optimizers(state["optimizers"])
        if self.config.load_scheduler:
            self.optimizers.load_schedulers(state["schedulers"])
        self.grad_scaler.load_state_dict(state["scalers"])
        self.pipeline.model.strategy_state.update(extras["densification"])
        self._random_state = extras
