"""Settings of an inversion as a pipeline, and where its words start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.inputs import user_path
from invert3d_ns.base.ranges import above, at_least
from invert3d_ns.editing.edit import Edit
from invert3d_ns.editing.options import EditOptions
from invert3d_ns.editing.scene_edit_config import SceneEditConfig
from invert3d_ns.prior.settings import PriorOptions
from invert3d_ns.runs.pipeline import PhasedPipelineConfig
from invert3d_ns.words.bank import MOST_HELD_OUT
from invert3d_ns.words.cti import VECTORS
from invert3d_ns.words.embedding import ObjectEmbedding

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

Init = Literal["encoder", "word"]
"""Where words start from."""


@dataclass
class InversionSettings(PhasedPipelineConfig):
    """Fit splats to images, find the words of a multi-view diffusion model that stand for the object, and edit it."""

    prior: str = "bundled"
    """The multi-view diffusion model: bundled, mvdream-sd1.5, mvdream-sd2.1, or a path."""
    prior_options: PriorOptions = field(default_factory=PriorOptions)
    """How the prior computes: precision, and what lowers its memory."""
    splat_steps: Annotated[int, at_least(0)] = 800
    """Steps of phase 1, fitting splats to images. A scene that is splats already (.ply) skips it."""
    steps: Annotated[int, at_least(0)] | None = None
    """Steps of phase 2, learning words; the prior's own choice if not given (400 for bundled, 6,100 for MVDream, as in
    the official code). 0 takes the view encoder's words as they are."""
    init: Init | None = None
    """Where words start from: encoder (one look at the views by the prior's view encoder) or word
    (--pipeline.init-word). If not given, encoder where the prior has one."""
    vectors: Annotated[int, at_least(1)] | None = None
    """Number of pseudo-words N that are learned: as many as the view encoder says, or 32 from a word. Fewer are easier
    to edit, more reconstruct better."""
    init_word: str | None = None
    """The word that every vector starts from without a view encoder; the prior's own choice (object) if not given."""
    init_jitter: Annotated[float, at_least(0)] | None = None
    """Standard deviation of Gaussian noise added to the initial vectors, in units of their length; the prior's own
    choice if not given (none for MVDream, as in the official code)."""
    lr: Annotated[float, above(0)] | None = None
    """Learning rate of the words; the prior's own choice if not given (5e-3 for MVDream)."""
    lr_decay: bool = True
    """Let the learning rate of the words fall to zero along half a cosine. The official code keeps it constant."""
    norm_penalty: Annotated[float, at_least(0)] = 0.0
    """Weight of a penalty on the squared length of the vectors, which keeps them near real words."""
    resolution: Annotated[int, at_least(8)] | None = None
    """Side in pixels of the views that are encoded; the prior's own size if not given."""
    bank_groups: Annotated[int, at_least(1, 4096)] = 64
    """Number of random orbits, of 4 views each, that are rendered and encoded for training."""
    heldout_groups: Annotated[int, at_least(1, MOST_HELD_OUT)] = 4
    """Number of orbits that are kept for measuring and never trained on."""
    groups_per_step: Annotated[int, at_least(1, 4096)] = 1
    """Orbits in each training step."""
    per_view_timesteps: bool = False
    """Draw a diffusion timestep for each view, as the official code does, rather than one for all views of an orbit."""
    timestep_range: tuple[Annotated[float, at_least(0, 1)], Annotated[float, at_least(0, 1)]] | None = None
    """Fractions of the diffusion process between which timesteps are drawn (0: clean, 1: pure noise); the prior's own
    choice if not given (all for MVDream, the noisier half for bundled: only there does it have to listen to words)."""
    heldout_every: Annotated[int, at_least(0)] = 50
    """Steps between measurements of the held-out loss; 0 for only at the end."""
    preview_every: Annotated[int, at_least(0)] = 100
    """Steps between pictures of what the words generate so far; 0 for only at the end."""
    clip: str = "bundled"
    """CLIP towers that say what the object is: bundled, a model of open_clip with its tag, a folder, or none."""
    guidance_scale: Annotated[float, at_least(0, 100)] | None = None
    """Classifier-free guidance of generated views; the prior's own choice if not given."""
    sampling_steps: Annotated[int, at_least(1, 1000)] | None = None
    """Denoising steps of generated views; the prior's own choice if not given (8 for bundled, 30 for MVDream)."""
    embedding: Path | None = None
    """Words that exist already: an embedding.safetensors, or the run that learned it. Phase 2 is skipped then. If
    --pipeline.steps is 0 and --data is a run, its words are taken."""
    edit_options: Annotated[EditOptions, tyro.conf.arg(name="edit")] = field(default_factory=EditOptions)
    """What to change besides --prompt, where, and how the splats follow."""
    edit: SceneEditConfig = field(default_factory=SceneEditConfig)
    """How the splats follow an edit."""

    def summary(self) -> Sequence[tuple[str, str]]:
        """The prior, and the steps of each phase."""
        learns = self.steps != 0 and self.embedding is None
        edits = self.model.prompt is not None or self.edit_options != EditOptions()
        steps = {
            "splats": f"{self.splat_steps} (none if they exist)" if self.splat_steps else "",
            "words": self._steps_in_words() if learns else "",
            "edit": str(self.edit.total_steps) if edits else "",
        }
        return (
            ("prior", self.prior if learns or self.prior != "bundled" else "the one that the words are of"),
            ("steps", ", ".join(f"{name} {text}" for name, text in steps.items() if text)),
        )

    def _steps_in_words(self) -> str:
        from invert3d_ns.prior.checkpoints import converted_folder
        from invert3d_ns.prior.storage import read_info

        if self.steps is not None:
            return str(self.steps)
        try:
            folder = converted_folder(self.prior)
            return str(read_info(folder).inversion_steps) if folder is not None else "as many as the prior wants"
        except InputError:  # said where the prior is loaded
            return "as many as the prior wants"

    def find_own_files(self, folder: Path) -> None:
        """Look for the file of edits in the run's own folder, in place, where it is not there any more."""
        edits = self.edit_options.edits
        if edits is not None and not edits.is_file() and (folder / edits.name).is_file():
            self.edit_options = replace(self.edit_options, edits=folder / edits.name)

    def make_names_absolute(self) -> None:
        """Make the prior's path absolute, in place, if it is one."""
        from invert3d_ns.prior.checkpoints import PRIORS

        if self.prior not in PRIORS and (path := user_path(self.prior)).exists():
            self.prior = str(path.absolute())

    def edits(self, embedding: ObjectEmbedding | None = None) -> list[Edit]:
        """The edits that --prompt and its companions ask for; none if nothing does.

        Raises:
            InputError: see :meth:`EditOptions.requested_edits`.
        """
        return self.edit_options.requested_edits(self.model.prompt, embedding)


def choose_start(prior: MultiViewPrior, config: InversionSettings) -> tuple[bool, int]:
    """Whether words start from the prior's view encoder, and how many there are.

    Raises:
        InputError: the encoder is asked for together with what it cannot do, or the prior has none.
    """
    encoder, vectors, size = prior.view_encoder, config.vectors, config.resolution or prior.info.image_size
    if encoder is None:
        if config.init == "encoder":
            raise InputError(f"the prior {prior.info.name!r} has no view encoder; leave --pipeline.init out")
        return False, vectors or VECTORS
    if config.init == "encoder" and config.init_word is not None:
        raise InputError(
            "--pipeline.init-word is given, but with --pipeline.init encoder no vector starts from a word; drop either"
        )
    fits = vectors in (None, encoder.vectors) and size == prior.info.image_size
    if config.init == "encoder" and not fits:
        raise InputError(
            f"the view encoder says {encoder.vectors} words of views of {prior.info.image_size} pixels; leave "
            "--pipeline.vectors and --pipeline.resolution out, or give --pipeline.init word"
        )
    if config.init == "word" or config.init_word is not None or not fits:
        return False, vectors or VECTORS
    return True, encoder.vectors
