"""Numbers of settings are checked in one place, by the name of their flag."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import pytest
import tyro

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import Range, above, at_least, check_numbers, check_range


@dataclass
class Inherited:
    jobs: int = 1


@dataclass
class Inner:
    rate: Annotated[float, above(0)] = 0.1
    strengths: tuple[Annotated[float, at_least(0, 1)], ...] = (0.5,)


@dataclass
class Unnamed:
    share: Annotated[float, at_least(0, 1)] = 0.5


@dataclass
class Grouped:
    renamed: Annotated[Inner, tyro.conf.arg(name="short")] = field(default_factory=Inner)
    without_name: Annotated[Unnamed, tyro.conf.arg(name="")] = field(default_factory=Unnamed)
    omitted: tyro.conf.OmitArgPrefixes[Unnamed] = field(default_factory=Unnamed)


@dataclass
class Outer(Inherited):
    number_ranges: ClassVar[dict[str, Range]] = {"jobs": at_least(1)}
    steps: Annotated[int, at_least(1)] = 4
    count: Annotated[int, at_least(1)] | None = None
    offset: float = 0.0
    quick: bool = False
    inner_part: Inner = field(default_factory=Inner)
    groups: dict[str, Any] = field(default_factory=lambda: {"first_group": {"eps": 1e-8}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Outer(steps=0), "--pipeline.steps is 0; give 1 or more"),
        (Outer(count=0), "--pipeline.count is 0; give 1 or more"),
        (Outer(jobs=-3), "--pipeline.jobs is -3; give 1 or more"),
        (Outer(offset=math.nan), "--pipeline.offset is nan; give a finite number"),
        (Outer(offset=-math.inf), "--pipeline.offset is -inf; give a finite number"),
        (Outer(inner_part=Inner(rate=0)), "--pipeline.inner-part.rate is 0; give more than 0"),
        (Outer(inner_part=Inner(strengths=(0.1, 2))), "--pipeline.inner-part.strengths is 2; give 0 to 1"),
        (Grouped(renamed=Inner(rate=-1)), "--pipeline.short.rate is -1; give more than 0"),
        (Grouped(without_name=Unnamed(2)), "--pipeline.share is 2; give 0 to 1"),
        (Grouped(omitted=Unnamed(2.5)), "--pipeline.share is 2.5; give 0 to 1"),
        (Outer(steps=-12345678901), "--pipeline.steps is -12345678901; give 1 or more"),
        (Outer(groups={"a_b": {"eps": math.nan}}), "--pipeline.groups.a-b.eps is nan; give a finite number"),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_flag(settings: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        check_numbers(settings, "--pipeline.")
    assert str(error.value) == message


def test_numbers_in_range_pass() -> None:
    check_numbers(Outer(steps=1, count=1, offset=-1e9, quick=True))


def test_ranges_do_not_change_the_command_line() -> None:
    made = tyro.cli(Outer, args=["--steps", "7", "--count", "2", "--inner-part.strengths", "0.25", "1"])
    assert (made.steps, made.count, made.inner_part.strengths) == (7, 2, (0.25, 1.0))


@pytest.mark.parametrize(
    ("allowed", "words"),
    [
        (Range(), "a finite number"),
        (above(0), "more than 0"),
        (above(-90, 90), "a number between -90 and 90"),
        (Range(most=5), "5 or less"),
        (at_least(0, 2**31 - 1), "0 to 2147483647"),
    ],
)
def test_a_range_says_what_to_give(allowed: Range, words: str) -> None:
    assert str(allowed) == words


def test_a_range_that_is_known_later_names_the_flag() -> None:
    with pytest.raises(InputError, match=r"--inner-part is|--steps is 9; give 1 to 8"):
        check_range(Outer(steps=9), "steps", least=1, most=8)


@pytest.mark.parametrize("number", [10**400, -(10**400)], ids=["above", "below"])
def test_whole_numbers_beyond_what_a_float_holds(number: int) -> None:
    for settings in (Outer(steps=number), Outer(offset=number)):
        with pytest.raises(InputError, match="is a number of hundreds of digits; give ") as error:
            check_numbers(settings)
        assert len(str(error.value)) < 100
    with pytest.raises(InputError, match="--steps is a number of hundreds of digits; give 1 or more"):
        check_range(Outer(steps=number), "steps", least=1)
