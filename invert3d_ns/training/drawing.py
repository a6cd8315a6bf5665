"""Draw batches while the device computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

AHEAD = 3
"""Batches that wait for the device."""

Drawn = TypeVar("Drawn")


@contextmanager
def drawn_ahead(draw: Callable[[int], Drawn], device: torch.device) -> Iterator[Callable[[int], Drawn]]:
    """``draw``, for steps that follow one another, with the next steps' batches drawn in a thread.

    On a CPU the thread would take from the training what it gives: there it is ``draw`` itself. A batch depends on its
    step alone, so that either way gives the same.
    """
    if device.type == "cpu":
        yield draw
        return
    waiting: dict[int, Future[Drawn]] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:

        def drawn(step: int) -> Drawn:
            for ahead in range(step, step + AHEAD + 1):
                if ahead not in waiting:
                    waiting[ahead] = pool.submit(draw, ahead)
            return waiting.pop(step).result()

        try:
            yield drawn
        finally:
            pool.shutdown(cancel_futures=True)
