"""Pipelines as hosts: splats that can be copied and put back, and the words and edits that go into checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import Parameter

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit
from invert3d_ns.prior.settings import PriorOptions
from invert3d_ns.prior.shared import SharedPrior
from invert3d_ns.scenes.cameras import OBJECT_RADIUS
from invert3d_ns.scenes.cloud import unit_quaternions
from invert3d_ns.words.embedding import ObjectEmbedding

if TYPE_CHECKING:
    from invert3d_ns.scenes.cloud import SplatCloud
    from invert3d_ns.scenes.splats import ObjectSplatModel


class SplatScene:
    """Makes a pipeline of splats a :class:`~invert3d_ns.live.host.HasSplats`; mixed into a ``torch.nn.Module``.

    Attributes:
        lock: held while splats are copied or replaced.
        rerender: shows the splats to everybody who watches.
        output_folder: where the run's files are, once it is known.
    """

    model: ObjectSplatModel

    def begin_hosting(self) -> None:
        """Set everything up; once, after the module's own constructor."""
        self.lock: AbstractContextManager[Any] = nullcontext()
        self.rerender: Callable[[], None] = lambda: None
        self.output_folder: Path | None = None
        self._rows: Tensor | None = None

    def snapshot(self) -> SplatCloud:
        """A copy of the object's splats. Takes the lock."""
        with self.lock:
            return self.splats()

    def restore(self, snapshot: SplatCloud) -> None:
        """Make the object's splats those of a snapshot and show them. Takes the lock."""
        with self.lock:
            self.set_splats(snapshot)
        self.rerender()

    def splats(self) -> SplatCloud:
        """A copy of the object's splats, in the object frame, without what surrounds it."""
        cloud, keep = self.model.cloud(), self._object_rows()
        return cloud if keep is None else cloud.select(keep)

    @torch.no_grad()
    def set_splats(self, cloud: SplatCloud) -> None:
        """Replace what :meth:`splats` gave by as many others, in place; those that are the same keep every bit."""
        keep = self._object_rows()
        rows = None if keep is None else keep.nonzero()[:, 0].to(self.model.means.device)
        for name, parameter in self.model.gauss_params.items():
            new = getattr(cloud, name).to(parameter)
            target = parameter.data[:, : new.shape[1]] if name == "features_rest" else parameter.data
            old = target if rows is None else target[rows]
            old = unit_quaternions(old) if name == "quats" else old  # as splats() gave them
            changed = (new != old).flatten(1).any(dim=1).nonzero()[:, 0]
            target[changed if rows is None else rows[changed]] = new[changed]

    def _object_rows(self) -> Bool[Tensor, " N"] | None:
        """The splats that are the object, or None for all; chosen once, since edits may move them."""
        if self._rows is None and self.model.metadata.get("surroundings", False):
            self._rows = self.model.means.detach().cpu().norm(dim=-1) < 1.1 * OBJECT_RADIUS
        return self._rows


class EditableScene(SplatScene):
    """Makes a pipeline an :class:`~invert3d_ns.live.host.EditHost`; mixed into a ``torch.nn.Module``.

    Attributes:
        words: the vectors [N D] on the pipeline's device, or None.
        edits: what the scene is under, oldest first.
        prior: the one way to the prior; its weights are in no checkpoint.
    """

    words: Parameter | None
    device: Any

    def begin_editing(self, prior: str, options: PriorOptions) -> None:
        """Set everything up; once, after the module's own constructor.

        Args:
            prior: name or path.
            options: how it computes.
        """
        self.begin_hosting()
        self.edits: list[Edit] = []
        self.prior = SharedPrior(prior, options, self.device)
        self._origin: dict[str, Any] = {}

    @property
    def prior_name(self) -> str:
        """Name or path of the prior."""
        return self.prior.name

    @prior_name.setter
    def prior_name(self, name: str) -> None:
        self.prior.name = name

    def embedding(self) -> ObjectEmbedding:
        """The words as they are now, with what is needed to use them elsewhere.

        Raises:
            InputError: there are none yet.
        """
        if self.words is None:
            raise InputError("there are no words of this scene yet; they are learned once its splats are fitted")
        if not self._origin:  # of a run that was made before checkpoints said it
            with self.prior.use() as prior:
                self.adopt_origin(ObjectEmbedding.for_prior(prior, self.words, init_word=prior.info.init_word, steps=0))
        return ObjectEmbedding(self.words.detach().clone(), **self._origin)

    def adopt_origin(self, embedding: ObjectEmbedding) -> None:
        """Take over everything about an embedding but its vectors: prior, fingerprint, init word, steps."""
        self._origin = {name: value for name, value in vars(embedding).items() if name != "vectors"}

    def knows_words(self) -> bool:
        """Whether there are words, and it is known which prior they are of."""
        return self.words is not None and bool(self._origin)

    @property
    def description(self) -> str:
        """What the object is in plain words; empty if nobody said."""
        return self._origin.get("description", "") if self.knows_words() else ""

    def get_extra_state(self) -> dict[str, Any]:
        """What checkpoints hold besides the tensors of splats and words."""
        return {
            "origin": dict(self._origin),
            "edits": [edit.to_dict() for edit in self.edits],
            "prior": self.prior_name,
            "folder": None if self.output_folder is None else str(self.output_folder.resolve()),
            "object": self._rows,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        self._origin, self.prior_name, self._rows = dict(state["origin"]), state["prior"], state["object"]
        self.edits = [Edit.from_dict(entry) for entry in state["edits"]]
        folder = None if state["folder"] is None else Path(state["folder"])
        self.output_folder = folder if folder is not None and folder.is_dir() else None
