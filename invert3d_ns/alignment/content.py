"""How far views are from others in what they show, by features of a frozen tower."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from invert3d_ns.alignment.clip import ClipTowers
from invert3d_ns.base.errors import InputError

VGG_LAYERS = (21, 30)
"""Of torchvision's VGG19: conv4_2 and conv5_2 (CLIPstyler)."""


class ContentLoss:
    """Mean squared difference of features, in units of their own mean square.

    Args:
        extract: images (RGB in [0, 1]) to features.
    """

    def __init__(self, extract: Any) -> None:
        self._extract = extract

    def __call__(self, views: Float[Tensor, "B 3 H W"], before: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
        """How far ``views`` are from ``before``; gradients reach the former."""
        with torch.no_grad():
            wanted = self._extract(before)
        return torch.stack(
            [
                (ours - theirs).square().mean() / theirs.square().mean().clamp_min(1e-8)
                for ours, theirs in zip(self._extract(views), wanted, strict=True)
            ]
        ).mean()


def content_of_towers(towers: Sequence[ClipTowers]) -> ContentLoss:
    """By a middle layer of CLIP's image towers, as open_clip gives it."""

    def extract(images: Tensor) -> list[Tensor]:
        found = []
        for each in towers:
            visual = each.model.visual
            # Stages of ResNets (and of timm's models) are few and large: the third of five is the middle.
            blocks = len(visual.transformer.resblocks) if hasattr(visual, "transformer") else 5
            given = visual.forward_intermediates(
                each.preprocess(images).to(each.dtype),
                indices=[blocks // 2],
                stop_early=True,
                intermediates_only=True,
            )
            found.append(given["image_intermediates"][0].float())
        return found

    return ContentLoss(extract)


def content_of_vgg(device: torch.device | str) -> ContentLoss:
    """By torchvision's VGG19, whose weights (548 MB) are downloaded once.

    Raises:
        InputError: they are not there and cannot be downloaded.
    """
    from torchvision.models import VGG19_Weights, vgg19

    weights = VGG19_Weights.IMAGENET1K_V1
    try:
        layers: Any = vgg19(weights=weights).features
    except OSError as error:
        name = Path(weights.url).name
        raise InputError(
            f"VGG19's weights cannot be downloaded ({error}); put {name} into {torch.hub.get_dir()}/checkpoints, or "
            "give --pipeline.keep.content-features towers"
        ) from error
    network = layers[: max(VGG_LAYERS) + 1].eval().requires_grad_(False).to(device)
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=device).view(3, 1, 1)

    def extract(images: Tensor) -> list[Tensor]:
        found, values = [], (images - mean) / std
        for index, layer in enumerate(network):
            # In place, a ReLU would overwrite the features that are kept.
            values = nn.functional.relu(values) if isinstance(layer, nn.ReLU) else layer(values)
            if index in VGG_LAYERS:
                found.append(values)
        return found

    return ContentLoss(extract)
