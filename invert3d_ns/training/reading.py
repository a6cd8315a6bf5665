"""Teach views to become words and words to become drafts of views, before a UNet listens to either.

The view encoder and the ray reader are the two ends of one autoencoder: words of one orbit must draw another orbit of
the same object, through the text tower, which stays as it is; captions must draw theirs. That is four times as cheap a
view as the UNet's loss, and the gradient is not buried in noise. Muon matters here: with AdamW the loss stayed at what
the mean color explains (0.58 after 300 steps, 0.46 with Muon).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from invert3d_ns.training.batches import Batch, Shown, open_batches
from invert3d_ns.training.compute import mixed_precision, quick_attention
from invert3d_ns.training.drawing import drawn_ahead
from invert3d_ns.training.loop import Stage, frozen
from invert3d_ns.training.sets import TrainingSets

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.prior.ray_reader import RayReader
    from invert3d_ns.prior.view_encoder import ViewEncoder

OBJECTS = 24
"""Objects of a step, four views each, under words of four others."""
CAPTIONS_EVERY = 4
"""Of so many steps one is under captions."""
PEAK = 2e-3
"""Peak learning rate."""
ARCHITECTURE: dict[str, Any] = {"cells": 3, "width": 192, "view_width": 96, "point_width": 48, "heads": 4}
"""Of the bundled prior's view encoder; the rest follows from the prior."""

READER: dict[str, Any] = {"width": 128, "layers": 3, "heads": 4}
"""Of its ray reader."""


def build_view_encoder(prior: MultiViewPrior) -> ViewEncoder:
    """Build a view encoder with fresh weights for a prior."""
    from invert3d_ns.prior.view_encoder import ViewEncoder

    info = prior.info
    return ViewEncoder(info.latent_channels, info.latent_size, info.token_dim, **ARCHITECTURE)


def build_ray_reader(unet: UNet2DConditionModel) -> RayReader:
    """Build a ray reader with fresh weights for a UNet that takes drafts, or will."""
    from invert3d_ns.prior.ray_reader import RayReader

    config: Any = unet.config
    return RayReader(config.out_channels, config.sample_size, config.cross_attention_dim, **READER)


def train_reading(
    folder: Path,
    prior: MultiViewPrior,
    sets: TrainingSets,
    steps: int,
    *,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Train the prior's view encoder and ray reader in place and leave the averaged weights in them.

    The text tower between them does not change, so that a UNet that listened to captions still does.

    Args:
        folder: checkpoints go here.
        prior: with a view encoder and a ray reader.
        sets: what it is shown; captions of objects that have names count, too.
        steps: optimizer steps.
        seed: of batches.
        settings: what a resumed training must share, by flag.

    Raises:
        InputError: ``folder`` has a checkpoint of a training with other settings, or cannot be written.
    """
    assert prior.view_encoder is not None and prior.ray_reader is not None
    model = nn.ModuleDict({"encoder": prior.view_encoder, "reader": prior.ray_reader})
    batches = open_batches(folder, prior, sets, 4 * OBJECTS, seed)
    own = {"--seed": seed, "the training set": sets.fingerprint()}
    stage = Stage("encoder", folder, model, steps, PEAK, own | dict(settings or {}), seed, muon=True, decay_share=0.5)

    def draw(step: int) -> Batch:
        if step % CAPTIONS_EVERY == 0:
            return batches.draw_captioned(step)
        return batches.draw_shown(step, turn=step - step // CAPTIONS_EVERY - 1)

    def losses(batch: Batch) -> dict[str, Tensor]:
        with mixed_precision(prior.device):
            draft = prior.draft(batch.condition.context(prior), batch.cameras.to(prior.device))
        assert draft is not None
        loss = (draft - batch.latents.to(prior.device)).square().mean()
        return {"loss": loss, "words" if isinstance(batch.condition, Shown) else "captions": loss.detach()}

    with frozen(prior.text_encoder), quick_attention(prior.device), drawn_ahead(draw, prior.device) as drawn:
        stage.train(lambda step: losses(drawn(step)))
    stage.use_average()
