"""The trainer of every method: phases in one run that can be killed at any moment and resumed exactly."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.utils import writer
from nerfstudio.utils.misc import step_check
from nerfstudio.utils.writer import EventName, TimeWriter
from rich.markup import escape

from invert3d_ns.base.cancellation import Cancelled
from invert3d_ns.base.errors import InputError
from invert3d_ns.runs.checkpoints import (
    FORMAT_VERSION,
    checkpoint_path,
    clear_leftovers,
    discard_new_run,
    find_checkpoint,
    list_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from invert3d_ns.runs.config import RunConfig
from invert3d_ns.runs.exhaustion import quiet_threads, what_ran_out
from invert3d_ns.runs.phase import spans
from invert3d_ns.runs.pipeline import PhasedPipeline
from invert3d_ns.runs.progress import ProgressWriter
from invert3d_ns.runs.report import print_lines, print_next
from invert3d_ns.runs.resume import Settings, refuse_other_settings, require_plain, scene_fingerprint
from invert3d_ns.runs.run_folder import FolderLock
from invert3d_ns.runs.services import RunServices


@dataclass
class PhasedTrainerConfig(RunConfig):
    """Settings of a run of any method of this package."""

    _target: type = field(default_factory=lambda: PhasedTrainer)


class PhasedTrainer(RunServices):
    """Runs the phases of a :class:`PhasedPipeline`, of which it knows none by name.

    Differs from nerfstudio's trainer in that steps are counted over all phases and a resumed run ends where an unbroken
    one would; each phase optimizes its own parameters only; a checkpoint is complete or absent, and holds what the rest
    of the run depends on; settings that a resumed run must share are compared; a run that is started again from its own
    ``config.yml`` goes on from its last checkpoint. It is the :class:`~invert3d_ns.runs.phase.Run` that phases see.
    """

    config: RunConfig
    pipeline: PhasedPipeline

    def __init__(self, config: RunConfig, local_rank: int = 0, world_size: int = 1) -> None:
        super().__init__(config, local_rank, world_size)
        if config.prompt is not None:
            config.pipeline.model.prompt = config.prompt  # nerfstudio's command leaves an empty one aside
        self._resumed: dict[str, Any] | None = None
        self._scene = ""
        self._passed_limit = False
        self._saved_at = 0.0
        self._loss = float("nan")

    # Setting up

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Build everything and prepare the phases. Bad input leaves no new run folder behind.

        Raises:
            InputError: whatever is wrong with the scene, the prior, the settings or the checkpoint.
        """
        writer.EVENT_WRITERS.clear()  # of an earlier run in the same process
        self._folder_lock = FolderLock(self.base_dir)
        with self._explaining_its_end(), self._discarding_a_run_that_never_began():
            super().setup(test_mode)
            self.config.save_config(settled=True)  # with what the pipeline has settled meanwhile
        self.pipeline.output_folder = self.base_dir
        writer.GLOBAL_BUFFER["max_iter"] = self._limit()

    @contextmanager
    def _discarding_a_run_that_never_began(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._folder_lock.release()
            given_up = isinstance(error, Exception | KeyboardInterrupt | SystemExit)
            if given_up and self.config.is_new() and not self.checkpoint_dir.exists():
                discard_new_run(self.base_dir)
            raise

    @contextmanager
    def _explaining_its_end(self) -> Iterator[None]:
        """Say how to go on after a disk or a memory was full, and after a Ctrl-C that did not wait."""
        try:
            with quiet_threads():
                yield
        except KeyboardInterrupt:  # nerfstudio would show where the program was
            print_lines("Stopped at once.", escape(self._how_to_go_on()))
            raise SystemExit(128 + signal.SIGINT) from None
        except Exception as error:
            lacking = what_ran_out(error)
            if lacking is None:
                raise
            text = str(error) if isinstance(error, InputError) else lacking
            raise InputError("; ".join(filter(None, [text, self._how_to_go_on()]))) from error

    def _how_to_go_on(self) -> str:
        saved = list_checkpoints(self.checkpoint_dir)
        if not saved:
            return ""
        return f"all up to step {max(saved) + 1} is saved; go on from there with {self.config.resume_command()}"

    def setup_optimizers(self) -> Optimizers:
        """None yet: each phase brings its own when it begins."""
        return Optimizers({}, {})

    def _load_checkpoint(self) -> None:
        """Prepare the phases, and restore the run where there is a checkpoint."""
        clear_leftovers(self.base_dir)
        path = find_checkpoint(self.config, self.checkpoint_dir)
        state = None if path is None else read_checkpoint(path)
        phases = self.pipeline.prepare(self.seed, None if state is None else state["pipeline"])
        self._spans = spans(phases)
        outputs: Any = self.pipeline.datamanager.train_dataparser_outputs  # type: ignore[attr-defined]
        self._scene = scene_fingerprint(outputs)
        self.step = -1
        if state is None or path is None:
            return
        run, names = state["run"], [phase.name for phase in phases]
        reached = names.index(run["phase"]) + 1 if run["phase"] in names else 0
        refuse_other_settings(run["settings"], self._settings(reached), path)
        self._index = reached - 1
        if run["done"] > phases[self._index].steps:
            raise InputError(
                f"{path} has taken {run['done']} steps of phase {run['phase']!r} already, more than the "
                f"{phases[self._index].steps} that are asked for; ask for {run['done']} or more"
            )
        self._start_step = self._spans[self._index][0] + run["done"]
        self.step = self._start_step - 1
        self.seconds = dict(run["seconds"])
        with self.train_lock:  # browsers that were left open look at the scene already
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
        self._resumed = state
        self._passed_limit = self._start_step >= self.config.max_num_iterations
        print_lines(f"Going on after step {self._start_step} of {escape(str(path))}")

    def _settings(self, count: int) -> Settings:
        """Settings that a resumed run must share: the run's, and those of its first ``count`` phases."""
        own = {"--machine.seed": self.seed, "the scene (--data)": self._scene}
        phases = {phase.name: phase.settings_key() for phase in self.pipeline.phases[:count]}
        return require_plain({"run": own, **phases})

    def _limit(self) -> int:
        """The step to stop before: --max-num-iterations, unless the run has stopped there already and goes on."""
        total = self._spans[-1][1]
        limit = self.config.max_num_iterations
        return total if self._passed_limit else min(total, limit)

    # The loop

    def train(self) -> None:
        """Run all phases from the step that was reached, write their outputs, and say what comes next."""
        scene: Any = self.pipeline.datamanager.train_dataparser_outputs  # type: ignore[attr-defined]
        with self._explaining_its_end(), self._discarding_a_run_that_never_began(), self._stop_signal.listening():
            scene.save_dataparser_transform(self.base_dir / "dataparser_transforms.json")
            self._init_viewer_state()
            self._saved_at = time.monotonic()
            with TimeWriter(writer, EventName.TOTAL_TRAIN_TIME):
                complete = self._run_phases()
            if complete:
                self.show_status("Done.")
            else:
                self._stop_early()
            for event_writer in writer.EVENT_WRITERS:  # a disk that is full now is said now
                if isinstance(event_writer, writer.TensorboardWriter):
                    event_writer.tb_writer.flush()
        self._folder_lock.release()
        if self._stop_signal:
            raise SystemExit(128 + (self._stop_signal.number or 0))
        self._stay_open()

    def _run_phases(self) -> bool:
        """Run what is left of the phases; whether all are finished."""
        commands: Sequence[str] = ()
        begun = self._index
        for index in range(begun, len(self._spans)):
            phase, last = self.pipeline.phases[index], self._spans[index][1]
            if index > begun and phase.steps and self.step + 1 >= self._limit():
                return False
            try:
                self._enter(index)
            except Cancelled:
                return False
            for step in range(self.step + 1, min(last, self._limit())):
                self._wait_while_paused()
                if self.should_stop():
                    return False
                self._train_step(step)
                self.step = step
                try:
                    self._observe(step)
                except Cancelled:
                    return False
                if step_check(step, self.config.steps_per_save) or self._save_is_due():
                    self.save_checkpoint(step)
                writer.write_out_storage()
            if self.step + 1 < last:
                return False
            if self.step >= self._start_step:
                self.save_checkpoint(self.step)
            commands = phase.finish(self)
        self.pipeline.write_turn(self.base_dir)
        print_next(commands)
        return True

    def _enter(self, index: int) -> None:
        """Begin a phase, or go on with it; what the phase before left on the optimizers is dropped."""
        self._index, phase, (first, last) = index, self.pipeline.phases[index], self._spans[index]
        resumed, self._resumed = self._resumed, None
        self.optimizers = Optimizers({}, {})
        self.pipeline.enter(phase, first)
        phase.begin(self, None if resumed is None else resumed["run"]["state"])
        self.optimizers = phase.optimizers(self.config.optimizers)
        if resumed is not None:
            self.optimizers.load_optimizers(resumed["optimizers"])
            if self.config.load_scheduler:
                self.optimizers.load_schedulers(resumed["schedulers"])
            self.grad_scaler.load_state_dict(resumed["scalers"])
        attributes = TrainingCallbackAttributes(
            optimizers=self.optimizers, grad_scaler=self.grad_scaler, pipeline=self.pipeline, trainer=self
        )
        self.callbacks = self.pipeline.get_training_callbacks(attributes)
        for event_writer in writer.EVENT_WRITERS:
            if isinstance(event_writer, ProgressWriter):
                event_writer.begin_phase(phase.name, first, min(last, self._limit()))

    def _train_step(self, step: int) -> None:
        phase, first = self.pipeline.phases[self._index], self._spans[self._index][0]
        with self.timed(phase.name), self.train_lock, TimeWriter(writer, EventName.ITER_TRAIN_TIME, step=step):
            output = phase.step(self, step - first)
        if step_check(step, self.config.logging.steps_per_log, run_at_zero=True) or step + 1 == self._limit():
            self._loss = float(torch.as_tensor(output.loss).detach())
            writer.put_scalar("Train Loss", self._loss, step)
            for name, values in {"Train Loss Dict": output.losses, "Train Metrics Dict": output.metrics}.items():
                figures = {key: float(torch.as_tensor(value).detach()) for key, value in values.items()}
                writer.put_dict(name, figures, step)

    def _observe(self, step: int) -> None:
        """Show how far the run is, and serve whoever watches. Nothing here changes what is learned."""
        phase, (first, last) = self.pipeline.phases[self._index], self._spans[self._index]
        phase.observe(self, step - first)
        if step_check(step, self.config.logging.steps_per_log, run_at_zero=True):
            how_far = f"step {step + 1 - first} of {last - first}"
            self.show_status(phase.title, how_far, [f"Loss {self._loss:.4f}", *phase.status()])
        for observer in self.pipeline.observers:
            observer.serve()

    def _wait_while_paused(self) -> None:
        while self.training_state == "paused" and not self.should_stop():
            time.sleep(0.01)

    # The end

    def _stay_open(self) -> None:
        """End the training, and keep the viewer open if there is one."""
        self.training_state = "completed"
        for observer in self.pipeline.observers:
            observer.finished()
        writer.write_out_storage()
        for callback in self.callbacks:
            callback.run_callback_at_location(step=self.step, location=TrainingCallbackLocation.AFTER_TRAIN)
        if not self.config.viewer.quit_on_train_completion:
            with suppress(KeyboardInterrupt):  # which is how people leave, and nerfstudio shows where it was
                self._train_complete_viewer()

    def _stop_early(self) -> None:
        """Save, and say how to go on."""
        if self.step >= self._start_step:
            self.save_checkpoint(self.step)
        writer.write_out_storage()
        print_lines(
            f"Stopped after step {self.step + 1} of {self._spans[-1][1]}. To go on:",
            f"  [bold]{escape(self.config.resume_command())}[/bold]",
        )
        self.show_status("Stopped", f"after step {self.step + 1} of {self._spans[-1][1]}")

    # Checkpoints

    def _save_is_due(self) -> bool:
        return time.monotonic() - self._saved_at > self.config.seconds_per_save

    def save_checkpoint(self, step: int) -> None:
        """Write a checkpoint that holds everything a resumed run needs to continue exactly, then remove older ones.

        Raises:
            InputError: there is no space, or no permission, to write it.
        """
        phase, optimizers = self.pipeline.phases[self._index], self.optimizers
        with self.train_lock:
            phase.settle()
        state = {
            "step": step,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.optimizers.items()},
            "schedulers": {name: scheduler.state_dict() for name, scheduler in optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
            "run": {
                "version": FORMAT_VERSION,
                "phase": phase.name,
                "done": step + 1 - self._spans[self._index][0],
                "finished": step + 1 >= self._spans[self._index][1],
                "settings": self._settings(self._index + 1),
                "seconds": dict(self.seconds),
                "state": phase.state_dict(),
            },
        }
        path = checkpoint_path(self.checkpoint_dir, step)
        write_checkpoint(state, path)
        if self.config.save_only_latest_checkpoint:
            for old in list_checkpoints(self.checkpoint_dir).values():
                if old != path:
                    old.unlink()
        self._saved_at = time.monotonic()
