"""Settings of a method that makes splats from words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from invert3d_ns.base.ranges import above, at_least
from invert3d_ns.guidance.configs import AnyGuidanceConfig, guidance_name
from invert3d_ns.guidance.ge3d import EditingTrajectoriesConfig
from invert3d_ns.prior.settings import PriorOptions
from invert3d_ns.runs.pipeline import PhasedPipelineConfig
from invert3d_ns.scenes.datasets import SceneDatamanagerConfig
from invert3d_ns.scenes.imagined import ImaginedDataParserConfig
from invert3d_ns.scenes.splats import ObjectSplatModelConfig

Start = Literal["views", "blob"]
"""What splats are made from where --data gives none."""
LONGEST_NAME = 48


@dataclass
class StartSettings:
    """The first splats, where --data gives none."""

    kind: Start | None = None
    """views: sampled from the prior, all in one pass, and fitted. blob: a gray ball. If not given, views where the
    prior knows cameras."""
    views: Annotated[int, at_least(4, 32)] = 8
    """Views that are sampled, around the object at two heights."""
    elevations: tuple[Annotated[float, at_least(-80, 80)], Annotated[float, at_least(-80, 80)]] = (0.0, 20.0)
    """Degrees from which every second view looks down."""
    sampling_steps: Annotated[int, at_least(1, 1000)] | None = None
    """Denoising steps of the views; the prior's own choice if not given."""
    guidance_scale: Annotated[float, at_least(1)] | None = None
    """Classifier-free guidance of the views; the prior's own choice if not given."""
    splats: Annotated[int, at_least(10)] = 1500
    """Splats that are fitted to the views."""
    fit_steps: Annotated[int, at_least(1)] = 250
    """Steps of that fit."""


@dataclass
class CameraSettings:
    """Random cameras that splats are looked at from."""

    groups: Annotated[int, at_least(1, 64)] = 1
    """Orbits in each step, each at a random height and turn."""
    views: Annotated[int, at_least(1, 16)] = 4
    """Views of each orbit, evenly spaced: as many as the prior sees at once."""
    zoom: tuple[Annotated[float, above(0)], Annotated[float, above(0)]] = (1.0, 1.0)
    """Range of factors on the size at which the object is seen. Priors that know cameras have seen one size."""
    background: Annotated[float, at_least(0, 1)] = 0.0
    """Share of the steps with one random color behind the object in place of white, which is what the bundled prior
    has seen. Official code: 0.66."""
    scale_noise: Annotated[float, at_least(0, 0.3)] = 0.0
    """Standard deviation of a random factor on the size of all splats, drawn anew for each step: holes and needles do
    not survive it. Official code: 0.11."""
    coarse: Annotated[float, at_least(0, 1)] = 0.0
    """Share of the steps, the first ones, that are drawn at half the resolution."""
    supersampling: Annotated[int, at_least(1, 4)] = 2
    """Each pixel is the mean of this many samples squared."""


@dataclass
class RegularizerSettings:
    """What keeps splats tidy while words pull at them: weights of terms, 0 for none. Official code: 1 each."""

    tv: Annotated[float, at_least(0)] = 0.0
    """Of the total variation of the views."""
    depth_tv: Annotated[float, at_least(0)] = 0.0
    """Of the total variation of the inverse depth."""
    scale: Annotated[float, at_least(0)] = 0.0
    """Of the splats' mean size, in world units."""


@dataclass
class ReconstructionSettings:
    """The last phase (GE3D, section 7.2): views of the splats are denoised in several steps, and splats are fitted."""

    steps: Annotated[int, at_least(0)] | None = None
    """Steps of the fit; 0 for no such phase. If not given, 150 where the prior knows cameras."""
    views: Annotated[int, at_least(4, 64)] = 16
    """Views that are denoised: rings of eight."""
    strength: Annotated[float, at_least(0.01, 1)] = 0.5
    """How much of the diffusion they go up and down again: less keeps more."""
    jumps: Annotated[int, at_least(1, 100)] = 8
    """Steps on the way up, and on the way down."""
    guidance_scale: Annotated[float, at_least(1)] | None = None
    """Guidance on the way down; the prior's own choice if not given."""


@dataclass
class TextToSplatsSettings(PhasedPipelineConfig):
    """Make splats from words: first splats from the prior's own views, then steps that follow the words."""

    datamanager: SceneDatamanagerConfig = field(
        default_factory=lambda: SceneDatamanagerConfig(dataparser=ImaginedDataParserConfig())
    )  # type: ignore[assignment]
    """Where cameras come from, and splats to start from."""
    model: ObjectSplatModelConfig = field(
        default_factory=lambda: ObjectSplatModelConfig(sh_degree=0, num_random=2000, max_splats=20_000)
    )
    """The Gaussian splats."""
    prior: str = "bundled"
    """The diffusion model: bundled, mvdream-sd1.5, mvdream-sd2.1, or a path."""
    prior_options: PriorOptions = field(default_factory=PriorOptions)
    """How the prior computes: precision, and what lowers its memory."""
    negative_prompt: str = ""
    """Words to keep away from."""
    start: StartSettings = field(default_factory=StartSettings)
    """The first splats."""
    steps: Annotated[int, at_least(0)] | None = None
    """Steps of following the words; 0 for none. If not given, 0 for the bundled prior, whose denoised views say what it
    knows within seconds, and 3,000 for others (official code)."""
    guidance: AnyGuidanceConfig = field(default_factory=EditingTrajectoriesConfig)
    """How words guide: editing trajectories (ge3d), interval score matching (ism), score distillation (sds)."""
    cameras: CameraSettings = field(default_factory=CameraSettings)
    """Where splats are looked at from meanwhile."""
    regularize: RegularizerSettings = field(default_factory=RegularizerSettings)
    """What keeps them tidy."""
    densify: bool = False
    """Add and remove splats meanwhile, as --pipeline.model says."""
    reconstruct: ReconstructionSettings = field(default_factory=ReconstructionSettings)
    """The last phase."""
    preview_every: Annotated[int, at_least(0)] = 20
    """Steps between pictures of what guides: the views, above what they are pulled towards; 0 for none."""

    def scene_name(self, prompt: str | None) -> str:
        """What runs are called: the prompt's words, or the splats that it starts from."""
        if self.datamanager.data is not None:
            return super().scene_name(prompt)
        words = re.sub(r"[^a-z0-9]+", "-", (prompt or "").lower()).strip("-")
        return words[:LONGEST_NAME].strip("-") or "prompt"

    def scene_in_words(self) -> str:
        """The prompt alone, or what it starts from."""
        return "the prompt alone" if self.datamanager.data is None else f"starts from {self.datamanager.data}"

    def summary(self) -> Sequence[tuple[str, str]]:
        """The prior, and the steps of each phase."""
        steps = {guidance_name(self.guidance): self.steps, "reconstruction": self.reconstruct.steps}
        shown = [name if count is None else f"{name} {count}" for name, count in steps.items() if count != 0]
        rest = " (as many as the prior wants)" if None in steps.values() else ""
        return ("prior", self.prior), ("steps", ", ".join(["first splats", *shown]) + rest)
