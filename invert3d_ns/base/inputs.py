"""Read what people and other programs wrote: paths as they are typed, JSON as it may be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from invert3d_ns.base.errors import InputError


def user_path(text: Path | str) -> Path:
    """A path that a person typed, with a ``~`` at its start made the home folder.

    Raises:
        InputError: nobody's home folder is known by that name.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text}: no home folder is known by that name; write the path out, or set HOME") from error


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """The object in a JSON file: names and values.

    Args:
        path: the file, in UTF-8.
        advice: what to do where it cannot be read, as an imperative.

    Raises:
        InputError: it is missing, damaged, no object, nested without end, or has a number that is not finite.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_finite, parse_float=_finite)
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
