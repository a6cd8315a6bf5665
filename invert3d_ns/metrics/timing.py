"""Time pieces of work against each other, taking turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import torch


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """Time one call, work that it leaves on a GPU included and what was left there before excluded."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def compare_times(
    works: Mapping[str, Callable[[], object]], turns: int, device: torch.device, *, warmup: int = 1
) -> list[dict[str, Any]]:
    """Time every work once a turn, after ``warmup`` turns that do not count.

    Returns:
        A row for each work: its name ``what``, the median ``ms``, and ``ratio``, the median over turns of its time over
        the first work's.
    """
    times = [{name: milliseconds(work, device) for name, work in works.items()} for _ in range(turns + warmup)]
    first, times = next(iter(works)), times[warmup:]
    return [
        {
            "what": name,
            "ms": round(median(turn[name] for turn in times), 2),
            "ratio": round(median(turn[name] / turn[first] for turn in times), 3),
        }
        for name in works
    ]
