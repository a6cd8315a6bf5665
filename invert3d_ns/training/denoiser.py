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

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.info import PriorInfo
from invert3d_ns.prior.rays import RAY_CHANNELS
from invert3d_ns.prior.unet import takes_drafts
from invert3d_ns.training.batches import Batch, Shown, open_batches
from invert3d_ns.training.compute import mixed_precision, quick_attention
from invert3d_ns.training.drawing import drawn_ahead
from invert3d_ns.training.latents import encoder_fingerprint
from invert3d_ns.training.loop import Stage
from invert3d_ns.training.reading import build_ray_reader
from invert3d_ns.training.sets import TrainingSets
from invert3d_ns.training.text import build_text_encoder, load_or_build_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from invert3d_ns.prior.multiview import MultiViewPrior

ARCHITECTURE: dict[str, Any] = {
    "sample_size": 8,
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
PEAK, WARM_PEAK = 2e-3, 1.2e-3
"""Peak learning rate of Muon for fresh networks, and for those of a finished prior."""
EMA_DECAY = 0.9995
DRAFT_WEIGHT = 0.5
"""Of the ray reader's own loss beside the UNet's: it keeps drafts estimates of the latents rather than any code that
the UNet finds useful."""
WORDS: dict[str, Any] = {"inversion_steps": 100, "inversion_learning_rate": 0.1, "words_strength": 0.4}
"""What serves pseudo-words of a prior of this size: steps and learning rate of an inversion, and how much of the
diffusion their views go through after the draft. Tried on objects that no evaluation has (100 steps: 23.6 dB by the
draft; views 21.8 at strength 0.5 and 19.5 from noise, whose detail is sharper and elsewhere)."""
DECAY_SHARE = 0.75
"""Share of the steps, the last ones, over which the learning rate falls to zero."""


BANDS = (("t<400", 0, 400), ("t<800", 400, 800), ("t<950", 800, 950), ("t>950", 950, 1000))
"""Bands of timesteps that the log tells apart."""


def build_unet() -> UNet2DConditionModel:
    """Build a UNet with fresh weights, which is told where its views look and given drafts of them."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**ARCHITECTURE, in_channels=2 * ARCHITECTURE["out_channels"] + RAY_CHANNELS)


def with_drafts(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A UNet that is told where its views look and given drafts of them, and at first makes nothing of what is new.

    Itself if it is given both already.
    """
    from diffusers import UNet2DConditionModel

    if takes_drafts(unet):
        return unet
    config: dict[str, Any] = dict(unet.config)
    channels = 2 * config["out_channels"] + RAY_CHANNELS
    wider: Any = UNet2DConditionModel.from_config(config | {"in_channels": channels})
    state = unet.state_dict()
    kernel = state["conv_in.weight"]
    state["conv_in.weight"] = nn.functional.pad(kernel, (0, 0, 0, 0, 0, channels - kernel.shape[1]))
    wider.load_state_dict(state)
    return wider


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


def assemble_prior(folder: Path, vae: AutoencoderKL, sets: TrainingSets, training: dict[str, Any]) -> MultiViewPrior:
    """Build a prior around an autoencoder: fresh UNet and text tower, vocabulary from ``folder`` or from captions."""
    from invert3d_ns.prior.multiview import MultiViewPrior

    captions = (caption for wordings in sets.named.captions for caption in wordings)
    tokenizer = load_or_build_tokenizer(folder / "tokenizer", captions)
    unet, text_encoder, scheduler = build_unet(), build_text_encoder(tokenizer), build_scheduler()
    reader = build_ray_reader(unet)
    info = PriorInfo.from_components(
        "bundled",
        unet,
        vae,
        text_encoder,
        tokenizer,
        scheduler,
        init_word="object",
        **WORDS,
        inversion_timesteps=(0.5, 1.0),
        inversion_jitter=1.0,
        guidance_scale=2.5,
        edit_guidance_scale=4.0,
        sampling_steps=8,
        words=sets.caption_words(),
        training=training,
    )
    return MultiViewPrior(unet, vae, text_encoder, tokenizer, scheduler, info, ray_reader=reader, frozen=False)


def assemble_from_prior(
    start: str, prior: MultiViewPrior, sets: TrainingSets, training: dict[str, Any]
) -> MultiViewPrior:
    """Build a prior that goes on from a finished one: its networks, its autoencoder frozen, its vocabulary.

    Args:
        start: what the finished one is called in messages.
        prior: one that ``invert3d train prior`` made, in float32; its networks are trained in place.
        sets: what it will be trained on.
        training: settings of this training; what the prior was made with and is not said anew is kept.

    Raises:
        InputError: the prior is not one of this recipe's, or has no tokens for the captions.
    """
    from invert3d_ns.prior.multiview import MultiViewPrior

    info = prior.info
    size = info.image_size, info.prediction_type, prior.vae.config["scaling_factor"]
    if not info.training.get("steps") or size != (sets.named.rgb.shape[2], "v_prediction", 1.0):
        raise InputError(
            f"the prior {start} was not made by `invert3d train prior`; start from one that was, or bundled"
        )
    words = sorted({word for wordings in sets.named.captions for caption in wordings for word in caption.split()})
    spelt = prior.tokenizer(words, add_special_tokens=False)["input_ids"]
    if any(prior.tokenizer.unk_token_id in ids for ids in spelt):
        raise InputError(f"the prior {start} has no tokens for some words of the captions; train without --start")
    before = int(info.training["steps"]) + int(info.training.get("steps_before", 0))
    kept = {key: value for key, value in info.training.items() if key not in ("started_from", "steps_before")}
    training = kept | training | {"started_from": info.fingerprint, "steps_before": before}
    return MultiViewPrior(
        with_drafts(prior.unet).requires_grad_(True),
        prior.vae,
        prior.text_encoder.requires_grad_(True),
        prior.tokenizer,
        prior.scheduler,
        replace(
            info,
            name="bundled",
            **WORDS,
            words=tuple(sorted({*info.words, *sets.caption_words()})),
            training=training,
        ),
        prior.view_encoder and prior.view_encoder.requires_grad_(True),
        (prior.ray_reader or build_ray_reader(prior.unet)).requires_grad_(True),
        frozen=False,
    )


def _stage(
    folder: Path,
    prior: MultiViewPrior,
    steps: int,
    lr: float,
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    sample: Callable[[int], None] | None = None,
) -> Stage:
    prior.vae.requires_grad_(False)
    model = nn.ModuleDict({"unet": prior.unet, "text": prior.text_encoder})
    if prior.ray_reader is not None:
        model["reader"] = prior.ray_reader
    if prior.view_encoder is not None:
        model["views"] = prior.view_encoder
    return Stage(
        "denoiser",
        folder,
        model,
        steps,
        lr,
        settings,
        seed,
        muon=True,
        ema_decay=EMA_DECAY,
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
    sets: TrainingSets,
    steps: int,
    *,
    images: int = 32,
    lr: float = PEAK,
    seed: int = 0,
    compiled: bool = False,
    settings: Mapping[str, Any] | None = None,
    sample: Callable[[int], None] | None = None,
) -> None:
    """Train UNet, text tower, ray reader and the view encoder, if any, in place; leave the averaged weights in them.

    Args:
        folder: checkpoints go here.
        prior: of :func:`assemble_prior`.
        sets: what it is shown.
        steps: optimizer steps.
        images: views a step: a quarter as many objects, or as many in a batch of single views.
        lr: peak learning rate.
        seed: of batches and noise.
        compiled: run the UNet through ``torch.compile``.
        settings: what else a resumed training must share, by flag.
        sample: called now and then, the averaged weights in place, with the number of steps done.

    Raises:
        InputError: ``folder`` has a checkpoint of a training with other settings, or cannot be written.
    """
    own = {
        "--seed": seed,
        "--images": images,
        "--denoiser-lr": lr,
        "the training set": sets.fingerprint(),
        "the encoder": encoder_fingerprint(prior.vae),
    }
    stage = _stage(folder, prior, steps, lr, settings=own | dict(settings or {}), seed=seed, sample=sample)
    batches = open_batches(folder, prior, sets, images, seed)
    if compiled:
        prior.unet.compile(dynamic=False)
    with quick_attention(prior.device), drawn_ahead(batches.draw, prior.device) as drawn:
        stage.train(lambda step: denoising_losses(prior, drawn(step)))
    stage.use_average()


def denoising_losses(prior: MultiViewPrior, batch: Batch) -> dict[str, Tensor]:
    """The mean squared error of the UNet's prediction for a batch as "loss", and by bands of timesteps for the log."""
    device = prior.device
    latents, cameras = batch.latents.to(device), batch.cameras.to(device)
    with mixed_precision(device):
        context = batch.condition.context(prior)
        draft = prior.draft(context, cameras)
        each = prior.prediction_loss(
            latents, batch.noise.to(device), batch.t.to(device), context, cameras, draft=draft, reduction="none"
        ).mean(1)
    values = {"loss": each.mean()}
    if draft is not None:
        drafted = (draft - latents).square().mean()
        values["loss"] = values["loss"] + DRAFT_WEIGHT * drafted
        values["draft"] = drafted.detach()
    if isinstance(batch.condition, Shown):
        values["words"] = each.detach().mean()
    elif prior.view_encoder is not None:
        values["captions"] = each.detach().mean()
    for name, low, high in BANDS:
        band = (batch.t >= low) & (batch.t < high)
        if band.any():
            # A mean with weights: to pick rows by a mask, a GPU is waited for.
            values[name] = (each.detach() * (band / band.sum()).to(device)).sum()
    return values
