"""Train the judge, on true renders with seeds of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from invert3d_ns.training.compute import mixed_precision
from invert3d_ns.training.judge_data import JudgedViews
from invert3d_ns.training.loop import Stage, initial_weights, step_generator

if TYPE_CHECKING:
    from invert3d_ns.metrics.judge import Judge

SEED = 900
"""Seed of the judge's training set; priors and CLIP train on others."""
TEST_SEED = 901
"""Seed of the renders that the judge is graded on."""
OBJECTS = 24576
"""Objects in the judge's training set."""
TEST_OBJECTS = 512
"""Objects that the judge is graded on."""
PEAK, WARM_PEAK = 1e-2, 4e-3
"""Peak learning rate of a fresh judge, and of one that goes on from a finished one."""
SHARPNESS = 14.0
"""Concentration of the azimuth's target over its bins: a standard deviation of one bin, 15 degrees."""


def train_judge(
    folder: Path,
    data: JudgedViews,
    steps: int,
    *,
    batch: int = 128,
    lr: float | None = None,
    start: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> Judge:
    """Train on class, color, pattern, style and azimuth of degraded views; a second call goes on where it stopped.

    Colors count only where the style shows them, azimuths only of upright objects with a front.

    Args:
        folder: for the checkpoint.
        data: what to learn from; :data:`SEED` is its seed.
        steps: optimizer steps.
        batch: views a step.
        lr: peak learning rate of Muon, a fifth of it is AdamW's; :data:`PEAK`, and :data:`WARM_PEAK` with ``start``.
        start: weights of a finished judge to go on from.
        seed: of weights, batches and degradations.
        device: where to train.
        settings: what else a resumed training must share, by flag.

    Raises:
        InputError: ``folder`` has a checkpoint of a training with other settings, or cannot be written.
    """
    from invert3d_ns.metrics.judge import KINDS, Judge

    with initial_weights(seed):
        model = Judge() if start is None else Judge.load(start)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    peak = lr or (PEAK if start is None else WARM_PEAK)
    own = {
        "--seed": seed,
        "--start": start and start_digest(start),
        "the learning rate": peak,
        "the views a step": batch,
        "the training set": data.fingerprint(),
        **(settings or {}),
    }
    stage = Stage("judge", folder, model, steps, peak, own, seed, weight_decay=0.03, muon=True, adam_share=0.2)

    def loss(step: int) -> dict[str, Tensor]:
        generator = step_generator(seed, step)
        views = torch.randint(len(data), (batch,), generator=generator)
        images = degrade_views(data.images(views), generator).to(device)
        targets = {kind: getattr(data.truth, kind)[views].to(device) for kind in (*KINDS, "azimuths")}
        with mixed_precision(device):
            logits = model(images.contiguous(memory_format=torch.channels_last))
        return judge_losses({kind: values.float() for kind, values in logits.items()}, targets)

    stage.train(loss)
    return model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def start_digest(start: Path) -> str:
    """What weights to start from are called: the first eight digits of the file's sha256."""
    return hashlib.sha256(start.read_bytes()).hexdigest()[:8]


def judge_losses(logits: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sum the heads' cross-entropies, each over what can be judged, as "loss"; and give shares of right views."""
    from invert3d_ns.metrics.judge import KINDS, colorless

    device = logits["classes"].device
    masks = dict.fromkeys(KINDS, torch.ones(len(targets["classes"]), dtype=torch.bool, device=device))
    masks["colors"] = ~colorless().to(device)[targets["styles"]]
    found: dict[str, Tensor] = {}
    total = torch.zeros((), device=device)
    for kind, mask in masks.items():
        each = nn.functional.cross_entropy(logits[kind], targets[kind], label_smoothing=0.02, reduction="none")
        total = total + (each * mask).mean()
        right = (logits[kind].argmax(1) == targets[kind]).float()
        found[kind] = (right * mask).sum() / mask.sum().clamp_min(1)
    told = ~targets["azimuths"].isnan()
    each = nn.functional.cross_entropy(logits["azimuths"], azimuth_targets(targets["azimuths"]), reduction="none")
    return {"loss": total + (each * told).mean(), **found}


def azimuth_targets(azimuths: Float[Tensor, " B"]) -> Float[Tensor, "B bins"]:
    """Make target shares of the azimuth's bins: a bump around each azimuth (degrees), uniform where it is NaN."""
    from invert3d_ns.metrics.judge import BINS

    centers = torch.arange(BINS, device=azimuths.device) * (360 / BINS)
    off = torch.deg2rad(azimuths.nan_to_num()[:, None] - centers)
    return (SHARPNESS * off.cos() * ~azimuths.isnan()[:, None]).softmax(1)


def degrade_views(images: Float[Tensor, "B 3 H W"], generator: torch.Generator) -> Float[Tensor, "B 3 H W"]:
    """Shift, hide, blur, blotch and add noise to views in [0, 1], so that soft generated ones are judged by content.

    Every quarter of the batch has its own blur: none, a Gaussian, or a view of fewer pixels enlarged again.
    """
    from torchvision.transforms.functional import gaussian_blur

    count, size = len(images), images.shape[-1]
    draw = torch.rand(count, 5, generator=generator)
    frame = torch.zeros(count, 2, 3)
    frame[:, 0, 0] = frame[:, 1, 1] = 0.92 + 0.16 * draw[:, 0]
    frame[:, :, 2] = 0.16 * (draw[:, 1:3] - 0.5)
    grid = nn.functional.affine_grid(frame, list(images.shape), align_corners=False)
    images = nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    parts = list(images.chunk(4))
    for index, part in enumerate(parts):
        kind, strength = torch.rand(2, generator=generator).tolist()
        if kind < 0.4:
            parts[index] = gaussian_blur(part, [5, 5], [0.2 + 0.8 * strength])
        elif kind < 0.7:
            few = nn.functional.interpolate(part, (round(size * (0.6 + 0.35 * strength)),) * 2, mode="area")
            parts[index] = nn.functional.interpolate(few, (size, size), mode="bilinear")
        # In every other view a square is hidden, so that no one spot decides.
        top, left = torch.randint(size - 12, (2,), generator=generator).tolist()
        some = parts[index][::2, :, top : top + 12, left : left + 12]
        some.copy_(torch.rand(len(some), 3, 1, 1, generator=generator))
    images = torch.cat(parts)
    blotches = torch.randn(count, 3, size // 8, size // 8, generator=generator)
    blotches = nn.functional.interpolate(blotches, (size, size), mode="bilinear")
    noise = torch.randn(images.shape, generator=generator)
    weight = draw[:, 3:5, None, None, None].square() * 0.06
    return (images + weight[:, 0] * blotches + weight[:, 1] * noise).clamp(0, 1)


def judge_accuracy(judge: Judge, data: JudgedViews) -> dict[str, float]:
    """Measure the share of true renders of which class, color, pattern, style and azimuth are named as they are."""
    from invert3d_ns.metrics.judge import mean_shares

    return mean_shares(judge.judge(data.images(slice(None))).right(data.truth))
