"""Ranges of numbers in settings, and the one check of them all, before any work begins; free of torch.

A field says its range where it is declared, ``steps: Annotated[int, at_least(1)] = 400``; a class that inherits fields
from elsewhere says theirs in ``number_ranges``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from invert3d_ns.base.errors import InputError

_ARGUMENT: Any = type(tyro.conf.arg(name=""))
_OMIT_PREFIXES = get_args(tyro.conf.OmitArgPrefixes[int])[1]


@dataclass(frozen=True)
class Range:
    """Which numbers a setting may have. NaN and infinite ones it never may."""

    least: float = -math.inf
    most: float = math.inf
    exclusive: bool = False
    """Neither ``least`` nor ``most`` is allowed itself."""

    def __contains__(self, number: float) -> bool:
        inside = self.least < number < self.most if self.exclusive else self.least <= number <= self.most
        # A whole number may be beyond what a float holds, on which math.isfinite fails.
        return inside and -sys.float_info.max <= number <= sys.float_info.max

    def __str__(self) -> str:
        """What to give, as the end of a sentence."""
        if math.isinf(self.least) and math.isinf(self.most):
            return "a finite number"
        if math.isinf(self.most):
            return f"more than {self.least:g}" if self.exclusive else f"{self.least:g} or more"
        if math.isinf(self.least):
            return f"less than {self.most:g}" if self.exclusive else f"{self.most:g} or less"
        if self.exclusive:
            return f"a number between {self.least:g} and {self.most:g}"
        return f"{self.least:g} to {self.most:.10g}"


FINITE = Range()
"""Any number but NaN and the infinite ones: the range of a field that names none."""


def at_least(least: float, most: float = math.inf) -> Range:
    """From ``least`` up to ``most``, both allowed."""
    return Range(least, most)


def above(least: float, most: float = math.inf) -> Range:
    """Between ``least`` and ``most``, neither allowed."""
    return Range(least, most, exclusive=True)


def check_numbers(settings: Any, flag: str = "--") -> None:
    """Refuse the first number of any settings, however nested, that is out of its range.

    Args:
        settings: a dataclass; dataclasses, dictionaries, lists and tuples within it are looked through.
        flag: what the name of the flag begins with, as "--pipeline.".

    Raises:
        InputError: by the name of the flag, with the range.
    """
    for name, number, allowed in _numbers(settings, flag, FINITE):
        if number not in allowed:
            raise InputError(f"{name} is {_text(number) if isinstance(number, int) else f'{number:g}'}; give {allowed}")


def check_range(
    options: Any, *names: str, least: float = -math.inf, most: float = math.inf, exclusive: bool = False
) -> None:
    """Refuse numbers that are out of a range which is known only now, or not finite.

    Args:
        options: a command or a group of its settings.
        names: its fields. Where one is None it is not checked; in a tuple, each number is.
        least: the smallest number that is allowed.
        most: the largest one.
        exclusive: neither ``least`` nor ``most`` is allowed itself.

    Raises:
        InputError: by the name of the flag, with the range.
    """
    allowed = Range(least, most, exclusive)
    for name in names:
        for flag, number, _ in _numbers(getattr(options, name), f"--{name.replace('_', '-')}", allowed):
            if number not in allowed:
                raise InputError(f"{flag} is {_text(number)}; give {allowed}")


def _text(number: float) -> str:
    """A number for messages; of one with more digits than anybody reads, that it has them."""
    too_long = isinstance(number, int) and abs(number) > sys.float_info.max
    return "a number of hundreds of digits" if too_long else str(number)


def _numbers(value: Any, flag: str, allowed: Range) -> Iterator[tuple[str, float, Range]]:
    """Every number within a value: the flag that it belongs to, itself, its range."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield flag, value, allowed
    elif is_dataclass(value) and not isinstance(value, type):
        ranges, names = _ranges(type(value)), flag_names(type(value))
        for field in fields(value):
            inner = getattr(value, field.name)
            name = f"{flag}{names[field.name]}"
            name += "." if names[field.name] and (is_dataclass(inner) or isinstance(inner, Mapping)) else ""
            yield from _numbers(inner, name, ranges.get(field.name, FINITE))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            name = f"{flag}{key}".replace("_", "-")
            name += "." if is_dataclass(inner) or isinstance(inner, Mapping) else ""
            yield from _numbers(inner, name, allowed)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _numbers(inner, flag, allowed)


@cache
def _ranges(kind: type) -> dict[str, Range]:
    """Range of each field of a dataclass that names one."""
    found: dict[str, Range] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        for given in _annotations(hint):
            if isinstance(given, Range):
                found[name] = given
    for base in reversed(kind.__mro__):
        found.update(vars(base).get("number_ranges", {}))
    return found


@cache
def flag_names(kind: type) -> dict[str, str]:
    """What the flag of each field of a dataclass is called, as tyro has it; empty where its group has no name."""
    names = {field.name: field.name.replace("_", "-") for field in fields(kind)}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        for given in hint.__metadata__ if get_origin(hint) is Annotated and name in names else ():
            if isinstance(given, _ARGUMENT) and given.name is not None:
                names[name] = given.name
            elif given is _OMIT_PREFIXES:
                names[name] = ""
    return names


def _annotations(hint: Any) -> Iterator[Any]:
    """What ``Annotated`` says anywhere within a type, as in ``Annotated[int, X] | None`` and in tuples."""
    if get_origin(hint) is Annotated:
        yield from hint.__metadata__
        yield from _annotations(hint.__origin__)
    else:
        for inner in get_args(hint):
            yield from _annotations(inner)
