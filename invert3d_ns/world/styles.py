"""Draw renders of the procedural world in its styles: transforms of color and shading in image space.

Every style leaves the background white, so that objects stay separable and splats can carry the style.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.world.rendering import Renders
from invert3d_ns.world.vocabulary import BLOCKY, STYLES

LUMA = (0.299, 0.587, 0.114)
"""Weights of RGB in brightness (ITU-R BT.601)."""


@dataclass
class Layers:
    """Images that a style is drawn from: V views of one or more objects. Derived ones are computed when asked for."""

    rgb: Float[Tensor, "V 3 H W"]
    """Color in [0, 1], the background filled with the object's mean color so that filters do not bleed white."""
    mask: Float[Tensor, "V 1 H W"]
    """Coverage in [0, 1]."""
    normals: Float[Tensor, "V 3 H W"]
    """Object frame, unit length; 0 where empty."""
    parts: Float[Tensor, "V 1 H W"]
    """Index of the part; 255 where empty."""
    depth: Float[Tensor, "V 1 H W"]
    """Along the optical axis, in world units; 0 where empty."""
    seeds: Sequence[int]
    """Seed of each view's texture; views of one object share theirs."""

    @property
    def unit(self) -> int:
        """Pixels that are one pixel of a 64-pixel view."""
        return max(round(self.rgb.shape[-1] / 64), 1)

    @cached_property
    def luma(self) -> Float[Tensor, "V 1 H W"]:
        """Brightness in [0, 1]."""
        return (self.rgb * self.rgb.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)

    @cached_property
    def outside(self) -> Float[Tensor, "V 1 H W"]:
        """1 where most of a pixel is background."""
        return (self.mask <= 0.5).float()

    @cached_property
    def rim(self) -> Float[Tensor, "V 1 H W"]:
        """1 on the object's outermost pixels."""
        return _grow(self.outside, self.unit) - self.outside

    @cached_property
    def creases(self) -> Float[Tensor, "V 1 H W"]:
        """1 inside the rim where normals, parts or depth break."""
        breaks = _spread(self.normals, 1).amax(1, keepdim=True) > 0.9
        breaks = breaks | (_spread(self.parts, 1) > 0.5) | (_spread(self.depth, 1) > 0.25)
        return breaks.float() * (1 - _grow(self.outside, self.unit))

    @cached_property
    def marks(self) -> Float[Tensor, "V 1 H W"]:
        """1 where the surface's own color breaks: patterns."""
        breaks = (_spread(self.rgb, 1).amax(1, keepdim=True) > 0.3).float()
        return breaks * (1 - _grow(self.outside, self.unit)) * (1 - _grow(self.creases, 1))

    @cached_property
    def noise(self) -> Float[Tensor, "V 2 H W"]:
        """Two smooth random fields in [-1, 1], one draw a seed."""
        draws = torch.stack([torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(s)) for s in self.seeds])
        fields = F.interpolate(draws, size=tuple(self.rgb.shape[-2:]), mode="bicubic", align_corners=True)
        return fields.clamp(-1.5, 1.5) / 1.5


def _smooth(x: Tensor, radius: int) -> Tensor:
    k = 2 * radius + 1
    return F.avg_pool2d(F.pad(x, (radius,) * 4, mode="replicate"), k, 1)


def _grow(x: Tensor, radius: int) -> Tensor:
    return F.max_pool2d(x, 2 * radius + 1, 1, radius)


def _spread(x: Tensor, radius: int) -> Tensor:
    return F.max_pool2d(x, 2 * radius + 1, 1, radius) + F.max_pool2d(-x, 2 * radius + 1, 1, radius)


def _grid(x: Tensor) -> tuple[Tensor, Tensor]:
    h, w = x.shape[-2:]
    rows, columns = torch.arange(h, device=x.device) * (64 / h), torch.arange(w, device=x.device) * (64 / w)
    return rows.view(1, 1, h, 1), columns.view(1, 1, 1, w)


def _tone(colors: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(colors).view(1, 3, 1, 1)


def _saturate(rgb: Tensor, amount: float) -> Tensor:
    gray = rgb.mean(1, keepdim=True)
    return (gray + amount * (rgb - gray)).clamp(0, 1)


def _lines(layers: Layers) -> Tensor:
    return torch.maximum(torch.maximum(layers.rim, layers.creases), layers.marks)


def _inner_lines(layers: Layers) -> Tensor:
    # One pixel inside the rim: pale lines on the rim itself would melt into the white background.
    second = _grow(layers.outside, 2 * layers.unit) * (1 - layers.outside) * (1 - layers.rim)
    return torch.maximum(torch.maximum(second, layers.creases), layers.marks)


def _pencil_sketch(layers: Layers) -> Tensor:
    rows, columns = _grid(layers.rgb)
    wave = torch.sin((rows + columns) * (2 * torch.pi / 5.5) + 2.0 * layers.noise[:, :1])
    hatching = ((wave + 1) / 2 > 0.25 + 0.9 * _smooth(layers.luma, 1)).float()
    gray = 0.92 - 0.22 * (1 - layers.luma) - 0.28 * _smooth(hatching, 1)
    gray = torch.where(_lines(layers) > 0.5, 0.22, gray)
    return gray.expand(-1, 3, -1, -1)


def _watercolor(layers: Layers) -> Tensor:
    unit = layers.unit
    wash = _smooth(_smooth(layers.rgb, unit), unit)
    wash = 0.52 * _saturate(wash, 1.25) + 0.44 + 0.1 * layers.noise[:, :1]
    rim = 1 - _smooth(layers.mask, 2 * unit)
    return wash - rim.clamp(0, 0.6) * 0.75 * (1 - _saturate(layers.rgb, 1.2)) * 1.0


def _pixel_art(layers: Layers) -> Tensor:
    block = 4 * layers.unit  # sixteen blocks a side
    weight = F.avg_pool2d(layers.mask, block)
    mean = F.avg_pool2d(layers.rgb * layers.mask, block) / weight.clamp_min(1e-3)
    return F.interpolate(torch.round(_saturate(mean, 1.3) * 5) / 5, scale_factor=block, mode="nearest")


def _blocks(mask: Float[Tensor, "V 1 H W"]) -> Float[Tensor, "V 1 H W"]:
    """1 on the blocks of pixel art that an object fills to about a half, else 0."""
    block = 4 * max(round(mask.shape[-1] / 64), 1)
    return F.interpolate((F.avg_pool2d(mask, block) > 0.45).float(), scale_factor=block, mode="nearest")


def _toon(layers: Layers) -> Tensor:
    peak = layers.rgb.amax(1, keepdim=True)
    level = torch.where(_smooth(peak, layers.unit) > 0.0, (peak * 3).ceil() / 3, peak)
    flat = layers.rgb / peak.clamp_min(0.05) * level.clamp(0.15, 1.0)
    return torch.where(torch.maximum(layers.rim, layers.creases) > 0.5, 0.0, _saturate(flat, 1.35))


def _night(layers: Layers) -> Tensor:
    moon = (layers.normals[:, :1] * 0.6 + layers.normals[:, 2:] * 0.7).clamp(0, 1) ** 2
    dim = 0.46 * _saturate(layers.rgb, 1.3) + _tone((0.01, 0.02, 0.14), layers.rgb)
    return dim + 0.22 * moon * _tone((0.6, 0.75, 1.0), layers.rgb)


def _sepia(layers: Layers) -> Tensor:
    v = 0.12 + 0.88 * layers.luma
    return v * _tone((0.93, 0.75, 0.52), layers.rgb) + 0.03


def _neon(layers: Layers) -> Tensor:
    peak = layers.rgb.amax(1, keepdim=True)
    # Tubes shine the brighter the paint is: hue alone would make brown orange, and gray and black white.
    bright = layers.rgb / peak.clamp_min(0.08) * (0.2 + 0.8 * peak)
    lines = _inner_lines(layers)
    glow = _smooth(_smooth(lines, layers.unit), layers.unit)
    color = 0.92 * _saturate(bright, 1.3)
    body = 0.10 * layers.rgb + _tone((0.03, 0.02, 0.06), layers.rgb)
    return torch.maximum(body + 0.55 * glow * color, lines * color)


def _van_gogh(layers: Layers) -> Tensor:
    rows, columns = _grid(layers.rgb)
    a, b = layers.noise[:, :1], layers.noise[:, 1:]
    swirl = torch.sin(0.4 * rows + 3.0 * a + 1.5 * b) * torch.cos(0.25 * columns + 3.0 * b)
    angle = torch.sin(0.7 * (rows * torch.cos(1.2 * a) + columns * torch.sin(1.2 * a)) + 3.0 * b)
    stroke = 0.5 * swirl + 0.5 * angle
    base = _saturate(_smooth(layers.rgb, layers.unit), 1.25)
    light = base + stroke.clamp_min(0) * (0.55 * _tone((1.0, 0.92, 0.45), base) - 0.35 * base)
    return light + (-stroke).clamp_min(0) * (0.45 * _tone((0.08, 0.16, 0.45), base) - 0.55 * base)


def _blueprint(layers: Layers) -> Tensor:
    rows, columns = _grid(layers.rgb)
    net = ((rows % 8 < 1) | (columns % 8 < 1)).float()
    paper = _tone((0.10, 0.27, 0.62), layers.rgb) * (0.8 + 0.35 * layers.luma) + 0.10 * net
    paper = torch.where(layers.rim > 0.5, 0.5 * paper, paper)
    return torch.where(_inner_lines(layers) > 0.5, _tone((0.86, 0.92, 1.0), paper), paper)


_PAINTERS: dict[str, Callable[[Layers], Float[Tensor, "V 3 H W"]]] = {
    "photo": lambda layers: layers.rgb,
    "pencil sketch": _pencil_sketch,
    "watercolor": _watercolor,
    "pixel art": _pixel_art,
    "toon": _toon,
    "night": _night,
    "sepia": _sepia,
    "neon": _neon,
    "van gogh": _van_gogh,
    "blueprint": _blueprint,
}
"""Colors of the object's pixels in each style; :func:`apply_styles` puts the white background behind them."""


def apply_styles(renders: Renders, names: Sequence[str], seeds: Sequence[int]) -> UInt8[np.ndarray, "O F H W 3"]:
    """Draw every object in its style.

    Args:
        renders: of O objects.
        names: a style for each object.
        seeds: of each object's texture; its views share one draw.

    Raises:
        InputError: a style that is not in :data:`.vocabulary.STYLES`.
    """
    for name in names:
        if name not in STYLES:
            raise InputError(f"unknown style {name!r}; styles are {', '.join(STYLES)}")
    out = renders.rgb.copy()
    for name in dict.fromkeys(names):
        if name == "photo":
            continue
        rows = [i for i, other in enumerate(names) if other == name]
        layers = _layers(renders, rows, [seeds[i] for i in rows])
        mask = _blocks(layers.mask) if name in BLOCKY else layers.mask
        drawn = _PAINTERS[name](layers).clamp(0, 1) * mask + (1 - mask)
        drawn = (drawn * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        out[rows] = drawn.reshape(len(rows), -1, *drawn.shape[1:])
    return out


def style_coverage(alpha: UInt8[np.ndarray, "O F H W"], names: Sequence[str]) -> UInt8[np.ndarray, "O F H W"]:
    """Coverage of objects as their styles draw them: the blocks of pixel art, else what was rendered."""
    out = alpha.copy()
    rows = [index for index, name in enumerate(names) if name in BLOCKY]
    masks = torch.from_numpy(alpha[rows]).flatten(0, 1)[:, None].float() / 255
    if rows:
        out[rows] = (255 * _blocks(masks)).to(torch.uint8).numpy().reshape(out[rows].shape)
    return out


def _layers(renders: Renders, rows: list[int], seeds: list[int]) -> Layers:
    views = renders.rgb.shape[1]
    rows_of = lambda a: torch.from_numpy(a[rows]).flatten(0, 1)  # noqa: E731
    mask = rows_of(renders.alpha)[:, None].float() / 255
    rgb = rows_of(renders.rgb).permute(0, 3, 1, 2).float() / 255
    pure = ((rgb - (1 - mask)) / mask.clamp_min(0.25)).clamp(0, 1)
    solid = (mask > 0.5).float()
    mean = (pure * solid).sum((2, 3), keepdim=True) / solid.sum((2, 3), keepdim=True).clamp_min(1)
    return Layers(
        torch.where(mask > 0.2, pure, mean),
        mask,
        rows_of(renders.normals).permute(0, 3, 1, 2),
        rows_of(renders.parts)[:, None].float(),
        rows_of(renders.depth)[:, None],
        [s for s in seeds for _ in range(views)],
    )
