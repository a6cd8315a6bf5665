"""Attention that lets the views of an object see each other, and each view listen to its prompt.

MVDream (Shi et al., 2023) turns a text-to-image UNet into a multi-view one by letting every self-attention layer see
the tokens of all F views at once. In a diffusers UNet that is one attention processor; no layer and no weight
changes. Importing this module imports diffusers: import it inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0, SlicedAttnProcessor
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

AttentionKind = Literal["fused", "plain", "sliced"]


class _CrossView:
    """What turns a diffusers attention processor into one over the views of each object.

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
        num_views: int = 1,
    ) -> Float[Tensor, "bf l c"]:
        """Attend; ``num_views`` is F. ``encoder_hidden_states`` has one row per object or one per view."""
        attend: Any = super().__call__  # type: ignore[misc]
        rows = hidden_states.shape[0]
        groups = rows // num_views if encoder_hidden_states is None else len(encoder_hidden_states)
        if groups == rows:
            return attend(attn, hidden_states, encoder_hidden_states, attention_mask)
        grouped = hidden_states.reshape(groups, -1, hidden_states.shape[-1])
        return attend(attn, grouped, encoder_hidden_states, attention_mask).reshape(hidden_states.shape)


class CrossViewAttnProcessor(_CrossView, AttnProcessor2_0):
    """Fused: torch's scaled_dot_product_attention, which never holds all scores at once."""


class PlainCrossViewAttnProcessor(_CrossView, AttnProcessor):
    """All scores of all heads at once: the mathematics, which the others are held against."""


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
