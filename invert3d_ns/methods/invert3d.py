"""The invert3d pipeline: fit splats to images (phase 1), learn the words that stand for the object (phase 2), and let
the splats follow edits of these words (phase 3, if there are any).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from jaxtyping import Float
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.engine.schedulers import CosineDecaySchedulerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from torch import Tensor
from torch.nn import Parameter

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit
from invert3d_ns.editing.options import EditOptions
from invert3d_ns.editing.scene_edit_config import SceneEditConfig
from invert3d_ns.editing.sources import check_same_object, check_wanted, find_words, own_prior, scene_edits
from invert3d_ns.live.host import EditableScene
from invert3d_ns.live.panels.edit_panel import EditPanel
from invert3d_ns.live.panels.inversion_panel import InversionPanel
from invert3d_ns.live.session import EditSession
from invert3d_ns.methods.edit_phase import EditPhase
from invert3d_ns.prior.memory import PriorOptions, apply, check_options, preferred_dtype
from invert3d_ns.scenes.datasets import SceneDatamanagerConfig
from invert3d_ns.scenes.runs import is_run
from invert3d_ns.scenes.splats import ObjectSplatModel, ObjectSplatModelConfig
from invert3d_ns.words.bank import LatentBank, build_bank, check_size
from invert3d_ns.words.cti import TOKEN, CameraTextInversion
from invert3d_ns.words.embedding import ObjectEmbedding
from invert3d_ns.words.settings import Objective

Phase = Literal["splats", "words", "edit"]


@dataclass
class AdamWOptimizerConfig(OptimizerConfig):
    """nerfstudio's optimizer configuration for AdamW."""

    _target: type = torch.optim.AdamW
    weight_decay: float = 1e-2
    """The weight decay to use."""


@dataclass
class InversionPipelineConfig(VanillaPipelineConfig):
    """Fit splats to images, find the words of a multi-view diffusion model that stand for the object, and edit it."""

    _target: type = field(default_factory=lambda: InversionPipeline)
    datamanager: SceneDatamanagerConfig = field(default_factory=SceneDatamanagerConfig)  # type: ignore[assignment]
    """Where images and cameras come from."""
    model: ObjectSplatModelConfig = field(default_factory=ObjectSplatModelConfig)
    """The Gaussian splats that are inverted."""
    prior: str = "bundled"
    """The multi-view diffusion model: bundled, mvdream-sd1.5, mvdream-sd2.1, or a path."""
    prior_options: PriorOptions = field(default_factory=PriorOptions)
    """How the prior computes: precision, and what lowers its memory."""
    splat_steps: int = 800
    """Steps of phase 1, fitting splats to images. A scene that is splats already (.ply) skips it."""
    steps: int = 400
    """Steps of phase 2, learning words. The official code takes 6,100 with MVDream."""
    vectors: int = 32
    """Number of pseudo-words N that are learned. Fewer are easier to edit, more reconstruct better."""
    init_word: str | None = None
    """The word that every vector starts from; the prior's own choice (object) if not given."""
    init_jitter: float | None = None
    """Standard deviation of Gaussian noise added to the initial vectors, in units of their length; the prior's own
    choice if not given (none for MVDream, as in the official code)."""
    lr: float | None = None
    """Learning rate of the words; the prior's own choice if not given (5e-3 for MVDream)."""
    lr_decay: bool = True
    """Let the learning rate of the words fall to zero along half a cosine. The official code keeps it constant."""
    norm_penalty: float = 0.0
    """Weight of a penalty on the squared length of the vectors, which keeps them near real words."""
    resolution: int | None = None
    """Side in pixels of the views that are encoded; the prior's own size if not given."""
    bank_groups: int = 64
    """Number of random orbits, of 4 views each, that are rendered and encoded for training."""
    heldout_groups: int = 4
    """Number of orbits that are kept for measuring and never trained on."""
    groups_per_step: int = 1
    """Orbits in each training step."""
    per_view_timesteps: bool = False
    """Draw a diffusion timestep for each view, as the official code does, rather than one for all views of an orbit."""
    timestep_range: tuple[float, float] | None = None
    """Fractions of the diffusion process between which timesteps are drawn (0: clean, 1: pure noise); the prior's own
    choice if not given (all for MVDream, the noisier half for bundled: only there does it have to listen to words)."""
    heldout_every: int = 50
    """Steps between measurements of the held-out loss; 0 for only at the end."""
    preview_every: int = 100
    """Steps between pictures of what the words generate so far; 0 for only at the end."""
    guidance_scale: float | None = None
    """Classifier-free guidance of generated views; the prior's own choice if not given."""
    sampling_steps: int = 30
    """Denoising steps of generated views."""
    embedding: Path | None = None
    """Words that exist already: an embedding.safetensors, or the run that learned it. Phase 2 is skipped then. If
    --pipeline.steps is 0 and --data is a run, its words are taken."""
    wanted: Annotated[EditOptions, tyro.conf.arg(name="edit")] = field(default_factory=EditOptions)
    """What to change besides --prompt, and how the splats follow."""
    edit: SceneEditConfig = field(default_factory=SceneEditConfig)
    """How the splats follow an edit."""

    def edits(self, embedding: ObjectEmbedding | None = None) -> list[Edit]:
        """The edits that --prompt and its companions ask for; none if nothing does.

        Raises:
            InputError: see :meth:`EditOptions.wanted`.
        """
        return self.wanted.wanted(self.model.prompt, embedding)


class InversionPipeline(EditableScene, VanillaPipeline):
    """Three phases over one scene: splats, words, edit. The prior is loaded only for use, and in no checkpoint.

    Args are those of :class:`VanillaPipeline`.

    Attributes:
        phase: which of them :meth:`get_train_loss_dict` and :meth:`get_param_groups` are about.
        words: the vectors [N D], absent until phase 2 begins or they are read from a file.
        inversion: the CTI objective, from :meth:`load_prior` on.
        bank: latents of the frozen scene, from :meth:`begin_words` on.
        editing: phase 3, from :meth:`begin_edit` on.
    """

    config: InversionPipelineConfig
    model: ObjectSplatModel
    words: Parameter | None

    def __init__(self, config: InversionPipelineConfig, device: str, **kwargs: Any) -> None:
        if kwargs.get("world_size", 1) > 1:
            raise InputError("invert3d runs on one device; leave --machine.num-devices at 1")
        super().__init__(config, device, **kwargs)
        self.register_parameter("words", None)
        self.begin_hosting(config.prior, config.prior_options)
        self.splat_steps = 0 if self._is_splats() else config.splat_steps
        self.word_steps = config.steps if config.embedding is None else 0
        self.phase: Phase = "splats" if self.splat_steps else "words"
        self.inversion: CameraTextInversion | None = None
        self.bank: LatentBank | None = None
        self.editing: EditPhase | None = None
        self._wanted: list[Edit] = []
        self.panel = InversionPanel()
        self.edit_panel = EditPanel(EditSession(self))

    def _is_splats(self) -> bool:
        outputs = getattr(self.datamanager, "train_dataparser_outputs", None)
        return outputs is not None and outputs.metadata.get("splats") is not None

    @property
    def total_steps(self) -> int:
        """Steps of all phases together."""
        return self.splat_steps + self.word_steps + self.edit_steps

    @property
    def edit_steps(self) -> int:
        """Steps of phase 3; known from :meth:`load_prior` on."""
        return self.config.edit.fit_steps + self.config.edit.refine_steps if self._wanted else 0

    def phase_at(self, step: int) -> Phase:
        """The phase that ``step`` belongs to; steps are counted over all of them."""
        if step < self.splat_steps:
            return "splats"
        return "edit" if self._wanted and step >= self.splat_steps + self.word_steps else "words"

    def steps_of(self, phase: Phase) -> tuple[int, int]:
        """The first step of a phase, and the one after its last."""
        words, edit = self.splat_steps, self.splat_steps + self.word_steps
        return {"splats": (0, words), "words": (words, edit), "edit": (edit, self.total_steps)}[phase]

    def init_word(self) -> str:
        """The word that the vectors start from."""
        word = self.config.init_word
        return self._inversion().prior.info.init_word if word is None else word

    def init_jitter(self) -> float:
        """The noise on the initial vectors, in units of their length."""
        jitter = self.config.init_jitter
        return self._inversion().prior.info.inversion_jitter if jitter is None else jitter

    def _inversion(self) -> CameraTextInversion:
        assert self.inversion is not None, "load_prior() comes first"
        return self.inversion

    def load_prior(self, seed: int) -> None:
        """Load the prior into main memory and check the settings against it: mistakes show before a long fit.

        Words that exist already are read, and what is to be edited is known, from here on.

        Raises:
            InputError: unknown prior, vectors, resolution or timesteps that do not fit it, options that exclude each
                other, words that are missing or of another prior, or an edit that cannot be carried out.
        """
        from invert3d_ns.prior.conditions import edit_conditions
        from invert3d_ns.prior.multiview import MultiViewPrior

        config = self.config
        check_options(config.prior_options)
        if not self.knows_words():
            self._read_words()
        given = self.embedding() if self.knows_words() else None
        self._wanted = config.edits(given)
        self._check_wanted(given)
        dtype = preferred_dtype(config.prior_options, self.prior_name, self.device)
        prior = MultiViewPrior.from_pretrained(self.prior_name, device="cpu", dtype=dtype)
        check_size(config.resolution or prior.info.image_size, prior)
        objective = Objective(
            config.per_view_timesteps, config.timestep_range or prior.info.inversion_timesteps, config.norm_penalty
        )
        self.inversion = CameraTextInversion(prior, objective, seed=seed)
        self._priors = [prior]
        if given is None:
            vectors = self.inversion.initial_words(config.vectors, self.init_word())
            given = ObjectEmbedding.for_prior(prior, vectors, init_word=self.init_word(), steps=config.steps)
            self.belong(given)
        edit_conditions(prior, given, self._wanted)

    def _read_words(self) -> None:
        """Take words that exist already, and the edits that the splats are under, if that is what is asked for."""
        config, data = self.config, self.datamanager.get_datapath()
        path = data if config.embedding is None and config.steps == 0 and is_run(data) else config.embedding
        if path is None:
            return
        file = find_words(path)
        embedding = ObjectEmbedding.load(file)
        self.words = Parameter(embedding.vectors.to(self.device), requires_grad=False)
        self.belong(embedding)
        self.edits = scene_edits(data, embedding)
        if config.prior == "bundled":
            self.prior_name = own_prior(file, embedding)

    def _check_wanted(self, given: ObjectEmbedding | None) -> None:
        only_edits = self.config.steps == self.config.splat_steps == 0
        if (only_edits and given is not None) or self._wanted:
            check_wanted(self._wanted)
            self.config.edit.check()
            if self.edit_steps == 0:
                raise InputError("the edit has no steps to take; give --pipeline.edit.fit-steps 1 or more")
        if given is None and self.word_steps == 0 and (only_edits or self._wanted):
            raise InputError(
                "there are no words to edit; give the run that learned them as --data, or --pipeline.embedding"
            )
        if self._wanted and self.splat_steps == 0 and not self._is_splats():
            raise InputError(
                "there are no splats to edit: --data holds images; give a run or a .ply file, or let ns-train invert3d "
                "fit, invert and edit the scene"
            )

    def begin_words(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Freeze the splats, encode the bank of views, and create the words unless they exist.

        Args:
            progress: called with the number of orbits encoded and their total.
        """
        config, inversion = self.config, self._inversion()
        self.phase = "words"
        self.eval()
        self.model.freeze()
        apply(inversion.prior, config.prior_options, self.device)
        self.bank = build_bank(
            self.model.render,
            inversion.prior,
            groups=config.bank_groups,
            heldout_groups=config.heldout_groups,
            size=config.resolution,
            seed=inversion.seed,
            progress=progress,
        )
        if self.words is None:
            initial = inversion.initial_words(config.vectors, self.init_word(), self.init_jitter())
            self.words = Parameter(initial.to(self.device))
        elif self.word_steps and self.words.shape != (config.vectors, inversion.prior.info.token_dim):
            raise InputError(
                f"the checkpoint holds words of shape {tuple(self.words.shape)}, but {config.vectors} vectors of prior "
                f"{inversion.prior.info.name!r} are asked for; resume with the settings that the run was started with"
            )

    def begin_edit(self, state: dict[str, Any] | None = None) -> EditPhase:
        """Freeze splats and words, and make ready for the splats to follow the edits.

        Args:
            state: of an :class:`EditPhase` that was interrupted.

        Raises:
            InputError: words and splats are of different objects, or the region holds no splats.
        """
        config = self.config
        self.model.freeze()
        self.eval()
        if self.words is not None:
            self.words.requires_grad_(False)
        prior = apply(self._inversion().prior, config.prior_options, self.device)
        if state is None and config.embedding is not None and not self.edits:
            # Words and splats of one run belong together, and words do not say what edits did to the splats.
            check_same_object(prior, self.embedding(), self.splats())
        self.editing = EditPhase(self, self._wanted, config.edit, seed=self._inversion().seed, state=state)
        self.phase = "edit"
        return self.editing

    def words_optimizer(self) -> dict[str, Any]:
        """AdamW (official code) from the prior's learning rate or the user's, and its decay, if any."""
        config = self.config
        lr = self._inversion().prior.info.inversion_learning_rate if config.lr is None else config.lr
        schedule = CosineDecaySchedulerConfig(warm_up_end=0, learning_rate_alpha=0.0, max_steps=max(config.steps, 1))
        return {"optimizer": AdamWOptimizerConfig(lr=lr), "scheduler": schedule if config.lr_decay else None}

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Parameters that the current phase optimizes; the other phases' are absent and cost nothing."""
        if self.phase == "splats":
            return super().get_param_groups()
        return {"words": [self.words]} if self.phase == "words" and self.words is not None else {}

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
        """Loss terms and metrics of one step of the first two phases; ``step`` counts over all."""
        if self.phase == "splats":
            return super().get_train_loss_dict(step)
        assert self.bank is not None and self.words is not None, "begin_words() comes first"
        losses = self._inversion().loss(self.words, self.bank, step - self.splat_steps, self.config.groups_per_step)
        return {}, losses, {"mean_length": self.words.detach().norm(dim=-1).mean()}

    def heldout_loss(self) -> float:
        """A quick estimate of the denoising loss on held-out orbits (two orbits, four timesteps each)."""
        assert self.bank is not None and self.words is not None, "begin_words() comes first"
        return self._inversion().heldout_loss(self.words, self.bank, groups=2)

    def generate(
        self, cameras: Float[Tensor, "B F 16"], prompt: str = TOKEN, *, steps: int | None = None, seed: int = 0
    ) -> Float[Tensor, "B F 3 H W"]:
        """Views that the prior generates from the words, RGB in [0, 1]; ``prompt`` may do without the placeholder."""
        assert self.words is not None, "begin_words() comes first"
        return self._inversion().prior.sample(
            prompt,
            cameras,
            words={TOKEN: self.words.detach()} if TOKEN in prompt else None,
            guidance_scale=self.config.guidance_scale,
            steps=steps or self.config.sampling_steps,
            seed=seed,
        )

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Restore splats, words where the checkpoint has them, and the edits they are under."""
        words = loaded_state.get("words")
        if words is not None:
            self.words = Parameter(torch.zeros_like(words, device=self.device))
            self.phase = "words"
        super().load_pipeline(loaded_state, step)
