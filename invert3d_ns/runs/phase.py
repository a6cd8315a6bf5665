"""The phase protocol: a run is a list of phases, and the trainer knows none of them by name.

A phase prepares itself (:meth:`Phase.begin`), takes a number of steps, may show what it has come to
(:meth:`Phase.observe`), and writes its outputs (:meth:`Phase.finish`). Stopping, resuming, checkpoints, progress lines,
the viewer's status and the timing of all this are the trainer's (:class:`invert3d_ns.runs.trainer.PhasedTrainer`) and
written once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8
from nerfstudio.engine.optimizers import Optimizers
from torch import Tensor

if TYPE_CHECKING:
    from nerfstudio.engine.callbacks import TrainingCallback

Picture = UInt8[np.ndarray, "H W 3"]


@dataclass
class StepOutput:
    """What one step of a phase gives to the logs."""

    loss: Float[Tensor, ""]
    """The scalar that was minimized."""
    losses: dict[str, Any] = field(default_factory=dict)
    """Its terms, by name."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Figures that are not minimized, by name."""


class Run(Protocol):
    """What a phase may use of the run that it is part of; the trainer is one."""

    lock: AbstractContextManager[Any]
    """nerfstudio's lock of the scene: held while the scene is read or changed, and in every :meth:`Phase.step`."""
    callbacks: list[TrainingCallback]
    """nerfstudio's training callbacks of the model, for phases that train it."""
    seconds: dict[str, float]
    """Seconds spent so far, by name of phase or of what :meth:`timed` measures; resumed runs add to them."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        ...

    @property
    def seed(self) -> int:
        """``--machine.seed``."""
        ...

    @property
    def step(self) -> int:
        """The last completed step, counted over all phases; -1 before the first."""
        ...

    def iterate(self, index: int) -> StepOutput:
        """One of nerfstudio's iterations: :meth:`Phase.losses`, their backward pass, optimizers, schedulers."""
        ...

    def evaluate_held_out_images(self) -> None:
        """Nerfstudio's evaluation of held-out images, where and as often as the configuration asks for it."""
        ...

    def timed(self, name: str) -> AbstractContextManager[None]:
        """Add the seconds of a block to :attr:`seconds` under ``name``."""
        ...

    def progress(self, title: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """A progress bar around a block; gives a function of what is done and the total."""
        ...

    def should_stop(self) -> bool:
        """Whether somebody asked the run to stop, by a signal or in the viewer."""
        ...

    def log_scalar(self, name: str, value: float) -> None:
        """Write a figure to the events of the current step."""
        ...

    def show_picture(self, name: str, picture: Picture) -> None:
        """Show a picture in the viewer and write it to the events under ``name``."""
        ...

    def show_status(self, title: str, detail: str = "", lines: Sequence[str] = ()) -> None:
        """Show in the viewer what is being done, how far it is, and lines of figures; plain text."""
        ...

    def update_viewer(self) -> None:
        """Nerfstudio's own update of its viewer, once in 30 steps."""
        ...

    def redraw(self, *, now: bool = False) -> None:
        """Let viewers draw the changed scene; at most a few times a second, since each look takes time, or ``now``."""
        ...


class Phase:
    """One part of a run, with steps, settings, optimizers and outputs of its own.

    Everything that a subclass needs of its pipeline it takes in its constructor; nothing heavy happens there.
    """

    name: str = ""
    """What checkpoints, figures and progress lines call it: one word."""
    title: str = ""
    """What people read: "Learning words"."""
    steps: int = 0
    """How many steps it has; 0 for a phase that only prepares and writes."""

    def settings_key(self) -> dict[str, Any]:
        """Settings that a resumed run must share with the run that was started, by the flag that sets them.

        Values are plain data. Settings that may differ (lengths of later phases, how often something is shown) are
        left out. Asked for once the prior is loaded.
        """
        return {}

    def begin(self, run: Run, state: dict[str, Any] | None) -> None:
        """Make ready for the first step, or for the one after ``state`` was taken.

        Args:
            state: of :meth:`state_dict`, when a run is resumed in this phase.

        Raises:
            Cancelled: the run was asked to stop meanwhile; nothing is lost, a resumed run begins the phase again.
            InputError: the settings cannot be carried out.
        """

    def optimizers(self, configured: dict[str, Any]) -> Optimizers:
        """Nerfstudio's optimizers of the phase's own parameters, made once the phase has begun; none by default.

        Args:
            configured: the run's ``--optimizers``, by group of parameters.
        """
        return Optimizers({}, {})

    def losses(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Loss terms, whose sum is minimized, and metrics of step ``index`` of the phase."""
        raise RuntimeError(f"phase {self.name!r} has neither losses nor steps of its own")

    def step(self, run: Run, index: int) -> StepOutput:
        """Take step ``index`` of the phase, counted from 0; by default one of nerfstudio's iterations."""
        return run.iterate(index)

    def observe(self, run: Run, index: int) -> None:
        """Measure and show what step ``index`` has come to; nothing here changes what is learned."""

    def settle(self) -> None:
        """Bring the pipeline up to the steps taken: called, with the lock held, before anybody looks at it or saves it.

        For phases whose steps work on something else, because bringing it up to date takes time.
        """

    def status(self) -> Sequence[str]:
        """Lines about the phase for the viewer, besides step and loss."""
        return ()

    def finish(self, run: Run) -> Sequence[str]:
        """Write the phase's outputs into the run's folder, after its last step was saved; may be called again.

        Returns:
            Commands that come next, one a line, should this be the run's last phase.
        """
        return ()

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors that the remaining steps depend on, besides the pipeline and the optimizers."""
        return {}


def spans(phases: Sequence[Phase]) -> list[tuple[int, int]]:
    """First step of each phase and the one after its last, counted over the whole run."""
    result, first = [], 0
    for phase in phases:
        result.append((first, first + phase.steps))
        first += phase.steps
    return result
