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

from invert3d_ns.training.batches import open_batches, sets_fingerprint
from invert3d_ns.training.compute import mixed_precision, quick_attention
from invert3d_ns.training.loop import Stage
from invert3d_ns.world.data import WorldViews

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
    data: WorldViews,
    steps: int,
    *,
    assemblies: WorldViews | None = None,
    changes: WorldViews | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Train the prior's view encoder and ray reader in place and leave the averaged weights in them.

    The text tower between them does not change, so that a UNet that listened to captions still does.

    Args:
        folder: checkpoints go here.
        prior: with a view encoder and a ray reader.
        data: the training set of objects that have names; its captions count, too.
        steps: optimizer steps.
        assemblies: the training set of those that have none.
        changes: the training set of objects that words have changed.
        seed: of batches.
        settings: what a resumed training must share, by flag.

    Raises:
        InputError: ``folder`` has a checkpoint of a training with other settings, or cannot be written.
    """
    assert prior.view_encoder is not None and prior.ray_reader is not None
    model = nn.ModuleDict({"encoder": prior.view_encoder, "reader": prior.ray_reader})
    batches = open_batches(folder, prior, data, 4 * OBJECTS, seed, assemblies=assemblies, changes=changes)
    own = {"--seed": seed, "the training set": sets_fingerprint(data, assemblies, changes)}
    stage = Stage("encoder", folder, model, steps, PEAK, own | dict(settings or {}), seed, muon=True, decay_share=0.5)

    def losses(step: int) -> dict[str, Tensor]:
        captions, turn = step % CAPTIONS_EVERY == 0, step - step // CAPTIONS_EVERY - 1
        batch = batches.draw_captioned(step) if captions else batches.draw_shown(step, turn)
        with mixed_precision(prior.device):
            draft = prior.draft(batch.condition.context(prior), batch.cameras.to(prior.device))
        assert draft is not None
        loss = (draft - batch.latents.to(prior.device)).square().mean()
        return {"loss": loss, "captions" if captions else "words": loss.detach()}

    trained = [one.requires_grad for one in prior.text_encoder.parameters()]
    prior.text_encoder.requires_grad_(False)
    with quick_attention(prior.device):
        stage.train(losses)
    stage.use_average()
    for one, before in zip(prior.text_encoder.parameters(), trained, strict=True):
        one.requires_grad_(before)
