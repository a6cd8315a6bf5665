"""Attention that lets the views of an object see each other, and each view listen to its prompt.

MVDream (Shi et al., 2023) turns a text-to-image UNet into a multi-view one by letting every self-attention layer see
the tokens of all F views at once. In a diffusers UNet that is one attention processor; no layer and no weight
changes. Importing this module imports diffusers: import it inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from invert3d_ns.prior.settings import AttentionKind

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


class _CrossView:
    """What turns a diffusers attention processor into one over the views of each object.

    The UNet's batch holds the views of an object next to each other: ``(b f)``. The number of views is given with
    each call, as ``unet(..., cross_attention_kwargs={"num_views": F})``, so that one UNet serves any F from any
    thread.

    - Self-attention: ``(b f) l c -> b (f l) c``, attend, and back; every view attends to every view.
    - Cross-attention: when the prompt is given once per object, ``b n c``, the queries of its views are regrouped in
      the same way, which is exact, since each query attends on its own, and projects keys and values F times less
      often.

    Words are re-weighted (Invert3D eq. 11, after Prompt-to-Prompt) by scaling the rows of V: with weights c, sum_j c_j
    A_ij V_j = Attention(Q, K, c V) exactly, whatever computes the attention, and no map of it is held.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "bf l c"],
        encoder_hidden_states: Float[Tensor, "b n d"] | None = None,
        attention_mask: Tensor | None = None,
        num_views: int = 1,
        token_weights: Float[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "bf l c"]:
        """Attend; ``num_views`` is F. ``encoder_hidden_states`` has one row per object or one per view.

        ``token_weights`` multiply the attention to each token after the softmax, in cross-attention only; ones change
        nothing.
        """
        attend: Any = super().__call__  # type: ignore[misc]
        rows = hidden_states.shape[0]
        groups = rows // num_views if encoder_hidden_states is None else len(encoder_hidden_states)
        if encoder_hidden_states is not None and token_weights is not None:
            grouped = hidden_states.reshape(groups, -1, hidden_states.shape[-1])
            attended = self.attend_weighted(attn, grouped, encoder_hidden_states, token_weights)
            return attended.reshape(hidden_states.shape)
        if groups == rows:
            return attend(attn, hidden_states, encoder_hidden_states, attention_mask)
        grouped = hidden_states.reshape(groups, -1, hidden_states.shape[-1])
        return attend(attn, grouped, encoder_hidden_states, attention_mask).reshape(hidden_states.shape)

    def attend_weighted(
        self,
        attn: Attention,
        queries: Float[Tensor, "b l c"],
        context: Float[Tensor, "b n d"],
        weights: Float[Tensor, "b n"],
    ) -> Float[Tensor, "b l c"]:
        """Cross-attention with the rows of V scaled; diffusers' processors leave no place to do that."""
        # An attention layer has all four, though their types say that some may be missing.
        to_q, to_k, to_v, to_out = (cast(Any, layer) for layer in (attn.to_q, attn.to_k, attn.to_v, attn.to_out))
        q, k = to_q(queries), to_k(context)
        v = to_v(context) * weights[..., None].to(context.dtype)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        attended = self.mix(attn, q, k, v).transpose(1, 2).flatten(2)
        return to_out[1](to_out[0](attended)) / attn.rescale_output_factor

    def mix(
        self, attn: Attention, q: Float[Tensor, "b h l d"], k: Float[Tensor, "b h n d"], v: Float[Tensor, "b h n d"]
    ) -> Float[Tensor, "b h l d"]:
        """Softmax attention of h heads."""
        return scaled_dot_product_attention(q, k, v, scale=attn.scale)


class CrossViewAttnProcessor(_CrossView, AttnProcessor2_0):
    """Fused: torch's scaled_dot_product_attention, which never holds all scores at once."""


class PlainCrossViewAttnProcessor(_CrossView, AttnProcessor):
    """All scores of all heads at once: the mathematics, which the others are held against."""

    def mix(
        self, attn: Attention, q: Float[Tensor, "b h l d"], k: Float[Tensor, "b h n d"], v: Float[Tensor, "b h n d"]
    ) -> Float[Tensor, "b h l d"]:
        """Softmax attention with its map in memory."""
        return (q @ k.transpose(-1, -2) * attn.scale).softmax(-1) @ v


class SlicedCrossViewAttnProcessor(_CrossView, SlicedAttnProcessor):
    """The scores of one head of one object at a time: for devices that have no fused kernel."""

    def __init__(self) -> None:
        super().__init__(slice_size=1)


PROCESSORS: dict[AttentionKind, type[_CrossView]] = {
    "fused": CrossViewAttnProcessor,
    "plain": PlainCrossViewAttnProcessor,
    "sliced": SlicedCrossViewAttnProcessor,
}
"""Ways to compute the same attention."""


def install_cross_view_attention(unet: UNet2DConditionModel, kind: AttentionKind = "fused") -> None:
    """Make every attention layer of ``unet`` a cross-view one (in place; weights are untouched)."""
    unet.set_attn_processor(PROCESSORS[kind]())  # type: ignore[arg-type]
