"""Light on surfaces whose normals are known: what shows a shape, where colors alone might be painted on.

Text-to-3D trains some steps on albedo alone, some on lit albedo and some on light alone (DreamFusion; threestudio).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Shading = Literal["albedo", "diffuse", "textureless"]
"""albedo: colors without light. diffuse: lit from a point. textureless: the light on a white surface."""
AMBIENT = 0.1
"""Share of the light that comes from everywhere (threestudio)."""


@dataclass(frozen=True)
class Lighting:
    """Point lights."""

    shading: Shading
    """What is shown."""
    positions: Float[Tensor, "L 3"]
    """Of the lights, in the object frame: one for each view (or ray)."""


def random_lights(
    cameras: Float[Tensor, "F 3"], generator: torch.Generator, *, spread: float = 1.0
) -> Float[Tensor, "F 3"]:
    """Positions of lights near cameras (DreamFusion): about in their direction, at 0.8 to 1.5 times their distance.

    Args:
        cameras: their positions.
        generator: on the CPU.
        spread: standard deviation of normal noise on the directions, of length 1 (threestudio: 1).
    """
    noise = torch.randn(len(cameras), 3, generator=generator)
    distance = 0.8 + 0.7 * torch.rand(len(cameras), 1, generator=generator)
    directions = functional.normalize(functional.normalize(cameras, dim=-1) + spread * noise.to(cameras), dim=-1)
    return directions * (distance.to(cameras) * cameras.norm(dim=-1, keepdim=True))


def random_shading(generator: torch.Generator, *, lit: float = 0.75, textureless: float = 0.5) -> Shading:
    """What to show in a step of training: lit with one probability, and then without colors with another (threestudio:
    0.75 and 0.5).
    """
    first, second = torch.rand(2, generator=generator).tolist()
    if first >= lit:
        return "albedo"
    return "textureless" if second < textureless else "diffuse"


def shade(
    albedo: Float[Tensor, "M 3"],
    points: Float[Tensor, "M 3"],
    normals: Float[Tensor, "M 3"],
    lights: Float[Tensor, "M 3"],
    shading: Shading,
) -> Float[Tensor, "M 3"]:
    """Colors of points, each under a light of its own (Lambert's law); differentiable.

    Args:
        albedo: in [0, 1].
        points: in the object frame.
        normals: of length 1.
        lights: their positions.
        shading: albedo alone comes back as it is.
    """
    if shading == "albedo":
        return albedo
    towards = functional.normalize(lights - points, dim=-1)
    light = AMBIENT + (1 - AMBIENT) * (normals * towards).sum(-1, keepdim=True).clamp_min(0)
    return light.expand(-1, 3) if shading == "textureless" else albedo * light
