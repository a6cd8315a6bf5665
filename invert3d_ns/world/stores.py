"""Arrays whose memory is a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np

from invert3d_ns.base.errors import InputError


def open_store(path: Path, kind: type[np.generic], shape: tuple[int, ...]) -> tuple[np.memmap, bool]:
    """Open an array that lives in a file, and tell whether it is new: then it is zero everywhere.

    A file of another shape or type, or a damaged one, is replaced. The space is taken at once: a page of a file with
    holes that finds the disk full kills the process without a word.

    Raises:
        InputError: there is no space for it, or no permission.
    """
    if path.exists():
        try:
            kept = np.lib.format.open_memmap(path, "r")  # refuses a file that is too short, which "r+" lengthens
            if kept.shape == shape and kept.dtype == kind:
                return np.lib.format.open_memmap(path, "r+"), False
        except (ValueError, EOFError):
            pass
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        store = np.lib.format.open_memmap(path, "w+", kind, shape)
        with path.open("r+b") as file:
            _take_space(file.fileno(), path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another place"
        ) from error
    return store, True


def _take_space(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems without such a call
                raise
