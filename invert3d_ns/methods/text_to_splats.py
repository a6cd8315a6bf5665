"""Splats from words (GE3D, with interval score matching and score distillation as baselines).

Up to three phases: first splats from the prior's own views, steps that follow the words, and a last fit to views of the
splats that the prior has denoised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.notices import warn
from invert3d_ns.base.ranges import check_numbers
from invert3d_ns.live.editable_scene import SplatScene
from invert3d_ns.live.panels.inversion_panel import InversionPanel
from invert3d_ns.live.panels.prompt_panel import PromptPanel
from invert3d_ns.live.queue import ActionQueue
from invert3d_ns.live.watchers import PanelWatcher
from invert3d_ns.methods import text_report
from invert3d_ns.methods.distill_phase import DistillPhase
from invert3d_ns.methods.reconstruct_phase import ReconstructPhase
from invert3d_ns.methods.start_phase import StartPhase
from invert3d_ns.methods.text_settings import TextToSplatsSettings
from invert3d_ns.prior.known_words import explain_unknown
from invert3d_ns.prior.memory import apply_prior_options, preferred_dtype
from invert3d_ns.prior.shared import SharedPrior
from invert3d_ns.runs.phase import Phase, Run
from invert3d_ns.runs.pipeline import PhasedPipeline
from invert3d_ns.runs.splat_fit import rates
from invert3d_ns.runs.trainer import PhasedTrainerConfig

BUNDLED = "bundled"
"""What the prior that comes with the package is called, and those that were trained as it was."""
OFFICIAL_STEPS, FIT_STEPS = 3000, 150
"""Steps of following the words (official code) and of the last fit, where nobody says how many."""

if TYPE_CHECKING:
    from invert3d_ns.prior.conditions import Conditions
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.prior.view_prompts import ViewPrompts


@dataclass
class TextToSplatsConfig(TextToSplatsSettings):
    """Make splats from words: first splats from the prior's own views, then steps that follow the words."""

    _target: type = field(default_factory=lambda: TextToSplatsPipeline)


def text_to_splats(method_name: str) -> PhasedTrainerConfig:
    """The configuration of a method that makes splats from words."""
    return PhasedTrainerConfig(
        method_name=method_name,
        pipeline=TextToSplatsConfig(),
        optimizers=rates(means=1e-3, features_dc=1e-2, features_rest=5e-4, opacities=2e-2, scales=5e-3, quats=5e-3),
    )


class TextToSplatsPipeline(SplatScene, PhasedPipeline):
    """Splats, and the words that they follow. The prior is in no checkpoint.

    Args are those of :class:`PhasedPipeline`.

    Attributes:
        prior: the one way to the prior.
        words: prompt and negative prompt, as they are now: they may change while the run lasts.
        view_size: side in pixels of the views that the prior sees, from :meth:`prepare` on.
        unet_samples: views that the UNet was called for so far, each condition counted by itself: what all cost.
    """

    config: TextToSplatsSettings

    def __init__(self, config: TextToSplatsSettings, device: str, **kwargs: Any) -> None:
        super().__init__(config, device, **kwargs)
        self.begin_hosting()
        self.prior = SharedPrior(config.prior, config.prior_options, device)
        self.words = (config.model.prompt or "", config.negative_prompt)
        self._asked_for = self.words
        self.unet_samples = self.view_size = 0
        self.panel = InversionPanel("Run")
        self.queue = ActionQueue(self)
        self.make_panels()
        self.observers = [PanelWatcher(self)]

    def make_panels(self) -> None:
        """What people see in the viewer besides the run."""
        self.prompt_panel = PromptPanel(self, self.queue)

    @property
    def prompt(self) -> str:
        """What the scene shall be."""
        return self.words[0]

    # Phases

    def prepare(self, seed: int, saved: dict[str, Any] | None = None) -> list[Phase]:
        """Load the prior and check the settings against it, then make the phases.

        Raises:
            InputError: no prompt, unknown prior, settings that exclude each other.
        """
        config = self.config
        config.prior_options.check()
        check_numbers(config, "--pipeline.")
        config.guidance.check()
        self.take_words()
        low, high = config.cameras.zoom
        if low > high:
            raise InputError(f"--pipeline.cameras.zoom goes from {low:g} to {high:g}; give the smaller one first")
        prior = self._load_prior()
        self.check_cameras(prior)
        unknown = explain_unknown(self.all_words(), prior.info)
        if unknown:
            warn(unknown)
        self.conditions(prior)  # whether the words fit the context shows before long work
        self.phases = self.make_phases(prior)
        if not self.phases:
            raise InputError("there is nothing to do: give --pipeline.steps 1 or more")
        self.phases.append(self.report_phase())
        return self.phases

    def _load_prior(self) -> MultiViewPrior:
        from invert3d_ns.prior.checkpoints import load_prior

        config = self.config
        dtype = preferred_dtype(config.prior_options, config.prior, self.device)
        prior = load_prior(config.prior, device="cpu", dtype=dtype)
        apply_prior_options(prior, config.prior_options, self.device)
        self.prior.adopt(prior)
        self.view_size = prior.info.image_size
        prior.unet.register_forward_pre_hook(self._count_samples)
        return prior

    def take_words(self) -> None:
        """Read the words off the settings.

        Raises:
            InputError: there are none.
        """
        self.words = self._asked_for = (self.config.model.prompt or "", self.config.negative_prompt)
        if not self.prompt.strip():
            raise InputError('there is no prompt; say what to make: --prompt "a blue mug with white dots"')

    def all_words(self) -> Sequence[str]:
        """Everything that the prior is asked to read."""
        return self.words

    def make_phases(self, prior: MultiViewPrior) -> list[Phase]:
        """The phases but the last, which reports; none where there is nothing to do."""
        phases: list[Phase] = []
        if not self.has_start() and self.start_kind(prior) == "views":
            phases.append(StartPhase(self))
        if steps := self.guided_steps(prior):
            phases.append(DistillPhase(self, steps))
        if fit := self.fit_steps(prior):
            phases.append(ReconstructPhase(self, fit))
        return phases

    def report_phase(self) -> Phase:
        """The phase that says what became of it all."""
        return ReportPhase(self)

    def guided_steps(self, prior: MultiViewPrior, official: int = OFFICIAL_STEPS) -> int:
        """Steps of following the words: the settings', else none with the bundled prior, ``official`` with others."""
        if self.config.steps is not None:
            return self.config.steps
        return 0 if prior.info.name == BUNDLED else official

    def fit_steps(self, prior: MultiViewPrior) -> int:
        """Steps of the last fit."""
        if self.config.reconstruct.steps is not None:
            return self.config.reconstruct.steps
        return FIT_STEPS if prior.takes_cameras else 0

    def _count_samples(self, unet: Any, given: Sequence[Any]) -> None:
        self.unet_samples += len(given[0])

    def has_start(self) -> bool:
        """Whether --data says what to start from."""
        return self.config.datamanager.data is not None

    def start_kind(self, prior: MultiViewPrior) -> str:
        """What the first splats are made from: as the settings say, else views where the prior knows cameras."""
        return self.config.start.kind or ("views" if prior.takes_cameras else "blob")

    def check_cameras(self, prior: MultiViewPrior) -> None:
        """Refuse settings that a prior which knows no cameras cannot carry out.

        Raises:
            InputError: see above.
        """
        if prior.takes_cameras:
            return
        if self.config.start.kind == "views":
            raise InputError(
                f"the prior {prior.info.name!r} knows no cameras, so its views are of one object by chance only; give "
                "--pipeline.start.kind blob, or splats or points as --data"
            )
        if self.config.reconstruct.steps:
            raise InputError(
                f"the prior {prior.info.name!r} knows no cameras, so denoised views do not agree; leave "
                "--pipeline.reconstruct.steps at 0"
            )

    # Words

    def conditions(self, prior: MultiViewPrior, guidance_scale: float | None = None) -> Conditions | ViewPrompts:
        """The words as the prior obeys them now; for one that knows no cameras, each view is told where it is from.

        Args:
            guidance_scale: the prior's default if None.
        """
        from invert3d_ns.prior.conditions import Conditions
        from invert3d_ns.prior.view_prompts import ViewPrompts

        prompt, negative = self.words
        kind = Conditions if prior.takes_cameras else ViewPrompts
        with torch.no_grad():
            return kind.of_prompt(
                prior, prompt + prior.info.prompt_suffix, negative_prompt=negative, guidance_scale=guidance_scale
            )

    def change_words(self, prompt: str, negative_prompt: str) -> str:
        """Let the steps from now on follow other words; returns a line about those that the prior does not know.

        Raises:
            InputError: the prompt is empty.
        """
        if not prompt.strip():
            raise InputError("the prompt is empty; say what to make")
        self.words = (prompt, negative_prompt)
        with self.prior.use() as prior:
            return explain_unknown(self.words, prior.info)

    def words_settings(self) -> dict[str, Any]:
        """The prior and the words that a run began with: what a resumed one must share."""
        prompt, negative = self._asked_for
        with self.prior.use() as prior:
            fingerprint = prior.info.fingerprint
        return {
            "--pipeline.prior (its weights)": fingerprint,
            "--prompt": prompt,
            "--pipeline.negative-prompt": negative,
        }

    # Outputs

    def get_average_eval_image_metrics(
        self, step: int | None = None, output_path: Path | None = None, get_std: bool = False
    ) -> dict[str, Any]:
        """Refuse: there are no images that a scene of words could be compared with.

        Raises:
            InputError: always.
        """
        raise InputError(
            "this scene was made from words: there are no images to compare it with; its metrics.json says how it came "
            "out, and `invert3d evaluate text-to-3d` measures the method"
        )

    # Checkpoints

    def get_extra_state(self) -> dict[str, Any]:
        """What checkpoints hold besides the splats: the words as they are now."""
        return {"words": list(self.words), "unet_samples": self.unet_samples}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        prompt, negative = state["words"]
        self.words = (prompt, negative)
        self.unet_samples = state["unet_samples"]


class ReportPhase(Phase):
    """Writes what became of the words; no steps."""

    name, title = "report", "Looking at the splats"

    def __init__(self, pipeline: TextToSplatsPipeline) -> None:
        self.pipeline = pipeline

    def finish(self, run: Run) -> Sequence[str]:
        """Write ``views.png`` and ``metrics.json``, and say how the splats came out."""
        with run.lock:
            outputs = text_report.write_outputs(self.pipeline, run)
        run.show_picture(text_report.PICTURE, outputs.picture)
        run.redraw(now=True)
        text_report.announce(outputs)
        return text_report.next_commands(outputs, run.folder)
