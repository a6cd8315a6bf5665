"""The views that splats are fitted to: cameras around the object, target views, and weights of views and pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invert3d_ns.base.random import random_stream
from invert3d_ns.scenes.cameras import ELEVATION_RANGE
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.fitting import lift_to_splats
from invert3d_ns.scenes.silhouettes import alpha_from_background

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.words.embedding import ObjectEmbedding

FIRST_AZIMUTH = 15.0
"""Degrees. Fronts and sides seen at an angle show more of an object than straight on."""
SEEN = 0.05
"""A splat counts as seen from this contribution on, in pixels summed over the views."""
LOST = 0.1
"""Weight of pixels that showed the object and show background after the edit; not 0, for objects that became white."""


def spread_cameras(orbits: int, views: int) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B F"]]:
    """Azimuths and elevations in degrees of ``orbits`` rings of evenly spaced views.

    No two views of all rings share an azimuth; elevations are spread over what the prior was trained on.
    """
    spacing = 360.0 / views
    ring = torch.arange(orbits)[:, None]
    azimuths = FIRST_AZIMUTH + ring * (spacing / orbits) + torch.arange(views) * spacing
    low, high = ELEVATION_RANGE
    elevations = low + (high - low) * (torch.linspace(0.15, 1.0, orbits) if orbits > 1 else torch.tensor([0.7]))
    return azimuths, elevations[:, None].expand(orbits, views).contiguous()


@torch.no_grad()
def target_views(
    prior: MultiViewPrior,
    originals: Float[Tensor, "B F 3 H W"],
    edited: Float[Tensor, "B F 3 H W"],
    masks: Float[Tensor, "B F 1 H W"] | None = None,
) -> Float[Tensor, "B F 3 H W"]:
    """The original views with the change that the prior made, and nothing of what its autoencoder lost.

    That is original + (edited - decoded(encoded(original))), where views may change, within [0, 1].
    """
    passed = prior.decode_latents(prior.encode_images(originals.to(prior.device))).to(originals)
    change = edited.to(originals) - passed
    return (originals + (change if masks is None else masks.to(change) * change)).clamp(0, 1)


def silhouettes(views: Float[Tensor, "V 3 H W"]) -> Float[Tensor, "V 1 H W"]:
    """Coverage of views on white by what differs from white, on the CPU."""
    white = torch.ones(3)
    return torch.stack([alpha_from_background(view.permute(1, 2, 0).cpu(), white) for view in views])[:, None]


@torch.no_grad()
def explained_share(
    prior: MultiViewPrior, embedding: ObjectEmbedding, views: Float[Tensor, "F 3 H W"], cameras: Float[Tensor, "F 16"]
) -> float:
    """The denoising loss of views under an object's words, as a share of that under the word they started from.

    The less, the more surely the views show this object; below 1 if they show it at all.
    """
    own = prior.encode_prompt(embedding.token, embedding.words)
    word = prior.encode_prompt(embedding.init_word or prior.info.init_word)
    latents, cameras = prior.encode_images(views[None].to(prior.device)), cameras[None].to(prior.device)
    losses = [0.0, 0.0]
    for share in (0.4, 0.6, 0.8):
        t = torch.full((1,), int(share * prior.num_timesteps), device=latents.device)
        noise = torch.randn(latents.shape, generator=random_stream("explained views", 0, int(100 * share))).to(latents)
        for index, context in enumerate((own, word)):
            losses[index] += float(prior.prediction_loss(latents, noise, t, context, cameras))
    return losses[0] / max(losses[1], 1e-12)


def trust(before: Float[Tensor, "V 1 H W"], after: Float[Tensor, "V 1 H W"]) -> Float[Tensor, "V 1 H W"]:
    """Weights of pixels for splats that stay in place, from silhouettes before and after an edit.

    Where a view lost the object, the background that it shows says little about the color of what is there: such
    pixels weigh :data:`LOST`, all others 1.
    """
    return torch.where(before > after, LOST, 1.0)


def lifted_change(
    cloud: SplatCloud,
    originals: Float[Tensor, "V 3 H W"],
    targets: Float[Tensor, "V 3 H W"],
    trust: Float[Tensor, "V 1 H W"],
    camera_to_world: Float[Tensor, "V 4 4"],
    supersampling: int,
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, " N"]]:
    """The mean change of the pixels that each splat makes, weighted by ``trust``; and its contribution in pixels."""
    maps = torch.cat([trust * (targets - originals), trust], dim=1)
    lifted, weight = lift_to_splats(cloud, maps, camera_to_world, supersampling=supersampling)
    return lifted[:, :3] / lifted[:, 3:].clamp_min(1e-6), weight


def confidences(errors: Float[Tensor, " V"], tolerance: float) -> Float[Tensor, " V"]:
    """Weights of views by what a short fit to all of them leaves of each, 1 at most.

    A view that the others contradict is left with an error far above the median; beyond ``tolerance`` medians its
    weight falls with the square of the error.
    """
    limit = tolerance * errors.median()
    return torch.where(errors > limit, (limit / errors.clamp_min(1e-12)).square(), 1.0)


def neighbors_of_unseen(
    cloud: SplatCloud, seen: Int[Tensor, " S"], unseen: Int[Tensor, " U"], count: int = 4
) -> Int[Tensor, "U count"]:
    """For each splat that no view shows, the rows of those that are shown and most like it, in place and color.

    Both numbers are world units: a color that is wholly another is as far as 0.5.
    """
    from scipy.spatial import KDTree

    place = torch.cat([cloud.means, 0.5 * cloud.base_colors.clamp(0, 1)], dim=-1).cpu()
    tree = KDTree(place[seen.cpu()].numpy())
    _, nearest = tree.query(place[unseen.cpu()].numpy(), k=min(count, len(seen)))
    return seen[torch.as_tensor(nearest, dtype=torch.long, device=seen.device).reshape(len(unseen), -1)]
