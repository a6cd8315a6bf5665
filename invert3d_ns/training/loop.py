"""The training loop of every stage: checkpoints are atomic, and a killed run goes on where it stopped."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.random import global_stream
from invert3d_ns.runs.resume import require_plain
from invert3d_ns.training.checkpoints import clear_leftovers, read_checkpoint, refuse_other_training, write_checkpoint
from invert3d_ns.training.muon import Muon, split_parameters

CHECKPOINT_EVERY = 200
"""Steps between checkpoints."""


def step_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator for the randomness of one training step.

    Not one of :mod:`invert3d_ns.base.random`: the shipped weights were trained on the batches of these, and whoever
    repeats a training gets the same ones.
    """
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


@contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Let networks built on the CPU draw their weights from ``seed``; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let no gradient reach a module's weights for as long as the context lasts."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def warmup_stable_decay(step: int, steps: int, warmup: int = 100, decay_share: float = 0.35) -> float:
    """Factor of the learning rate: linear over ``warmup`` steps, then one, then linear to zero over the last share.

    Unlike a cosine, it lets a run be resumed with another number of steps: all that came before the decay still fits.
    """
    rest = (steps - step) / max(decay_share * steps, 1)
    return min((step + 1) / warmup, 1.0) * min(rest, 1.0)


@dataclass
class Stage:
    """A model, its optimizer and an average of its weights, trained for a number of steps.

    The state is kept in ``<folder>/<name>.pt``; a stage whose file says that all steps are done trains nothing.

    Raises:
        InputError: that file is damaged, or of a training with other settings.
    """

    name: str
    folder: Path
    model: nn.Module
    steps: int
    lr: float
    settings: Mapping[str, Any] | None = None
    """What a training that is resumed must share with the one that was begun, by the flag that sets it or in words;
    plain data. None compares nothing, for a stage whose weights are only read."""
    seed: int = 0
    """Of what layers draw for themselves."""
    weight_decay: float = 1e-2
    ema_decay: float = 0.998
    decay_share: float = 0.35
    """Share of the steps, the last ones, over which the learning rate falls to zero."""
    clip: float = 1.0
    log_every: int = 50
    muon: bool = False
    """Train hidden matrices and kernels with Muon, the rest with AdamW at the same learning rate times ``adam_share``;
    else AdamW trains all."""
    adam_share: float = 0.4
    sample: Callable[[nn.Module, int], None] | None = None
    """Called with the averaged weights in place after every ``sample_every``-th step: sample grids."""
    sample_every: int = 1000
    history: list[dict[str, float]] = field(default_factory=list)
    """Means of what was logged, each over the steps since the one before."""

    def __post_init__(self) -> None:
        from diffusers.training_utils import EMAModel

        hidden, rest = split_parameters(self.model) if self.muon else ([], self._trained())
        adam_lr = self.lr * (self.adam_share if self.muon else 1.0)
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=self.weight_decay, fused=True)
        ]
        if hidden:
            self.optimizers.append(Muon(hidden, lr=self.lr, weight_decay=self.weight_decay))
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.ema = EMAModel(
            self._trained(), decay=self.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=True
        )
        self.done, self._saved = 0, -1
        self._sums: dict[str, Tensor] = {}
        self._summed: dict[str, int] = {}
        if self.path.exists():
            self._load()

    @property
    def path(self) -> Path:
        """The file of the checkpoint."""
        return self.folder / f"{self.name}.pt"

    def save(self) -> None:
        """Write the checkpoint, or leave the old one as it is.

        Raises:
            InputError: it cannot be written, or the training has come to nothing (NaN).
        """
        self._require_finite()
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "ema": self.ema.state_dict(),
            "done": self.done,
            "history": self.history,
            "sums": self._sums,
            "summed": self._summed,
            "settings": require_plain({self.name: self.settings or {}})[self.name],
        }
        write_checkpoint(state, self.path)
        self._saved = self.done

    def _load(self) -> None:
        state = read_checkpoint(self.path)
        if self.settings is not None:
            refuse_other_training(self.path, self.settings, saved=state)
        try:
            self.model.load_state_dict(state["model"])
            for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(kept)
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"{self.path} is of another network than this training's; train in another folder (--out)"
            ) from error
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.device)
        self.done, self.history = state["done"], state["history"]
        self._saved = self.done
        self._sums, self._summed = state["sums"], state["summed"]

    def train(self, loss: Callable[[int], dict[str, Tensor]]) -> None:
        """Train to the last step.

        Args:
            loss: step -> named values, of which "loss" is minimized and all are logged, each as the mean over the steps
                that have it. It must take its randomness
                from the step, so that a resumed run sees the batches that an unbroken one sees.

        Raises:
            InputError: a checkpoint cannot be written, or the training has come to nothing (NaN): the last one stays.
        """
        clear_leftovers(self.path)
        self.model.train()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns) as progress:
            task = progress.add_task(self.name, total=self.steps, completed=self.done)
            for step in range(self.done, self.steps):
                factor = warmup_stable_decay(step, self.steps, decay_share=self.decay_share)
                with global_stream("layers of a stage", self.device, self.seed, step, zlib.crc32(self.name.encode())):
                    values = loss(step)
                    values["loss"].backward()
                nn.utils.clip_grad_norm_(self._trained(), self.clip)
                for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
                    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                        group["lr"] = peak * factor
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                self.ema.step(self._trained())
                self.done = step + 1
                self._log(values, progress)
                if self.done % CHECKPOINT_EVERY == 0:
                    self.save()
                if self.sample is not None and self.done % self.sample_every == 0:
                    with self.averaged():
                        self.sample(self.model, self.done)
                progress.update(task, completed=self.done)
        if self.done != self._saved:
            self.save()

    def _log(self, values: dict[str, Tensor], progress: Progress) -> None:
        # Sums stay on the device until they are shown: reading a number waits for everything before it.
        for key, value in values.items():
            before = self._sums.get(key)
            self._sums[key] = value.detach() if before is None else before.to(value.device) + value.detach()
            self._summed[key] = self._summed.get(key, 0) + 1
        if self.done % self.log_every == 0:
            self._require_finite()
            means = {key: float(value) / self._summed[key] for key, value in self._sums.items()}
            self.history.append({"step": self.done, **means})
            line = "  ".join(f"{key} {value:.4f}" for key, value in means.items())
            progress.console.print(f"{self.name} {self.done}/{self.steps}  {line}", highlight=False)
            self._sums, self._summed = {}, {}

    def _require_finite(self) -> None:
        if "loss" in self._sums and not self._sums["loss"].isfinite():
            kept = f"; {self.path} is as it was before" if self.path.exists() else ""
            raise InputError(
                f"the {self.name}'s loss is not finite any more, within {self._summed['loss']} steps before step "
                f"{self.done}"
                f"{kept}; train with a lower learning rate"
            )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the running average of the weights in their place for as long as the context lasts."""
        self.ema.store(self._trained())
        self.ema.copy_to(self._trained())
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.ema.restore(self._trained())
            self.model.train()

    def use_average(self) -> None:
        """Replace the model's weights by their running average (for evaluation and export)."""
        self.ema.copy_to(self._trained())
        self.model.eval()
