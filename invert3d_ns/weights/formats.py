"""Files that hold weights, and which to use where the same weights lie there several times."""

from __future__ import annotations

import re
from collections.abc import Sequence

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".ckpt", ".pth")
"""Files that hold weights, best first."""


def choose_weights(names: Sequence[str], *, half: bool) -> list[str]:
    """Of the weight files of one folder, those to use: repositories often hold the same weights several times.

    Args:
        names: file names, without folders.
        half: whether the copy in half precision is preferred (to download), or the other one (to read).
    """
    for suffix in WEIGHT_SUFFIXES:
        of_kind = sorted(name for name in names if name.endswith(suffix) and "non_ema" not in name)
        halves = [name for name in of_kind if re.search(r"\.fp16[.-]", name)]
        wholes = [name for name in of_kind if name not in halves]
        if of_kind:
            return (halves or wholes) if half else (wholes or halves)
    return []
