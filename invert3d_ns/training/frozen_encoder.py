"""Train a view encoder for a prior that stays as it is: its words of one orbit must denoise another one.

The bundled prior learned to listen while its encoder learned to speak; a frozen prior only knows the words that it
knows. So the encoder starts at the prior's init word, whatever it sees, and is led by the prior's own loss alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from invert3d_ns.metrics.inversion_quality import renderer
from invert3d_ns.training.compute import quick_attention
from invert3d_ns.training.loop import Stage, initial_weights, step_generator
from invert3d_ns.training.reading import ARCHITECTURE
from invert3d_ns.words.bank import LatentBank, build_bank
from invert3d_ns.words.cti import TOKEN

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.prior.view_encoder import ViewEncoder
    from invert3d_ns.scenes.cloud import SplatCloud

ORBITS = 12
"""Orbits of each scene that are rendered and encoded."""
SCENES = 4
"""Scenes of a step."""
PEAK = 5e-4
"""Peak learning rate."""


def encoder_for(prior: MultiViewPrior, seed: int = 0) -> ViewEncoder:
    """Build a view encoder whose words are all the prior's init word, nearly, until it is trained."""
    from invert3d_ns.prior.view_encoder import ViewEncoder

    info = prior.info
    word = prior.word_vectors(info.init_word).mean(0).cpu()
    spread = float(word.square().mean().sqrt())
    with initial_weights(seed):
        sizes = {"latent_channels": info.latent_channels, "latent_size": info.latent_size, "token_dim": info.token_dim}
        encoder = ViewEncoder(**sizes, **ARCHITECTURE, scale=spread, prior=info.fingerprint)
    with torch.no_grad():
        encoder.last.weight.mul_(0.5)
        encoder.last.bias.copy_(word / spread)
    return encoder


def world_scenes(count: int, seed: int = 3) -> list[SplatCloud]:
    """Splats of objects of the procedural world, every other one a random assembly."""
    import numpy as np

    from invert3d_ns.world.assemblies import sample_assembly
    from invert3d_ns.world.objects import sample_object
    from invert3d_ns.world.splats import splats_of

    rng = np.random.default_rng(seed)
    items = [
        sample_assembly(rng, style="photo") if index % 2 else sample_object(rng, style="photo")
        for index in range(count)
    ]
    return [splats_of(item) for item in items]


def train_encoder(
    folder: Path,
    prior: MultiViewPrior,
    scenes: Sequence[SplatCloud],
    steps: int,
    *,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> ViewEncoder:
    """Train a view encoder for a frozen prior on some scenes.

    Args:
        folder: checkpoints go here.
        prior: stays as it is; its own view encoder, if it has one, is not used.
        scenes: objects, in the object frame; the more they differ, the more the encoder can be asked for.
        steps: optimizer steps.
        seed: of weights, orbits and noise.
        settings: what a resumed training must share, by flag.

    Returns:
        The encoder with averaged weights, frozen; it is the prior's from now on.

    Raises:
        InputError: ``folder`` has a checkpoint of a training with other settings, or a scene cannot be seen.
    """
    banks = [build_bank(renderer(cloud), prior, groups=ORBITS, heldout_groups=1, seed=seed) for cloud in scenes]
    prior.view_encoder = encoder = encoder_for(prior, seed)
    prior.to(prior.device)
    own = {"--seed": seed, "the prior": prior.info.fingerprint, "scenes": len(scenes)}
    name = "view-encoder"
    stage = Stage(
        name, folder, nn.ModuleDict({"encoder": encoder}), steps, PEAK, own | dict(settings or {}), seed, muon=True
    )
    with quick_attention(prior.device):
        stage.train(lambda step: {"loss": _loss(prior, banks, step_generator(seed, step))})
    stage.use_average()
    encoder.requires_grad_(False)
    return encoder


def _loss(prior: MultiViewPrior, banks: Sequence[LatentBank], generator: torch.Generator) -> Tensor:
    chosen = torch.randint(len(banks), (min(SCENES, len(banks)),), generator=generator).tolist()
    orders = [torch.randperm(len(banks[index]), generator=generator)[:2].tolist() for index in chosen]

    def views(which: int) -> tuple[Tensor, Tensor]:
        picked = [(banks[index], order[which]) for index, order in zip(chosen, orders, strict=True)]
        latents, cameras = ([getattr(bank, name)[k] for bank, k in picked] for name in ("latents", "cameras"))
        return torch.stack(latents), torch.stack(cameras)

    (shown, seen), (asked, cameras) = views(0), views(-1)
    low, high = (round(share * prior.num_timesteps) for share in prior.info.inversion_timesteps)
    t = torch.randint(low, max(high, low + 1), (len(chosen),), generator=generator).to(prior.device)
    noise = torch.randn(asked.shape, generator=generator).to(asked)
    context = prior.encode_prompt([TOKEN] * len(chosen), {TOKEN: prior.encode_views(shown, seen)})
    return prior.prediction_loss(asked, noise, t, context, cameras)
