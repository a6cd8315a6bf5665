"""Benchmark of editing: re-weighted words over unweighted ones, and the time from a prompt to its first views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from invert3d_ns.metrics.timing import compare_times
from invert3d_ns.scenes.cameras import camera_condition

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

STEPS = (8, 12, 20)
"""Denoising steps of whole edits."""


def bench_editing(prior: MultiViewPrior, quick: bool = False) -> list[dict[str, Any]]:
    """Time guided denoising steps with and without token weights, taking turns, and whole edits of four views.

    Args:
        prior: trained or not; the cost is the same.
        quick: fewer turns.

    Returns:
        Rows with the median in ``ms``, and ``ratio`` to the first row of their kind, the median over turns.
    """
    from invert3d_ns.editing.edit import Edit
    from invert3d_ns.editing.views import edited_views
    from invert3d_ns.words.embedding import ObjectEmbedding

    info, device = prior.info, prior.device
    views = info.num_views
    noisy = torch.randn(1, views, info.latent_channels, info.latent_size, info.latent_size, device=device)
    cameras = camera_condition(torch.arange(views) * (360.0 / views), torch.tensor(15.0))[None].to(device)
    t = torch.tensor([prior.num_timesteps // 2], device=device)
    words = prior.word_vectors(info.init_word)[:1].repeat(32, 1)
    with torch.no_grad():
        prompt = prior.encode_prompt("<object>", {"<object>": words})
        contexts = torch.stack([prompt, prior.encode_prompt("")])
    weights = torch.ones(2, 1, contexts.shape[2], device=device)
    weights[0, 0, 1:5] = 2.0
    embedding = ObjectEmbedding.for_prior(prior, words, init_word=info.init_word, steps=0)
    originals = torch.rand(1, views, 3, info.image_size, info.image_size)

    @torch.no_grad()
    def step(scales: torch.Tensor | None = None) -> None:
        prior.predict_each(noisy, t, contexts, cameras, token_weights=scales)

    def edit(steps: int) -> None:
        requested = Edit(source="red", target="blue", steps=steps)
        edited_views(prior, embedding, [requested], cameras, originals=originals)

    rows = compare_times(
        {"guided step": step, "guided step, words re-weighted": lambda: step(weights)}, 9 if quick else 60, device
    )
    whole = {f"{views} edited views, {n} steps": (lambda n=n: edit(n)) for n in (STEPS[:1] if quick else STEPS)}
    return [{"prior": info.name} | row for row in rows + compare_times(whole, 1 if quick else 5, device)]
