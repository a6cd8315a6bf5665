"""The latent bank: views of a frozen scene, rendered and encoded once, then used by every step of the inversion.

The official code renders and encodes four views at every step although the scene never changes; with a bank, a step
costs one pass through the denoiser and back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.random import random_stream
from invert3d_ns.scenes.cameras import camera_condition, orbit_cameras, random_orbit

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras

    from invert3d_ns.prior.multiview import MultiViewPrior

    Render = Callable[[Cameras], Float[Tensor, "F H W 3"]]

HELD_OUT_MARGIN = 4.0
"""Training orbits differ from every held-out orbit by at least this many degrees, in elevation or in azimuth."""
_BLANK = 0.02
"""Largest difference from white, in [0, 1], of a view that shows nothing."""
_FILLED = 0.5
"""Share of the border of a view from which on it shows no object but what fills it."""


@dataclass
class LatentBank:
    """Views of one scene at random orbits, as the prior's latents. A group is F views that are denoised together."""

    latents: Float[Tensor, "G F c h w"]
    """Training views, scaled as the prior's denoiser takes them."""
    cameras: Float[Tensor, "G F 16"]
    """Camera vectors of the training views."""
    heldout_latents: Float[Tensor, "H F c h w"]
    """Views that no training step sees."""
    heldout_cameras: Float[Tensor, "H F 16"]
    """Camera vectors of the held-out views."""
    heldout_images: Float[Tensor, "H F 3 S S"]
    """Renders of the held-out views in [0, 1]."""

    def __len__(self) -> int:
        return self.latents.shape[0]


def held_out_orbits(groups: int, views: int = 4) -> tuple[Float[Tensor, "G F"], Float[Tensor, "G F"]]:
    """Draw azimuths and elevations in degrees of the held-out groups, the same for every seed, so that runs compare."""
    return random_orbit(groups, views, generator=random_stream("held-out orbits", 0))


def training_orbits(
    groups: int, heldout: tuple[Float[Tensor, "H F"], Float[Tensor, "H F"]], *, views: int = 4, seed: int = 0
) -> tuple[Float[Tensor, "G F"], Float[Tensor, "G F"]]:
    """Draw azimuths and elevations in degrees of training groups, all apart from the held-out ones.

    Args:
        groups: how many groups G.
        heldout: azimuths and elevations of the held-out groups, see :data:`HELD_OUT_MARGIN`.
        views: views F of a group.
        seed: of the draw.
    """
    generator = random_stream("training orbits", seed)
    spacing = 360.0 / views
    azimuths, elevations = torch.empty(0, views), torch.empty(0, views)
    while len(azimuths) < groups:
        a, e = random_orbit(groups, views, generator=generator)
        # Views of a group repeat every `spacing` degrees, so its first azimuth modulo the spacing tells groups apart.
        turn = (a[:, None, 0] - heldout[0][None, :, 0] + spacing / 2) % spacing - spacing / 2
        tilt = e[:, None, 0] - heldout[1][None, :, 0]
        apart = (torch.maximum(turn.abs(), tilt.abs()) >= HELD_OUT_MARGIN).all(dim=1)
        azimuths, elevations = torch.cat([azimuths, a[apart]]), torch.cat([elevations, e[apart]])
    return azimuths[:groups], elevations[:groups]


@torch.no_grad()
def render_views(
    render: Render,
    azimuths: Float[Tensor, "*G F"],
    elevations: Float[Tensor, "*G F"],
    size: int,
    *,
    supersampling: int = 2,
) -> Float[Tensor, "*G F 3 S S"]:
    """Render square images in [0, 1] of a scene at orbit cameras.

    Args:
        render: nerfstudio cameras [F] to images [F H W 3] in [0, 1].
        azimuths: degrees.
        elevations: degrees.
        size: side S of the images in pixels.
        supersampling: each pixel is the mean of so many samples, along each side.
    """
    cameras = orbit_cameras(azimuths.flatten(), elevations.flatten(), size * supersampling)
    images = torch.cat([render(cameras[index : index + 1]) for index in range(azimuths.numel())])
    images = F.avg_pool2d(images.permute(0, 3, 1, 2), supersampling).clamp(0.0, 1.0)
    return images.reshape(*azimuths.shape, *images.shape[1:])


def check_visible(images: Float[Tensor, "*G 3 S S"]) -> None:
    """Refuse a scene that leaves the white background untouched in every view, or covers most of the border of every
    view: what fills the views is a fog of splats, or no object.

    Raises:
        InputError: no pixel of any view differs from white, or hardly one at the border does not.
    """
    if (1.0 - images).max() < _BLANK:
        raise InputError(
            "the cameras see nothing: every orbit view of the scene is blank; check that the object is opaque, near "
            "the center that its cameras look at, and kept by its masks"
        )
    border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], dim=-1)
    covered = (1.0 - border).amax(dim=-2) > _BLANK
    if covered.float().mean(dim=-1).min() > _FILLED:
        raise InputError(
            "the scene fills every view to the border, where an object would leave white around itself; check the "
            "sizes of its splats (logarithms, as 3DGS writes them), and cut the object out of what surrounds it"
        )


def build_bank(
    render: Render,
    prior: MultiViewPrior,
    *,
    groups: int = 64,
    heldout_groups: int = 4,
    size: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LatentBank:
    """Render and encode ``groups`` training orbits and ``heldout_groups`` held-out ones; a seed gives one bank.

    Args:
        render: nerfstudio cameras [F] to images [F H W 3] in [0, 1] on a white background.
        prior: its autoencoder encodes the views.
        groups: training orbits G.
        heldout_groups: held-out orbits H.
        size: side S of the images in pixels; the prior's own by default.
        seed: of the training orbits.
        progress: called with the number of groups done and their total.

    Raises:
        InputError: the scene is blank from every camera, or ``size`` does not fit the prior's networks.
    """
    views, size = prior.info.num_views, size or prior.info.image_size
    check_size(size, prior)
    heldout = held_out_orbits(heldout_groups, views)
    training = training_orbits(groups, heldout, views=views, seed=seed)
    total = groups + heldout_groups

    def encode(orbits: tuple[Tensor, Tensor], done: int) -> tuple[Tensor, Tensor, Tensor]:
        images, latents = [], []
        for azimuths, elevations in zip(*orbits, strict=True):
            images.append(render_views(render, azimuths, elevations, size))
            latents.append(prior.encode_images(images[-1]).float())
            if progress is not None:
                progress(done + len(images), total)
        return torch.stack(images), torch.stack(latents), camera_condition(*orbits).to(latents[0].device)

    heldout_images, heldout_latents, heldout_cameras = encode(heldout, 0)
    check_visible(heldout_images)
    _, latents, cameras = encode(training, heldout_groups)
    return LatentBank(latents, cameras, heldout_latents, heldout_cameras, heldout_images)


def check_size(size: int, prior: MultiViewPrior) -> None:
    """Refuse an image size whose latents the denoiser cannot halve and double again.

    Raises:
        InputError: with the step that sizes must be a multiple of.
    """
    downscale = prior.info.image_size // prior.info.latent_size
    blocks: tuple[int, ...] = prior.unet.config.block_out_channels  # type: ignore[attr-defined]
    multiple = downscale * 2 ** (len(blocks) - 1)
    if size < multiple or size % multiple:
        raise InputError(f"resolution {size} does not fit prior {prior.info.name!r}; choose a multiple of {multiple}")
