"""Settings of a method that makes aligned objects from several prompts (A3D)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated

from invert3d_ns.base.ranges import at_least
from invert3d_ns.guidance.configs import AnyGuidanceConfig
from invert3d_ns.guidance.sds import ScoreDistillationConfig
from invert3d_ns.methods.prompts_config import PromptsTrainerConfig
from invert3d_ns.methods.text_settings import LONGEST_NAME, ReconstructionSettings, StartSettings, TextToSplatsSettings
from invert3d_ns.scenes.latent_splats import LatentSplatModelConfig


@dataclass
class AlignedStartSettings(StartSettings):
    """The first objects, aligned from the start: views of all of them, and of the middles between, in one pass."""

    align: Annotated[float, at_least(0, 1)] | None = None
    """How far the objects are drawn to one structure. With priors that draft views (bundled), this share of each
    object's draft is that of all prompts mixed, while its words are its own: 0.95 if not given, 0.7 beside an object
    of --data. With others, the words are drawn to those of all, less and less, in this first share of the denoising:
    0.5. 0: they share the noise alone."""
    strength: Annotated[float, at_least(0.1, 1)] = 0.85
    """Of a given object (--data): how much of the diffusion its views go up and down again to become the others'."""


@dataclass
class AlignedSettings(TextToSplatsSettings):
    """Make several objects from as many prompts in one scene, part by part alike, and all that lies between them."""

    prompts: tuple[str, ...] = ()
    """One for each object, two or more; concrete and alike in structure ("a wooden chair" "a red armchair"). With
    --data, the first says what is given."""
    model: LatentSplatModelConfig = field(
        default_factory=lambda: LatentSplatModelConfig(sh_degree=0, num_random=2000, max_splats=20_000)
    )
    """The Gaussian splats, each with its attributes in every object."""
    start: AlignedStartSettings = field(default_factory=AlignedStartSettings)
    """The first objects."""
    edge: Annotated[float, at_least(0, 1)] = 0.5
    """Probability of a step between two objects, which makes what lies there plausible, and the objects alike. 0: only
    the objects themselves are ever looked at."""
    interior: Annotated[float, at_least(0, 1)] = 0.0
    """Probability of a step among all of three objects or more."""
    guidance: AnyGuidanceConfig = field(default_factory=ScoreDistillationConfig)
    """How words guide: editing trajectories (ge3d), interval score matching (ism), score distillation (sds)."""
    moved: Annotated[float, at_least(0)] = 0.02
    """Weight of how far an object's splats lie from where they are in all, while following the words."""
    reconstruct: ReconstructionSettings = field(default_factory=ReconstructionSettings)
    """The last phase: of each object, and of the middles between them."""

    def scene_name(self, prompt: str | None) -> str:
        """What runs are called: the prompts' words."""
        words = re.sub(r"[^a-z0-9]+", "-", " and ".join(self.prompts).lower()).strip("-")
        return words[:LONGEST_NAME].strip("-") or "prompts"

    def scene_in_words(self) -> str:
        """The prompts, and what is given of the first."""
        given = "" if self.datamanager.data is None else f"; the first is {self.datamanager.data}"
        return " | ".join(self.prompts) + given

    def blends(self) -> list[list[float]]:
        """Weights that views are sampled of: each object, and the middle of each edge if edges count."""
        objects = len(self.prompts)
        vertices = [[float(i == j) for j in range(objects)] for i in range(objects)]
        edges = [(i, j) for i in range(objects) for j in range(i + 1, objects)] if self.edge else []
        return vertices + [[0.5 * (k in edge) for k in range(objects)] for edge in edges]


@dataclass
class AlignedTrainerConfig(PromptsTrainerConfig):
    """Settings of a run that makes aligned objects."""

    prompts: tuple[str, ...] | None = None
    """What the objects shall be: --prompts "a wooden chair" "a red armchair"."""
