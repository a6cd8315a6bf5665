"""Progress of a run on the console: one line at a time, that says the phase, how far, how good, how long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nerfstudio.configs.base_config import LocalWriterConfig
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE

from invert3d_ns.base.ranges import Range, at_least

_SHOWN = {
    "Train Loss": "loss",
    "Held-out Loss": "held-out",
    "psnr": "psnr",
    "gaussian_count": "splats",
}


class ProgressWriter(writer.LocalWriter):
    """nerfstudio's console writer for runs of several phases.

    Lines come at most every ``seconds_per_line`` and are not overwritten (logs keep them); time left is the phase's.
    """

    def __init__(self, config: LocalWriterConfig, banner_messages: list[str] | None = None) -> None:
        super().__init__(config, banner_messages)
        for message in banner_messages or []:
            CONSOLE.print(message)
        self._latest: dict[str, float] = {}
        self._seconds_per_line = config.seconds_per_line if isinstance(config, ProgressWriterConfig) else 5.0
        self.begin_phase("", 0, 1)

    def begin_phase(self, name: str, first: int, last: int) -> None:
        """Count steps from ``first`` up to ``last`` under ``name`` from here on."""
        self._name, self._first, self._last = name, first, last
        self._latest.clear()
        self._printed = 0.0
        # The average duration of a step must not remember the phase before.
        writer.GLOBAL_BUFFER.get("events", {}).pop(writer.EventName.ITER_TRAIN_TIME.value, None)

    def write_stats_log(self, step: int) -> None:
        """Print a line about ``step`` if it is time for one."""
        for event in writer.EVENT_STORAGE:
            self._remember(event["name"], event["event"])
        # nerfstudio passes the step of the oldest event, which need not be the step that was just made.
        steps = [
            event["step"] for event in writer.EVENT_STORAGE if event["name"] == writer.EventName.ITER_TRAIN_TIME.value
        ]
        if not steps:
            return
        step = steps[-1]
        now = time.monotonic()
        if now - self._printed < self._seconds_per_line and step + 1 < self._last:
            return
        self._printed = now
        CONSOLE.print(self._line(step), highlight=False, soft_wrap=True)

    def _remember(self, name: str, event: Any) -> None:
        if isinstance(event, dict):
            for key, value in event.items():
                self._remember(key, value)
        elif name in _SHOWN or name == writer.EventName.ITER_TRAIN_TIME.value:
            self._latest[name] = float(event)

    def _line(self, step: int) -> str:
        done, total = step + 1 - self._first, self._last - self._first
        parts = [f"[bold]{self._name}[/bold] {done}/{total}"]
        for key, label in _SHOWN.items():
            if key in self._latest:
                value = self._latest[key]
                parts.append(f"{label} {value:,.0f}" if key == "gaussian_count" else f"{label} {value:.4g}")
        seconds = self._latest.get(writer.EventName.ITER_TRAIN_TIME.value)
        if seconds is not None:
            parts.append(f"{seconds:.3f} s/step" if seconds < 10 else f"{seconds:.0f} s/step")
            parts.append(f"{format_seconds(seconds * (total - done))} left")
        return "  ".join(parts)


@dataclass
class ProgressWriterConfig(LocalWriterConfig):
    """Configuration of the console's progress lines."""

    number_ranges: ClassVar[dict[str, Range]] = {"max_log_size": at_least(0), "seconds_per_line": at_least(0)}
    _target: type = field(default_factory=lambda: ProgressWriter)
    enable: bool = True
    """if True enables local logging, else disables"""
    seconds_per_line: float = 5.0
    """Seconds between lines, at least."""


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that vanishes when the block ends; gives a function of what is done and the total.

    Nothing is drawn where the console is no terminal.
    """
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal) as bar:
        task = bar.add_task(escape(title))
        yield lambda done, total: bar.update(task, completed=done, total=total)


def format_seconds(seconds: float) -> str:
    """A duration for people: ``45 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
