"""Train the image autoencoder, stage 1 of the prior: diffusers' ``AutoencoderKL`` at a small size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.inputs import read_json
from invert3d_ns.base.random import random_stream
from invert3d_ns.training.compute import mixed_precision
from invert3d_ns.training.latents import encoder_fingerprint
from invert3d_ns.training.loop import Stage, initial_weights, step_generator
from invert3d_ns.world.data import WorldViews

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

ARCHITECTURE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (32, 64, 128, 128),
    "layers_per_block": 1,
    "latent_channels": 32,
    "norm_num_groups": 8,
    "sample_size": 64,
    "scaling_factor": 1.0,
}
KL_WEIGHT = 1e-6
"""Weight of the latents' Kullback-Leibler divergence from a unit Gaussian."""
FOREGROUND_WEIGHT = 4.0
"""Weight of an object's pixels over the background's, which are more than half of the image and all white."""
CROP = 32
"""Side of the crops that most steps train on, in pixels: a quarter of the cost of a view, and nearly all of it
object."""
CROP_SHARE = 0.8
"""Share of the steps, from the first on, that train on crops; the rest sees whole views."""
MOMENTS = "autoencoder-moments.json"
"""File beside the checkpoint with the means and spreads of latents that they were normalized by."""
DECODER_NOISE = 0.1
"""Standard deviation of the noise on latents, which have unit variance, while the decoder is finished: sampled latents
are never quite an image's."""


def reconstruction_loss(
    output: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]
) -> Float[Tensor, ""]:
    """Absolute and squared error, the object's pixels weighted up; that of 8x8 means; absolute error of gradients.

    Images are in [-1, 1], ``mask`` is the coverage in [0, 1]. The means make colors come early.
    """
    weight = 1 + (FOREGROUND_WEIGHT - 1) * mask
    error = output - target
    dx, dy = error.diff(dim=-1), error.diff(dim=-2)
    means = torch.nn.functional.avg_pool2d(error, 8)
    fine = (weight * (0.5 * error.abs() + 4 * error.square())).mean() + 0.25 * (dx.abs().mean() + dy.abs().mean())
    return fine + means.abs().mean() + 4 * means.square().mean()


class _Crops:
    """Batches of crops or of whole views, drawn by the step."""

    def __init__(self, data: WorldViews, batch: int, seed: int, device: str) -> None:
        self.data, self.batch, self.seed, self.device = data, batch, seed, device

    def draw(self, step: int, whole: bool) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 1 H W"]]:
        """Draw the images of a step, in [-1, 1], and their coverage in [0, 1]."""
        data, generator = self.data, step_generator(self.seed, step)
        views, size = data.rgb.shape[1:3]
        count, side = (self.batch // 2, size) if whole else (self.batch, CROP)
        chosen = torch.randint(len(data) * views, (count,), generator=generator).tolist()
        # The middle half of the possible corners: an object fills the middle of its view.
        room = size - side
        corners = (room // 4 + torch.randint(room // 2 + 1, (count, 2), generator=generator)).tolist()

        def cut(store: np.ndarray) -> Tensor:
            pieces = [
                store[i // views, i % views, y : y + side, x : x + side]
                for i, (y, x) in zip(chosen, corners, strict=True)
            ]
            return torch.from_numpy(np.stack(pieces))

        images = cut(data.rgb).permute(0, 3, 1, 2).float() / 127.5 - 1
        return (
            images.to(self.device, memory_format=torch.channels_last),
            (cut(data.alpha)[:, None].float() / 255).to(self.device),
        )


def build_autoencoder(device: str = "cpu") -> AutoencoderKL:
    """Build an autoencoder whose residual blocks start as the identity, which is where Muon is quickest from."""
    from diffusers import AutoencoderKL
    from diffusers.models.resnet import ResnetBlock2D

    model = AutoencoderKL(**ARCHITECTURE)
    for module in model.modules():
        if isinstance(module, ResnetBlock2D):
            torch.nn.init.zeros_(module.conv2.weight)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def train_autoencoder(
    folder: Path,
    data: WorldViews,
    steps: int,
    *,
    batch: int = 24,
    lr: float = 4e-3,
    seed: int = 0,
    device: str = "cpu",
    compiled: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> AutoencoderKL:
    """Train an autoencoder, average its weights, and normalize its latents.

    Args:
        folder: for the checkpoint.
        data: what to learn from.
        steps: optimizer steps.
        batch: crops a step, or twice as many as whole views.
        lr: peak learning rate.
        seed: of weights, crops and noise.
        device: where to train.
        compiled: run it through ``torch.compile``.
        settings: what else a resumed training must share, by flag.

    Returns:
        An autoencoder whose latents have zero mean and unit variance in each channel, so that its scaling factor is 1.

    Raises:
        InputError: ``folder`` has a checkpoint of a training with other settings, or cannot be written.
    """
    with initial_weights(seed):
        model = build_autoencoder(device)
    own = _settings(data, batch, lr, seed) | dict(settings or {})
    stage = Stage("autoencoder", folder, model, steps, lr, own, seed, weight_decay=1e-3, muon=True)
    crops = _Crops(data, batch, seed, device)

    def forward(target: Tensor, mask: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with mixed_precision(device):
            posterior = model.encode(target, return_dict=False)[0]
            sample = posterior.mean + posterior.std * noise.to(posterior.mean)
            # diffusers declares FloatTensor, a float32 tensor on a CPU, but takes any tensor.
            output = model.decode(sample, return_dict=False)[0]  # type: ignore[arg-type]
        reconstruction = reconstruction_loss(output.float(), target, mask)
        return reconstruction, posterior.kl().mean(), (output.detach().float() - target).square().mean() / 4

    compute = torch.compile(forward) if compiled else forward

    def loss(step: int) -> dict[str, Tensor]:
        target, mask = crops.draw(step, step >= CROP_SHARE * steps)
        noise = _latent_noise(model, target, random_stream("autoencoder posterior", seed, step))
        reconstruction, kl, mse = compute(target, mask, noise)
        return {"loss": reconstruction + KL_WEIGHT * kl, "kl": kl.detach(), "psnr": -10 * mse.log10()}

    stage.train(loss)
    stage.use_average()
    normalize_latents(model, data, record=folder / MOMENTS)
    return model


def _settings(data: WorldViews, batch: int, lr: float, seed: int) -> dict[str, Any]:
    return {
        "--seed": seed,
        "the learning rate": lr,
        "the views a step": batch,
        "the training set": data.fingerprint(),
    }


def _latent_noise(
    model: AutoencoderKL, images: Float[Tensor, "B 3 H W"], generator: torch.Generator
) -> Float[Tensor, "B c h w"]:
    """Unit Gaussian noise in the shape of images' latents, drawn on the CPU."""
    config = model.config
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    shape = (len(images), config["latent_channels"], images.shape[-2] // factor, images.shape[-1] // factor)
    return torch.randn(shape, generator=generator).to(images.device)


def _decoder_stage(
    folder: Path, model: AutoencoderKL, steps: int, lr: float, settings: Mapping[str, Any] | None = None, seed: int = 0
) -> Stage:
    # A denoiser's training has frozen all of it, if it came first.
    model.requires_grad_(True).encoder.requires_grad_(False)
    assert model.quant_conv is not None
    model.quant_conv.requires_grad_(False)
    return Stage("decoder", folder, model, steps, lr, settings, seed, weight_decay=1e-3, muon=True)


def load_finished_decoder(folder: Path, model: AutoencoderKL) -> None:
    """Load the decoder that :func:`finish_decoder` has trained so far, if it was run, without training it further."""
    stage = _decoder_stage(folder, model, 0, 0.0)
    if stage.done:
        stage.use_average()


def finish_decoder(
    folder: Path,
    model: AutoencoderKL,
    data: WorldViews,
    steps: int,
    *,
    batch: int = 24,
    lr: float = 2e-3,
    seed: int = 0,
    device: str = "cpu",
    compiled: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Train the decoder further, in place, the encoder frozen; arguments are those of :func:`train_autoencoder`.

    Latents stay what they are, so this stage and the denoiser's can run side by side.
    """
    own = _settings(data, batch, lr, seed) | {"the encoder": encoder_fingerprint(model)} | dict(settings or {})
    stage = _decoder_stage(folder, model, steps, lr, own, seed)
    crops = _Crops(data, batch, seed + 1, device)

    def forward(target: Tensor, mask: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        with mixed_precision(device):
            with torch.no_grad():
                latents = model.encode(target, return_dict=False)[0].mode()
            noisy = latents + DECODER_NOISE * noise.to(latents)
            output = model.decode(noisy, return_dict=False)[0]  # type: ignore[arg-type]
        return reconstruction_loss(output.float(), target, mask), (output.detach().float() - target).square().mean() / 4

    compute = torch.compile(forward) if compiled else forward

    def loss(step: int) -> dict[str, Tensor]:
        target, mask = crops.draw(step, step >= 0.5 * steps)
        value, mse = compute(target, mask, _latent_noise(model, target, random_stream("decoder latents", seed, step)))
        return {"loss": value, "psnr": -10 * mse.log10()}

    stage.train(loss)
    stage.use_average()


@torch.no_grad()
def normalize_latents(model: AutoencoderKL, data: WorldViews, count: int = 256, *, record: Path | None = None) -> None:
    """Make latents zero-mean and unit-variance per channel, exactly, by the two 1x1 quantization convolutions.

    Args:
        model: changed in place.
        data: whose latents are measured.
        count: of how many objects at most.
        record: file for what was measured. Where it is of these weights and data, it is taken and nothing is measured:
            the last bits of a measurement differ between machines and numbers of threads, and a training that is
            resumed on another must have the same latents.

    Raises:
        InputError: ``record`` is damaged, or cannot be written.
    """
    subject = {"encoder": encoder_fingerprint(model), "data": data.fingerprint(), "count": count}
    known = read_json(record, "delete it to measure again") if record is not None and record.is_file() else {}
    if {key: known.get(key) for key in subject} == subject:
        mean, std = (torch.tensor(known[name], device=model.device) for name in ("mean", "std"))
    else:
        mean, std = _measure_latents(model, data, count)
        if record is not None:
            with atomic_path(record) as temporary:
                found = {"mean": mean.tolist(), "std": std.tolist()}
                temporary.write_text(json.dumps(subject | found, indent=2) + "\n", encoding="utf-8")
    quant, post = model.quant_conv, model.post_quant_conv
    assert quant is not None and post is not None
    channels = len(mean)
    post.bias += post.weight.flatten(1) @ mean  # type: ignore[union-attr, operator]
    post.weight *= std.view(1, -1, 1, 1)
    quant.weight[:channels] /= std.view(-1, 1, 1, 1)
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std  # type: ignore[index]
    quant.bias[channels:] -= 2 * std.log()  # type: ignore[index]


def _measure_latents(
    model: AutoencoderKL, data: WorldViews, count: int
) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and standard deviation of each channel of latents, over objects spread evenly in the data."""
    count = min(count, len(data))
    images = data.images(torch.arange(count) * (len(data) // count)).flatten(0, 1).to(model.device)
    moments = torch.cat([model.encode(part * 2 - 1, return_dict=False)[0].mean for part in images.split(64)])
    return moments.mean((0, 2, 3)), moments.std((0, 2, 3))


@torch.no_grad()
def reconstruction_psnr(
    model: AutoencoderKL, images: Float[Tensor, "B 3 H W"], masks: Float[Tensor, "B 1 H W"]
) -> tuple[float, float]:
    """Measure reconstructions: PSNR in dB over whole images in [0, 1], and where coverage is above a half."""
    latents = [model.encode(part * 2 - 1, return_dict=False)[0].mode() for part in images.split(64)]
    output = torch.cat([model.decode(part, return_dict=False)[0] for part in latents])  # type: ignore[arg-type]
    error = ((output / 2 + 0.5).clamp(0, 1) - images).square()
    return float(-10 * error.mean().log10()), float(-10 * error[(masks > 0.5).expand_as(images)].mean().log10())
