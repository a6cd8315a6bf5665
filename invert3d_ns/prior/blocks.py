"""A block of the small transformers that stand beside a prior's UNet."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Block(nn.Module):
    """A pre-norm transformer block: self-attention, cross-attention, or both, and a feed-forward net.

    Args:
        width: of the tokens.
        heads: of each attention.
        context: width of what is attended to; None for no cross-attention.
        alone: without self-attention.
    """

    def __init__(self, width: int, heads: int, *, context: int | None = None, alone: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = None, None, None
        if not alone:
            self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.cross_norm, self.cross_q, self.cross_kv, self.cross_out = None, None, None, None
        if context is not None:
            self.cross_norm, self.cross_q = nn.LayerNorm(width), nn.Linear(width, width)
            self.cross_kv, self.cross_out = nn.Linear(context, 2 * width), nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        context: Float[Tensor, "B M C"] | None = None,
        weights: Float[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Tokens after the block; ``weights`` multiply the attention to each token of the context."""
        if self.norm is not None and self.qkv is not None and self.out is not None:
            x = x + self.out(self._attend(*self.qkv(self.norm(x)).chunk(3, -1)))
        if self.cross_norm is not None and self.cross_q is not None and self.cross_out is not None:
            assert self.cross_kv is not None and context is not None
            keys, values = self.cross_kv(context).chunk(2, -1)
            if weights is not None:
                values = values * weights[..., None]
            x = x + self.cross_out(self._attend(self.cross_q(self.cross_norm(x)), keys, values))
        return x + self.feed(self.feed_norm(x))
