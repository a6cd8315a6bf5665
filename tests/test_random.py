"""Random streams: no two coincide, each is what it always was, and its generator is a Mersenne Twister like numpy's."""

from __future__ import annotations

import ast
import hashlib
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import invert3d_ns
from invert3d_ns.base.random import random_stream


def _raw(*key: str | int, count: int = 3) -> tuple[int, ...]:
    """The first draws of a stream, of 24 bits each: what float32 numbers keep."""
    name, seed, *steps = key
    draws = torch.rand(count, generator=random_stream(str(name), int(seed), *map(int, steps)))
    return tuple((draws.double() * 2**24).long().tolist())


def test_no_two_streams_coincide() -> None:
    names, seeds, steps = (
        ("training", "trainin", "held out", "0"),
        (*range(40), -1, 2**31, 2**32, 2**64, 10**30),
        range(60),
    )
    keys = [*product(names, seeds, steps), *product(names, seeds)]
    assert len({_raw(*key) for key in keys}) == len(keys)


def test_what_a_32_bit_seed_confuses_is_told_apart() -> None:
    first, second = (torch.Generator().manual_seed(seed) for seed in (1, 1 + 2**32))
    assert torch.equal(torch.rand(4, generator=first), torch.rand(4, generator=second)), "why streams are not seeded"
    assert _raw("a", 1) != _raw("a", 1 + 2**32)


def test_arguments_are_not_confused_with_each_other() -> None:
    keys = [
        ("a", 1, 2),
        ("a", 2, 1),
        ("a", 12),
        ("a", 1),
        ("a", 1, 0),
        ("a", 1, 2, 0),
        ("a1", 2),
        ('a", 1', 2),
        ("a", -1),
    ]
    assert len({_raw(*key) for key in keys}) == len(keys)


def test_a_stream_repeats_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    assert _raw("a", 3, 4) == _raw("a", np.int64(3), np.int32(4))  # type: ignore[arg-type]
    assert torch.equal(before, torch.get_rng_state())


def test_streams_stay_what_they_are() -> None:
    assert _raw("training", 0, 0) == (15242544, 10369310, 8170281)
    assert _raw("training", -1, 7) == (6074094, 6725285, 1933553)


@pytest.mark.parametrize("key", [("a", 0), ("held out", 5, 1000)])
def test_the_generator_is_a_mersenne_twister_in_the_hashed_state(key: tuple) -> None:
    """The reference is numpy's: torch's layout of the state is not documented."""
    digest = hashlib.shake_256(json.dumps(list(key)).encode()).digest(4 * 624)
    reference = np.random.MT19937(0)
    state = reference.state
    state["state"] |= {"key": np.frombuffer(digest, "<u4").astype(np.uint32), "pos": 624}
    reference.state = state
    # More draws than there are words in the state; fewer than 16 at once are drawn one by one.
    drawn = torch.rand(1300, generator=random_stream(*key)) * 2**24
    assert drawn.long().tolist() == (reference.random_raw(1300) % 2**24).tolist()


def test_every_name_in_the_package_is_used_once() -> None:
    """Two places that draw from one name, seed and step would draw the same numbers."""
    names = [
        ast.literal_eval(node.args[0])
        for path in Path(invert3d_ns.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("random_stream", "global_stream")
        and path.name != "random.py"
    ]
    assert len(names) > 10 and sorted(names) == sorted(set(names))


@pytest.mark.parametrize("bad", [0.5, "1", None])
def test_seeds_and_steps_are_integers(bad: object) -> None:
    with pytest.raises(TypeError):
        random_stream("a", bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        random_stream("a", 0, bad)  # type: ignore[arg-type]
