"""Checks of the places that commands write to, before any work begins."""

from __future__ import annotations

import os
from pathlib import Path

from invert3d_ns.base.errors import InputError


def check_folder(folder: Path, flag: str = "--out") -> None:
    """Refuse a folder that cannot be written to, whether it exists or has yet to be made.

    Args:
        folder: where files will be written.
        flag: what sets it, for the message.

    Raises:
        InputError: it, or a folder that it would be in, is a file, or may not be written to.
    """
    for place in (folder, *folder.parents):
        try:
            if place.is_dir():
                break
            exists = place.exists() or place.is_symlink()
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror}); give another folder to {flag}") from error
        if exists:
            raise InputError(f"{place} is a file, so nothing can be written to {folder}; give a folder to {flag}")
    else:
        raise InputError(f"{folder} cannot be made: {place} does not exist; give another folder to {flag}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{place} may not be written to; give another folder to {flag}")


def check_file(path: Path, suffix: str, flag: str = "--out") -> None:
    """Refuse a file that cannot be written, or whose name has another ending than what will be in it.

    Args:
        path: of the file; an existing one will be replaced.
        suffix: that its name must have, such as ".png", in any case.
        flag: what sets it, for the message.

    Raises:
        InputError: the ending is another one, it is a folder, or its folder cannot be written to.
    """
    if path.suffix.lower() != suffix:
        raise InputError(f"{path} does not end in {suffix}; give {flag} a name that does")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give {flag} the name of a file, such as {path / ('new' + suffix)}")
    check_folder(path.parent, flag)
