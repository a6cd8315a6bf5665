"""Does each object of a set show its own words? What must stand beside every figure of how well objects correspond.

By CLIP, for any words; what the judge sees of the procedural world's is
:func:`~invert3d_ns.metrics.text_quality.grade`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError

if TYPE_CHECKING:
    from invert3d_ns.alignment.clip import ClipTowers


@dataclass(frozen=True)
class TextAlignment:
    """How K objects go with K texts."""

    similarity: Float[Tensor, "K K"]
    """Mean cosine similarity of object k's views (rows) to each text (columns)."""
    own: float
    """Mean similarity of objects to their own texts: the CLIP score."""
    told_apart: float
    """Share of views that are nearer to their object's own text than to any other: about 1/K for K times one object."""


@torch.no_grad()
def text_alignment(views: Float[Tensor, "K F 3 S S"], texts: Sequence[str], towers: ClipTowers) -> TextAlignment:
    """Compare views of K objects with the K texts that they were made from.

    Args:
        views: RGB in [0, 1] of F views of each object.
        texts: one for each object.
        towers: CLIP; not the ones that the objects were optimized with.

    Raises:
        InputError: not as many texts as objects, or no views.
    """
    if views.ndim != 5 or len(views) != len(texts):
        raise InputError(
            f"views of shape {tuple(views.shape)} do not belong to {len(texts)} texts; give (texts, views, 3, height, "
            "width)"
        )
    vectors = towers.encode_image(views.flatten(0, 1).to(towers.mean.device)).unflatten(0, views.shape[:2])
    similar = vectors @ towers.encode_text(texts).T  # [K, F, K]
    rows = torch.arange(len(texts), device=similar.device)
    mean = similar.mean(1)
    right = similar.argmax(-1) == rows[:, None]
    return TextAlignment(mean.cpu(), float(mean.diagonal().mean()), float(right.float().mean()))
