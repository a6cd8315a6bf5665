"""Invert3D: a scene becomes words of a multi-view diffusion model, and its splats follow edits of these words.

Up to three phases: fit splats to images, learn the words that stand for the object, edit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from rich.markup import escape
from torch import Tensor
from torch.nn import Parameter

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import check_numbers
from invert3d_ns.editing.composition import split_into_passes, with_context
from invert3d_ns.editing.edit import Edit, Region
from invert3d_ns.editing.framing import frame_object
from invert3d_ns.editing.reading import warn_unknown
from invert3d_ns.editing.sources import check_requested, find_words, own_prior, scene_edits
from invert3d_ns.live.edit_actions import EditActions
from invert3d_ns.live.editable_scene import EditableScene
from invert3d_ns.live.panels.edit_panel import EditPanel
from invert3d_ns.live.panels.inversion_panel import InversionPanel
from invert3d_ns.live.queue import ActionQueue
from invert3d_ns.live.watchers import PanelWatcher
from invert3d_ns.methods.edit_phase import EditPhase
from invert3d_ns.methods.inversion_settings import InversionSettings, choose_start
from invert3d_ns.methods.saved_edits import KeepsEditedRuns
from invert3d_ns.methods.words_phase import WordsPhase
from invert3d_ns.prior.memory import apply_prior_options, preferred_dtype
from invert3d_ns.prior.multiview import MultiViewPrior
from invert3d_ns.runs.phase import Phase
from invert3d_ns.runs.pipeline import PhasedPipeline
from invert3d_ns.runs.report import print_lines
from invert3d_ns.runs.resume import digest_of
from invert3d_ns.runs.splat_fit import SplatFit
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.runs import is_run
from invert3d_ns.words.bank import check_size
from invert3d_ns.words.cti import TOKEN, CameraTextInversion
from invert3d_ns.words.embedding import ObjectEmbedding
from invert3d_ns.words.settings import Objective


@dataclass
class InversionPipelineConfig(InversionSettings):
    """Fit splats to images, find the words of a multi-view diffusion model that stand for the object, and edit it."""

    _target: type = field(default_factory=lambda: InversionPipeline)


class InversionPipeline(KeepsEditedRuns, EditableScene, PhasedPipeline):
    """A scene, its words, and the edits that it is under. The prior is loaded only for use, and is in no checkpoint.

    Args are those of :class:`PhasedPipeline`.

    Attributes:
        words: the vectors [N D], absent until they are learned or read from a file.
        inversion: the objective that words minimize, from :meth:`prepare` on.
        word_steps: of learning words, from :meth:`prepare` on.
        vectors: how many are learned, from :meth:`prepare` on.
        encodes: whether they start from the prior's view encoder, from :meth:`prepare` on.
    """

    config: InversionPipelineConfig
    words: Parameter | None

    def __init__(self, config: InversionPipelineConfig, device: str, **kwargs: Any) -> None:
        super().__init__(config, device, **kwargs)
        self.register_parameter("words", None)
        self.begin_editing(config.prior, config.prior_options)
        self.splat_steps = 0 if self.starts_from_splats() else config.splat_steps
        self.word_steps = 0
        self.vectors = 0
        self.encodes = False
        self.inversion: CameraTextInversion | None = None
        self._given_words = ""
        self.panel = InversionPanel()
        self.queue = ActionQueue(self)
        self.edit_panel = EditPanel(EditActions(self, self.queue, config=config.edit))
        self.observers = [PanelWatcher(self, lambda: self.edit_panel.actions.request_runs())]

    # Phases

    def prepare(self, seed: int, saved: dict[str, Any] | None = None) -> list[Phase]:
        """Load the prior into main memory and check the settings against it, then make the phases.

        Words that exist already are read from here on.

        Raises:
            InputError: unknown prior, vectors, resolution or timesteps that do not fit it, options that exclude each
                other, words that are missing or of another prior, or an edit that cannot be carried out.
        """
        from invert3d_ns.editing.conditions import edit_conditions
        from invert3d_ns.prior.checkpoints import load_prior

        config = self.config
        config.prior_options.check()
        check_numbers(config, "--pipeline.")
        if saved is not None and saved.get("words") is not None:
            self._restore_words(saved)
            self._given_words = self._digest_of_given_words() or digest_of(saved["words"])
        else:
            self._read_words()
            self._given_words = "" if self.words is None else digest_of(self.words)
        given = self.embedding() if self.knows_words() else None
        edits = config.edits(given)
        self._check_edits(edits, given)
        dtype = preferred_dtype(config.prior_options, self.prior_name, self.device)
        prior = load_prior(self.prior_name, device="cpu", dtype=dtype)
        # Whoever looks meanwhile has it computed where and as it shall, not only the phase that learns words.
        apply_prior_options(prior, config.prior_options, self.device)
        check_size(config.resolution or prior.info.image_size, prior)
        objective = Objective(
            config.per_view_timesteps, config.timestep_range or prior.info.inversion_timesteps, config.norm_penalty
        )
        self.inversion = CameraTextInversion(prior, objective, seed=seed)
        self.prior.adopt(prior)
        steps = prior.info.inversion_steps if config.steps is None else config.steps
        self.word_steps = steps if self._learns() else 0
        self.encodes, self.vectors = choose_start(prior, config)
        if given is None or self.word_steps:
            vectors = self.inversion.initial_words(self.vectors, self.init_word())
            learned = ObjectEmbedding.for_prior(prior, vectors, init_word=self.init_word(), steps=self.word_steps)
            self.adopt_origin(learned)
            given = given or learned
        before = list(self.edits)
        if edits and before[-len(edits) :] == edits:  # a run that goes on after its last step
            before = before[: -len(edits)]
        for some in split_into_passes(edits):
            edit_conditions(prior, given, with_context(before, some)[0])
            before += some
        warn_unknown(edits, prior.info)
        config.prior = self.prior_name  # that of words which are edited, for whoever looks at the run later
        self.phases = [SplatFit(self, self.splat_steps)] if self.splat_steps else []
        if self.word_steps or not edits or self.words is None:
            self.phases.append(WordsPhase(self, self.word_steps))
        if edits:
            self.phases.append(EditPhase(self, edits))
        return self.phases

    def _learns(self) -> bool:
        """Whether words are learned, if only for some steps."""
        return self.config.embedding is None and self.config.steps != 0

    def _may_encode(self) -> bool:
        """Whether words may come from a view encoder, as far as can be told before the prior is loaded."""
        from invert3d_ns.prior.checkpoints import has_view_encoder

        return self.config.embedding is None and self.config.init != "word" and has_view_encoder(self.prior_name)

    def words_setting(self) -> dict[str, str]:
        """The setting that a resumed run must share if its words are given: they, by their content."""
        given = {"--pipeline.embedding (its words)": self._given_words}
        return given if self.config.embedding is not None and self._given_words else {}

    def _digest_of_given_words(self) -> str:
        """Of the words that --pipeline.embedding names; empty where they are not there, since a run that goes on needs
        them no more.
        """
        path = self.config.embedding
        return digest_of(ObjectEmbedding.load(find_words(path)).vectors) if path is not None and path.exists() else ""

    def _read_words(self) -> None:
        """Take words that exist already, and the edits that the splats are under, if that is what is asked for."""
        config, data = self.config, self.datamanager.get_datapath()
        path = data if config.embedding is None and config.steps == 0 and is_run(data) else config.embedding
        if path is None:
            return
        file = find_words(path)
        embedding = ObjectEmbedding.load(file)
        self.words = Parameter(embedding.vectors.to(self.device), requires_grad=False)
        self.adopt_origin(embedding)
        self.edits = scene_edits(data, embedding)
        if config.prior == "bundled":
            self.prior_name = own_prior(file, embedding)

    def _restore_words(self, saved: dict[str, Any]) -> None:
        """Take words and edits of a checkpoint's pipeline; and its prior, where words are edited and none is given."""
        self.words = Parameter(saved["words"].to(self.device))
        self.set_extra_state(saved["_extra_state"])
        if self._learns() or self.config.prior != "bundled":
            self.prior_name = self.config.prior

    def _check_edits(self, edits: list[Edit], given: ObjectEmbedding | None) -> None:
        config = self.config
        only_edits = config.steps == config.splat_steps == 0
        if (only_edits and given is not None) or edits:
            check_requested(edits)
            config.edit.check()
            if config.edit.total_steps == 0:
                raise InputError("the edit has no steps to take; give --pipeline.edit.fit-steps 1 or more")
        if given is None and not self._learns() and (only_edits or edits) and not self._may_encode():
            raise InputError(
                "there are no words to edit; give the run that learned them as --data, or --pipeline.embedding"
            )
        if edits and self.splat_steps == 0 and not self.starts_from_splats():
            raise InputError(
                "there are no splats to edit: --data holds images; give a run or a .ply file, or let ns-train invert3d "
                "fit, invert and edit the scene"
            )

    # What the phases use

    def inversion_of_prior(self) -> CameraTextInversion:
        """The objective that words minimize."""
        assert self.inversion is not None, "prepare() comes first"
        return self.inversion

    def init_word(self) -> str:
        """The word that the vectors start from."""
        word = self.config.init_word
        return self.inversion_of_prior().prior.info.init_word if word is None else word

    def init_jitter(self) -> float:
        """The noise on the initial vectors, in units of their length."""
        jitter = self.config.init_jitter
        return self.inversion_of_prior().prior.info.inversion_jitter if jitter is None else jitter

    def describe(self) -> None:
        """Let CLIP say what the object is, unless its words say it already or nobody is to be asked.

        Raises:
            InputError: the towers cannot be loaded.
        """
        if self.config.clip == "none" or self.embedding().description:
            return
        from invert3d_ns.alignment.checkpoints import load_clip
        from invert3d_ns.words.description import describe_splats

        found = describe_splats(load_clip(self.config.clip, self.device), self.splats())
        self._origin["description"] = found.text

    def freeze_for_editing(self) -> MultiViewPrior:
        """Freeze splats and words, and give the prior, where it computes."""
        self.model.freeze()
        self.eval()
        if self.words is not None:
            self.words.requires_grad_(False)
        return apply_prior_options(self.inversion_of_prior().prior, self.config.prior_options, self.device)

    def check_words_describe_splats(self, region: Region) -> None:
        """Refuse words from elsewhere that are of another object than the region of an edit shows.

        Words and splats of one run belong together, and words do not say what edits did to the splats: neither is
        checked.

        Raises:
            InputError: see :func:`~invert3d_ns.editing.framing.frame_object`.
        """
        if self.config.embedding is not None and not self.edits:
            prior = self.inversion_of_prior().prior
            frame_object(self.splats(), region, prior, self.embedding(), check_words=True, device=prior.device)

    def splats(self) -> SplatCloud:
        """A copy of the object's splats, in the object frame, as the steps taken so far left them."""
        if self.current is not None:
            self.current.settle()
        return super().splats()

    def generate(
        self, cameras: Float[Tensor, "B F 16"], prompt: str = TOKEN, *, steps: int | None = None, seed: int = 0
    ) -> Float[Tensor, "B F 3 H W"]:
        """Views that the prior generates from the words, RGB in [0, 1]; ``prompt`` may do without the placeholder."""
        assert self.words is not None, "there are no words yet"
        with self.prior.use() as prior:
            return prior.sample(
                prompt,
                cameras,
                words={TOKEN: self.words.detach()} if TOKEN in prompt else None,
                guidance_scale=self.config.guidance_scale,
                steps=steps or self.config.sampling_steps,
                seed=seed,
                strength=prior.info.words_strength if prompt.strip() == TOKEN else 1.0,
            )

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, Any]:
        """Nerfstudio's figures against held-out images; an edited scene is told, and writes, what it is compared with.

        Returns:
            The figures; for ``ns-eval`` of an edited run also ``compared_with``, in words.
        """
        figures: dict[str, Any] = super().get_average_eval_image_metrics(step, output_path, get_std)
        if self.edits and step is None:
            labels = ", ".join(edit.label for edit in self.edits)
            figures["compared_with"] = f"the scene as it was before its edits ({labels})"
            print_lines(
                f"The run is edited: these figures compare it with {escape(figures['compared_with'])}; how far the "
                "edit got is in its metrics.json"
            )
        return figures

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Restore splats, words where the checkpoint has them, and the edits they are under."""
        words = loaded_state.get("words")
        if words is not None:
            self.words = Parameter(words.to(self.device))
        if self.prior.is_loaded:  # a run goes on with what prepare() has settled
            extra = {**loaded_state["_extra_state"], "prior": self.prior_name, "origin": dict(self._origin)}
            extra["edits"] = [edit.to_dict() for edit in self.edits]
            loaded_state = {**loaded_state, "_extra_state": extra}
        super().load_pipeline(loaded_state, step)
