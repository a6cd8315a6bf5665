"""Count the memory of tensors as operations make and drop them: on any device, and without computing anything."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class TensorMemory(TorchDispatchMode):
    """Counter of the bytes of all storages that operations make while it is active and that still exist.

    What kernels use inside is not seen, nor what an allocator keeps back or loses to gaps; shared storage counts once.
    Backward passes and torch's fake tensors are seen like everything else, whose bytes are those that true ones would
    have.

    Args:
        known: tensors that exist already and are not to be counted.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = 0
        """Bytes at the moment."""
        self.peak = 0
        """Most bytes at any moment."""
        self._seen: set[weakref.ref] = {weakref.ref(tensor.untyped_storage()) for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()

        def drop(reference: weakref.ref) -> None:
            self._seen.discard(reference)
            self.now -= size

        reference = weakref.ref(storage, drop)
        if reference in self._seen:
            return
        self._seen.add(reference)
        self.now += size
        self.peak = max(self.peak, self.now)


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of tensors; shared storage counts once."""
    return sum({tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}.values())


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Tensors that are made in this context have shapes and bytes but no content, and so has what is made of them."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
