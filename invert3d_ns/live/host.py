"""A pipeline whose scene can be edited: its words, its splats, the edits that they are under, in every checkpoint."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import Parameter

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit
from invert3d_ns.editing.regions import take
from invert3d_ns.methods.edit_phase import plain
from invert3d_ns.prior.settings import PriorOptions
from invert3d_ns.scenes.cameras import OBJECT_RADIUS
from invert3d_ns.words.embedding import ObjectEmbedding

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.scenes.ply import SplatCloud
    from invert3d_ns.scenes.splats import ObjectSplatModel


class EditableScene:
    """What makes a pipeline an :class:`~invert3d_ns.live.scene.EditHost`; mixed into a ``torch.nn.Module``.

    Attributes:
        words: the vectors [N D] on the pipeline's device, or None.
        edits: what the scene is under, oldest first.
        output_folder: where the run's files are, once it is known.
        prior_name: name or path of the prior.
    """

    model: ObjectSplatModel
    words: Parameter | None
    device: Any

    def begin_hosting(self, prior: str, options: PriorOptions) -> None:
        """Set everything up; once, after the module's own constructor."""
        self.edits: list[Edit] = []
        self.output_folder: Path | None = None
        self.prior_name = prior
        self._prior_options = options
        self._origin: dict[str, Any] = {}
        self._rows: Tensor | None = None
        self._priors: list[MultiViewPrior] = []  # in a list, so that its weights stay out of checkpoints
        self._loading = threading.Lock()

    # Words

    def embedding(self) -> ObjectEmbedding:
        """The words as they are now, with what is needed to use them elsewhere.

        Raises:
            InputError: there are none yet.
        """
        if self.words is None:
            raise InputError("there are no words of this scene yet; they are learned once its splats are fitted")
        if not self._origin:  # of a run that was made before checkpoints said it
            prior = self.prior()
            self.belong(ObjectEmbedding.for_prior(prior, self.words, init_word=prior.info.init_word, steps=0))
        return ObjectEmbedding(self.words.detach().clone(), **self._origin)

    def belong(self, embedding: ObjectEmbedding) -> None:
        """Take over everything about an embedding but its vectors."""
        self._origin = {name: value for name, value in vars(embedding).items() if name != "vectors"}

    def knows_words(self) -> bool:
        """Whether there are words, and it is known which prior they are of."""
        return self.words is not None and bool(self._origin)

    def prior(self) -> MultiViewPrior:
        """The prior; the first call of a run that is only looked at loads it."""
        with self._loading:
            if not self._priors:
                from invert3d_ns.prior.checkpoints import load_prior

                self._priors = [load_prior(self.prior_name, self.device, options=self._prior_options)]
            return self._priors[0]

    # Splats

    def splats(self) -> SplatCloud:
        """A copy of the object's splats, in the object frame, without what surrounds it."""
        cloud, keep = self.model.cloud(), self._object_rows()
        return cloud if keep is None else take(cloud, keep)

    @torch.no_grad()
    def set_splats(self, cloud: SplatCloud) -> None:
        """Replace what :meth:`splats` gave by as many others, in place; those that are the same keep every bit."""
        current, keep = self.model.cloud(), self._object_rows()
        rows = torch.arange(len(current)) if keep is None else keep.nonzero()[:, 0]
        for name, parameter in self.model.gauss_params.items():
            new, old = getattr(cloud, name).cpu(), getattr(current, name)[rows]
            changed = (new != old).flatten(1).any(dim=1)
            target = parameter.data[:, : new.shape[1]] if name == "features_rest" else parameter.data
            target[rows[changed].to(target.device)] = new[changed].to(target)

    def _object_rows(self) -> Bool[Tensor, " N"] | None:
        """The splats that are the object, or None for all; chosen once, since edits may move them."""
        if self._rows is None and self.model.metadata.get("surroundings", False):
            self._rows = self.model.means.detach().cpu().norm(dim=-1) < 1.1 * OBJECT_RADIUS
        return self._rows

    # Checkpoints

    def get_extra_state(self) -> dict[str, Any]:
        """What checkpoints hold besides the tensors of splats and words."""
        return {
            "origin": dict(self._origin),
            "edits": [plain(edit) for edit in self.edits],
            "prior": self.prior_name,
            "folder": None if self.output_folder is None else str(self.output_folder.resolve()),
            "object": self._rows,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        self._origin, self.prior_name, self._rows = dict(state["origin"]), state["prior"], state["object"]
        self.edits = [Edit(**entry) for entry in state["edits"]]
        folder = None if state["folder"] is None else Path(state["folder"])
        self.output_folder = folder if folder is not None and folder.is_dir() else None
