"""Images as the autoencoder was trained on them: within [0, 1], while gradients lead whatever is outside back in."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def clamp_images(images: Float[Tensor, "*B 3 H W"]) -> Float[Tensor, "*B 3 H W"]:
    """Clamp RGB to [0, 1], differentiably: a loss that falls towards [0, 1] still moves what is outside of it.

    A plain clamp has no gradient outside, and what a scene renders there would never come back. Here the gradient of a
    value outside is that of the clamped one where a step against it leads inwards, and 0 where it leads further out.
    """
    return _Clamp.apply(images)  # type: ignore[return-value]


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.save_for_backward(images)
        return images.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (images,), (grad,) = ctx.saved_tensors, grads
        # Values move against their gradient.
        outwards = ((images > 1) & (grad < 0)) | ((images < 0) & (grad > 0))
        return grad.masked_fill(outwards, 0)
