"""Timing of works in turns: medians, ratios to the first work of the same turn, and turns that do not count."""

from __future__ import annotations

import pytest
import torch

from invert3d_ns.metrics import timing
from invert3d_ns.metrics.timing import compare_times, milliseconds

CPU = torch.device("cpu")


class _Clock:
    """A clock that only work moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_milliseconds_of_a_call(clock: _Clock) -> None:
    def work() -> None:
        clock.now += 0.25

    assert milliseconds(work, CPU) == pytest.approx(250.0)


def test_ratios_are_of_the_same_turn(clock: _Clock) -> None:
    # The machine slows down from turn to turn; the first turn warms up and is slower than all.
    base, other = iter([9.0, 1.0, 2.0, 4.0]), iter([90.0, 3.0, 4.0, 12.0])

    def spend(seconds: float) -> None:
        clock.now += seconds

    rows = compare_times({"base": lambda: spend(next(base)), "other": lambda: spend(next(other))}, 3, CPU)
    assert rows == [
        {"what": "base", "ms": 2000.0, "ratio": 1.0},
        {"what": "other", "ms": 4000.0, "ratio": 3.0},
    ]
    assert next(base, None) is None
