"""The view encoder: views of an object, with their cameras, become pseudo-words in one look.

A prior may have one. Each word stands for a place: a cell of a coarse grid around the object. It gathers what the
views show where the cell projects, looks at all views once more, and says it as one vector of the prior's
token-embedding space. Importing this module imports diffusers: import it inside functions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from invert3d_ns.prior.blocks import Block
from invert3d_ns.prior.rays import RAY_CHANNELS, project, ray_features

EXTENT = 0.28
"""Half a side of the cube that the cells fill, in units of the cameras' distance. Objects reach 0.26 along an axis."""
POOLED = 4
"""Side, in places, of each view as words look at it a second time."""


class ViewEncoder(ModelMixin, ConfigMixin):
    """Latents of any number of views, with cameras, to N = cells^3 pseudo-words.

    Args:
        latent_channels: of the prior's latents.
        latent_size: side of the prior's latents; a multiple of :data:`POOLED`.
        token_dim: width of the prior's token embeddings.
        cells: cells along each side of the grid.
        samples: points along each side of a cell at which views are read.
        view_width: width of the tokens of a view.
        view_layers: blocks that each view goes through alone.
        point_width: numbers that a view says about a point.
        width: width of the words inside.
        layers: blocks of the words.
        heads: of all attention.
        scale: factor on the words, for priors whose token embeddings are small.
        prior: fingerprint of the prior whose words it speaks.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        latent_size: int = 8,
        token_dim: int = 128,
        cells: int = 3,
        samples: int = 2,
        view_width: int = 96,
        view_layers: int = 2,
        point_width: int = 48,
        width: int = 192,
        layers: int = 3,
        heads: int = 4,
        scale: float = 1.0,
        prior: str = "",
    ) -> None:
        super().__init__()
        self.cells, self.samples, self.size, self.scale = cells, samples, latent_size, scale
        self.inp, self.ray = nn.Linear(latent_channels, view_width), nn.Linear(RAY_CHANNELS, view_width)
        self.view = nn.ModuleList([Block(view_width, heads) for _ in range(view_layers)])
        self.down = nn.Linear(view_width, point_width)
        self.point = nn.Sequential(
            nn.Linear(point_width + 4, 2 * point_width), nn.GELU(), nn.Linear(2 * point_width, point_width + 1)
        )
        self.cell = nn.Linear(2 * point_width * samples**3, width)
        self.place = nn.Parameter(torch.randn(cells**3, width) * 0.3)
        self.blocks = nn.ModuleList([Block(width, heads, context=view_width) for _ in range(layers)])
        self.last_norm, self.last = nn.LayerNorm(width), nn.Linear(width, token_dim)

    @property
    def vectors(self) -> int:
        """Number N of words."""
        return self.cells**3

    def points(self) -> Float[Tensor, "Q 3"]:
        """Where views are read, cell by cell, in units of the cameras' distance."""
        n, s = self.cells, self.samples
        line = ((torch.arange(n * s, device=self.place.device) + 0.5) / (n * s) * 2 - 1) * EXTENT
        grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1)
        return grid.reshape(n, s, n, s, n, s, 3).permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, 3)

    def forward(self, latents: Float[Tensor, "B F c h w"], cameras: Float[Tensor, "B F 16"]) -> Float[Tensor, "B N D"]:
        """Words of each object; one view is enough, more say more."""
        objects, views = latents.shape[:2]
        tokens = self.inp(latents.flatten(3).transpose(2, 3)) + self.ray(ray_features(cameras, self.size))
        tokens = tokens.flatten(0, 1)
        for block in self.view:
            tokens = block(tokens)
        places, depths, directions = project(self.points(), cameras)
        maps = self.down(tokens).transpose(1, 2).unflatten(-1, (self.size, self.size))
        read = F.grid_sample(maps, places.flatten(0, 1)[:, :, None], align_corners=False, padding_mode="border")
        read = read[..., 0].unflatten(0, (objects, views)).transpose(2, 3)
        said = self.point(torch.cat([read, (depths[..., None] - 1) * 3, directions], -1))
        weights, values = said[..., :1].softmax(1), said[..., 1:]
        mean = (weights * values).sum(1)
        spread = (weights * (values - mean[:, None]).square()).sum(1)
        words = self.cell(torch.cat([mean, spread], -1).unflatten(1, (self.vectors, -1)).flatten(2)) + self.place
        side = self.size // POOLED
        again = tokens.reshape(objects, views, POOLED, side, POOLED, side, -1).mean((3, 5)).flatten(1, 3)
        for block in self.blocks:
            words = block(words, again)
        return self.scale * self.last(self.last_norm(words))
