"""Signed distances of points to primitives: what the compiled renderer traces, for points that are not on a ray.

The formulas are ``csrc/sdf.c``'s (Quilez, "Distance functions"), in torch.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from invert3d_ns.world.primitives import KINDS


def signed_distances(primitives: Float[np.ndarray, "P 32"], points: Float[Tensor, "M 3"]) -> Float[Tensor, "M P"]:
    """Signed distances of points to each primitive of an object, in world units; negative inside.

    Exact but for ellipsoids, cups and prisms, where it is first-order exact at the surface, and a bound from below
    away from it. Smooth unions, as of soft assemblies, are not looked at: each primitive is by itself.

    Args:
        primitives: as :func:`.primitives.pack_primitives` lays them out.
        points: in the object frame; the result has their type and device.
    """
    columns = []
    for row in torch.as_tensor(np.asarray(primitives)).to(points):
        local = (points - row[1:4]) @ row[4:13].reshape(3, 3)
        columns.append(_distance(int(row[0]), local, row[13:17], row[17]))
    return torch.stack(columns, -1)


def _distance(
    kind: int, q: Float[Tensor, "M 3"], size: Float[Tensor, "4"], rounding: Float[Tensor, ""]
) -> Float[Tensor, " M"]:
    name = KINDS[kind]
    x, y, z = q.unbind(-1)
    if name == "ellipsoid":
        near = vector_norm(q / size[:3], dim=-1)
        steep = vector_norm(q / size[:3].square(), dim=-1)
        return torch.where(steep < 1e-6, -size[:3].amin(), near * (near - 1) / steep.clamp_min(1e-6))
    if name == "box":
        beyond = q.abs() - size[:3] + rounding
        return vector_norm(beyond.clamp_min(0), dim=-1) + beyond.amax(-1).clamp_max(0) - rounding
    if name == "cone":
        bottom, top, height = (size[:3] - rounding).clamp_min(1e-3)
        return _cone(q, bottom, top, height) - rounding
    if name == "torus":
        return torch.hypot(torch.hypot(x, y) - size[0], z) - size[1]
    if name == "cup":
        bottom, top, height, wall = size
        raised = torch.stack([x, y, z - wall], -1)
        inside = _cone(raised, (bottom - wall).clamp_min(1e-3), (top - wall).clamp_min(1e-3), height + 1e-3)
        return torch.maximum(_cone(q, bottom, top, height), -inside)
    width, length, height = size[:3]  # a prism: a gable with its ridge along y
    side = (2 * height * x.abs() + width * (z - height)) / torch.hypot(2 * height, width)
    return torch.maximum(torch.maximum(side, y.abs() - length), -z - height)


def _cone(q: Float[Tensor, "M 3"], bottom: Tensor, top: Tensor, height: Tensor) -> Float[Tensor, " M"]:
    """Capped cone along z with its middle at the origin; exact."""
    out, z = torch.hypot(q[:, 0], q[:, 1]), q[:, 2]
    cap_out = out - torch.minimum(out, torch.where(z < 0, bottom, top))
    cap_z = z.abs() - height
    slope = top - bottom
    along = (((top - out) * slope + (height - z) * 2 * height) / (slope.square() + 4 * height.square())).clamp(0, 1)
    side_out, side_z = out - top + slope * along, z - height + 2 * height * along
    inside = (side_out < 0) & (cap_z < 0)
    far = torch.minimum(torch.hypot(cap_out, cap_z), torch.hypot(side_out, side_z))
    return torch.where(inside, -far, far)
