"""How alike two sets of images are: PSNR, structural similarity, and overlap of silhouettes on white."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
_SEEN = 0.08
"""Difference from white from which on a pixel is the object's."""


def psnr(images: Float[Tensor, "*B 3 H W"], truth: Float[Tensor, "*B 3 H W"]) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1], computed for each image, then averaged; 100 at most."""
    error = (images - truth).square().flatten(-3).mean(-1).clamp_min(1e-10)
    return (-10 * error.log10()).mean().item()


def object_pixels(images: Float[Tensor, "*B 3 H W"]) -> Bool[Tensor, "*B H W"]:
    """Where images in [0, 1] of an object on white show the object."""
    return (1 - images).amax(-3) > _SEEN


def silhouette_overlap(images: Float[Tensor, "*B 3 H W"], truth: Float[Tensor, "*B 3 H W"]) -> float:
    """Mean intersection over union of what differs from white in images in [0, 1]; 0 where both are all white."""
    ours, theirs = object_pixels(images), object_pixels(truth)
    both, either = (ours & theirs).flatten(-2).sum(-1), (ours | theirs).flatten(-2).sum(-1)
    return float((both / either.clamp_min(1)).mean())


def ssim(a: Float[Tensor, "B C H W"], b: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """Mean structural similarity (Wang et al. 2004) of images in [0, 1], with the usual Gaussian window.

    Differentiable in both. Equal to pytorch_msssim's, but one depthwise convolution filters the five moments of all
    channels, where that makes five: about half the time on a CPU, where it was the largest part of a step of fitting
    splats.

    Raises:
        ValueError: the images are smaller than the window of 11 pixels.
    """
    height, width = a.shape[-2:]
    if min(height, width) < _WINDOW:
        raise ValueError(f"images of {height}x{width} pixels are smaller than the window of {_WINDOW}")
    window = _window(a.device, a.dtype)
    moments = torch.cat([a, b, a * a, b * b, a * b], dim=1)
    channels = moments.shape[1]
    for kernel in (window[:, None], window[None, :]):
        moments = functional.conv2d(moments, kernel.expand(channels, 1, *kernel.shape), groups=channels)
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = moments.chunk(5, dim=1)
    variance_a, variance_b = mean_aa - mean_a * mean_a, mean_bb - mean_b * mean_b
    covariance = mean_ab - mean_a * mean_b
    contrast = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a * mean_a + mean_b * mean_b + _C1)
    return (luminance * contrast).mean()


@lru_cache(maxsize=8)
def _window(device: torch.device, dtype: torch.dtype) -> Float[Tensor, "11"]:
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    window = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    return (window / window.sum()).to(device, dtype)
