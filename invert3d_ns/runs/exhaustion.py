"""Disks and memories that are full: what ran out, in words, so that a run can say how it goes on."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_FULL_DISK = {
    errno.ENOSPC: "no space is left on the disk{where}; free some",
    errno.EDQUOT: "your quota of the disk{where} is used up; free some space",
    errno.EFBIG: "a file{where} may not grow any more; raise the limit of file sizes (ulimit -f)",
}
_SAYS_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Let threads that end for want of space or memory end without a traceback: who waits for them says it."""
    previous = threading.excepthook

    def hook(ended: threading.ExceptHookArgs) -> None:
        if what_ran_out(ended.exc_value) is None:
            previous(ended)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous


def what_ran_out(error: BaseException | None) -> str | None:
    """What an error, or the one that it came from, lacked: space on a disk or memory; None if it lacked neither."""
    while error is not None:
        found = _what_ran_out(error)
        if found is not None:
            return found
        error = error.__cause__
    return None


def _what_ran_out(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        where = f" of {error.filename}" if error.filename else ""
        return _FULL_DISK[error.errno].format(where=where)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "the GPU's memory is full; close other programs that use it"
    text = str(error).lower()
    if isinstance(error, MemoryError) or (
        isinstance(error, OSError | RuntimeError) and any(words in text for words in _SAYS_MEMORY)
    ):
        where = "the GPU's memory" if "cuda" in text else "the memory"
        return f"{where} is full; close other programs"
    return None
