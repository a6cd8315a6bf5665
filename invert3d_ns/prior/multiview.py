"""The frozen multi-view prior: encode prompts and images, predict noise, sample views. It never knows what a scene is.

Shapes: B objects, F views of each, latents ``B F c h w``, cameras ``B F 16``
(:func:`invert3d_ns.scenes.cameras.camera_condition`), timesteps ``B`` or ``B F`` (integers in [0, 1000)), encoded
prompts ``B L C``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior import prompts as prompting
from invert3d_ns.prior.clamping import clamp_images
from invert3d_ns.prior.info import PriorInfo, fingerprint
from invert3d_ns.prior.noise import NoiseSchedule
from invert3d_ns.prior.out_of_memory import explain_out_of_memory
from invert3d_ns.prior.settings import PriorOptions, Sampler
from invert3d_ns.prior.unet import Latents, Timesteps, draft_latents, run_unet, takes_cameras

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from invert3d_ns.prior.conditions import Conditions
    from invert3d_ns.prior.offload import Offload
    from invert3d_ns.prior.ray_reader import RayReader
    from invert3d_ns.prior.view_encoder import ViewEncoder
    from invert3d_ns.prior.view_prompts import ViewPrompts


class MultiViewPrior(NoiseSchedule):
    """A frozen latent diffusion model of F views at once, told their cameras; or of each alone, :attr:`takes_cameras`.

    Every weight has ``requires_grad=False``: gradients reach pseudo-words, latents and images only, at about the cost
    of a second forward. Priors that predict noise and priors that predict v behave alike to every caller.

    Args:
        unet: with ``class_embed_type="projection"`` over 16-number cameras; its attention becomes cross-view (in
            place). Without a class embedding, each view is denoised by itself and cameras are not looked at.
        vae: latents are multiplied by its ``scaling_factor``.
        text_encoder: stays in float32 whatever ``dtype`` the rest has, since small word gradients pass through it.
        tokenizer: of the text encoder.
        scheduler: any diffusers scheduler; its ``alphas_cumprod`` and config define the noise schedule and sampling.
        info: facts about the prior; an empty fingerprint is computed.
        view_encoder: turns views into words, if the prior has one; stays in float32 as the text encoder does.
        ray_reader: drafts clean latents from the prompt alone, for a UNet that takes drafts; in float32, too.
        frozen: False leaves ``requires_grad`` and train mode alone (for the code that trains priors).
    """

    options: PriorOptions
    """How it computes; :func:`invert3d_ns.prior.memory.apply_prior_options` sets them."""
    offload: Offload | None
    """What brings weights from main memory, if anything does."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: Any,
        info: PriorInfo,
        view_encoder: ViewEncoder | None = None,
        ray_reader: RayReader | None = None,
        *,
        frozen: bool = True,
    ) -> None:
        from invert3d_ns.prior.attention import install_cross_view_attention

        super().__init__()
        install_cross_view_attention(unet)
        prompting.enable_splicing(text_encoder)
        self.unet, self.vae, self.text_encoder = unet, vae, text_encoder
        self.view_encoder, self.ray_reader = view_encoder, ray_reader
        self.tokenizer, self.scheduler = tokenizer, scheduler
        self.frozen = frozen
        self.options, self.offload = PriorOptions(), None
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.detach().float().clone(), persistent=False)
        if frozen:
            self.requires_grad_(False)
            self.eval()
        self.info = info if info.fingerprint else replace(info, fingerprint=self.fingerprint())

    @property
    def takes_cameras(self) -> bool:
        """Whether views are told their cameras and see each other; a plain image model knows neither."""
        return takes_cameras(self.unet)

    def train(self, mode: bool = True) -> MultiViewPrior:
        """A frozen prior stays in eval mode, also as part of a model that trains."""
        return super().train(mode and not self.frozen)

    def fingerprint(self) -> str:
        """Fingerprint of the weights as they are now: of all that an embedding's vectors pass through."""
        read = [] if self.ray_reader is None else [self.ray_reader]
        return fingerprint([self.unet, self.text_encoder, *read])

    # Words

    def encode_prompt(
        self,
        prompts: str | Sequence[str],
        words: Mapping[str, Float[Tensor, "N D"] | Float[Tensor, "B N D"]] | None = None,
    ) -> Float[Tensor, "B L C"]:
        """Encode prompts in which placeholders stand for learned vectors. Differentiable in the vectors.

        Args:
            prompts: B prompts (or one); :attr:`PriorInfo.prompt_suffix` is not added.
            words: vectors of each placeholder, for example ``{"<object>": vectors}``, for all prompts or for each its
                own; a placeholder may stand among other words and more than once.

        Raises:
            InputError: a prompt or a word does not fit the context, or the vectors' width is not the prior's.
        """
        batch = [prompts] if isinstance(prompts, str) else list(prompts)
        words = {} if words is None else words
        for token, vectors in words.items():
            if vectors.ndim not in (2, 3) or vectors.shape[-1] != self.info.token_dim:
                raise InputError(
                    f"{token} has shape {tuple(vectors.shape)}, but the words of prior {self.info.name!r} have shape "
                    f"(N, {self.info.token_dim}); use an embedding that was made for this prior"
                )
        tokens = prompting.tokenize_prompts(
            batch, {token: v.shape[-2] for token, v in words.items()}, self.tokenizer, self.info
        )
        ids = tokens.ids.to(self.device)
        if not tokens.placeholders:
            return self.text_encoder(ids).last_hidden_state
        vectors = prompting.spliced_vectors(tokens, words).to(self.device)
        with prompting.splice_vectors(
            self.text_encoder, tokens.rows.to(self.device), tokens.columns.to(self.device), vectors
        ):
            return self.text_encoder(ids).last_hidden_state

    def word_vectors(self, word: str) -> Float[Tensor, "K D"]:
        """Token embeddings of the K tokens of ``word``, float32: where pseudo-words start from."""
        return prompting.word_vectors(word, self.text_encoder, self.tokenizer)

    def encode_views(
        self, latents: Float[Tensor, "B F c h w"], cameras: Float[Tensor, "B F 16"]
    ) -> Float[Tensor, "B N D"]:
        """Words of objects in one look at their views, by the prior's view encoder. Differentiable.

        Args:
            latents: scaled latents of F >= 1 views of each object.
            cameras: of the views.

        Raises:
            InputError: the prior has no view encoder, or views of this number or size cannot be read.
        """
        if self.view_encoder is None:
            raise InputError(
                f"the prior {self.info.name!r} has no view encoder; start from a word (--pipeline.init word)"
            )
        size = self.info.latent_size
        if latents.shape[1] < 1 or tuple(latents.shape[-2:]) != (size, size):
            raise InputError(
                f"{latents.shape[1]} views with latents of {latents.shape[-1]}x{latents.shape[-2]} cannot be read in "
                f"one look; give one or more of {self.info.image_size}x{self.info.image_size} pixels"
            )
        return self.view_encoder(latents.to(self.device).float(), cameras.to(self.device).float())

    # Images

    def encode_images(
        self, images: Float[Tensor, "*B 3 H W"], *, sample: bool = False, generator: torch.Generator | None = None
    ) -> Float[Tensor, "*B c h w"]:
        """Encode RGB images to scaled latents. Differentiable.

        The autoencoder knows colors in [0, 1] only; others, which scenes may render, count as the nearest of these, and
        gradients lead them back (see :func:`~invert3d_ns.prior.clamping.clamp_images`).

        Args:
            images: H and W multiples of the autoencoder's factor.
            sample: draw from the posterior instead of taking its mode; ``generator`` makes the draw repeatable.
        """
        factor = self.info.image_size // self.info.latent_size
        if images.shape[-1] % factor or images.shape[-2] % factor:
            raise InputError(
                f"images of {images.shape[-1]}x{images.shape[-2]} pixels cannot be encoded; use multiples of {factor}, "
                f"best {self.info.image_size}"
            )
        flat = images.reshape(-1, *images.shape[-3:]).to(self.device, self.vae.dtype)
        with explain_out_of_memory("encoding", self.options):
            posterior = self.vae.encode(clamp_images(flat) * 2 - 1, return_dict=False)[0]
        latents = (posterior.sample(generator) if sample else posterior.mode()).to(images.dtype)
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return ((latents - shift) * self.vae.config["scaling_factor"]).reshape(*images.shape[:-3], *latents.shape[1:])

    def decode_latents(self, latents: Float[Tensor, "*B c h w"]) -> Float[Tensor, "*B 3 H W"]:
        """Decode scaled latents to RGB images in [0, 1]. Differentiable where the result is not clamped."""
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        flat = latents.reshape(-1, *latents.shape[-3:]) / self.vae.config["scaling_factor"] + shift
        with explain_out_of_memory("decoding", self.options):
            decoded: Any = self.vae.decode(flat.to(self.device, self.vae.dtype), return_dict=False)[0]
        images = (decoded / 2 + 0.5).clamp(0, 1).to(latents.dtype)
        return images.reshape(*latents.shape[:-3], *images.shape[1:])

    # Diffusion

    def draft(
        self,
        context: Float[Tensor, "B L C"] | Float[Tensor, "B F L C"],
        cameras: Float[Tensor, "B F 16"],
        size: int | None = None,
        token_weights: Float[Tensor, "B L"] | None = None,
    ) -> Latents | None:
        """What a prompt alone says about the clean latents, by the prior's ray reader; None if it has none.

        Differentiable, and without noise: a prompt has one draft. It costs about a twentieth of a prediction.

        Args:
            context: of :meth:`encode_prompt`.
            cameras: of the views.
            size: side of the latents; the prior's own if None.
            token_weights: multiply the attention to each token after the softmax.
        """
        if self.ray_reader is None:
            return None
        size = size or self.info.latent_size
        return draft_latents(self.ray_reader, context, cameras, size, token_weights, self.device)

    def predict(
        self,
        noisy: Latents,
        t: Timesteps,
        context: Float[Tensor, "B L C"] | Float[Tensor, "B F L C"],
        cameras: Float[Tensor, "B F 16"],
        *,
        draft: Latents | None = None,
    ) -> Latents:
        """The UNet's own prediction (noise or v), without guidance: that is what
        :class:`~invert3d_ns.prior.conditions.Conditions` are for.

        ``draft`` is :meth:`draft`'s for the same context and cameras, if it is at hand.
        """
        if draft is None:
            draft = self.draft(context, cameras, noisy.shape[-1])
        return run_unet(self.unet, noisy, t, context, cameras, draft=draft)

    def predict_each(
        self,
        noisy: Latents,
        t: Timesteps,
        contexts: Float[Tensor, "K B L C"] | Float[Tensor, "K B F L C"],
        cameras: Float[Tensor, "B F 16"],
        *,
        token_weights: Float[Tensor, "K B L"] | None = None,
        drafts_of: Float[Tensor, "K B L C"] | Float[Tensor, "K B F L C"] | None = None,
    ) -> Float[Tensor, "K B F c h w"]:
        """The UNet's own prediction for each of K conditions of the same latents, in one batch.

        ``token_weights`` multiply the cross-attention to each token after the softmax (Invert3D eq. 11).
        Drafts are made of ``drafts_of`` if given, else of the conditions themselves.
        """
        count = len(contexts)
        read = (contexts if drafts_of is None else drafts_of).flatten(0, 1)
        contexts, cameras = contexts.flatten(0, 1), torch.cat([cameras] * count)
        weights = None if token_weights is None else token_weights.flatten(0, 1)
        together = run_unet(
            self.unet,
            torch.cat([noisy] * count),
            torch.cat([t] * count),
            contexts,
            cameras,
            weights,
            self.draft(read, cameras, noisy.shape[-1], weights),
        )
        return together.unflatten(0, (count, -1))

    def predict_noise(
        self,
        noisy: Latents,
        t: Timesteps,
        context: Float[Tensor, "B L C"],
        cameras: Float[Tensor, "B F 16"],
    ) -> Latents:
        """Predict the noise in ``noisy``, without guidance.

        From v, noise = sqrt(alpha_bar) v + sqrt(1 - alpha_bar) noisy. No division, so it is finite at zero terminal
        signal-to-noise ratio too; there alpha_bar = 0 and the noise is ``noisy`` itself, whatever the prompt.
        """
        return self.noise_from(self.predict(noisy, t, context, cameras), noisy, t)

    def predict_clean(
        self,
        noisy: Latents,
        t: Timesteps,
        context: Float[Tensor, "B L C"],
        cameras: Float[Tensor, "B F 16"],
    ) -> Latents:
        """Predict the clean latents, without guidance.

        From v, latents = sqrt(alpha_bar) noisy - sqrt(1 - alpha_bar) v. From noise, (noisy - sqrt(1 - alpha_bar)
        noise) / sqrt(alpha_bar), with alpha_bar clamped to at least :data:`ALPHA_BAR_FLOOR`.
        """
        return self.clean_from(self.predict(noisy, t, context, cameras), noisy, t)

    def prediction_loss(
        self,
        latents: Latents,
        noise: Latents,
        t: Timesteps,
        context: Float[Tensor, "B L C"],
        cameras: Float[Tensor, "B F 16"],
        *,
        draft: Latents | None = None,
        reduction: Literal["mean", "none"] = "mean",
    ) -> Float[Tensor, ""] | Float[Tensor, "B F"]:
        """Mean squared error of the UNet's own prediction for ``latents`` diffused with ``noise`` to step t.

        ``draft`` is :meth:`draft`'s, if it is at hand; ``reduction="none"`` gives the mean over each view's latent.
        """
        with explain_out_of_memory("inversion", self.options):
            prediction = self.predict(self.add_noise(latents, noise, t), t, context, cameras, draft=draft)
        if self.info.prediction_type == "epsilon":
            target = noise
        else:
            signal, sigma = self._signal_and_noise(t)
            target = signal * noise - sigma * latents
        if reduction == "mean":
            return F.mse_loss(prediction, target)
        return F.mse_loss(prediction, target, reduction="none").flatten(2).mean(-1)

    @torch.no_grad()
    def sample(
        self,
        prompt: str | Sequence[str] | Float[Tensor, "P L C"] | Conditions | ViewPrompts,
        cameras: Float[Tensor, "B F 16"],
        *,
        words: Mapping[str, Float[Tensor, "N D"]] | None = None,
        negative_prompt: str = "",
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        steps: int | None = None,
        seed: int | Sequence[int] = 0,
        sampler: Sampler = "ddim",
        strength: float = 1.0,
        callback: Callable[[int, Latents], None] | None = None,
    ) -> Float[Tensor, "B F 3 H W"]:
        """Generate the F views of B objects, RGB in [0, 1].

        Args:
            prompt: words, encoded here with ``words``; or contexts of :meth:`encode_prompt`; or conditions, which bring
                their own guidance. One for all objects, or one for each.
            guidance_scale: classifier-free guidance; the prior's default if None, no guidance (and half the cost) if 1.
            guidance_rescale: see :func:`~invert3d_ns.prior.conditions.classifier_free_guidance`; the prior's default if
                None.
            steps: denoising steps; the prior's default if None.
            seed: start noise is drawn on the CPU, so a seed means the same on each device. With one number, object b
                uses ``seed + b`` and does not depend on what else is in the batch.
            strength: below 1, only this last share of the diffusion is run, from the prior's draft: what the prompt
                says is where it is, and noise adds no more than detail.
            callback: called after each step with its index and the latents.

        Raises:
            InputError: a prompt does not fit the context, the prior has no draft to start from, or the GPU's memory is
                full.
        """
        from invert3d_ns.prior.conditions import Conditions
        from invert3d_ns.prior.sampling import denoise, start_noise
        from invert3d_ns.prior.view_prompts import ViewPrompts

        guidance: dict[str, Any] = {
            "negative_prompt": negative_prompt,
            "guidance_scale": guidance_scale,
            "guidance_rescale": guidance_rescale,
        }
        if isinstance(prompt, Conditions | ViewPrompts):
            conditions = prompt
        elif isinstance(prompt, Tensor):
            conditions = Conditions.of_context(self, prompt, **guidance)
        else:
            conditions = Conditions.of_prompt(self, prompt, words=words, **guidance)
        cameras = cameras.to(self.device)
        objects, views = cameras.shape[:2]
        noise = start_noise(self, views, [seed + b for b in range(objects)] if isinstance(seed, int) else seed)
        draft = conditions.draft(self, cameras) if strength < 1 else None
        if strength < 1 and draft is None:
            raise InputError(f"the prior {self.info.name!r} drafts no views; sample with strength 1")
        with explain_out_of_memory("sampling", self.options):
            latents = denoise(
                self,
                noise,
                lambda latents, t: conditions.predict(self, latents, t, cameras),
                steps=steps,
                sampler=sampler,
                strength=strength,
                start=None if draft is None else lambda t: self.add_noise(draft, noise, t),
                callback=callback,
            )
        return self.decode_latents(latents)
