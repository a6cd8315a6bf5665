"""What phases see of the run that they are part of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE

from invert3d_ns.runs.interruption import StopSignal
from invert3d_ns.runs.phase import Picture, StepOutput
from invert3d_ns.runs.pipeline import PhasedPipeline
from invert3d_ns.runs.progress import progress_bar

_REDRAWN_EVERY = 0.4
"""Seconds between two looks of the viewer at a scene that changes: each takes time from the steps."""


class RunServices(Trainer):
    """nerfstudio's trainer as the :class:`~invert3d_ns.runs.phase.Run` that phases see."""

    pipeline: PhasedPipeline

    def __init__(self, config: TrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        super().__init__(config, local_rank, world_size)
        self.lock: Any = self.train_lock
        self.seconds: dict[str, float] = {}
        self.stop_training = False
        self._stop_signal = StopSignal()
        self._spans: list[tuple[int, int]] = []
        self._index = 0
        self._redrawn_at = 0.0

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.base_dir

    @property
    def seed(self) -> int:
        """``--machine.seed``."""
        return self.config.machine.seed

    def iterate(self, index: int) -> StepOutput:
        """One of nerfstudio's iterations on the losses of the current phase."""
        return StepOutput(*self.train_iteration(self._spans[self._index][0] + index))

    def evaluate_held_out_images(self) -> None:
        """Nerfstudio's evaluation of held-out images, if there are any, as often as it is asked for."""
        if self.pipeline.datamanager.eval_dataset:
            with self.train_lock:
                self.eval_iteration(self.step)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of a block to :attr:`seconds` under ``name``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    @contextmanager
    def progress(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """A line and a progress bar around a block; gives a function of what is done and the total."""
        CONSOLE.print(f"{title} ...", highlight=False, markup=False)
        self.show_status(title)
        with progress_bar(title) as advance:
            yield advance

    def should_stop(self) -> bool:
        """Whether a signal came or the viewer asked to stop."""
        return self.stop_training or bool(self._stop_signal)

    def log_scalar(self, name: str, value: float) -> None:
        """Write a figure to the events of the current step."""
        writer.put_scalar(name, value, self.step)

    def show_picture(self, name: str, picture: Picture) -> None:
        """Show a picture in the viewer and write it to the events under ``name``."""
        writer.put_image(name, torch.from_numpy(picture) / 255, max(self.step, 0))
        for observer in self.pipeline.observers:
            observer.show_picture(picture)

    def show_status(self, title: str, detail: str = "", lines: Sequence[str] = ()) -> None:
        """Show in the viewer what is being done, how far it is, and lines of figures."""
        for observer in self.pipeline.observers:
            observer.show_status(title, detail, lines)

    def update_viewer(self) -> None:
        """Nerfstudio's own update of its viewer, once in 30 steps."""
        if self.viewer_state is not None:
            self._update_viewer_state(self.step)

    def redraw(self, *, now: bool = False) -> None:
        """Let viewers draw the changed scene, at most a few times a second unless ``now``."""
        if now or time.monotonic() - self._redrawn_at > _REDRAWN_EVERY:
            if self.viewer_state is not None and self.pipeline.current is not None:
                with self.train_lock:
                    self.pipeline.current.settle()
            for observer in self.pipeline.observers:
                observer.rerender()
            self._redrawn_at = time.monotonic()
