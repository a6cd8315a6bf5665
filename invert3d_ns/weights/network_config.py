"""Configs of networks as they come with weights: read, and refused where no network can have such numbers.

What builds a network trusts its config: a billion layers are built until memory is full, and minus sixteen heads divide
any width. So the numbers are looked at before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.inputs import read_json

_ADVICE = "download it again"
_LARGEST = 10_000_000
_COUNTS = re.compile(
    r"(?:^|_)(?:n|num|count|size|dims?|width|height|length|depth|layers?|blocks?|heads?|channels|features|groups|order|"
    r"embeddings|positions?|projection|queries|timesteps|steps|kernel|stride|padding|ratio|factor|rank)(?:_|$)"
)
"""Names of entries that count something. Others may be negative, as the bias of a logit and the number of a token."""
_LAYERS = ("layers_per_block", "transformer_layers_per_block", "num_hidden_layers", "layers")
"""Entries that count layers; where there are several, a network has as many as their product."""


def read_network_config(path: Path, tensors: int) -> dict[str, Any]:
    """The config of a network that has so many weights.

    Raises:
        InputError: it cannot be read, or see :func:`check_network_config`.
    """
    document = read_json(path, _ADVICE)
    check_network_config(document, tensors, path)
    return document


def check_network_config(document: Mapping[str, Any], tensors: int, path: Path) -> None:
    """Refuse numbers that no network with so many weights has.

    Args:
        document: entries of the config, nested at will.
        tensors: of the network's file. Each layer has at least one.
        path: what messages call the config.

    Raises:
        InputError: by name: a negative count, a number beyond all sizes or none at all (NaN), more layers than weights.
    """
    layers = 1.0
    for name, number in _numbers("", document):
        negative = isinstance(number, int) and number < 0 and _COUNTS.search(name.split(".")[-1])
        if negative or not abs(number) <= _LARGEST:
            raise InputError(f"{path} describes no network: {name} is {number!r:.40}; {_ADVICE}")
    for name in _LAYERS:
        layers *= max([1.0, *(number for found, number in _numbers("", document) if found.split(".")[-1] == name)])
    if layers > max(tensors, 1):
        raise InputError(f"{path} describes another network: {layers:g} layers, but {tensors} weights; {_ADVICE}")


def whole_number(entries: Mapping[str, Any], name: str, *, least: int, most: int, default: int, path: Path) -> int:
    """One entry that is a whole number within a range, written as a number or as digits; null is the default.

    Raises:
        InputError: it is anything else.
    """
    value = default if entries.get(name) is None else entries[name]
    if isinstance(value, str) and len(value) < 10 and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{path} describes no network: {name} is {value!r:.40}, not {least} to {most}; {_ADVICE}")
    return value


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Every number within a config, with the entry that it belongs to."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{name}.{key}".lstrip("."), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(name, inner)
