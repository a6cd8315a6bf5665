"""How long work reports its progress and is asked to stop: shared names of the callbacks, and the exception."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with what is done so far and the total."""
ShouldStop = Callable[[], bool]
"""Asked between two steps whether to give up."""


class Cancelled(Exception):
    """Raised between two steps because ``should_stop`` said so; nothing of the work is kept."""
