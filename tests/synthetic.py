"""Small scenes made of nothing but numbers."""

from __future__ import annotations

import torch

from invert3d_ns.scenes.cloud import SplatCloud


def make_cloud(count: int = 400, sh_degree: int = 0, seed: int = 0) -> SplatCloud:
    """An upright ellipsoid in a y-up frame, red in front (+z), blue behind, with a green knob on top, off center."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    means = direction * torch.tensor([0.2, 0.4, 0.2])
    colors = torch.where(direction[:, 2:] > 0, torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9]))
    knob = means[:, 1] > 0.35
    colors[knob] = torch.tensor([0.1, 0.8, 0.1])
    rest = (sh_degree + 1) ** 2 - 1
    return SplatCloud(
        means=means + torch.tensor([0.3, 0.1, -0.2]),
        scales=torch.full((count, 3), -4.0) + 0.2 * torch.randn(count, 3, generator=generator),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
        opacities=torch.full((count, 1), 3.0),
        features_dc=(colors - 0.5) / 0.28209479177387814,
        features_rest=0.1 * torch.randn(count, rest, 3, generator=generator),
    )


def make_bank(prior, groups: int = 5, heldout_groups: int = 2, seed: int = 0):
    """A latent bank of smooth random latents, for tests that need no scene."""
    from invert3d_ns.scenes.cameras import camera_condition, random_orbit
    from invert3d_ns.words.bank import LatentBank

    info, generator = prior.info, torch.Generator().manual_seed(seed)
    count = groups + heldout_groups
    base = torch.randn(1, 1, info.latent_channels, 1, 1, generator=generator)
    shape = (count, info.num_views, info.latent_channels, info.latent_size, info.latent_size)
    latents = base + 0.3 * torch.randn(shape, generator=generator)
    cameras = camera_condition(*random_orbit(count, info.num_views, generator=generator))
    images = torch.rand(heldout_groups, info.num_views, 3, info.image_size, info.image_size, generator=generator)
    return LatentBank(latents[:groups], cameras[:groups], latents[groups:], cameras[groups:], images)
