"""The tensors that splatfacto trains, by group, from points or from splats that exist already."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.models.splatfacto import RGB2SH, random_quat_tensor
from torch import Tensor

from invert3d_ns.scenes.cloud import SplatCloud

GAUSSIANS = ("means", "scales", "quats", "features_dc", "features_rest", "opacities")
"""Splatfacto's groups."""
_LEAST_BASES = 4
"""Harmonics that there is room for at least, those of degree 1: ns-export cannot write models without."""


def parameters_from_points(
    points: Float[Tensor, "N 3"], colors: Float[Tensor, "N 3"], sh_degree: int
) -> dict[str, Tensor]:
    """Isotropic splats as large as the mean distance to the three nearest neighbors; colors are in [0, 1]."""
    from sklearn.neighbors import NearestNeighbors

    neighbors = NearestNeighbors(n_neighbors=4).fit(points.numpy())
    distances = torch.from_numpy(neighbors.kneighbors(points.numpy())[0])[:, 1:].float()
    count, bases = len(points), max((sh_degree + 1) ** 2, _LEAST_BASES)
    return {
        "means": points.clone(),
        "scales": distances.mean(dim=-1, keepdim=True).clamp_min(1e-4).log().repeat(1, 3),
        "quats": random_quat_tensor(count),
        "features_dc": RGB2SH(colors),
        "features_rest": torch.zeros(count, bases - 1, 3),
        "opacities": torch.logit(torch.full((count, 1), 0.1)),
    }


def parameters_from_cloud(cloud: SplatCloud) -> dict[str, Tensor]:
    """The tensors of a cloud, copied."""
    rest = cloud.features_rest
    if rest.shape[1] == 0:
        rest = torch.zeros(len(cloud), _LEAST_BASES - 1, 3)
    return {**{name: getattr(cloud, name).clone() for name in GAUSSIANS}, "features_rest": rest.clone()}
