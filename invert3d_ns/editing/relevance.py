"""Finds the splats that words are about: the prior's cross-attention to them over the views, lifted to the splats.

Attention maps are read by a processor that wraps each cross-attention layer's own for the time of a call. It records
in the thread that asked and passes everything on unchanged, so another thread may sample meanwhile.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.random import random_stream
from invert3d_ns.prior.prompts import columns_of
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.fitting import lift_to_splats

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.words.embedding import ObjectEmbedding

TIMESTEPS = (0.4, 0.6, 0.8)
"""Shares of the diffusion at which attention is read: what is where is settled in the middle."""
PLACES = 16
"""Side of the maps that tell places best, where the network has that many; Prompt-to-Prompt reads its maps there."""
_INSTALLING = threading.Lock()
_ACTIVE = threading.local()


def word_maps(
    prior: MultiViewPrior,
    embedding: ObjectEmbedding,
    phrase: str,
    images: Float[Tensor, "B F 3 H W"],
    cameras: Float[Tensor, "B F 16"],
    *,
    timesteps: Sequence[float] = TIMESTEPS,
    seed: int = 0,
) -> Float[Tensor, "B F h w"]:
    """Maps of how much each place of each view attends to a phrase, averaged over heads, layers and timesteps.

    Only the decoder's layers of one resolution are read. On the two held-out objects by which this was chosen they told
    parts from the rest (area under the curve over splats: wheels 0.97, legs 0.90); the encoder's first layer attended
    to everything but the part.
    Each map is divided by its mean, since layers differ in how much they heed any word; 1 is average.

    Args:
        phrase: words, as "wheels" or "red".
        images: views of the object on white, at the prior's size.
        timesteps: shares of the diffusion up to which the views are noised.

    Returns:
        Maps at the size of the latents.

    Raises:
        InputError: the phrase is empty, or the embedding is of another prior.
    """
    phrase = phrase.strip()
    if not phrase:
        raise InputError("the words to look for are empty; name a part or a property, such as 'wheels'")
    embedding.check_prior(prior)
    prompt = f"{embedding.token} with {phrase}"
    lengths = {embedding.token: len(embedding.vectors)}
    columns = columns_of(phrase, prompt, lengths, prior.tokenizer, prior.info)
    size = prior.info.latent_size
    with torch.no_grad():
        context = prior.encode_prompt(prompt, embedding.words)
        latents = prior.encode_images(images.to(prior.device))
        noise = torch.randn(latents.shape, generator=random_stream("relevance", seed)).to(latents)
        maps: list[Tensor] = []
        for share in timesteps:
            t = torch.full((len(latents),), min(int(share * prior.num_timesteps), prior.num_timesteps - 1))
            t = t.to(latents.device)
            with recorded_attention(prior, columns) as record:
                prior.predict(
                    prior.add_noise(latents, noise, t),
                    t,
                    context.expand(len(latents), -1, -1),
                    cameras.to(latents.device),
                )
            views = latents.shape[:2].numel()
            squares = [m.reshape(views, 1, round((m.numel() / views) ** 0.5), -1) for m in record]
            side = min((s.shape[-1] for s in squares), key=lambda n: abs(n - min(PLACES, size)))
            for square in squares:
                if square.shape[-1] == side:
                    square = functional.interpolate(square, (size, size), mode="bilinear", align_corners=False)
                    maps.append(square / square.mean().clamp_min(1e-12))
    return torch.stack(maps).mean(0).reshape(*images.shape[:2], size, size)


def relevant_splats(
    prior: MultiViewPrior,
    embedding: ObjectEmbedding,
    phrase: str,
    cloud: SplatCloud,
    camera_to_world: Float[Tensor, "B F 4 4"],
    images: Float[Tensor, "B F 3 H W"],
    cameras: Float[Tensor, "B F 16"],
    *,
    among: Bool[Tensor, " N"] | None = None,
    threshold: float = 0.5,
    supersampling: int = 1,
    seed: int = 0,
) -> Bool[Tensor, " N"]:
    """The splats whose relevance to a phrase reaches ``threshold`` of the way from the least to the greatest.

    Args:
        cloud: splats that ``images`` show from ``camera_to_world``.
        among: only these may be chosen, and only they decide what least and greatest are.

    Raises:
        InputError: the phrase is empty, or tells no splat from another.
    """
    maps = word_maps(prior, embedding, phrase, images, cameras, seed=seed).flatten(0, 1)[:, None]
    maps = functional.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)
    relevance, weight = lift_to_splats(
        cloud, maps.to(cloud.means.device), camera_to_world.flatten(0, 1), supersampling=supersampling
    )
    eligible = weight > 0
    if among is not None:
        eligible &= among.to(eligible.device)
    chosen = above_threshold(relevance[:, 0], eligible, threshold)
    if not chosen.any():
        raise InputError(f"the words {phrase!r} are about no splat more than about others; name something else")
    return chosen


def above_threshold(
    relevance: Float[Tensor, " N"],
    eligible: Bool[Tensor, " N"],
    threshold: float,
) -> Bool[Tensor, " N"]:
    """The eligible splats above ``threshold`` of the way from the 1st to the 99th percentile; none if all are alike."""
    if not eligible.any():
        return eligible.clone()
    low, high = torch.quantile(_at_most(relevance[eligible].float()), torch.tensor([0.01, 0.99]).to(relevance)).tolist()
    if not high > low:
        return torch.zeros_like(eligible)
    return eligible & (relevance >= low + threshold * (high - low))


def _at_most(values: Float[Tensor, " N"], count: int = 1_000_000) -> Float[Tensor, " M"]:
    # torch.quantile refuses more than 16 million values.
    return values[:: max(1, -(-len(values) // count))]


@contextmanager
def recorded_attention(prior: MultiViewPrior, columns: Sequence[int]) -> Iterator[list[Tensor]]:
    """In this context and thread, record the decoder's cross-attention to the tokens at ``columns``.

    There is one tensor (B F) x (h w) for each layer: means over heads and tokens, after the softmax. One call records
    at a time; another waits.
    """
    record: list[Tensor] = []
    with _INSTALLING:
        modules = prior.unet.named_modules()
        layers = [m for name, m in modules if name.startswith("up_blocks") and name.endswith("attn2")]
        processors = [layer.processor for layer in layers]
        _ACTIVE.columns, _ACTIVE.record = list(columns), record
        try:
            for layer, processor in zip(layers, processors, strict=True):
                layer.processor = _recording(processor)  # type: ignore[assignment]
            yield record
        finally:
            for layer, processor in zip(layers, processors, strict=True):
                layer.processor = processor  # type: ignore[assignment]
            _ACTIVE.columns, _ACTIVE.record = None, None


def _recording(inner: Any) -> Any:
    # diffusers reads off the signature of __call__ which keywords a processor takes, so that must be the inner one's:
    # else another thread that samples with re-weighted words would lose its weights.
    class Recording:
        @functools.wraps(type(inner).__call__)
        def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **keywords: Any) -> Tensor:
            context = keywords.get("encoder_hidden_states", args[0] if args else None)
            if getattr(_ACTIVE, "record", None) is not None and context is not None:
                _ACTIVE.record.append(_attention(attn, hidden_states, context, _ACTIVE.columns))
            return inner(attn, hidden_states, *args, **keywords)

    return Recording()


@torch.no_grad()
def _attention(attn: Attention, queries: Tensor, context: Tensor, columns: list[int]) -> Float[Tensor, "bf l"]:
    grouped = queries.reshape(len(context), -1, queries.shape[-1])
    project_q: Any = attn.to_q
    project_k: Any = attn.to_k
    q, k = (attn.head_to_batch_dim(x) for x in (project_q(grouped), project_k(context)))
    # A head at a time: the probabilities of all would be the largest tensor of the call.
    total = torch.stack(
        [(qi @ ki.T * attn.scale).float().softmax(-1)[:, columns].mean(-1) for qi, ki in zip(q, k, strict=True)]
    )
    return total.unflatten(0, (len(context), attn.heads)).mean(1).reshape(queries.shape[0], queries.shape[1])
