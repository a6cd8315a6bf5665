"""Stage 1: the image autoencoder, diffusers' ``AutoencoderKL`` at a small size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.prior.training.data import WorldViews
from invert3d_ns.prior.training.loop import Stage

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

ARCHITECTURE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (24, 48, 96, 128),
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 8,
    "sample_size": 64,
    "scaling_factor": 1.0,
}
KL_WEIGHT = 1e-6
FOREGROUND_WEIGHT = 3.0
"""Weight of an object's pixels over the background's, which are half of the image and all white."""
CROP = 32
"""Side of the crops that most steps train on, in pixels: a quarter of the cost of a view, and nearly all of it
object."""
CROP_SHARE = 0.8
"""Share of the steps, from the first on, that train on crops; the rest sees whole views."""


def reconstruction_loss(output: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
    """Absolute and squared error, the object's pixels weighted up; that of 8x8 means; absolute error of gradients.

    Images are in [-1, 1]. The means make colours come early: without them the first thousand steps learn brightness
    only.
    """
    weight = 1 + (FOREGROUND_WEIGHT - 1) * (target.amin(1, keepdim=True) < 0.98).float()
    error = output - target
    dx, dy = error.diff(dim=-1), error.diff(dim=-2)
    means = torch.nn.functional.avg_pool2d(error, 8)
    fine = (weight * (error.abs() + 2 * error.square())).mean() + 0.5 * (dx.abs().mean() + dy.abs().mean())
    return fine + 2 * means.abs().mean() + 8 * means.square().mean()


def train_autoencoder(folder: Path, data: WorldViews, steps: int, *, batch: int = 24, lr: float = 1.5e-3, seed: int = 0,
                      device: str = "cpu") -> AutoencoderKL:  # fmt: skip
    """Train, average, and fold the latents' mean and spread into the quantisation convolutions.

    Returns:
        An autoencoder whose latents have zero mean and unit variance in each channel, so that its scaling factor is 1.
    """
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    model = AutoencoderKL(**ARCHITECTURE).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    stage = Stage("autoencoder", folder, model, steps, lr, weight_decay=1e-4)
    views = data.rgb.shape[1]

    def loss(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        whole = step >= CROP_SHARE * steps
        count, side = (batch // 2, data.rgb.shape[2]) if whole else (batch, CROP)
        chosen = torch.randint(len(data) * views, (count,), generator=generator).tolist()
        # The middle half of the possible corners: an object fills the middle of its view.
        room = data.rgb.shape[2] - side
        corners = (room // 4 + torch.randint(room // 2 + 1, (count, 2), generator=generator)).tolist()
        images = torch.stack(
            [
                torch.from_numpy(data.rgb[i // views, i % views, y : y + side, x : x + side].copy())
                for i, (y, x) in zip(chosen, corners, strict=True)
            ]
        )
        target = (images.permute(0, 3, 1, 2).float() / 127.5 - 1).to(device, memory_format=torch.channels_last)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            posterior = model.encode(target, return_dict=False)[0]
            sample = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
            # diffusers declares FloatTensor, a float32 tensor on a CPU, but takes any tensor.
            output = model.decode(sample, return_dict=False)[0]  # type: ignore[arg-type]
        reconstruction = reconstruction_loss(output.float(), target)
        kl = posterior.kl().mean()
        mse = (output.detach().float() - target).square().mean() / 4
        return {"loss": reconstruction + KL_WEIGHT * kl, "kl": kl.detach(), "psnr": -10 * mse.log10()}

    stage.run(loss)
    stage.use_average()
    normalise_latents(model, data)
    return model


@torch.no_grad()
def normalise_latents(model: AutoencoderKL, data: WorldViews, count: int = 256) -> None:
    """Make latents zero-mean and unit-variance per channel, exactly, by the two 1x1 quantisation convolutions."""
    device, count = model.device, min(count, len(data))
    images = data.images(torch.arange(count) * (len(data) // count)).flatten(0, 1).to(device)
    moments = torch.cat([model.encode(part * 2 - 1, return_dict=False)[0].mean for part in images.split(64)])
    mean, std = moments.mean((0, 2, 3)), moments.std((0, 2, 3))
    quant, post = model.quant_conv, model.post_quant_conv
    assert quant is not None and post is not None
    channels = len(mean)
    post.bias += post.weight.flatten(1) @ mean  # type: ignore[union-attr, operator]
    post.weight *= std.view(1, -1, 1, 1)
    quant.weight[:channels] /= std.view(-1, 1, 1, 1)
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std  # type: ignore[index]
    quant.bias[channels:] -= 2 * std.log()  # type: ignore[index]


@torch.no_grad()
def reconstruction_psnr(model: AutoencoderKL, images: Float[Tensor, "B 3 H W"]) -> tuple[float, float]:
    """PSNR in dB over whole images in [0, 1], and over the objects' pixels only."""
    latents = [model.encode(part * 2 - 1, return_dict=False)[0].mode() for part in images.split(64)]
    output = torch.cat([model.decode(part, return_dict=False)[0] for part in latents])  # type: ignore[arg-type]
    error = ((output / 2 + 0.5).clamp(0, 1) - images).square()
    mask = (images.amin(1, keepdim=True) < 0.99).expand_as(images)
    return float(-10 * error.mean().log10()), float(-10 * error[mask].mean().log10())
