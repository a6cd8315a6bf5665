"""Splats that are fitted to images and take on a style at once: L1 and SSIM, and k times what CLIP says (CLIP-GS).

CLIP-GS's loss is hypersensitive to k where it counts from the first step: words are ignored, or the scene collapses.
Here k grows from nothing once there is a scene to see, and CLIP is asked about a view against its own photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.random import random_stream
from invert3d_ns.base.ranges import check_numbers
from invert3d_ns.methods import stylization_report
from invert3d_ns.methods.stylization import StylizationPipeline
from invert3d_ns.methods.stylization_settings import JointSettings, StylizationSettings, StylizationTrainerConfig
from invert3d_ns.runs.phase import Phase, Run
from invert3d_ns.runs.resume import flags_of
from invert3d_ns.runs.splat_fit import OPTIMIZERS, SplatFit

if TYPE_CHECKING:
    from invert3d_ns.alignment.clip import ClipTowers

LEAST_CROP = 12
"""Pixels of the side of the smallest crop that CLIP is asked about."""


@dataclass
class JointConfig(JointSettings):
    """Fit splats to images and give them a style at once, by words that CLIP sees."""

    _target: type = field(default_factory=lambda: JointPipeline)


def joint_stylization(method_name: str) -> StylizationTrainerConfig:
    """The configuration of a method that fits and stylizes at once."""
    return StylizationTrainerConfig(method_name=method_name, pipeline=JointConfig(), optimizers=dict(OPTIMIZERS))


class JointPipeline(StylizationPipeline):
    """A scene that is fitted to images under a style; there is no other one beside it.

    Args are those of :class:`~invert3d_ns.runs.pipeline.PhasedPipeline`.
    """

    config: JointSettings

    @classmethod
    def object_names(cls, config: StylizationSettings) -> tuple[str, ...]:
        """The style alone."""
        return config.prompts[:1] or ("",)

    def prepare(self, seed: int, saved: dict[str, Any] | None = None) -> list[Phase]:
        """Load the towers and check the settings, then make the phases.

        Raises:
            InputError: no prompt or several, splats in place of images, images too small for CLIP, unknown towers.
        """
        config = self.config
        check_numbers(config, "--pipeline.")
        config.check()
        if len(config.prompts) > 1:
            raise InputError("a joint fit takes one style; give one prompt, or several to clip-splat")
        if self.starts_from_splats():
            raise InputError(
                "--data is splats already, and a joint fit takes posed images; style them with ns-train clip-splat"
            )
        if config.splat_steps == 0:
            raise InputError("--pipeline.splat-steps is 0: there is nothing to do; give 1 or more")
        if config.free or not config.region.is_whole:
            raise InputError("--pipeline.free and --pipeline.region are of clip-splat; a joint fit trains everything")
        cameras = self.datamanager.train_dataset.cameras  # type: ignore[union-attr]
        small = int(torch.minimum(cameras.width, cameras.height).min())
        if config.style.patch and small * config.style.crop_side[0] < LEAST_CROP:
            raise InputError(
                f"the images are {small} pixels small, and crops of {config.style.crop_side[0]:g} of that show "
                "nothing; give larger images, or --pipeline.style.patch 0"
            )
        self.load_towers()
        self.phases = [JointFit(self, config.splat_steps), JointReportPhase(self)]
        return self.phases

    def weight_of_style(self, index: int) -> float:
        """K at step ``index``: nothing at first, then growing."""
        config = self.config
        done = index / max(config.splat_steps, 1) - config.begin
        if done < 0:
            return 0.0
        return config.k * (min(done / config.grow, 1.0) if config.grow else 1.0)

    def is_object_alone(self) -> bool:
        """Whether photographs show an object alone, cut out."""
        return super().is_object_alone() and bool(self.model.metadata.get("has_alpha", False))

    def describe(self, towers: ClipTowers) -> str:
        """What photographs show, in CLIP's word, since there are no splats yet."""
        from invert3d_ns.words.description import describe_views

        data: Any = self.datamanager
        count = len(data.train_dataset)
        shown = [data.train_dataset[index]["image"] for index in range(0, count, max(count // 8, 1))]
        size = min(shown[0].shape[:2])
        views = torch.stack([image[:size, :size, :3].permute(2, 0, 1).float() for image in shown])
        return describe_views(towers, views.to(self.device)).noun

    # Checkpoints

    def get_extra_state(self) -> dict[str, Any]:
        """What checkpoints hold besides the splats."""
        return {**super().get_extra_state(), "shown": 0}


class JointFit(SplatFit):
    """Fits the pipeline's splats to its training images, and to words.

    Args:
        pipeline: the scene.
        steps: of the fit.
    """

    name, title = "joint", "Fitting splats in a style"
    pipeline: JointPipeline
    follows_words = True

    def settings_key(self) -> dict[str, Any]:
        """Those of a fit, the words, the losses, and how their weight grows."""
        config = self.pipeline.config
        return {
            **super().settings_key(),
            "the words": self.pipeline.asked_for[0],
            "--pipeline.towers": list(config.towers),
            "--pipeline.k": config.k,
            "--pipeline.begin": config.begin,
            "--pipeline.grow": config.grow,
            **flags_of(self.pipeline.asked_style, "--pipeline.style"),
        }

    def begin(self, run: Run, state: dict[str, Any] | None) -> None:
        """See :meth:`SplatFit.begin`; reads the words."""
        if state is not None:
            self.pipeline.change_strengths(state.get("strengths", {}))
        self._seed, self._words = run.seed, self.pipeline.words
        self._style = self.pipeline.style_loss(self._words[0])
        # Last, for it restores torch's random state, from which towers that are loaded draw.
        super().begin(run, state)

    def losses(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Splatfacto's losses on the next training image, and the style's on the same view, on white."""
        pipeline, data = self.pipeline, self.pipeline.datamanager
        model: Any = pipeline.model
        weight = pipeline.weight_of_style(index)
        if not weight:
            return super().losses(index)
        if pipeline.words != self._words:  # somebody changed them in the viewer
            self._words = pipeline.words
            self._style.follow(pipeline.words_of(self._words[0]))
        camera, batch = data.next_train(index)
        outputs = model(camera)
        metrics = model.get_metrics_dict(outputs, batch)
        losses = model.get_loss_dict(outputs, batch, metrics)
        truth = model.composite_with_background(
            model.get_gt_img(batch["image"]), torch.ones_like(outputs["background"])
        )
        # The fit draws random colors behind objects; words are about the object on white.
        view = outputs["rgb"] + (1 - outputs["accumulation"]) * (1 - outputs["background"])
        generator = random_stream("crops of a joint fit", self._seed, index)
        terms = self._style(view.permute(2, 0, 1)[None], truth.permute(2, 0, 1)[None].clamp(0, 1), generator)
        return {**losses, **{name: weight * term for name, term in terms.items()}}, {**metrics, "k": weight}

    def state_dict(self) -> dict[str, Any]:
        """That of a fit, and the weights of the losses as they are now."""
        return {**super().state_dict(), "strengths": dict(self.pipeline.strengths)}


class JointReportPhase(Phase):
    """Writes what became of the fit; no steps."""

    name, title = "report", "Looking at the scene"

    def __init__(self, pipeline: JointPipeline) -> None:
        self.pipeline = pipeline

    def finish(self, run: Run) -> Sequence[str]:
        """Write the picture and figures, and say how it came out."""
        with run.lock:
            outputs = stylization_report.write_joint_outputs(self.pipeline, run)
        run.show_picture(stylization_report.JOINT_PICTURE, outputs.picture)
        run.redraw(now=True)
        stylization_report.announce(outputs)
        return stylization_report.next_commands(outputs, run.folder)
