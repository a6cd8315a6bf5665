"""Training of the judge: true renders with seeds of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from invert3d_ns.prior.training.data import WorldViews
from invert3d_ns.prior.training.loop import Stage
from invert3d_ns.prior.training.shapes import CLASSES
from invert3d_ns.prior.training.world import COLOURS

if TYPE_CHECKING:
    from invert3d_ns.metrics.judge import Judge

SEED = 900
"""Seed of the judge's training set; priors train on others."""
OBJECTS = 4096
"""Objects in the judge's training set."""


def train_judge(
    folder: Path, data: WorldViews, steps: int, *, batch: int = 96, lr: float = 2e-3, seed: int = 0
) -> Judge:
    """Train on class and main colour, with blur and noise so that soft generated views are judged by what they show."""
    from torchvision.transforms.functional import gaussian_blur

    from invert3d_ns.metrics.judge import Judge

    torch.manual_seed(seed)
    model = Judge(len(CLASSES), len(COLOURS))
    stage = Stage("judge", folder, model, steps, lr)
    views = data.rgb.shape[1]

    def loss(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        objects = torch.randint(len(data), (batch,), generator=generator)
        seen = torch.randint(views, (batch,), generator=generator)
        images = torch.from_numpy(data.rgb[objects.numpy(), seen.numpy()]).permute(0, 3, 1, 2).float() / 255
        draw = torch.rand(3, generator=generator).tolist()
        if draw[0] < 0.6:
            images = gaussian_blur(images, [5, 5], [0.3 + 1.2 * draw[1]])
        images = (images + 0.04 * draw[2] * torch.randn(images.shape, generator=generator)).clamp(0, 1)
        a, b = model(images)
        first = nn.functional.cross_entropy(a, data.classes[objects], label_smoothing=0.02)
        second = nn.functional.cross_entropy(b, data.colours[objects], label_smoothing=0.02)
        right = (a.argmax(1) == data.classes[objects]).float().mean()
        return {"loss": first + second, "class": right, "colour": (b.argmax(1) == data.colours[objects]).float().mean()}

    stage.run(loss)
    return model.eval()


def save_judge(judge: Judge, path: Path) -> None:
    """Write the weights in half precision."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half() for k, v in judge.state_dict().items() if v.is_floating_point()}, path)
