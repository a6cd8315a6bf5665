"""A3D's latent radiance field: one NeRF whose objects are the vertices of a simplex.

All objects share the spatial features h(x). The weights u of the objects are only handed to two small networks together
with these: density softplus(MLP[h(x), u] + b(x)) and albedo sigmoid(MLP[h(x), u]), where b(x) = 10 (1 - |x| / r) makes
a blob to begin with. Nothing else makes what lies between two objects smooth (A3D, official code).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from invert3d_ns.base.ranges import above, at_least
from invert3d_ns.scenes.spatial_features import HashFeatures, Kind, PlaneFeatures, check_twice_differentiable

Normals = Literal["differences", "analytic"]
"""How normals are found: by differences of the density between four points, or its derivative."""


@dataclass
class LatentFieldConfig:
    """The radiance field that all objects share."""

    encoding: Literal["auto", "planes", "hash"] = "auto"
    """What holds the field's features: a hash grid, which is for GPUs, or planes, which are fast on a CPU; auto: the
    one for the device."""
    plane_resolution: Annotated[int, at_least(2, 4096)] = 64
    """Texels along each edge of the three planes."""
    plane_features: Annotated[int, at_least(1, 256)] = 8
    """Features of each texel."""
    grid_resolution: Annotated[int, at_least(2, 256)] = 24
    """Cells along each edge of the coarse grid that goes with the planes."""
    grid_features: Annotated[int, at_least(1, 256)] = 8
    """Features of each of its corners."""
    hidden: Annotated[int, at_least(1, 1024)] = 64
    """Width of the hidden layers of the two networks for density and color (A3D: 64)."""
    blob_density: Annotated[float, at_least(0, 1000)] = 10.0
    """What is added to the density at the center, before the softplus: a blob to begin with (A3D: 10)."""
    blob_radius: Annotated[float, above(0, 10)] = 0.5
    """Where that has fallen to 0, in world units; farther out, density is taken away. Objects have a radius of 0.9
    (A3D: 0.5)."""
    normals: Normals = "differences"
    """How normals are found: by differences of the density, or analytic, by its derivative, which costs more to train
    through."""
    normal_spacing: Annotated[float, above(0, 1)] = 0.02
    """Distance of the points between which density is compared for normals, in world units."""


class Head(nn.Module):
    """A small network of features and weights: one hidden layer, ReLU.

    Args:
        features: size of the features.
        objects: number of the weights; of one object, whose weight is always 1, they are left out.
        hidden: width of the hidden layer.
        outputs: numbers that come out.
    """

    def __init__(self, features: int, objects: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.features = nn.Linear(features, hidden)
        self.weights = nn.Linear(objects, hidden, bias=False) if objects > 1 else None
        self.out = nn.Linear(hidden, outputs)

    def forward(self, features: Float[Tensor, "M F"], weights: Float[Tensor, "*M K"]) -> Float[Tensor, "M C"]:
        """What comes out, of any range, under weights of each point, or the same for all."""
        if self.weights is None:
            hidden = self.features(features)
        elif weights.dim() == 1:  # a bias, which costs nothing
            hidden = functional.linear(features, self.features.weight, self.features.bias + self.weights(weights))
        else:
            hidden = self.features(features) + self.weights(weights)
        return self.out(functional.relu(hidden, inplace=True))


class LatentField(nn.Module):
    """Density and albedo at points of the object frame under weights of K objects, of each point or one for all.

    Args:
        config: see its fields.
        objects: K.
        on_gpu: which device is meant, where ``config`` leaves the encoding to it.
        kind: the encoding, where ``config`` leaves it to the device, and a checkpoint says it.

    Raises:
        InputError: analytic normals, and torch is too old for these with planes.

    Example:
        >>> field = LatentField(LatentFieldConfig(), objects=2, on_gpu=False)
        >>> density, albedo = field(torch.zeros(5, 3), torch.tensor([0.5, 0.5]))
        >>> density.shape, albedo.shape
        (torch.Size([5]), torch.Size([5, 3]))
    """

    def __init__(
        self, config: LatentFieldConfig, objects: int, *, on_gpu: bool = False, kind: Kind | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.objects = objects
        by_device: Kind = kind or ("hash" if on_gpu else "planes")
        self.kind: Kind = by_device if config.encoding == "auto" else config.encoding
        if self.kind == "hash":
            self.features = HashFeatures(on_gpu=on_gpu)
        else:
            planes = (config.plane_resolution, config.plane_features)
            self.features = PlaneFeatures(planes, (config.grid_resolution, config.grid_features))
            if config.normals == "analytic":
                check_twice_differentiable()
        self.density_head = Head(self.features.size, objects, config.hidden, 1)
        self.albedo_head = Head(self.features.size, objects, config.hidden, 3)

    def forward(
        self, points: Float[Tensor, "M 3"], weights: Float[Tensor, "*M K"]
    ) -> tuple[Float[Tensor, " M"], Float[Tensor, "M 3"]]:
        """Density (0 or more, per world unit) and albedo in [0, 1]."""
        features = self.features(points)
        return self.density_of(features, points, weights), self.albedo_of(features, weights)

    def density(self, points: Float[Tensor, "M 3"], weights: Float[Tensor, "*M K"]) -> Float[Tensor, " M"]:
        """Density alone, which costs half as much."""
        return self.density_of(self.features(points), points, weights)

    def density_of(
        self, features: Float[Tensor, "M F"], points: Float[Tensor, "M 3"], weights: Float[Tensor, "*M K"]
    ) -> Float[Tensor, " M"]:
        """Density where the features of the points are known."""
        blob = self.config.blob_density * (1 - points.norm(dim=-1) / self.config.blob_radius)
        return functional.softplus(self.density_head(features, weights)[:, 0] + blob)

    def albedo_of(self, features: Float[Tensor, "M F"], weights: Float[Tensor, "*M K"]) -> Float[Tensor, "M 3"]:
        """Albedo where the features are known."""
        return self.albedo_head(features, weights).sigmoid()

    def normals(
        self, points: Float[Tensor, "M 3"], weights: Float[Tensor, "*M K"], kind: Normals | None = None
    ) -> Float[Tensor, "M 3"]:
        """Directions in which the density falls, of length 1 (0 where it is the same all around); trainable.

        Args:
            points: in the object frame.
            weights: taken to be the same around each point.
            kind: as configured, by default.
        """
        if (kind or self.config.normals) == "analytic":
            training = torch.is_grad_enabled()
            with torch.enable_grad():
                places = points.detach().requires_grad_()
                (slope,) = torch.autograd.grad(self.density(places, weights).sum(), places, create_graph=training)
        else:
            # A tetrahedron: four points are the fewest that give a slope which is exact to second order.
            corners = points.new_tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
            around = points[:, None] + corners * (self.config.normal_spacing / 3**0.5)
            theirs = weights if weights.dim() == 1 else weights.repeat_interleave(4, dim=0)
            slope = self.density(around.flatten(0, 1), theirs).unflatten(0, (-1, 4)) @ corners
        return functional.normalize(-slope, dim=-1, eps=1e-9)
