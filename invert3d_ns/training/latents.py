"""Latents of a training set, kept in files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from invert3d_ns.prior.info import fingerprint
from invert3d_ns.training.compute import mixed_precision
from invert3d_ns.world.data import WorldViews
from invert3d_ns.world.stores import open_store

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def encoder_fingerprint(vae: AutoencoderKL) -> str:
    """Sixteen hexadecimal digits over the weights that decide what the latents are: all but the decoder's."""
    return fingerprint([module for module in (vae.encoder, vae.quant_conv) if module is not None])


BLOCK = 32
"""Objects whose views a GPU encodes together."""


class LatentCache:
    """Latents of a training set, encoded when first drawn and kept in ``folder`` for a training that is resumed.

    Objects that look otherwise as photos, and were kept as such, too, have latents of both.

    The stored views of an object are encoded together, whichever of them are drawn, on a GPU those of its block of
    objects: their bits then do not depend on the batch that asked first, so that a resumed training reads what an
    unbroken one reads.
    """

    def __init__(self, folder: Path, data: WorldViews, vae: AutoencoderKL, size: int, channels: int) -> None:
        self.data, self.vae = data, vae
        count, views = data.rgb.shape[:2]
        stem = f"{count}x{views}-{data.fingerprint()}-{encoder_fingerprint(vae)}"
        shape = (count, views, channels, size, size)
        latents, fresh = open_store(folder / f"latents-{stem}.npy", np.float16, shape)
        known, _ = open_store(folder / f"latents-known-{stem}.npy", np.bool_, (count,))
        self.rows, self.have_photos = data.photo_rows(), data.have_photos()
        photos = None
        if data.photos is not None:
            photos, also_fresh = open_store(
                folder / f"latents-photos-{stem}.npy", np.float16, (len(data.photos), *shape[1:])
            )
            fresh |= also_fresh
        if fresh:
            known[:] = False
        self.latents, self.known = torch.from_numpy(latents), torch.from_numpy(known)
        self.photos = None if photos is None else torch.from_numpy(photos)

    def encoded(
        self, objects: Int[Tensor, " B"], views: Int[Tensor, "B F"], *, as_photos: bool = False
    ) -> Float[Tensor, "B F c h w"]:
        """Latents of views ``views`` of objects ``objects``, as they are or as photos; on the CPU."""
        if not self.known[objects].all():
            # A GPU is not filled by one object's views.
            block = 1 if self.vae.device.type == "cpu" else BLOCK
            for first in (objects[~self.known[objects]] // block).unique().tolist():
                self._keep(list(range(first * block, min((first + 1) * block, len(self.known)))))
        found = self.latents[objects[:, None], views]
        if as_photos and self.photos is not None:
            styled = self.have_photos[objects]
            found[styled] = self.photos[self.rows[objects[styled]][:, None], views[styled]]
        return found.float()

    def _keep(self, items: list[int]) -> None:
        self.latents[items] = self._encode(self.data.images(items))
        styled = [item for item in items if self.have_photos[item]]
        if self.photos is not None and styled:
            photos = torch.stack([self.data.photo_images(item) for item in styled])
            self.photos[self.rows[styled]] = self._encode(photos)
        self.known[items] = True

    @torch.no_grad()
    def _encode(self, images: Float[Tensor, "B F 3 H W"]) -> Float[Tensor, "B F c h w"]:
        flat = images.flatten(0, 1).to(self.vae.device, memory_format=torch.channels_last)
        with mixed_precision(self.vae.device):
            posterior = self.vae.encode(flat * 2 - 1, return_dict=False)[0]
        return posterior.mean.to("cpu", torch.float16).unflatten(0, images.shape[:2])
