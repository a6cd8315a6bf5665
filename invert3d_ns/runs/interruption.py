"""Ctrl-C and a scheduler's SIGTERM end a run between two steps, with everything saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class StopSignal:
    """Remembers the signal that asked a run to stop."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal, once one came."""

    def __bool__(self) -> bool:
        return self.number is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch signals instead of being ended by them; a second one raises KeyboardInterrupt. Does nothing in a thread
        that cannot have signals.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: Any) -> None:
            if self.number is not None:
                raise KeyboardInterrupt
            self.number = number

        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
