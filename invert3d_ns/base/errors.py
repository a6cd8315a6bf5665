"""The exception for mistakes of users, and a hook that shows it as one line without a traceback."""

import sys
from types import TracebackType


class InputError(ValueError):
    """A mistake of the user. The message is a single line: what was wrong; what to do about it."""


def install_excepthook() -> None:
    """Make an uncaught :class:`InputError` print as one line on stderr (exit status 1), other errors as before."""
    previous = sys.excepthook
    if getattr(previous, "_invert3d", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, InputError):
            print(f"Error: {error}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    hook._invert3d = True  # type: ignore[attr-defined]
    sys.excepthook = hook
