"""Benchmark of startup: the time that the package adds until nerfstudio's commands answer."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.metadata import entry_points
from statistics import median
from typing import Any

from invert3d_ns.base.errors import InputError

# The plugin is hidden in the same way as it is found: through the entry points of installed packages.
_TRAIN = """
import sys
if {hidden}:
    import importlib.metadata as metadata
    found = metadata.entry_points
    def without(**selection):
        chosen = found(**selection)
        if not selection.get("group", "").startswith("nerfstudio."):
            return chosen
        return type(chosen)(entry for entry in chosen if not entry.value.startswith("invert3d_ns"))
    metadata.entry_points = without
import nerfstudio.configs.method_configs
assert ("invert3d" in nerfstudio.configs.method_configs.all_methods) != {hidden}
"""


def bench_startup(quick: bool = False) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Time the import of nerfstudio's methods, which ``ns-train --help`` waits for, with the plugin and without.

    Returns:
        A row for each of the two with the median in seconds; ``added_s``, the median difference of a turn.

    Raises:
        InputError: nerfstudio cannot find the plugin.
    """
    if not any(entry.value.startswith("invert3d_ns") for entry in entry_points(group="nerfstudio.method_configs")):
        raise InputError("nerfstudio does not find the plugin; install the package with `pip install -e .`")
    turns = []
    for _ in range(2 if quick else 8):
        turns.append([_seconds(_TRAIN.format(hidden=hidden)) for hidden in (True, False)])
    turns = turns[1:] if len(turns) > 2 else turns
    without, together = (median(turn[index] for turn in turns) for index in (0, 1))
    rows = [
        {"what": "without invert3d_ns", "seconds": round(without, 3)},
        {"what": "with", "seconds": round(together, 3)},
    ]
    return rows, {"added_s": round(median(turn[1] - turn[0] for turn in turns), 3)}


def _seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start
