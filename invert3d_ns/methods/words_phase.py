"""The phase in which a frozen scene's words are learned: Camera-conditioned Text Inversion on a bank of latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from nerfstudio.engine.optimizers import OptimizerConfig, Optimizers
from nerfstudio.engine.schedulers import CosineDecaySchedulerConfig
from torch import Tensor
from torch.nn import Parameter

from invert3d_ns.base.cancellation import Cancelled
from invert3d_ns.base.errors import InputError
from invert3d_ns.methods import words_report
from invert3d_ns.prior.memory import apply_prior_options
from invert3d_ns.prior.out_of_memory import explain_out_of_memory
from invert3d_ns.runs.phase import Phase, Run, StepOutput
from invert3d_ns.words.bank import LatentBank, build_bank

if TYPE_CHECKING:
    from jaxtyping import Float
    from nerfstudio.cameras.cameras import Cameras

    from invert3d_ns.methods.invert3d import InversionPipeline


@dataclass
class AdamWOptimizerConfig(OptimizerConfig):
    """nerfstudio's optimizer configuration for AdamW."""

    _target: type = torch.optim.AdamW
    weight_decay: float = 1e-2
    """The weight decay to use."""


class WordsPhase(Phase):
    """Learns the words of the pipeline's scene, measures them on held-out orbits, and writes them.

    Args:
        pipeline: holds scene, prior and words.
        steps: of learning; 0 only measures and writes the words that there are.
    """

    name, title = "words", "Learning words"

    def __init__(self, pipeline: InversionPipeline, steps: int) -> None:
        self.pipeline, self.steps = pipeline, steps
        self.bank: LatentBank | None = None
        self._heldout_loss: float | None = None

    def settings_key(self) -> dict[str, Any]:
        """All that decides which words are learned, but for the number of steps, which a resumed run may raise."""
        config, inversion = self.pipeline.config, self.pipeline.inversion_of_prior()
        objective = inversion.objective
        return {
            "--pipeline.prior (its weights)": inversion.prior.info.fingerprint,
            "--pipeline.vectors": self.pipeline.vectors,
            **({"--pipeline.init": "encoder"} if self.pipeline.encodes else {}),
            "--pipeline.init-word": self.pipeline.init_word(),
            "--pipeline.init-jitter": self.pipeline.init_jitter(),
            "--pipeline.lr": self.learning_rate(),
            "--pipeline.lr-decay": config.lr_decay,
            "--pipeline.norm-penalty": config.norm_penalty,
            "--pipeline.resolution": config.resolution or inversion.prior.info.image_size,
            "--pipeline.bank-groups": config.bank_groups,
            "--pipeline.heldout-groups": config.heldout_groups,
            "--pipeline.groups-per-step": config.groups_per_step,
            "--pipeline.per-view-timesteps": objective.per_view_timesteps,
            "--pipeline.timestep-range": list(objective.timestep_range),
            **self.pipeline.words_setting(),
        }

    def learning_rate(self) -> float:
        """The user's learning rate, or the prior's own."""
        lr = self.pipeline.config.lr
        return self.pipeline.inversion_of_prior().prior.info.inversion_learning_rate if lr is None else lr

    def begin(self, run: Run, state: dict[str, Any] | None) -> None:
        """Freeze the splats, render and encode the bank of views, create and describe the words unless they exist.

        Raises:
            Cancelled: the run was asked to stop meanwhile.
        """
        pipeline, config = self.pipeline, self.pipeline.config
        inversion = pipeline.inversion_of_prior()
        title = "Rendering and encoding the scene's orbits"

        def report(done: int, total: int) -> None:
            progress(done, total)
            if run.should_stop():
                raise Cancelled

        def render(cameras: Cameras) -> Float[Tensor, "F H W 3"]:
            with run.lock:  # for a view at a time, so that viewers may look in between
                return pipeline.model.render(cameras)

        with run.timed("bank"), pipeline.prior.use(), run.progress(title) as progress:
            with run.lock:
                pipeline.eval()
                pipeline.model.freeze()
                apply_prior_options(inversion.prior, config.prior_options, pipeline.device)
            self.bank = build_bank(
                render,
                inversion.prior,
                groups=config.bank_groups,
                heldout_groups=config.heldout_groups,
                size=config.resolution,
                seed=inversion.seed,
                progress=report,
            )
            if pipeline.words is None:
                if pipeline.encodes:
                    initial = inversion.encoded_words(self.bank)
                else:
                    initial = inversion.initial_words(pipeline.vectors, pipeline.init_word(), pipeline.init_jitter())
                with run.lock:
                    pipeline.words = Parameter(initial.to(pipeline.device))
            elif self.steps and pipeline.words.shape != (pipeline.vectors, inversion.prior.info.token_dim):
                raise InputError(
                    f"the words there are have shape {tuple(pipeline.words.shape)}, but {pipeline.vectors} vectors of "
                    f"prior {inversion.prior.info.name!r} are asked for; resume with the settings that the run was "
                    "started with"
                )
        with run.lock:
            pipeline.describe()  # before the first checkpoint, which keeps what is said

    def optimizers(self, configured: dict[str, Any]) -> Optimizers:
        """AdamW (official code) on the words, and the decay of its learning rate, if any."""
        steps = max(self.steps, 1)
        decay = CosineDecaySchedulerConfig(warm_up_end=0, learning_rate_alpha=0.0, max_steps=steps)
        words = {
            "optimizer": AdamWOptimizerConfig(lr=self.learning_rate()),
            "scheduler": decay if self.pipeline.config.lr_decay else None,
        }
        assert self.pipeline.words is not None, "begin() comes first"
        return Optimizers({"words": words}, {"words": [self.pipeline.words]})

    def losses(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The terms of the inversion's loss at step ``index``, and the mean length of the vectors."""
        pipeline = self.pipeline
        assert self.bank is not None and pipeline.words is not None, "begin() comes first"
        losses = pipeline.inversion_of_prior().loss(pipeline.words, self.bank, index, pipeline.config.groups_per_step)
        return losses, {"mean_length": pipeline.words.detach().norm(dim=-1).mean()}

    def step(self, run: Run, index: int) -> StepOutput:
        """One of nerfstudio's iterations; the backward pass runs in its code, outside what the prior guards."""
        with explain_out_of_memory("inversion", self.pipeline.config.prior_options), self.pipeline.prior.use():
            return run.iterate(index)

    def observe(self, run: Run, index: int) -> None:
        """Measure the held-out loss and show a preview, as often as the settings say."""
        pipeline, config, done = self.pipeline, self.pipeline.config, index + 1
        assert self.bank is not None and pipeline.words is not None
        if config.heldout_every and done % config.heldout_every == 0:
            with pipeline.prior.use():
                objective = pipeline.inversion_of_prior()
                self._heldout_loss = objective.heldout_loss(pipeline.words, self.bank, groups=2)
            run.log_scalar("Held-out Loss", self._heldout_loss)
        if config.preview_every and done % config.preview_every == 0 and done < self.steps:
            run.show_picture(words_report.PICTURE, words_report.preview(pipeline, self.bank))

    def status(self) -> Sequence[str]:
        """The latest held-out loss."""
        return () if self._heldout_loss is None else (f"Held-out loss {self._heldout_loss:.4f}",)

    def finish(self, run: Run) -> Sequence[str]:
        """Write ``embedding.safetensors``, ``views.png`` and ``metrics.json``, and say how good the words are."""
        assert self.bank is not None, "begin() comes first"
        with run.lock, self.pipeline.prior.use():
            outputs = words_report.write_outputs(self.pipeline, self.bank, self.steps, run, lr=self.learning_rate())
        run.show_picture(words_report.PICTURE, outputs.picture)
        words_report.announce(outputs)
        return words_report.next_commands(outputs, run.folder)
