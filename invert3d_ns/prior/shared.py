"""One prior for everybody in a process who needs it, one at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from invert3d_ns.prior.memory import PriorOptions, load_with_options

if TYPE_CHECKING:
    import torch

    from invert3d_ns.prior.multiview import MultiViewPrior


class SharedPrior:
    """The one way to a prior: loaded at its first use, and used by one thread at a time.

    Args:
        name: name or path; may be set until the prior is loaded.
        options: how it computes.
        device: where it computes; CUDA if there is one, else the CPU.
    """

    def __init__(self, name: str, options: PriorOptions, device: str | torch.device | None = None) -> None:
        self.name = name
        self._options, self._device = options, device
        self._prior: MultiViewPrior | None = None
        self._lock = threading.RLock()

    def provide(self, prior: MultiViewPrior) -> None:
        """Take over a prior that is loaded already."""
        with self._lock:
            self._prior = prior

    @contextmanager
    def use(self) -> Iterator[MultiViewPrior]:
        """The prior, loaded by the first call; other threads wait for the end of the context, the same thread may nest.

        Raises:
            InputError: it cannot be loaded.
        """
        with self._lock:
            if self._prior is None:
                self._prior = load_with_options(self.name, self._options, self._device)
            yield self._prior
