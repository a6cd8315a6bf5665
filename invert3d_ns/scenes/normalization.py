"""Bringing splats and cameras into the object frame: z up, centered, scaled to a known radius."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.axes import UpAxis
from invert3d_ns.scenes.cameras import OBJECT_RADIUS
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.rasterization import harmonic_basis

# Rows are the images of the axes of the file. Each is a proper rotation that turns the up axis to +z; y to z is the
# change (x, -z, y) of MVDream and LGM, whose objects face +z in the file and so -y, the azimuth-0 camera, in the object
# frame.
_TO_Z_UP: dict[str, list[list[float]]] = {
    "z": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "-z": [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
    "y": [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
    "-y": [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
    "x": [[0, 0, -1], [0, 1, 0], [1, 0, 0]],
    "-x": [[0, 0, 1], [0, 1, 0], [-1, 0, 0]],
}

_FADED = 0.02
"""Alpha at which a splat is no longer seen."""
_MARGIN = 1.15
"""How far beyond the object's sphere views reach, as a multiple of its radius."""
_MOST = 0.99
"""Share of the splats, by opacity, that views must show whole."""
_ONE_POINT = "all splats of the scene lie in one point; export it again"


def to_object_frame(
    cloud: SplatCloud, up: UpAxis = "y", radius: float = OBJECT_RADIUS
) -> tuple[SplatCloud, Float[Tensor, "4 4"]]:
    """Rotate, center and scale splats into the object frame.

    Args:
        cloud: splats in the frame of their file.
        up: the axis of the file that points up.
        radius: radius in world units of the sphere that the object's centers, floaters left aside, will just fill;
            smaller where splats reach so far beyond their centers that views would cut them off.

    Returns:
        The splats in the object frame, and the similarity that was applied (from the frame of ``cloud``, which is
        around its :attr:`~invert3d_ns.scenes.cloud.SplatCloud.origin`, to the object frame).

    Raises:
        InputError: no splat can be seen, all splats lie in one point, or ``up`` is no axis.
    """
    if up not in get_args(UpAxis):
        raise InputError(f"the up axis cannot be '{up}'; give one of {', '.join(get_args(UpAxis))}")
    rotation = torch.tensor(_TO_Z_UP[up], dtype=torch.float32)
    center, extent = _visible_sphere(cloud, rotation)
    transform = similarity(rotation, center, radius / extent)
    return transform_splats(cloud, transform), transform


def from_object_frame(cloud: SplatCloud, up: UpAxis) -> SplatCloud:
    """Rotate splats so that ``up`` points up where z did; :func:`to_object_frame` with the same ``up`` undoes it."""
    return transform_splats(cloud, from_z_up(up))


def from_z_up(up: UpAxis) -> Float[Tensor, "4 4"]:
    """The rotation after which ``up`` points up where z did."""
    transform = torch.eye(4)
    transform[:3, :3] = torch.tensor(_TO_Z_UP[up], dtype=torch.float32).T
    return transform


def similarity(rotation: Float[Tensor, "3 3"], center: Float[Tensor, "3"], scale: float) -> Float[Tensor, "4 4"]:
    """The transform x -> scale (rotation x - center); ``center`` is given after the rotation."""
    transform = torch.eye(4)
    transform[:3, :3] = scale * rotation
    transform[:3, 3] = -scale * center
    return transform


def rotation_about_z(degrees: float) -> Float[Tensor, "4 4"]:
    """Rotation about z that moves azimuth 0 to azimuth ``degrees``."""
    angle = math.radians(degrees)
    matrix = torch.eye(4)
    matrix[0, 0] = matrix[1, 1] = math.cos(angle)
    matrix[0, 1], matrix[1, 0] = -math.sin(angle), math.sin(angle)
    return matrix


def robust_sphere(
    points: Float[Tensor, "N 3"],
    weights: Float[Tensor, " N"],
) -> tuple[Float[Tensor, "3"], float]:
    """Center and radius of the smallest box-centered sphere around the bulk of weighted points.

    Points of little weight count little, and the few that lie far out (floaters) not at all: points beyond 2.5 times
    the radius that holds 90 % of the weight around the weighted median are dropped, then 0.2 % of the weight at each
    end of each axis.

    Raises:
        InputError: no weight, or no extent.
    """
    center, extent, _ = _bulk(points, weights)
    if not extent > 0:
        raise InputError(_ONE_POINT)
    return center, extent


def _bulk(
    points: Float[Tensor, "N 3"], weights: Float[Tensor, " N"]
) -> tuple[Float[Tensor, "3"], float, Int[Tensor, " M"]]:
    """:func:`robust_sphere`, whose radius may be 0 here, and the rows of the points that are no floaters."""
    rows = torch.nonzero(weights > 0.05)[:, 0]
    if not len(rows):
        raise InputError("the scene has no visible splat (every opacity is below 0.05); export it again")
    points, weights = points[rows], weights[rows]
    median = torch.stack([_quantile(points[:, i], weights, 0.5) for i in range(3)])
    distance = (points - median).norm(dim=-1)
    near = distance <= 2.5 * _quantile(distance, weights, 0.9)
    points, weights = points[near], weights[near]
    low, high = (torch.stack([_quantile(points[:, i], weights, q) for i in range(3)]) for q in (0.002, 0.998))
    center = (low + high) / 2
    return center, float(_quantile((points - center).norm(dim=-1), weights, 0.998)), rows[near]


def _visible_sphere(cloud: SplatCloud, rotation: Float[Tensor, "3 3"]) -> tuple[Float[Tensor, "3"], float]:
    """Center, after ``rotation``, and radius of the sphere to scale to the object's.

    That of the centers, :func:`robust_sphere`, as long as views of it show splats to where they fade out; else that of
    what is seen, with the margin that views leave.
    """
    turned = cloud.means @ rotation.T.to(cloud.means)
    center, extent, rows = _bulk(turned, torch.sigmoid(cloud.opacities[:, 0]))
    if not extent > 0 and len(rows) > 1:
        raise InputError(_ONE_POINT)
    bulk = cloud.select(rows)
    opacities = torch.sigmoid(bulk.opacities[:, 0])
    axes = rotation.to(cloud.means) @ _rotation_matrices(bulk.quats) * bulk.scales.exp()[:, None]
    axes = axes * (2 * (opacities / _FADED).clamp_min(1).log()).sqrt()[:, None, None]
    if _reach(turned[rows], axes, opacities, center) <= _MARGIN * extent:
        return center, extent
    sides = axes.norm(dim=-1)
    low, high = (
        torch.stack([_quantile((turned[rows] + sign * sides)[:, i], opacities, q) for i in range(3)])
        for sign, q in ((-1, 1 - _MOST), (1, _MOST))
    )
    center = (low + high) / 2
    return center, _reach(turned[rows], axes, opacities, center) / _MARGIN


def _reach(
    means: Float[Tensor, "N 3"],
    axes: Float[Tensor, "N 3 3"],
    weights: Float[Tensor, " N"],
    center: Float[Tensor, "3"],
) -> float:
    """Distance from ``center`` within which nearly all ellipsoids end, whose half-axes are the columns of ``axes``."""
    offset = means - center
    distance = offset.norm(dim=-1)
    outwards = (axes.transpose(1, 2) @ (offset / distance.clamp_min(1e-12)[:, None])[:, :, None]).norm(dim=(1, 2))
    across = (distance.square() + axes.norm(dim=1).amax(dim=-1).square()).sqrt()
    return float(_quantile(torch.maximum(distance + outwards, across), weights, _MOST))


def _rotation_matrices(quats: Float[Tensor, "N 4"]) -> Float[Tensor, "N 3 3"]:
    """Matrices of quaternions (w, x, y, z) of any length; none for those of length 0."""
    from scipy.spatial.transform import Rotation

    wxyz = quats.detach().cpu().double()
    wxyz[wxyz.norm(dim=-1) == 0, 0] = 1.0
    return torch.from_numpy(Rotation.from_quat(wxyz[:, [1, 2, 3, 0]].numpy()).as_matrix()).to(quats)


def within_object(means: Float[Tensor, "N 3"]) -> Bool[Tensor, " N"]:
    """Which centers, in the object frame, lie in the object's sphere or spill over it a little."""
    return means.norm(dim=-1) < 1.1 * OBJECT_RADIUS


def _quantile(values: Float[Tensor, " N"], weights: Float[Tensor, " N"], q: float) -> Float[Tensor, ""]:
    """The smallest value at or below which the share ``q`` of the weight lies."""
    values, order = values.sort()
    cumulative = weights[order].double().cumsum(0)
    return values[torch.searchsorted(cumulative, q * cumulative[-1]).clamp_max(len(values) - 1)]


def transform_splats(cloud: SplatCloud, transform: Float[Tensor, "4 4"]) -> SplatCloud:
    """Apply a similarity (rotation, uniform scale, translation) to splats: centers, sizes, orientations and spherical
    harmonics. The result is in a frame of its own, without the origin that ``cloud`` may have had in a file.

    Args:
        cloud: on any device, where the result is, too.
        transform: on any device.
    """
    transform = transform.cpu()
    scale = torch.linalg.det(transform[:3, :3].double()).pow(1 / 3).float()
    rotation = transform[:3, :3] / scale
    moved = transform.to(cloud.means)
    return replace(
        cloud,
        means=cloud.means @ moved[:3, :3].T + moved[:3, 3],
        scales=cloud.scales + scale.log().to(cloud.scales),
        quats=_multiply(_to_quaternion(rotation).to(cloud.quats), cloud.quats),
        features_rest=rotate_harmonics(cloud.features_rest, rotation),
        origin=(0.0, 0.0, 0.0),
    )


def rotate_harmonics(features_rest: Float[Tensor, "N K 3"], rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "N K 3"]:
    """Rotate real spherical harmonics of degrees 1 to 3: the new function at direction d is the old one at rotation^T
    d.

    Harmonics of one degree span a space that rotations map to itself, so the matrix of the rotation follows exactly
    from the basis functions at more directions than the space has dimensions: Y(d) M = Y(rotation^T d). That needs no
    Wigner-D recurrences and inherits signs and order from the basis that the renderer uses. Libraries that offer Wigner
    matrices (e3nn) bring a compiler stack with them, and scipy has none.
    """
    count = features_rest.shape[1]
    if count == 0 or torch.equal(rotation, torch.eye(3)):
        return features_rest
    rotated, start = [], 0
    for matrix in _harmonic_rotations(math.isqrt(count + 1) - 1, rotation):
        end = start + len(matrix)
        rotated.append(torch.einsum("ij,njc->nic", matrix.to(features_rest), features_rest[:, start:end]))
        start = end
    return torch.cat(rotated, dim=1)


def _harmonic_rotations(degree: int, rotation: Float[Tensor, "3 3"]) -> list[Float[Tensor, "m m"]]:
    """The rotation of the harmonics of each degree from 1 on, of which degree l has m = 2 l + 1."""
    index = torch.arange(32, dtype=torch.float64) + 0.5
    polar, around = torch.acos(1 - 2 * index / 32), torch.pi * (1 + 5**0.5) * index  # a Fibonacci sphere
    directions = torch.stack([around.cos() * polar.sin(), around.sin() * polar.sin(), polar.cos()], dim=-1)
    before, after = harmonic_basis(degree, directions), harmonic_basis(degree, directions @ rotation.double())
    spans = [slice(order * order, (order + 1) ** 2) for order in range(1, degree + 1)]
    return [torch.linalg.lstsq(before[:, span], after[:, span]).solution.float() for span in spans]


def _to_quaternion(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "4"]:
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation.double().numpy()).as_quat()
    return torch.tensor([w, x, y, z], dtype=torch.float32)


def _multiply(left: Float[Tensor, "4"], right: Float[Tensor, "N 4"]) -> Float[Tensor, "N 4"]:
    """Hamilton product of a quaternion with many, (w, x, y, z)."""
    w, v = right[:, :1], right[:, 1:]
    scalar = left[0] * w - (left[1:] * v).sum(dim=-1, keepdim=True)
    vector = left[0] * v + w * left[1:] + torch.linalg.cross(left[1:].expand_as(v), v)
    return torch.cat([scalar, vector], dim=-1)
