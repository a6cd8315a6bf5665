"""The phase in which splats are fitted to posed images, as nerfstudio's splatfacto does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from torch import Tensor
from torch.nn import Parameter

from invert3d_ns.base.ranges import Range, above, at_least
from invert3d_ns.runs.phase import Phase, Run, StepOutput
from invert3d_ns.runs.pipeline import PhasedPipeline


@dataclass
class SplatOptimizerConfig(AdamOptimizerConfig):
    """nerfstudio's settings of Adam, and the ranges of their numbers."""

    number_ranges: ClassVar[dict[str, Range]] = {
        "lr": above(0),
        "eps": above(0),
        "max_norm": above(0),
        "weight_decay": at_least(0),
    }


@dataclass
class SplatSchedulerConfig(ExponentialDecaySchedulerConfig):
    """nerfstudio's settings of an exponential decay, and the ranges of their numbers."""

    number_ranges: ClassVar[dict[str, Range]] = {
        "lr_pre_warmup": above(0),
        "lr_final": above(0),
        "warmup_steps": at_least(0),
        "max_steps": at_least(1),
    }


OPTIMIZERS: dict[str, Any] = {
    "means": {
        "optimizer": SplatOptimizerConfig(lr=1.6e-3, eps=1e-15),
        "scheduler": SplatSchedulerConfig(lr_final=1.6e-5, max_steps=1000),
    },
    "features_dc": {"optimizer": SplatOptimizerConfig(lr=0.01, eps=1e-15), "scheduler": None},
    "features_rest": {"optimizer": SplatOptimizerConfig(lr=0.01 / 20, eps=1e-15), "scheduler": None},
    "opacities": {"optimizer": SplatOptimizerConfig(lr=0.05, eps=1e-15), "scheduler": None},
    "scales": {"optimizer": SplatOptimizerConfig(lr=0.01, eps=1e-15), "scheduler": None},
    "quats": {"optimizer": SplatOptimizerConfig(lr=0.005, eps=1e-15), "scheduler": None},
    "camera_opt": {"optimizer": SplatOptimizerConfig(lr=1e-4, eps=1e-15), "scheduler": None},
}
"""nerfstudio's optimizers of splats, for objects in the object frame and short fits."""


def rates(**learning_rates: float) -> dict[str, Any]:
    """Nerfstudio's optimizers of splats at other learning rates, by group; phases say how these fall."""
    return {
        name: {"optimizer": SplatOptimizerConfig(lr=rate, eps=1e-15), "scheduler": None}
        for name, rate in learning_rates.items()
    }


DECAY = 0.1
"""What learning rates fall to in :func:`falling_optimizers`, as a share of what they begin with."""


def falling_optimizers(groups: dict[str, list[Parameter]], configured: dict[str, Any], steps: int) -> Optimizers:
    """The configured optimizers of groups of parameters, whose rates fall to :data:`DECAY` over ``steps``."""
    chosen = {}
    for name in groups:
        optimizer = configured[name]["optimizer"]
        falling = SplatSchedulerConfig(lr_final=DECAY * optimizer.lr, max_steps=max(steps, 1))
        chosen[name] = {"optimizer": optimizer, "scheduler": falling}
    return Optimizers(chosen, groups)


class SplatFit(Phase):
    """Fits the pipeline's splats to its training images; densifies, and evaluates held-out images.

    Args:
        pipeline: the scene.
        steps: of the fit.
    """

    name, title = "splats", "Fitting splats"

    def __init__(self, pipeline: PhasedPipeline, steps: int) -> None:
        self.pipeline, self.steps = pipeline, steps

    def settings_key(self) -> dict[str, Any]:
        """Length of the fit, and what decides how many splats and coefficients there are."""
        model = self.pipeline.config.model
        return {
            "--pipeline.splat-steps": self.steps,
            "--pipeline.model.sh-degree": model.sh_degree,
            "--pipeline.model.rasterize-mode": model.rasterize_mode,
        }

    def optimizers(self, configured: dict[str, Any]) -> Optimizers:
        """The configured optimizer of each group of the splats' parameters, and of camera poses."""
        return Optimizers(configured.copy(), self.pipeline.get_param_groups())

    def begin(self, run: Run, state: dict[str, Any] | None) -> None:
        """Restore densification, the order of images and the random state of a resumed fit."""
        if state is None:
            return
        self.pipeline.model.restore_densification(state["densification"])
        data: Any = self.pipeline.datamanager
        if state["camera_order"] is not None:
            data.train_unseen_cameras = list(state["unseen_cameras"])
            data.random_generator.setstate(state["camera_order"])
        torch.set_rng_state(state["random"]["torch"])
        device = torch.device(self.pipeline.device)
        if device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"], device)

    def losses(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Splatfacto's losses on the next training image."""
        _, losses, metrics = self.pipeline.fit_losses(index)
        return losses, metrics

    def step(self, run: Run, index: int) -> StepOutput:
        """One of nerfstudio's iterations between the model's callbacks, which densify and prune."""
        self.pipeline.train()
        for callback in run.callbacks:
            callback.run_callback_at_location(index, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        output = run.iterate(index)
        for callback in run.callbacks:
            callback.run_callback_at_location(index, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
        return output

    def observe(self, run: Run, index: int) -> None:
        """Show the splats, and compare them with held-out images as often as nerfstudio's settings say."""
        run.update_viewer()
        run.evaluate_held_out_images()

    def state_dict(self) -> dict[str, Any]:
        """State of densification, of the order of images, and of torch's global random generator."""
        data: Any = self.pipeline.datamanager
        generator = getattr(data, "random_generator", None)
        random: dict[str, Any] = {"torch": torch.get_rng_state()}
        device = torch.device(self.pipeline.device)
        if device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(device)
        return {
            "densification": dict(self.pipeline.model.strategy_state),
            "unseen_cameras": list(getattr(data, "train_unseen_cameras", [])),
            "camera_order": None if generator is None else generator.getstate(),
            "random": random,
        }
