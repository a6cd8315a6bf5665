"""Several objects in one scene, aligned part by part (A3D): prompts are the vertices of a simplex, edges transitions.

Phases: first objects from views of the prior that share one structure, steps that follow the words at random points of
the simplex, and a last fit to denoised views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.live.panels.blend_panel import BlendPanel
from invert3d_ns.methods import aligned_report
from invert3d_ns.methods.aligned_phases import AlignedDistillPhase, AlignedReconstructPhase
from invert3d_ns.methods.aligned_settings import AlignedSettings, AlignedTrainerConfig
from invert3d_ns.methods.aligned_start_phase import AlignedStartPhase
from invert3d_ns.methods.blended_scene import BlendedScene
from invert3d_ns.methods.text_to_splats import TextToSplatsPipeline
from invert3d_ns.runs.phase import Phase, Run
from invert3d_ns.runs.splat_fit import rates
from invert3d_ns.scenes.blending import vertex
from invert3d_ns.scenes.latent_splats import LatentSplatModel
from invert3d_ns.scenes.runs import OWN

if TYPE_CHECKING:
    from invert3d_ns.prior.conditions import Conditions
    from invert3d_ns.prior.multiview import MultiViewPrior

OFFICIAL_STEPS = 20_000
"""Steps of following the words for a pair (official code), where nobody says how many."""
DRAFTED, WORDS_DRAWN = 0.95, 0.5
"""What alignment is where nobody says: of drafts, and of words. Views of ten pairs that no table shows, two seeds (DIFT
distance, silhouette IoU, class and color right, CLIP): drafts apart 0.148, 0.44, 100 %, 0.795; by 0.75 0.117, 0.53,
99 %, 0.787; by 0.85 0.106, 0.55, 99 %, 0.783; by 0.93 0.098, 0.57, 99 %, 0.781; all alike 0.092, 0.58, 98 %, 0.777.
Words drawn together in the first half of the denoising cost twice as much of CLIP (0.788 against 0.810, where apart is
0.820) for the same distance."""
GIVEN = 0.7
"""Alignment of drafts with an object that is given, whose noised views bring its structure along anyway. Two pairs that
no table shows: at 0.95 28 % of the target's views right, IoU 0.66; at 0.7 50 %, 0.65; at 0.4 50 %, 0.64."""
_RATES = {"means": 1e-3, "features_dc": 1e-2, "features_rest": 5e-4, "opacities": 2e-2, "scales": 5e-3, "quats": 5e-3}
_OWN_RATE = 0.5


@dataclass
class AlignedConfig(AlignedSettings):
    """Make several objects from as many prompts in one scene, part by part alike, and all that lies between them."""

    _target: type = field(default_factory=lambda: AlignedPipeline)


def aligned_objects(method_name: str) -> AlignedTrainerConfig:
    """The configuration of a method that makes aligned objects as latent splats."""
    own = {name + OWN: _OWN_RATE * rate for name, rate in _RATES.items()}
    return AlignedTrainerConfig(method_name=method_name, pipeline=AlignedConfig(), optimizers=rates(**_RATES, **own))


class AlignedPipeline(BlendedScene, TextToSplatsPipeline):
    """Latent splats, and the prompts that their objects follow. The prior is in no checkpoint.

    Args are those of :class:`~invert3d_ns.runs.pipeline.PhasedPipeline`.

    Attributes:
        prompts: one for each object.
    """

    config: AlignedConfig
    model: LatentSplatModel
    least_prompts = 2

    def __init__(self, config: AlignedConfig, device: str, **kwargs: Any) -> None:
        self.prompts = tuple(config.prompts)
        config.model.objects = max(len(self.prompts), 1)
        super().__init__(config, device, **kwargs)
        self._contexts: Tensor | None = None
        self._unmixed: dict[float | None, Conditions] = {}

    def make_panels(self) -> None:
        """Sliders that say how much of each object is shown."""
        self.blend_panel = BlendPanel(self, self.queue)

    # Words

    def take_words(self) -> None:
        """Read the prompts off the settings.

        Raises:
            InputError: fewer than two, an empty one, or two that are the same.
        """
        if self.config.model.prompt:
            raise InputError('this method takes several prompts: --prompts "a wooden chair" "a red armchair"')
        if len(self.prompts) < self.least_prompts:
            count = "one prompt alone is what ge3d makes" if self.prompts else "there are no prompts"
            raise InputError(f'{count}; give two or more to align: --prompts "a wooden chair" "a red armchair"')
        if self.has_start() and len(self.prompts) < 2:
            raise InputError(
                "--data is the first object, and no prompt says what the second shall be; give two prompts"
            )
        for prompt in self.prompts:
            if prompt.startswith("pipeline."):
                raise InputError(f"{prompt!r} was taken for a prompt; give another flag between it and --prompts")
        plain = [" ".join(prompt.lower().split()) for prompt in self.prompts]
        if not all(plain):
            raise InputError("a prompt is empty; say what each object shall be")
        if len(set(plain)) < len(plain):
            raise InputError("two prompts are the same, so that there is nothing between them; change one")
        self.words = self._asked_for = (" | ".join(self.prompts), self.config.negative_prompt)

    def all_words(self) -> Sequence[str]:
        """The prompts and the negative one."""
        return (*self.prompts, self.config.negative_prompt)

    def contexts(self, prior: MultiViewPrior) -> Float[Tensor, "K L C"]:
        """The prompts as the prior reads them; encoded once."""
        if self._contexts is None:
            with torch.no_grad():
                self._contexts = prior.encode_prompt([prompt + prior.info.prompt_suffix for prompt in self.prompts])
        return self._contexts.to(prior.device)

    def mixed_context(self, prior: MultiViewPrior, weights: Float[Tensor, "*B K"]) -> Float[Tensor, "*B L C"]:
        """Encoded prompts mixed, token by token, with the weights of the simplex (A3D's official code)."""
        contexts = self.contexts(prior)
        return torch.einsum("...k,klc->...lc", weights.to(contexts), contexts)

    def conditions(
        self,
        prior: MultiViewPrior,
        guidance_scale: float | None = None,
        weights: Float[Tensor, "P K"] | None = None,
        *,
        drawn: float = 0.0,
    ) -> Conditions:
        """The prompts as the prior obeys them, mixed; drafts are of the structure that all objects share.

        Args:
            guidance_scale: the prior's default if None.
            weights: of one blend, or of one for each object that is predicted; the first object if None.
            drawn: how far words are drawn to those of all, 0 to 1.
        """
        weights = vertex(0, len(self.prompts))[None] if weights is None else weights
        middle = torch.full_like(weights, 1 / weights.shape[-1])
        with torch.no_grad():
            mixed = self.mixed_context(prior, torch.lerp(weights, middle, drawn))
            found = replace(self._unmixed_conditions(prior, guidance_scale), positive=mixed)
            if prior.ray_reader is None:
                return found
            usual = GIVEN if self.has_start() else DRAFTED
            align = usual if self.config.start.align is None else self.config.start.align
            shared = torch.lerp(weights, middle, align)
            return replace(found, drafted=self.mixed_context(prior, shared))

    def _unmixed_conditions(self, prior: MultiViewPrior, guidance_scale: float | None) -> Conditions:
        """All that stays of the conditions while the mixture changes at every step; encoded once."""
        if guidance_scale not in self._unmixed:
            from invert3d_ns.prior.conditions import Conditions

            self._unmixed[guidance_scale] = Conditions.of_context(
                prior,
                self.contexts(prior),
                negative_prompt=self.config.negative_prompt,
                guidance_scale=guidance_scale,
            )
        return self._unmixed[guidance_scale]

    def drawn_together(self, prior: MultiViewPrior, done: float) -> float:
        """How far words are drawn to those of all when ``done`` (0 to 1) of a denoising is; not where drafts are."""
        if prior.ray_reader is not None:
            return 0.0
        share = WORDS_DRAWN if self.config.start.align is None else self.config.start.align
        return max(1 - done / share, 0.0) if share else 0.0

    def words_settings(self) -> dict[str, Any]:
        """The prior and the prompts: what a resumed run must share."""
        found = super().words_settings()
        del found["--prompt"]
        return {**found, "--prompts": list(self.prompts), "--pipeline.edge": self.config.edge}

    # Phases

    def make_phases(self, prior: MultiViewPrior) -> list[Phase]:
        """See :meth:`TextToSplatsPipeline.make_phases`."""
        phases: list[Phase] = []
        if self.has_start() or self.start_kind(prior) == "views":
            phases.append(AlignedStartPhase(self))
        if steps := self.guided_steps(prior):
            phases.append(AlignedDistillPhase(self, steps))
        if fit := self.fit_steps(prior):
            phases.append(AlignedReconstructPhase(self, fit))
        return phases

    def guided_steps(self, prior: MultiViewPrior, official: int = OFFICIAL_STEPS) -> int:
        """See :meth:`TextToSplatsPipeline.guided_steps`."""
        return super().guided_steps(prior, official)

    def report_phase(self) -> Phase:
        """The phase that says what became of it all."""
        return AlignedReportPhase(self)

    def check_cameras(self, prior: MultiViewPrior) -> None:
        """Refuse a prior that knows no cameras, and settings that exclude each other.

        Raises:
            InputError: see above.
        """
        if not prior.takes_cameras:
            raise InputError(
                f"the prior {prior.info.name!r} knows no cameras, so that its views of several objects agree by chance "
                "only; give a multi-view prior: bundled, mvdream-sd1.5 or mvdream-sd2.1"
            )
        if self.has_start() and self.config.densify:
            raise InputError("--pipeline.densify would add splats to the given object, which stays; leave it out")

    # Checkpoints

    def get_extra_state(self) -> dict[str, Any]:
        """What checkpoints hold besides the splats."""
        return {**super().get_extra_state(), "prompts": list(self.prompts)}


class AlignedReportPhase(Phase):
    """Writes what became of the prompts; no steps."""

    name, title = "report", "Looking at the objects"

    def __init__(self, pipeline: AlignedPipeline) -> None:
        self.pipeline = pipeline

    def finish(self, run: Run) -> Sequence[str]:
        """Write pictures, figures and a file of splats for each object, and say how they came out."""
        with run.lock:
            outputs = aligned_report.write_outputs(self.pipeline, run)
        run.show_picture(aligned_report.PICTURE, outputs.picture)
        run.redraw(now=True)
        aligned_report.announce(outputs)
        return aligned_report.next_commands(outputs, run.folder)
