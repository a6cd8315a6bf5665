"""Random streams by name, seed and step: every random decision has one of its own, and no two coincide.

Randomness that depends on nothing else than these is what lets a resumed run continue exactly, on any device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index

import numpy as np
import torch

_STATE_WORDS = 624
_HEADER_BYTES = 24
"""In the state of torch's CPU generator, what comes before the words of the Mersenne Twister (each as 64 bits)."""


def random_stream(name: str, seed: int, *steps: int) -> torch.Generator:
    """Make a generator on the CPU whose stream depends on its name, seed and steps, and on nothing else.

    ``torch.Generator().manual_seed`` keeps 32 bits of its seed on a CPU: among a hundred thousand seeds, two are likely
    to give one stream. Here the generator's whole state (19,968 bits) is a SHAKE-256 hash of all arguments, so that
    different arguments give different streams, the same ones on every machine and with every version of Python.

    Args:
        name: what is drawn, such as "training noise"; unique in this package.
        seed: the user's seed: any integer, negative and huge ones too, each with a stream of its own.
        steps: numbers that tell draws of one name apart, such as the training step; none is not the same as 0.

    Returns:
        A new generator at the beginning of its stream; draw on the CPU and move what was drawn.

    Raises:
        TypeError: a seed or a step that is no integer.

    Example:
        >>> torch.randint(100, (3,), generator=random_stream("example", 0, 7)).tolist()
        [79, 20, 54]
    """
    key = json.dumps([name, index(seed), *map(index, steps)]).encode()
    words = np.frombuffer(hashlib.shake_256(key).digest(4 * _STATE_WORDS), "<u4").astype(np.int64)
    generator = torch.Generator()
    state = generator.get_state()
    state[_HEADER_BYTES : _HEADER_BYTES + 8 * _STATE_WORDS].view(torch.int64).copy_(torch.from_numpy(words))
    return generator.set_state(state)


@contextmanager
def global_stream(name: str, device: torch.device, seed: int, *steps: int) -> Iterator[None]:
    """Let code that draws from torch's global generators draw from a stream of its own; they stay as they were.

    Args:
        name: see :func:`random_stream`, as ``seed`` and ``steps``.
        device: whose generator is meant, besides the CPU's.
    """
    number = int(torch.randint(2**62, (), generator=random_stream(name, seed, *steps)))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.random.default_generator.manual_seed(number)
        if device.type == "cuda":
            torch.cuda.manual_seed(number)
        yield
