"""Image metrics."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def psnr(images: Float[Tensor, "*B 3 H W"], truth: Float[Tensor, "*B 3 H W"]) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1], computed for each image, then averaged."""
    error = (images - truth).square().flatten(-3).mean(-1).clamp_min(1e-10)
    return (-10 * error.log10()).mean().item()
