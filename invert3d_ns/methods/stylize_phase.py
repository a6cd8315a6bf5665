"""The phase in which a scene takes on one style: its colors follow CLIP, its geometry stays unless it is set free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.engine.optimizers import Optimizers
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.pictures import tile
from invert3d_ns.base.random import random_stream
from invert3d_ns.runs.phase import Phase, Run, StepOutput
from invert3d_ns.runs.resume import flags_of
from invert3d_ns.runs.splat_fit import falling_optimizers
from invert3d_ns.scenes.blending import SameEverywhere, vertex
from invert3d_ns.scenes.rasterization import SH_C0
from invert3d_ns.scenes.runs import OWN

if TYPE_CHECKING:
    from invert3d_ns.alignment.content import ContentLoss
    from invert3d_ns.alignment.style_losses import StyleLoss
    from invert3d_ns.methods.style_views import StyleViews
    from invert3d_ns.methods.stylization import StylizationPipeline

PICTURE = "The style (views above, as they were below)"
"""What a run's events call pictures of the views."""
COLORS = ("features_dc", "features_rest")
"""Groups of the splats that a style changes in any case."""


class StylizePhase(Phase):
    """Optimizes the colors of one of the pipeline's styles.

    Args:
        pipeline: the scene; its words may change meanwhile.
        index: of the style among the scene's objects, 1 or more.
        steps: how many.
    """

    follows_words = True
    """Its words may change between two steps."""

    def __init__(self, pipeline: StylizationPipeline, index: int, steps: int) -> None:
        self.pipeline, self.index, self.steps = pipeline, index, steps
        self.name = f"style{index}"
        self.title = f"Style {index}"
        self.loss: StyleLoss | None = None
        self.content: ContentLoss | None = None
        self.views: StyleViews | None = None
        self.mask: Float[Tensor, " N"] | None = None
        self._seed = 0
        self._words = ("", "")
        self._latest: tuple[Tensor, Tensor] | None = None

    @property
    def prompt(self) -> str:
        """The words of the style."""
        return self.pipeline.prompts[self.index]

    def _asked(self) -> tuple[str, str]:
        """The words, and those to keep away from, as they are now."""
        return self.prompt, self.pipeline.negative_prompt

    def _blend(self) -> SameEverywhere:
        """The style alone."""
        return SameEverywhere.of(vertex(self.index, len(self.pipeline.prompts)))

    def settings_key(self) -> dict[str, Any]:
        """The style's words and losses as the run began with them, what may change, how the scene is looked at."""
        config = self.pipeline.config
        return {
            f"the words of style {self.index}": self.pipeline.asked_for[self.index],
            "--pipeline.source": config.source or "",
            "--pipeline.negative-prompt": config.negative_prompt,
            "--pipeline.towers": list(config.towers),
            "--pipeline.steps": self.steps,
            "--pipeline.sh-degree": config.sh_degree,
            "--pipeline.free": list(config.free),
            **flags_of(self.pipeline.asked_style, "--pipeline.style"),
            **flags_of(self.pipeline.asked_keep, "--pipeline.keep"),
            **flags_of(config.cameras, "--pipeline.cameras"),
            **flags_of(config.region, "--pipeline.region"),
        }

    def begin(self, run: Run, state: dict[str, Any] | None) -> None:
        """Look at the scene as it was, choose the splats that may change, and read the words.

        Raises:
            InputError: words that say nothing to CLIP, or a region that holds no splat.
        """
        pipeline, self._seed = self.pipeline, run.seed
        if state is not None:
            pipeline.change_style(self.index, state["prompt"])
            pipeline.change_strengths(state.get("strengths", {}))
        with run.lock:
            pipeline.begin_styles()
            pipeline.model.blend = self._blend()
            self.views = pipeline.style_views(run.seed)
            self.loss = pipeline.style_loss(self.prompt)
            self.content = pipeline.content_loss()
            self.mask = pipeline.chosen_splats(self.views)
        self._words = self._asked()

    def optimizers(self, configured: dict[str, Any]) -> Optimizers:
        """The configured optimizer of each group that the style may change; its rate falls to a tenth."""
        model = self.pipeline.model
        names = [name + OWN for name in (*COLORS, *self.pipeline.config.free)]
        model.train_only(*names)
        return falling_optimizers({name: [model.gauss_params[name]] for name in names}, configured, self.steps)

    def losses(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The style's terms, and those that keep the scene, at step ``index``."""
        pipeline, keep = self.pipeline, self.pipeline.config.keep
        assert self.views is not None and self.loss is not None, "begin() comes first"
        generator = random_stream("views of a style", self._seed, self.index, index)
        group, rows = self.views.draw(pipeline.config.cameras.views, generator)
        before, covered = self.views.before(group, rows)
        with pipeline.model.at(self._blend()):  # whatever people look at meanwhile
            cloud = pipeline.model.drawn()
        images, _ = self.views.render(cloud, group, rows)
        terms = self.loss(images, before, generator)
        if keep.background:
            outside = (covered < 1e-3).expand_as(images)
            terms["background"] = keep.background * ((images - before).abs() * outside).mean()
        if self.content is not None:
            terms["content"] = keep.content * self.content(images, before)
        was = self.views.source
        if keep.color:
            terms["color"] = keep.color * (SH_C0 * (cloud.features_dc - was.features_dc)).square().mean()
        if keep.harmonics and cloud.features_rest.numel():
            terms["harmonics"] = keep.harmonics * (cloud.features_rest - was.features_rest).square().mean()
        self._latest = images.detach(), before
        return terms, {}

    def step(self, run: Run, index: int) -> StepOutput:
        """One of nerfstudio's iterations; splats outside of the region take no part.

        Raises:
            InputError: the loss or a gradient is not a number any more; the last checkpoint stays.
        """
        pipeline = self.pipeline
        pipeline.train()
        if self._asked() != self._words:  # somebody changed them in the viewer
            assert self.loss is not None
            self.loss.follow(pipeline.words_of(self.prompt))
            self._words = self._asked()
        with pipeline.model.gradients_of(self.mask):
            output = run.iterate(index)
        if not bool(torch.as_tensor(output.loss).isfinite()):
            raise InputError(
                f"the loss is not a number at step {index + 1} of style {self.index} ({self.prompt!r}); the last "
                "checkpoint is as it was: start again with lower learning rates (--optimizers) or weights"
            )
        return output

    def observe(self, run: Run, index: int) -> None:
        """Show the splats, and now and then the views."""
        run.update_viewer()
        run.redraw()
        every = self.pipeline.config.preview_every
        if every and (index + 1) % every == 0:
            run.show_picture(PICTURE, self.picture())

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """The latest views above what they were."""
        assert self._latest is not None
        images, before = self._latest
        return tile(torch.cat([images.clamp(0, 1), before]), len(images))

    def status(self) -> Sequence[str]:
        """What it follows."""
        return (f"Style: {self.prompt}",)

    def state_dict(self) -> dict[str, Any]:
        """The words and the weights of the losses as they are now."""
        return {"prompt": self.prompt, "strengths": dict(self.pipeline.strengths)}
