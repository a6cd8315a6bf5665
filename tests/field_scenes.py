"""Small latent fields whose shapes are known."""

from __future__ import annotations

import torch

from invert3d_ns.scenes.latent_field import LatentField, LatentFieldConfig
from invert3d_ns.scenes.latent_field_model import LatentFieldModel, LatentFieldModelConfig
from invert3d_ns.scenes.occupancy import Occupancy
from invert3d_ns.scenes.ray_marching import Rays, Samples, place_samples
from invert3d_ns.scenes.spatial_features import PlaneFeatures

RADIUS = 0.5
"""Of the ball."""


def small_config(**settings) -> LatentFieldConfig:
    sizes = {"plane_resolution": 16, "plane_features": 4, "grid_resolution": 8, "grid_features": 4, "hidden": 16}
    return LatentFieldConfig(**{**sizes, **settings})


def make_field(objects: int = 2, seed: int = 0, **settings) -> LatentField:
    torch.manual_seed(seed)
    return LatentField(small_config(**settings), objects)


def make_model(objects: int = 2, seed: int = 0, samples: int = 32, **settings) -> LatentFieldModel:
    torch.manual_seed(seed)
    config = LatentFieldModelConfig(objects=objects, samples=samples, field=small_config(**settings))
    return config.setup(scene_box=None, num_train_data=1)


def planes_of(field: LatentField) -> torch.Tensor:
    """The texels of a field's planes."""
    assert isinstance(field.features, PlaneFeatures)
    return field.features.planes


def show_analytic_normals(field: LatentField) -> None:
    """Normals by autograd, which any torch has that need not train through them."""
    field.config.normals = "analytic"


@torch.no_grad()
def make_ball(field: LatentField, density: float = 400.0) -> None:
    """A solid ball around the origin, under all weights."""
    field.config.blob_density, field.config.blob_radius = density, RADIUS
    field.density_head.out.weight.zero_()
    field.density_head.out.bias.zero_()


@torch.no_grad()
def make_cones(field: LatentField) -> None:
    """Cones from the origin: around -x of the first of two objects, around +x of the second, nothing in between."""
    head, texels = field.density_head, planes_of(field)
    assert head.weights is not None
    field.config.blob_density, field.config.blob_radius = 400.0, 2 / 7
    texels[0, 0] = torch.linspace(-1, 1, texels.shape[-1])  # x, which linear interpolation keeps
    for parameter in head.parameters():
        parameter.zero_()
    for unit, sign in enumerate((-1.0, 1.0)):
        head.features.weight[unit, 0] = 1600.0 * sign
        head.features.bias[unit] = -4000.0
        head.weights.weight[unit, unit] = 4000.0
        head.out.weight[0, unit] = 1.0
    head.out.bias.fill_(-400.0)


def plain_render(field, rays: Rays, weights, count: int, offset: float = 0.5):
    """Colors over black, alphas and depths, by a loop over rays in which every sample is evaluated."""
    colors, alphas, depths = [], [], []
    step = 2.0 / count
    near, far = rays.span()
    for index in range(len(rays)):
        light, color, depth = torch.ones(()), torch.zeros(3), torch.zeros(())
        for k in range(count):
            distance = near[index] + (offset + k) * step
            if not distance < far[index]:
                break
            point = rays.origins[index] + distance * rays.directions[index]
            density, albedo = field(point[None], weights)
            alpha = 1 - torch.exp(-density[0] * step)
            color = color + light * alpha * albedo[0]
            depth = depth + light * alpha * distance * rays.cosines[index]
            light = light * (1 - alpha)
        colors.append(color)
        alphas.append((1 - light)[None])
        depths.append((depth / (1 - light).clamp_min(1e-6))[None])
    return torch.stack(colors), torch.stack(alphas), torch.stack(depths)


def all_samples(rays: Rays, count: int) -> Samples:
    """Samples along rays, none left out."""
    return place_samples(rays, Occupancy(1), count)
