"""Train the multi-view UNet and its text tower, stage 2 of the prior, together on the autoencoder's latents.

What makes a prior of this size follow its prompts, and why:

- zero terminal SNR and v-prediction (Lin et al. 2023): otherwise colors are read from the noisy latent, not from the
  words;
- half of the timesteps drawn from the noisier part: an 8x8x32 latent still shows its class at a signal-to-noise ratio
  of 1:80, so only there does the network have to listen to the words; patterns are decided a little later;
- objects with patterns make up more of the batches than of the training set, since patterns are learned last;
- part of the batches hold single views of many objects (as MVDream mixes 2D images in): four times as many captions a
  step. Another part holds eight views of few objects, or four from any side, so that more views, and unevenly spaced
  ones, can be asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.info import PriorInfo, fingerprint
from invert3d_ns.training.loop import Stage, step_generator
from invert3d_ns.training.text import build_text_encoder, load_or_build_tokenizer
from invert3d_ns.world.data import WorldViews

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from invert3d_ns.prior.multiview import MultiViewPrior

ARCHITECTURE: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 32,
    "out_channels": 32,
    "block_out_channels": (128, 192),
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "cross_attention_dim": 128,
    "norm_num_groups": 32,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 16,
}
DROP_CAPTION = 0.1
"""Share of captions that are replaced by the empty one, for classifier-free guidance."""
SINGLE_VIEW_SHARE, ALL_VIEWS_SHARE = 0.4, 0.12
"""Shares of batches that hold single views, and that hold every view of an object; the rest holds four."""
SCATTERED_SHARE = 0.25
"""Share of the batches of four views that are any four of an object's, not an evenly spaced orbit."""
NOISY_SHARE = 0.5
NOISY_FROM = 500
"""This share of timesteps is uniform over the noisiest part of the schedule, from this step on; the rest over all of
it."""
PATTERNED_SHARE = 0.6
"""Share of the objects drawn that have a pattern."""
PEAK, WARM_PEAK = 2e-3, 1.2e-3
"""Peak learning rate of Muon for fresh networks, and for those of a finished prior."""
DECAY_SHARE = 0.3
"""Share of the steps, the last ones, over which the learning rate falls to zero."""


def build_unet() -> UNet2DConditionModel:
    """Build a UNet with fresh weights."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**ARCHITECTURE)


def build_scheduler() -> Any:
    """Build Stable Diffusion's schedule rescaled to zero terminal SNR, v-prediction, trailing timesteps."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
    )


def assemble_prior(folder: Path, vae: AutoencoderKL, data: WorldViews, training: dict[str, Any]) -> MultiViewPrior:
    """Build a prior around an autoencoder: fresh UNet and text tower, vocabulary from ``folder`` or from captions."""
    from invert3d_ns.prior.multiview import MultiViewPrior

    captions = (caption for wordings in data.captions for caption in wordings)
    tokenizer = load_or_build_tokenizer(folder / "tokenizer", captions)
    unet, text_encoder, scheduler = build_unet(), build_text_encoder(tokenizer), build_scheduler()
    info = PriorInfo.from_components(
        "bundled",
        unet,
        vae,
        text_encoder,
        tokenizer,
        scheduler,
        init_word="object",
        inversion_learning_rate=2e-2,
        inversion_timesteps=(0.5, 1.0),
        inversion_jitter=1.0,
        guidance_scale=2.5,
        edit_guidance_scale=4.0,
        sampling_steps=8,
        training=training,
    )
    return MultiViewPrior(unet, vae, text_encoder, tokenizer, scheduler, info, frozen=False)


def assemble_from_prior(start: str, data: WorldViews, training: dict[str, Any]) -> MultiViewPrior:
    """Build a prior that goes on from a finished one: its networks, its autoencoder frozen, its vocabulary.

    Args:
        start: a folder that ``invert3d train prior`` wrote, or "bundled".
        data: the training set.
        training: settings of this training; what the prior was made with and is not said anew is kept.

    Raises:
        InputError: the prior is not one of this recipe's, or has no tokens for the captions.
    """
    from invert3d_ns.prior.checkpoints import load_prior
    from invert3d_ns.prior.multiview import MultiViewPrior

    prior = load_prior(start, "cpu", torch.float32)
    info = prior.info
    size = info.image_size, info.prediction_type, prior.vae.config["scaling_factor"]
    if not info.training.get("steps") or size != (data.rgb.shape[2], "v_prediction", 1.0):
        raise InputError(
            f"the prior {start} was not made by `invert3d train prior`; start from one that was, or bundled"
        )
    words = sorted({word for wordings in data.captions for caption in wordings for word in caption.split()})
    spelt = prior.tokenizer(words, add_special_tokens=False)["input_ids"]
    if any(prior.tokenizer.unk_token_id in ids for ids in spelt):
        raise InputError(f"the prior {start} has no tokens for some words of the captions; train without --start")
    before = int(info.training["steps"]) + int(info.training.get("steps_before", 0))
    kept = {key: value for key, value in info.training.items() if key not in ("started_from", "steps_before")}
    training = kept | training | {"started_from": info.fingerprint, "steps_before": before}
    return MultiViewPrior(
        prior.unet.requires_grad_(True),
        prior.vae,
        prior.text_encoder.requires_grad_(True),
        prior.tokenizer,
        prior.scheduler,
        replace(info, name="bundled", training=training),
        frozen=False,
    )


class LatentCache:
    """Latents of a training set, encoded when first drawn and kept in ``folder`` for a training that is resumed."""

    def __init__(self, folder: Path, data: WorldViews, vae: AutoencoderKL, size: int, channels: int) -> None:
        self.data, self.vae = data, vae
        count, views = data.rgb.shape[:2]
        stem = f"{count}x{views}-{fingerprint([vae])}"
        self.latents = _kept(folder / f"latents-{stem}.npy", np.float16, (count, views, channels, size, size))
        self.known = _kept(folder / f"latents-known-{stem}.npy", np.bool_, (count, views))

    @torch.no_grad()
    def encoded(self, objects: Tensor, views: Tensor) -> Float[Tensor, "B F c h w"]:
        """Latents of views ``views`` (B, F) of objects ``objects`` (B,)."""
        rows, columns = objects[:, None].expand_as(views), views
        missing = ~self.known[rows, columns]
        if missing.any():
            r, c = rows[missing], columns[missing]
            images = torch.from_numpy(self.data.rgb[r.numpy(), c.numpy()]).permute(0, 3, 1, 2).float() / 127.5 - 1
            device = self.vae.device
            with torch.autocast(device.type, torch.bfloat16):
                posterior = self.vae.encode(images.to(device, memory_format=torch.channels_last), return_dict=False)[0]
            latents = posterior.mean
            self.latents[r, c] = latents.to("cpu", torch.float16)
            self.known[r, c] = True
        return self.latents[rows, columns].float()


def _kept(path: Path, kind: type[np.generic], shape: tuple[int, ...]) -> Tensor:
    """A tensor whose memory is a file, zero when new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return torch.from_numpy(np.lib.format.open_memmap(path, "r+" if path.exists() else "w+", kind, shape))


def draw_views(images: int, views: int, generator: torch.Generator) -> tuple[int, Int[Tensor, "B F"]]:
    """Draw how many objects a batch of ``images`` views holds, and which of their ``views`` stored views of each."""
    kind, scattered = torch.rand(2, generator=generator).tolist()
    if kind < SINGLE_VIEW_SHARE:
        return images, torch.randint(views, (images, 1), generator=generator)
    if views <= 4 or kind > 1 - ALL_VIEWS_SHARE:
        count = max(images // views, 1)
        return count, torch.arange(views).expand(count, -1)
    count = max(images // 4, 1)
    if scattered < SCATTERED_SHARE:
        return count, torch.rand(count, views, generator=generator).argsort(1)[:, :4]
    step = views // 4
    first = torch.randint(step, (count, 1), generator=generator)
    return count, first + step * torch.arange(4)


def object_weights(data: WorldViews) -> Float[Tensor, " O"]:
    """Chances, in any unit, of drawing each object: together :data:`PATTERNED_SHARE` for those with a pattern."""
    patterned = data.patterns > 0
    count = int(patterned.sum())
    share = torch.tensor([1 - PATTERNED_SHARE, PATTERNED_SHARE])
    return (share / torch.tensor([len(data) - count, count]).clamp_min(1))[patterned.long()]


def _stage(
    folder: Path, prior: MultiViewPrior, steps: int, lr: float, sample: Callable[[int], None] | None = None
) -> Stage:
    prior.vae.requires_grad_(False)
    model = nn.ModuleDict({"unet": prior.unet, "text": prior.text_encoder})
    return Stage(
        "denoiser",
        folder,
        model,
        steps,
        lr,
        muon=True,
        decay_share=DECAY_SHARE,
        sample=sample and (lambda _, done: sample(done)),
    )


def load_checkpoint(folder: Path, prior: MultiViewPrior) -> int:
    """Load the averaged weights of the latest checkpoint, of a training that may still run; return its steps.

    Raises:
        InputError: there is no checkpoint yet.
    """
    stage = _stage(folder, prior, 0, 0.0)
    if not stage.done:
        raise InputError(f"{folder} has no checkpoint of a denoiser yet; run --stage denoiser first")
    stage.use_average()
    return stage.done


def train_denoiser(
    folder: Path,
    prior: MultiViewPrior,
    data: WorldViews,
    steps: int,
    *,
    images: int = 32,
    lr: float = PEAK,
    seed: int = 0,
    compiled: bool = False,
    sample: Callable[[int], None] | None = None,
) -> None:
    """Train the UNet and the text tower in place and leave the averaged weights in them.

    Args:
        folder: checkpoints go here.
        prior: of :func:`assemble_prior`.
        data: the training set.
        steps: optimizer steps.
        images: views a step: a quarter as many objects, or as many in a batch of single views.
        lr: peak learning rate.
        seed: of weights, batches and noise.
        compiled: run the UNet through ``torch.compile``.
        sample: called now and then, the averaged weights in place, with the number of steps done.
    """
    device = prior.device
    cache = LatentCache(folder, data, prior.vae, prior.info.latent_size, prior.info.latent_channels)
    cameras = data.cameras()
    stage = _stage(folder, prior, steps, lr, sample)
    weights = object_weights(data)
    views = data.rgb.shape[1]
    last = len(prior.alphas_cumprod)
    if compiled:
        prior.unet.compile(dynamic=False)

    def loss(step: int) -> dict[str, Tensor]:
        generator = step_generator(seed, step)
        count, seen = draw_views(images, views, generator)
        objects = torch.multinomial(weights, count, replacement=True, generator=generator)
        latents = cache.encoded(objects, seen).to(device)
        wording = torch.randint(len(data.captions[0]), (count,), generator=generator).tolist()
        dropped = torch.rand(count, generator=generator) < DROP_CAPTION
        drawn = zip(objects.tolist(), wording, dropped.tolist(), strict=True)
        captions = ["" if without else data.captions[item][which] for item, which, without in drawn]
        noisy = torch.rand(count, generator=generator) < NOISY_SHARE
        low = torch.where(noisy, NOISY_FROM, 0)
        t = low + (torch.rand(count, generator=generator) * (last - low)).long()
        noise = torch.randn(latents.shape, generator=generator).to(device)
        condition = cameras[objects[:, None].expand_as(seen), seen].to(device)
        with torch.autocast(device.type, torch.bfloat16):
            context = prior.encode_prompt(captions)
            each = prior.prediction_loss(latents, noise, t.to(device), context, condition, reduction="none").mean(1)
        values = {"loss": each.mean()}
        with torch.no_grad():
            for name, low_t, high_t in (
                ("t<400", 0, 400),
                ("t<800", 400, 800),
                ("t<950", 800, 950),
                ("t>950", 950, last),
            ):
                band = (t >= low_t) & (t < high_t)
                values[name] = each[band.to(device)].mean() if band.any() else values["loss"].detach()
        return values

    stage.train(loss)
    stage.use_average()
