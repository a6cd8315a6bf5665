"""Read what people and other programs wrote: paths as they are typed, JSON as it may be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from invert3d_ns.base.errors import InputError

_LONGEST_NAME, _LONGEST_PATH = 255, 4096
"""Bytes of a file's name and of a path, more than which no file system takes."""


def user_path(text: Path | str) -> Path:
    """A path that a person typed, with a ``~`` at its start made the home folder.

    Raises:
        InputError: nobody's home folder is known by that name, or no file system has such a name.
    """
    shown = f"{str(text)[:60]!r}{'...' if len(str(text)) > 60 else ''}"
    if "\0" in str(text):
        raise InputError(f"{shown} is no name that a file can have: it has a NUL; check what was typed")
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text}: no home folder is known by that name; write the path out, or set HOME") from error
    sizes = [len(part.encode(errors="replace")) for part in path.parts]
    if max(sizes, default=0) > _LONGEST_NAME or sum(sizes) + len(sizes) > _LONGEST_PATH:
        raise InputError(f"{shown} is no name that a file can have: it is too long; check what was typed")
    return path


def read_json(path: Path, advice: str, *, finite: bool = True) -> dict[str, Any]:
    """The object in a JSON file: names and values.

    Args:
        path: the file, in UTF-8.
        advice: what to do where it cannot be read, as an imperative.
        finite: refuse numbers that are not finite.

    Raises:
        InputError: it is missing, damaged, no object, nested without end, or has numbers that must be finite
            and are not.
    """
    number = _finite if finite else float
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=number, parse_float=number)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; {advice}") from error
    except RecursionError as error:
        raise InputError(f"{path} is damaged (nested too deeply); {advice}") from error
    except (OSError, ValueError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:100]
        raise InputError(f"{path} is damaged ({reason}); {advice}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is damaged (it holds no names and values); {advice}")
    return document


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number
