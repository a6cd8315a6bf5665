"""A scene of splats in a style that words describe: CLIP-GS's fine-tuning with CLIPstyler's losses on splats.

What the scene was and each of its styles are objects of one scene of latent splats: splat i is the same in all of them,
so that styles are switched and mixed at once, and all that a run of several objects can do, a stylized one can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import check_numbers
from invert3d_ns.live.panels.inversion_panel import InversionPanel
from invert3d_ns.live.queue import ActionQueue
from invert3d_ns.live.watchers import PanelWatcher
from invert3d_ns.methods import stylization_report
from invert3d_ns.methods.live_styles import LiveStyles
from invert3d_ns.methods.style_views import StyleViews, around_an_object, of_one_size
from invert3d_ns.methods.stylization_settings import ORIGINAL, StylizationSettings, StylizationTrainerConfig
from invert3d_ns.methods.stylize_phase import StylizePhase
from invert3d_ns.runs.phase import Phase, Run
from invert3d_ns.runs.pipeline import PhasedPipeline
from invert3d_ns.runs.splat_fit import OPTIMIZERS, SplatFit, rates
from invert3d_ns.scenes.runs import OWN, is_run, read_run_objects, read_run_record
from invert3d_ns.scenes.splat_parameters import GAUSSIANS

if TYPE_CHECKING:
    from invert3d_ns.alignment.clip import ClipTowers
    from invert3d_ns.alignment.content import ContentLoss
    from invert3d_ns.alignment.style_losses import StyleLoss
    from invert3d_ns.alignment.style_words import StyleWords
    from invert3d_ns.scenes.cloud import SplatCloud

RATES = {"means": 1e-4, "features_dc": 0.1, "features_rest": 2e-2, "opacities": 5e-2, "scales": 5e-3, "quats": 1e-3}
"""Learning rates of a style; those of geometry as CLIPGaussian's."""


@dataclass
class StylizationConfig(StylizationSettings):
    """Give a scene a style by words, seen by CLIP; what it was, and every style, stand side by side."""

    _target: type = field(default_factory=lambda: StylizationPipeline)


def stylization(method_name: str) -> StylizationTrainerConfig:
    """The configuration of a method that makes styles of a scene."""
    own = rates(**{name + OWN: rate for name, rate in RATES.items()})
    return StylizationTrainerConfig(
        method_name=method_name, pipeline=StylizationConfig(), optimizers={**OPTIMIZERS, **own}
    )


class StylizationPipeline(LiveStyles, PhasedPipeline):
    """A scene as it was, and its styles. The towers are in no checkpoint.

    Args are those of :class:`~invert3d_ns.runs.pipeline.PhasedPipeline`.

    Attributes:
        prompts: the scene as it was, styles that it came with, and those that are asked for, in this order.
        asked_for: the same, as they were when the run began; words may change while it lasts.
        towers: that are followed, from :meth:`prepare` on.
    """

    config: StylizationSettings

    def __init__(self, config: StylizationSettings, device: str, **kwargs: Any) -> None:
        if config.model.prompt and config.model.prompt not in config.prompts:
            config.prompts = (config.model.prompt, *config.prompts)
        if not config.stored:
            config.stored = _stored_styles(config)
        self.prompts = self.asked_for = self.object_names(config)
        config.model.objects = len(self.prompts)
        super().__init__(config, device, **kwargs)
        self.begin_hosting()
        self.towers: list[ClipTowers] = []
        self._noun = ""
        self._views: dict[int, StyleViews] = {}
        self.negative_prompt = config.negative_prompt
        self.panel = InversionPanel("Run")
        self.queue = ActionQueue(self)
        self.observers = [PanelWatcher(self)]
        self.begin_live_styles(RATES)

    @classmethod
    def object_names(cls, config: StylizationSettings) -> tuple[str, ...]:
        """What each object of the scene is: what it was, the styles that it came with, those that are asked for."""
        return (ORIGINAL, *config.stored, *config.prompts)

    # Phases

    def prepare(self, seed: int, saved: dict[str, Any] | None = None) -> list[Phase]:
        """Load the towers and check the settings, then make the phases.

        Raises:
            InputError: no prompt, a style that exists already, unknown towers, settings that exclude each other.
        """
        config = self.config
        check_numbers(config, "--pipeline.")
        config.check()
        self.load_towers()
        fits = not self.starts_from_splats() and config.splat_steps > 0
        if not fits and not self.starts_from_splats():
            raise InputError("there is nothing to stylize: --data holds images, and --pipeline.splat-steps is 0")
        self.phases = [SplatFit(self, config.splat_steps)] if fits else []
        first = len(self.prompts) - len(config.prompts)
        self.phases += [StylizePhase(self, first + index, config.steps) for index in range(len(config.prompts))]
        self.phases.append(StylizationReportPhase(self))
        if fits:
            self.model.train_only(*GAUSSIANS)
        return self.phases

    def load_towers(self) -> None:
        """Load the towers that are followed.

        Raises:
            InputError: unknown names, or weights that cannot be had.
        """
        from invert3d_ns.alignment.checkpoints import load_clip

        if not self.towers:
            self.towers = [load_clip(name, self.device) for name in self.config.towers]

    def begin_styles(self) -> None:
        """Make all objects the scene as it is, or as the run says that it comes from; once, before any style."""
        if self.model.anchored:
            return
        config = self.config
        original, given = self.model.cloud(), {}
        if config.stored:
            data = Path(self.datamanager.get_datapath())
            given = dict(zip(read_run_record(data).prompts, read_run_objects(data), strict=True))
            original = given[ORIGINAL]
        objects = [original, *(given[name] for name in config.stored), *[original] * len(config.prompts)]
        degree = max(config.sh_degree, *(cloud.sh_degree for cloud in objects))
        self.model.adopt_each([with_degree(cloud, degree) for cloud in objects], anchored=True)

    # What the phases use

    def style_views(self, seed: int) -> StyleViews:
        """Cameras, and the scene as it was from them; the same for every style, and kept."""
        if seed in self._views:
            return self._views[seed]
        settings = self.config.cameras
        size = settings.size or 2 * max(max(towers.size) for towers in self.towers)
        surroundings = bool(self.model.metadata.get("surroundings", False))
        source = self.object_at(0)
        if (settings.kind or ("data" if surroundings else "orbit")) == "orbit":
            groups = [around_an_object(settings, size, seed)]
        else:
            data: Any = self.datamanager
            groups = of_one_size(data.train_dataset.cameras, size)
        behind = self.model.metadata.get("image_background")
        background = self.model.background_color if behind is None else torch.as_tensor(behind, dtype=torch.float32)
        self._views[seed] = StyleViews(source, groups, background)
        return self._views[seed]

    def style_loss(self, prompt: str) -> StyleLoss:
        """What pulls views towards a style's words."""
        from invert3d_ns.alignment.style_losses import StyleLoss

        return StyleLoss(self.towers, self.words_of(prompt), self.config.style)

    def content_loss(self) -> ContentLoss | None:
        """What holds the content of views, if anything does."""
        from invert3d_ns.alignment.content import content_of_towers, content_of_vgg

        keep = self.config.keep
        if not keep.content:
            return None
        return content_of_vgg(self.device) if keep.content_features == "vgg19" else content_of_towers(self.towers)

    def words_of(self, prompt: str) -> StyleWords:
        """A style's words around what the scene shows: "in van gogh style" of a chair is "a chair in van gogh style".

        Raises:
            InputError: they say nothing.
        """
        from invert3d_ns.editing.phrases import place_term
        from invert3d_ns.editing.typed import as_edit_words

        words = self.config.words(prompt, self.negative_prompt)
        noun = self.noun()

        def around(table: Any) -> dict[str, float]:
            return {
                text if noun.split()[-1] in text.lower().split() else place_term(as_edit_words(text)[0], noun): weight
                for text, weight in table.items()
            }

        source = self.config.source
        return replace(
            words,
            prompts=around(words.prompts),
            negative=around(words.negative),
            source=f"a photo of {noun}" if source is None else source,
        )

    def noun(self) -> str:
        """What the scene shows, in a word with its article: "a chair", or "an object" where CLIP cannot tell.

        Colors and patterns are left out: words for a style that name them hold on to them.
        """
        from invert3d_ns.alignment.checkpoints import load_clip
        from invert3d_ns.base.english import with_article
        from invert3d_ns.words.description import UNNAMED

        if not self._noun:
            alone = self.is_object_alone()
            self._noun = with_article(self.describe(load_clip("bundled", self.device)) if alone else UNNAMED)
        return self._noun

    def is_object_alone(self) -> bool:
        """Whether the scene is an object without surroundings, of which CLIP can say what it is."""
        return not self.model.metadata.get("surroundings", False)

    def describe(self, towers: ClipTowers) -> str:
        """What the scene is, in CLIP's word."""
        from invert3d_ns.words.description import describe_splats

        return describe_splats(towers, self.object_at(0)).noun

    def chosen_splats(self, views: StyleViews) -> Float[Tensor, " N"] | None:
        """1 for the splats that a style may change, 0 for others; None for all.

        Raises:
            InputError: the region holds no splat, or its words are about none.
        """
        from invert3d_ns.editing.regions import inside_box
        from invert3d_ns.methods.style_region import splats_about

        region = self.config.region
        if region.is_whole:
            return None
        chosen = torch.ones(len(views.source), dtype=torch.bool, device=views.source.means.device)
        if region.box is not None:
            chosen &= inside_box(views.source, region.box)
        if region.relevance is not None:
            chosen &= splats_about(self.towers[0], region.relevance, self.noun(), views, region.relevance_threshold)
        return chosen.float()

    # Words

    @property
    def making(self) -> int:
        """The style that is being made, or the last one."""
        current = self.current
        return current.index if isinstance(current, StylizePhase) else len(self.prompts) - 1

    @property
    def words(self) -> tuple[str, str]:
        """The prompt of the style that is being made, and what all keep away from."""
        return self.prompts[self.making], self.negative_prompt

    def change_words(self, prompt: str, negative_prompt: str) -> str:
        """Let the steps from now on follow other words.

        Raises:
            InputError: the prompt is empty, or a style's already.
        """
        self.config.words(prompt, negative_prompt)
        self.negative_prompt = negative_prompt
        self.change_style(self.making, prompt)
        return ""

    def change_style(self, index: int, prompt: str) -> None:
        """Let a style have other words.

        Raises:
            InputError: another one has them.
        """
        if prompt in self.prompts[:index] + self.prompts[index + 1 :]:
            raise InputError(f"there is a style {prompt!r} already; say something else")
        self.prompts = (*self.prompts[:index], prompt, *self.prompts[index + 1 :])

    # Checkpoints

    def get_extra_state(self) -> dict[str, Any]:
        """What checkpoints hold besides the splats: what each object is, and which is the run's."""
        return {"prompts": list(self.prompts), "shown": len(self.prompts) - 1, "negative_prompt": self.negative_prompt}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        self.prompts, self.negative_prompt = tuple(state["prompts"]), state["negative_prompt"]


class StylizationReportPhase(Phase):
    """Writes what became of the styles; no steps."""

    name, title = "report", "Looking at the styles"

    def __init__(self, pipeline: StylizationPipeline) -> None:
        self.pipeline = pipeline

    def finish(self, run: Run) -> Sequence[str]:
        """Write pictures, figures and a file of splats for each style, and say how they came out."""
        with run.lock:
            outputs = stylization_report.write_outputs(self.pipeline, run)
        run.show_picture(stylization_report.PICTURE, outputs.picture)
        run.redraw(now=True)
        stylization_report.announce(outputs)
        return stylization_report.next_commands(outputs, run.folder)


def with_degree(cloud: SplatCloud, degree: int) -> SplatCloud:
    """A cloud with room for harmonics up to a degree: those that it has not are zero."""
    missing = (degree + 1) ** 2 - 1 - cloud.features_rest.shape[1]
    if missing <= 0:
        return cloud
    rest = torch.nn.functional.pad(cloud.features_rest, (0, 0, 0, missing))
    return replace(cloud, features_rest=rest)


def _stored_styles(config: StylizationSettings) -> tuple[str, ...]:
    """The styles of the run that the scene comes from, if it has any.

    Raises:
        InputError: one is asked for again.
    """
    data = config.datamanager.data
    if data is None or not is_run(Path(data)):
        return ()
    prompts = read_run_record(Path(data)).prompts
    if not prompts or prompts[0] != ORIGINAL:
        return ()
    again = [prompt for prompt in config.prompts if prompt in prompts]
    if again and not config.replace:
        raise InputError(
            f"{data} has a style {again[0]!r} already; say something else, or make it anew with --pipeline.replace True"
        )
    return tuple(prompt for prompt in prompts[1:] if prompt not in again)
