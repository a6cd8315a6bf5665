"""One prior for everybody who needs it, loaded when first used, used by one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.out_of_memory import explain_out_of_memory
from invert3d_ns.prior.settings import PriorOptions

if TYPE_CHECKING:
    import torch

    from invert3d_ns.prior.multiview import MultiViewPrior


class SharedPrior:
    """A prior behind a lock: the one path to it for a trainer and a browser that run in threads of their own.

    Offloading exchanges weights under the feet of whoever computes, so two threads may never use a prior at the same
    time. A plain object: assigned to a module, its weights stay out of that module's parameters and checkpoints.

    Args:
        name: name, path or hub id, as for :func:`~invert3d_ns.prior.checkpoints.load_prior`.
        options: how it shall compute.
        device: where; CUDA if there is one, else the CPU, if None.

    Example:
        >>> shared = SharedPrior("bundled", device="cpu")
        >>> with shared.use() as prior:
        ...     prior.info.name
        'bundled'
    """

    def __init__(
        self,
        name: str = "bundled",
        options: PriorOptions | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.options = options or PriorOptions()
        self.device = device
        self._name = name
        self._prior: MultiViewPrior | None = None
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        """Name, path or hub id of the prior. It may be set until the prior is loaded.

        Raises:
            InputError: another prior is loaded already.
        """
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        with self._lock:
            if self._prior is not None and name != self._name:
                raise InputError(f"prior {self._name!r} is loaded already, not {name!r}; start anew with that one")
            self._name = name

    @property
    def is_loaded(self) -> bool:
        """Whether :meth:`use` has nothing to load any more."""
        return self._prior is not None

    @contextmanager
    def use(self) -> Iterator[MultiViewPrior]:
        """The prior, for this thread alone until the block ends; the first use loads it.

        The lock is re-entrant: who holds it may call what uses the prior as well. Others wait.

        Raises:
            InputError: as :func:`~invert3d_ns.prior.checkpoints.load_prior`; a later use tries again. Or the GPU's
                memory is full within the block; the message names the options that lower it.
        """
        with self._lock:
            if self._prior is None:
                from invert3d_ns.prior.checkpoints import load_prior

                self._prior = load_prior(self._name, self.device, options=self.options)
            # Backward passes, too, which run in optimizers' and nerfstudio's code.
            with explain_out_of_memory("inversion", self._prior.options):
                yield self._prior

    def adopt(self, prior: MultiViewPrior) -> None:
        """Hand in a prior that is loaded already, in place of the one that there is, if any.

        It keeps computing where and as it does; :attr:`name` stays what it was loaded by.
        """
        with self._lock:
            self._prior = prior
