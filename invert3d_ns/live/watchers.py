"""Panels and a queue of actions, as watchers of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from invert3d_ns.live.panels.inversion_panel import InversionPanel
from invert3d_ns.live.queue import ActionQueue
from invert3d_ns.runs.pipeline import RunObserver


class Watched(Protocol):
    """A pipeline that people watch."""

    panel: InversionPanel
    queue: ActionQueue
    rerender: Callable[[], None]


class PanelWatcher(RunObserver):
    """Shows a run in its pipeline's panel, and does between two of its steps what people asked for.

    Args:
        pipeline: has the panel, the queue, and shows its scene.
        finished: called once the run is.
    """

    def __init__(self, pipeline: Watched, finished: Callable[[], None] = lambda: None) -> None:
        self.pipeline, self._finished = pipeline, finished

    def show_status(self, title: str, detail: str = "", lines: Sequence[str] = ()) -> None:
        """Show it in the panel."""
        self.pipeline.panel.show(title, detail, lines)

    def show_picture(self, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """Show it in the panel."""
        self.pipeline.panel.show(picture=picture)

    def serve(self) -> None:
        """Run what waits in the queue."""
        self.pipeline.queue.run_pending()

    def rerender(self) -> None:
        """Have every browser draw the scene again."""
        self.pipeline.rerender()

    def finished(self) -> None:
        """Pass it on."""
        self._finished()
