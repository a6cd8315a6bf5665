"""Alpha blending of projected Gaussians in plain torch: the mathematics of the compiled kernel, and its stand-in.

For a pixel with center p, over the Gaussians of its camera from front to back (Kerbl et al. 2023; gsplat's constants)::

    d = mean - p;  sigma = (a d_x² + 2 b d_x d_y + c d_y²) / 2          conic (a, b, c)
    alpha = min(0.999, opacity exp(-sigma));  skipped where sigma < 0 or alpha < 1/255
    T' = T (1 - alpha);  the pixel is finished, without this Gaussian, where T' <= 1e-4
    color += T alpha c;  T = T'

A Gaussian reaches the pixels of those tiles that its square of half-width ``radii`` overlaps. The choice of Gaussians
(order, thresholds, squares) is constant to the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

ALPHA_MAX, ALPHA_MIN, TRANSMITTANCE_MIN = 0.999, 1.0 / 255.0, 1e-4
_CHUNK = 64  # Gaussians that are blended at a time: bounds memory, and lets finished tiles stop


def composite(
    means2d: Float[Tensor, "*M 2"],
    conics: Float[Tensor, "*M 3"],
    colors: Float[Tensor, "*M K"],
    opacities: Float[Tensor, "*M"],
    radii: Int[Tensor, "*M"],
    depths: Float[Tensor, "*M"],
    offsets: Sequence[int],
    width: int,
    height: int,
    *,
    tile_size: int = 16,
    absgrad: bool = False,
) -> tuple[Float[Tensor, "C height width K"], Float[Tensor, "C height width 1"]]:
    """Draw projected Gaussians over black, in any floating-point type and on any device.

    Args:
        means2d: centers in pixels; the center of the first pixel is (0.5, 0.5).
        conics: entries (xx, xy, yy) of the inverse covariances, 1/pixels².
        colors: K channels of any range.
        opacities: in [0, 1].
        radii: half-width in pixels of the square that is drawn; 0 where invisible.
        depths: drawing order, nearest first; equal depths keep their order. Not differentiable here.
        offsets: C + 1 positions: camera c draws the (flattened) Gaussians ``offsets[c]:offsets[c + 1]``.
        tile_size: side of a tile in pixels.
        absgrad: a backward pass gives ``means2d`` an attribute ``absgrad``, |dL/dmeans2d| summed over pixels.

    Returns:
        Colors (premultiplied) and alphas in [0, 1].
    """
    absolute = torch.zeros_like(means2d) if absgrad else None
    if absolute is not None:
        means2d.absgrad = absolute  # type: ignore[attr-defined]
        absolute = absolute.view(-1, 2)
    parts = [means2d, conics, opacities[..., None], colors, torch.ones_like(opacities)[..., None]]
    splats = torch.cat([part.flatten(0, -2) for part in parts], dim=-1)  # [M, 2 + 3 + 1 + K + 1]
    radii, depths = radii.reshape(-1), depths.detach().reshape(-1)
    centers, spread = splats[:, :2].detach(), radii[:, None].to(splats.dtype)
    first_tile = torch.floor((centers - spread) / tile_size)
    last_tile = torch.ceil((centers + spread) / tile_size) - 1
    images = []
    for start, end in pairwise(offsets):
        order = start + torch.argsort(depths[start:end], stable=True)
        order = order[radii[order] > 0]
        rows = []
        for top in range(0, height, tile_size):
            in_row = order[(first_tile[order, 1] <= top // tile_size) & (top // tile_size <= last_tile[order, 1])]
            tiles = []
            for left in range(0, width, tile_size):
                ids = in_row[(first_tile[in_row, 0] <= left // tile_size) & (left // tile_size <= last_tile[in_row, 0])]
                y = torch.arange(top, min(top + tile_size, height)).to(splats) + 0.5
                x = torch.arange(left, min(left + tile_size, width)).to(splats) + 0.5
                pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # [h, w, 2]
                tile = _blend(pixels.flatten(0, 1), splats.index_select(0, ids), ids, absolute)
                tiles.append(tile.view(len(y), len(x), -1))
            rows.append(torch.cat(tiles, dim=1))
        images.append(torch.cat(rows, dim=0))
    image = torch.stack(images) + splats[:0].sum()  # part of the graph even where nothing was drawn
    return image[..., :-1], image[..., -1:]


def _blend(
    pixels: Float[Tensor, "P 2"],
    splats: Float[Tensor, "m F"],
    ids: Int[Tensor, " m"],
    absolute: Float[Tensor, "M 2"] | None,
) -> Float[Tensor, "P K+1"]:
    """Colors and, as the last channel, coverage of some pixels by Gaussians that come front to back."""
    result = splats.new_zeros(len(pixels), splats.shape[-1] - 6)
    before = splats.new_ones(len(pixels), 1)
    for start in range(0, len(ids), _CHUNK):
        some = slice(start, start + _CHUNK)
        means2d, conics, opacities, features = splats[some].split([2, 3, 1, result.shape[-1]], dim=-1)
        delta = means2d[None] - pixels[:, None]  # [P, m, 2]
        if absolute is not None and delta.requires_grad:
            delta.register_hook(partial(_add_absolute, absolute, ids[some]))
        (dx, dy), (a, b, c) = delta.unbind(-1), conics.unbind(-1)
        sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
        alpha = (opacities[:, 0] * torch.exp(-sigma)).clamp_max(ALPHA_MAX)
        alpha = torch.where((sigma >= 0) & (alpha >= ALPHA_MIN), alpha, 0.0)
        behind = before * torch.cumprod(1 - alpha, dim=-1)  # transmittance after each Gaussian
        unfinished = behind > TRANSMITTANCE_MIN
        weights = alpha * torch.cat([before, behind[:, :-1]], dim=-1) * unfinished
        result = result + weights @ features
        before = behind[:, -1:] * unfinished[:, -1:]
        if not unfinished[:, -1].any():
            break
    return result


def _add_absolute(sums: Tensor, ids: Tensor, grad: Tensor) -> None:
    sums.index_add_(0, ids, grad.abs().sum(0))
