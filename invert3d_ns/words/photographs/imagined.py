"""Complete photographs to whole orbits, as the prior imagines the other sides from plain words.

Vectors that are fitted to one view alone forget what the object is from elsewhere; fitted to a whole orbit they cannot.
So the photograph is completed to orbits first: plain words say what it shows, and while the prior samples an orbit, the
view from the photograph's camera is kept at the photograph (as in inpainting by replacement, Lugmayr et al. 2022), so
that cross-view attention carries its colors and proportions around.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.random import random_stream
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.prior.out_of_memory import explain_out_of_memory
from invert3d_ns.prior.sampling import denoise, sampling_timesteps
from invert3d_ns.scenes.cameras import camera_condition
from invert3d_ns.words.bank import LatentBank

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

VIEWS = 8
"""Views of an imagined orbit, the photograph's the first."""
_ELEVATIONS = (0.0, 20.0)


def orbit_from(camera: Sequence[float], second: float) -> tuple[Float[Tensor, "8"], Float[Tensor, "8"]]:
    """List azimuths and elevations, in degrees, of evenly spaced views of which the first is ``camera``.

    Those at quarter turns from it have its elevation, those between have ``second``: orbits as in training.
    """
    turns = torch.arange(VIEWS)
    azimuths = camera[0] + turns * (360.0 / VIEWS)
    return azimuths, torch.where(turns % 2 == 0, camera[1], second)


@torch.no_grad()
def imagine_views(
    prior: MultiViewPrior,
    context: Float[Tensor, "1 L C"],
    photograph: Float[Tensor, "c h w"],
    cameras: Float[Tensor, "F 16"],
    *,
    steps: int = 16,
    seed: int = 0,
    orbit: int = 0,
) -> Float[Tensor, "F c h w"]:
    """Sample latents of F views of what ``context`` says, the first of which is ``photograph`` (latents as well).

    The noise is of ``seed`` and ``orbit``: every orbit of one seed starts from noise of its own.
    """
    noise = torch.randn(len(cameras), *photograph.shape, generator=random_stream("imagined orbit", seed, orbit))[None]
    noise, cameras = noise.to(prior.device), cameras[None].to(prior.device)
    times = sampling_timesteps(prior, steps)
    conditions = Conditions.of_context(prior, context)

    def put_back(index: int, latents: Tensor) -> Tensor:
        known = photograph[None, None]
        if index + 1 < len(times):
            known = prior.add_noise(known, noise[:, :1], times[index + 1 : index + 2])
        return torch.cat([known.to(latents), latents[:, 1:]], dim=1)

    with explain_out_of_memory("sampling", prior.options):
        return denoise(
            prior, noise, lambda x, t: conditions.predict(prior, x, t, cameras), steps=steps, callback=put_back
        )[0]


def imagine_bank(
    prior: MultiViewPrior,
    context: Float[Tensor, "1 L C"],
    photographs: Float[Tensor, "K c h w"],
    cameras: Float[Tensor, "K 2"],
    *,
    orbits: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LatentBank:
    """Make a latent bank of ``orbits`` imagined orbits, photographs in turn, in groups of four views.

    Args:
        photographs: latents, on the prior's device.
        cameras: azimuth and elevation of each in degrees.
        progress: called with the orbits done and their number.
    """
    latents, conditions = [], []
    for orbit in range(orbits):
        index = orbit % len(photographs)
        second = _ELEVATIONS[(orbit // len(photographs)) % len(_ELEVATIONS)]
        condition = camera_condition(*orbit_from(cameras[index].tolist(), second)).to(prior.device)
        views = imagine_views(prior, context, photographs[index], condition, seed=seed, orbit=orbit)
        for start in (0, 1):
            latents.append(views[start::2])
            conditions.append(condition[start::2])
        if progress is not None:
            progress(orbit + 1, orbits)
    bank, poses = torch.stack(latents).float(), torch.stack(conditions)
    return LatentBank(bank, poses, bank[:0], poses[:0], bank[:0])
