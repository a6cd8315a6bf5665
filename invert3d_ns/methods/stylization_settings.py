"""Settings of methods that give a scene of splats a style by words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from invert3d_ns.alignment.style_losses import StyleLossConfig
from invert3d_ns.alignment.style_words import StyleWords, parse_weighted
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import above, at_least
from invert3d_ns.editing.edit import Region
from invert3d_ns.methods.prompts_config import PromptsTrainerConfig
from invert3d_ns.runs.pipeline import PhasedPipelineConfig
from invert3d_ns.scenes.datasets import SceneDatamanagerConfig
from invert3d_ns.scenes.latent_splats import LatentSplatModelConfig

Free = Literal["opacities", "scales", "means", "quats"]
"""What of the splats may change besides their colors."""
ORIGINAL = "original"
"""What the scene as it was is called among its styles."""
STEPS = 150
"""Steps of a style where nobody says."""


@dataclass
class StyleCameraSettings:
    """Where the scene is looked at from while it takes on a style."""

    kind: Literal["orbit", "data"] | None = None
    """orbit: around the object. data: the cameras that the scene came with. If not given, orbit where there is an
    object alone."""
    count: Annotated[int, at_least(4, 10_000)] = 64
    """Cameras of an orbit: spread over all directions; of each, the view of the scene as it was is kept."""
    elevations: tuple[Annotated[float, at_least(-89, 89)], Annotated[float, at_least(-89, 89)]] = (-10.0, 50.0)
    """Range of degrees from which those of an orbit look down."""
    views: Annotated[int, at_least(1, 64)] = 4
    """Views in each step."""
    size: Annotated[int, at_least(16, 2048)] | None = None
    """Pixels of their shorter side; twice what the towers see, if not given."""


@dataclass
class StyleKeepSettings:
    """What keeps the scene recognizable."""

    color: Annotated[float, at_least(0)] = 0.0
    """Weight of how far colors are from what they were (mean square of the change, colors in [0, 1])."""
    harmonics: Annotated[float, at_least(0)] = 0.1
    """Weight of how far colors depend on where they are seen from more than they did, by which views would disagree."""
    content: Annotated[float, at_least(0)] = 0.0
    """Weight of how far features of views are from those of the scene as it was."""
    content_features: Literal["vgg19", "towers"] = "towers"
    """towers: of a middle layer of the towers. vgg19: of torchvision's VGG19 (conv4_2 and conv5_2, as CLIPstyler),
    whose weights are downloaded once."""
    background: Annotated[float, at_least(0)] = 0.0
    """Weight of how far pixels are from what they were where nothing was seen; 0 unless geometry may change."""


@dataclass
class StylizationSettings(PhasedPipelineConfig):
    """Give a scene a style by words, seen by CLIP; what it was, and every style, stand side by side."""

    datamanager: SceneDatamanagerConfig = field(default_factory=SceneDatamanagerConfig)  # type: ignore[assignment]
    """Where images and cameras come from."""
    model: LatentSplatModelConfig = field(default_factory=LatentSplatModelConfig)
    """The Gaussian splats, with their colors in each style."""
    prompts: tuple[str, ...] = ()
    """A style each."""
    source: str | None = None
    """What the scene looks like now, in words; found by CLIP if not given."""
    negative_prompt: str = ""
    """What it shall not look like."""
    towers: tuple[str, ...] = ("bundled-crops",)
    """CLIP towers that are followed: names as `invert3d evaluate clip` takes them; several are averaged."""
    splat_steps: Annotated[int, at_least(0)] = 800
    """Steps of fitting splats to images. A scene that is splats already skips it."""
    steps: Annotated[int, at_least(1)] = STEPS
    """Steps of each style."""
    sh_degree: Annotated[int, at_least(0, 3)] = 1
    """Degree of the spherical harmonics that a style may use; more, where the scene has more."""
    free: tuple[Free, ...] = ()
    """What may change besides colors: any of opacities scales means quats. Nothing: geometry stays to the bit."""
    style: StyleLossConfig = field(default_factory=StyleLossConfig)
    """What pulls views towards the words."""
    keep: StyleKeepSettings = field(default_factory=StyleKeepSettings)
    """What keeps the scene recognizable."""
    cameras: StyleCameraSettings = field(default_factory=StyleCameraSettings)
    """Where it is looked at from."""
    region: Region = field(default_factory=Region)
    """Where the style goes: a box, what words are about (seen by the towers), or everywhere."""
    replace: bool = False
    """Make a style anew that the run given as --data has already."""
    stored: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()
    """The styles of the run given as --data; found there."""
    preview_every: Annotated[int, at_least(0)] = 25
    """Steps between pictures of the views; 0 for none."""

    def words(self, prompt: str, negative_prompt: str | None = None) -> StyleWords:
        """A style's words; parts joined by " + " have weights of their own ("van gogh:0.7 + at night:0.3").

        Args:
            negative_prompt: that of the settings if None.

        Raises:
            InputError: a prompt or a weight that makes no sense.
        """
        avoided = self.negative_prompt if negative_prompt is None else negative_prompt
        negative = parse_weighted(avoided.split(" + ")) if avoided.strip() else {}
        source = "a photo" if self.source is None else self.source
        found = StyleWords(parse_weighted(prompt.split(" + ")), source, negative)
        found.check()
        return found

    def check(self) -> None:
        """Refuse settings that contradict each other or say nothing.

        Raises:
            InputError: no prompt, one twice, no towers, a range the wrong way round, terms that have nothing to hold.
        """
        if not self.prompts:
            raise InputError('there is no prompt; say how the scene shall look: --prompt "a van gogh painting"')
        plain = [" ".join(prompt.lower().split()) for prompt in self.prompts]
        if len(set(plain)) < len(plain):
            raise InputError("two styles have the same words; leave one out")
        for prompt in self.prompts:
            self.words(prompt)
        if not self.towers:
            raise InputError("there are no towers to follow; give --pipeline.towers bundled-crops")
        low, high = self.cameras.elevations
        if low > high:
            raise InputError(f"--pipeline.cameras.elevations goes from {low:g} to {high:g}; give the smaller one first")
        self.style.check()
        self.region.check()

    def scene_in_words(self) -> str:
        """The scene, and its styles."""
        return f"{super().scene_in_words()}, as {' | '.join(self.prompts) or 'nothing yet'}"

    def summary(self) -> Sequence[tuple[str, str]]:
        """Towers and steps."""
        free = "colors" + "".join(f", {name}" for name in self.free)
        return ("towers", ", ".join(self.towers)), ("steps", f"{self.steps} a style, of {free}")


@dataclass
class JointSettings(StylizationSettings):
    """Fit splats to images and give them a style at once."""

    k: Annotated[float, above(0)] = 0.1
    """Weight of the style beside the fit (L1 and SSIM) once it is whole (CLIP-GS's k)."""
    begin: Annotated[float, at_least(0, 1)] = 0.3
    """Share of the steps before words count at all, so that there is a scene to see."""
    grow: Annotated[float, at_least(0, 1)] = 0.3
    """Share of the steps over which their weight grows to k."""


@dataclass
class StylizationTrainerConfig(PromptsTrainerConfig):
    """Settings of a run that makes styles of a scene."""

    prompts: tuple[str, ...] | None = None
    """Several styles, one after the other: --prompts "in van gogh style" "at night"; or one, as --prompt."""
