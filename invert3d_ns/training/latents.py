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


class LatentCache:
    """Latents of a training set, encoded when first drawn and kept in ``folder`` for a training that is resumed.

    The stored views of an object are encoded together, whichever of them are drawn: their bits then do not depend on
    the batch that asked first, so that a resumed training reads what an unbroken one reads.
    """

    def __init__(self, folder: Path, data: WorldViews, vae: AutoencoderKL, size: int, channels: int) -> None:
        self.data, self.vae = data, vae
        count, views = data.rgb.shape[:2]
        stem = f"{count}x{views}-{data.fingerprint()}-{encoder_fingerprint(vae)}"
        shape = (count, views, channels, size, size)
        latents, fresh = open_store(folder / f"latents-{stem}.npy", np.float16, shape)
        known, _ = open_store(folder / f"latents-known-{stem}.npy", np.bool_, (count,))
        if fresh:
            known[:] = False
        self.latents, self.known = torch.from_numpy(latents), torch.from_numpy(known)

    @torch.no_grad()
    def encoded(self, objects: Int[Tensor, " B"], views: Int[Tensor, "B F"]) -> Float[Tensor, "B F c h w"]:
        """Latents of views ``views`` of objects ``objects``, on the CPU."""
        for item in objects[~self.known[objects]].unique().tolist():
            images = self.data.images([item])[0].to(self.vae.device, memory_format=torch.channels_last)
            with mixed_precision(self.vae.device):
                posterior = self.vae.encode(images * 2 - 1, return_dict=False)[0]
            self.latents[item] = posterior.mean.to("cpu", torch.float16)
            self.known[item] = True
        return self.latents[objects[:, None], views].float()
