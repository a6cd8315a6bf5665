"""Attention of the multi-view UNet: self-attention that spans the views of an object, cross-attention to its prompt.

MVDream (Shi et al., 2023) turns a text-to-image UNet into a multi-view one by letting every self-attention layer see
the tokens of all F views at once. In a diffusers UNet that is one attention processor; no layer and no weight
changes. Importing this module imports diffusers: import it inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


class CrossViewAttnProcessor(AttnProcessor2_0):
    """Fused attention over the views of each object.

    The UNet's batch holds the views of an object next to each other: ``(b f)``. The number of views is given with
    each call, as ``unet(..., cross_attention_kwargs={"num_views": F})``, so that one UNet serves any F from any
    thread.

    - Self-attention: ``(b f) l c -> b (f l) c``, attend, and back; every view attends to every view.
    - Cross-attention: when the prompt is given once per object, ``b n c``, the queries of its views are regrouped in
      the same way, which is exact, since each query attends on its own, and projects keys and values F times less
      often.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "bf l c"],
        encoder_hidden_states: Float[Tensor, "b n d"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        num_views: int = 1,
    ) -> Float[Tensor, "bf l c"]:
        """Attend; ``num_views`` is F. ``encoder_hidden_states`` has one row per object or one per view."""
        rows = hidden_states.shape[0]
        groups = rows // num_views if encoder_hidden_states is None else len(encoder_hidden_states)
        if groups == rows:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        grouped = hidden_states.reshape(groups, -1, hidden_states.shape[-1])
        return super().__call__(attn, grouped, encoder_hidden_states, attention_mask, temb).reshape(hidden_states.shape)


def install_cross_view_attention(unet: UNet2DConditionModel) -> None:
    """Make every attention layer of ``unet`` a cross-view one (in place; weights are untouched)."""
    unet.set_attn_processor(CrossViewAttnProcessor())
