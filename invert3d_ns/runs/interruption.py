"""Ctrl-C, a scheduler's SIGTERM, and output that nobody reads any more end a run between two steps, all saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nerfstudio.utils.rich_utils import CONSOLE


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

        def stop_unread() -> None:  # rich would end the program where it is
            os.dup2(os.open(os.devnull, os.O_WRONLY), CONSOLE.file.fileno())
            self.number = getattr(signal, "SIGPIPE", 13)

        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        CONSOLE.on_broken_pipe = stop_unread  # type: ignore[method-assign]
        try:
            yield
        finally:
            del CONSOLE.on_broken_pipe
            for number, handler in previous.items():
                signal.signal(number, handler)
