"""Splats on the surface of a mesh: spread evenly, flat along it, and of its colors."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.notices import warn
from invert3d_ns.base.random import random_stream
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.meshes.reading import Surface, read_surfaces
from invert3d_ns.scenes.rasterization import SH_C0

SPLATS = 20_000
"""Number of splats on a mesh unless it is said."""
_CANDIDATES = 5
"""Random points of which one is kept, far from the others that are kept."""
_TURNED = 1.0
"""Distance, in typical distances of splats, of two points in one place whose surfaces face to opposite sides, halved:
the front and the back of a thin sheet are covered each by its own splats."""
_WIDTH = 0.75
"""Standard deviation along the surface by the typical distance: what is behind shines through nowhere (alpha of the
front alone is 0.97 or more in 99 % of the pixels), and outlines grow by 1 % of the area."""
_THICKNESS = 0.05
"""The same across the surface by that along it."""
_OPAQUE = 0.99
_FAINT = 0.02
"""Opacity below which nothing is to be seen, and no splat is made."""
_SHADES = 6
"""Points that the color of a splat is the mean of."""
_FAR = 1000.0
"""How many times its own extent a mesh lies from the origin before its splats are around an origin of their own."""
_COARSE = 1e-3
"""Distance of neighboring 32-bit numbers, as a share of the mesh, from which on rounding is seen."""

_LOST = 0.03
"""The same, from which on there is no shape left."""


def read_mesh(path: Path | str, count: int = SPLATS) -> SplatCloud:
    """Splats on the surface of the mesh in a file, in the coordinates of the file.

    Args:
        path: a .glb, .gltf, .obj, .stl, .off, or a .ply with faces.
        count: number of splats; fewer where the surface is transparent.

    Raises:
        InputError: see :func:`~invert3d_ns.scenes.meshes.reading.read_surfaces`, or the surface has no area or is
            transparent.
    """
    path = Path(path)
    return splats_on_surfaces(read_surfaces(path), path, count)


def splats_on_surfaces(surfaces: list[Surface], path: Path | str, count: int) -> SplatCloud:
    """:func:`read_mesh` of what was read.

    Args:
        surfaces: at least one.
        path: what messages call the mesh.
        count: number of splats.
    """
    triangles = np.concatenate([surface.triangles for surface in surfaces])
    center, extent, origin = _place(triangles, path)
    triangles = triangles - center
    crossed = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    areas = np.linalg.norm(crossed, axis=-1) / 2
    total = float(areas.sum())
    if not total > 1e-12 * extent**2:
        raise InputError(f"the faces of {path} have no area; export the mesh again")
    spacing = math.sqrt(total / count)
    faces, parts = _spread(triangles, crossed, areas, spacing, count)
    colors = _shaded(surfaces, triangles, faces, parts, spacing)
    kept = colors[:, 3] >= _FAINT
    if not kept.any():
        raise InputError(f"the mesh in {path} is transparent everywhere; export it with opaque materials")
    faces, parts, colors = faces[kept], parts[kept], torch.from_numpy(colors[kept]).float()
    means = (triangles[faces] * parts[:, :, None]).sum(axis=1) + (center - origin)
    normals = crossed[faces] / (2 * areas[faces, None])
    width = math.log(_WIDTH * spacing)
    scales = torch.tensor([width, width, width + math.log(_THICKNESS)]).expand(len(means), 3).clone()
    x, y, z = origin.tolist()
    return SplatCloud(
        means=torch.from_numpy(means).float(),
        scales=scales,
        quats=_facing(torch.from_numpy(normals)).float(),
        opacities=torch.logit(colors[:, 3:].clamp(max=_OPAQUE)),
        features_dc=(colors[:, :3] - 0.5) / SH_C0,
        features_rest=torch.zeros(len(means), 0, 3),
        origin=(x, y, z),
    )


def _place(
    triangles: Float[np.ndarray, "F 3 3"], path: Path | str
) -> tuple[Float[np.ndarray, "3"], float, Float[np.ndarray, "3"]]:
    """Center and extent of a mesh, and the origin that its splats will have."""
    low, high = triangles.min(axis=(0, 1)), triangles.max(axis=(0, 1))
    center = low / 2 + high / 2
    with np.errstate(over="ignore"):
        extent = float(np.linalg.norm(high - low))
    far = float(np.abs(center).max())
    if not 0 < extent < 1e30 or far > 1e30:
        raise InputError(f"the faces of {path} have no area, or one beyond all measure; export the mesh again")
    step, text = far * 2**-23, Path(path).suffix.lower() in (".obj", ".off")
    if step > _COARSE * extent and not text and (triangles == triangles.astype(np.float32)).all():
        rounded = (
            f"the corners of {path} lie so far from their origin that 32-bit numbers round them to steps of {step:.2g} "
            f"({step / extent:.1%} of the mesh); export it around its origin"
        )
        if step > _LOST * extent:
            raise InputError(rounded)
        warn(rounded)
    return center, extent, center.round() if far > _FAR * extent else np.zeros(3)


def _spread(
    triangles: Float[np.ndarray, "F 3 3"],
    crossed: Float[np.ndarray, "F 3"],
    areas: Float[np.ndarray, " F"],
    spacing: float,
    count: int,
) -> tuple[Int[np.ndarray, " M"], Float[np.ndarray, "M 3"]]:
    """Faces and barycentric coordinates of points that are spread evenly: farthest-point sampling of random ones."""
    import fpsample

    generator = random_stream("splats on a mesh", 0)
    number = _CANDIDATES * count
    # One draw in each of as many shares of the area as there are points: no face gets many more or fewer than is due.
    drawn = (torch.arange(number) + torch.rand(number, generator=generator, dtype=torch.float64)) / number
    ends = np.cumsum(areas)
    faces = np.searchsorted(ends, drawn.numpy() * ends[-1], side="right").clip(0, len(areas) - 1)
    faces = np.where(areas[faces] > 0, faces, int(areas.argmax()))
    root, share = torch.rand(2, number, generator=generator, dtype=torch.float64).numpy()
    root = np.sqrt(root)  # uniform within a triangle
    parts = np.stack([1 - root, root * (1 - share), root * share], axis=-1)
    points = (triangles[faces] * parts[:, :, None]).sum(axis=1)
    turned = crossed[faces] / (2 * areas[faces, None]) * (_TURNED * spacing)
    rows = fpsample.bucket_fps_kdline_sampling(
        np.concatenate([points, turned], axis=1).astype(np.float32), count, h=7, start_idx=0
    ).astype(np.int64)
    return faces[rows], parts[rows]


def _shaded(
    surfaces: list[Surface],
    triangles: Float[np.ndarray, "F 3 3"],
    faces: Int[np.ndarray, " M"],
    parts: Float[np.ndarray, "M 3"],
    spacing: float,
) -> Float[np.ndarray, "M 4"]:
    """Mean RGBA of the surface around points, as far as a splat reaches and within the face of the point."""
    generator = random_stream("colors of splats on a mesh", 0)
    corners = triangles[faces]
    longest = np.linalg.norm(corners - corners[:, [1, 2, 0]], axis=-1).max(axis=-1)
    total = np.zeros((len(faces), 4))
    first = np.cumsum([0, *(len(surface.triangles) for surface in surfaces)])
    for _ in range(_SHADES):
        shift = torch.rand(len(faces), 3, generator=generator, dtype=torch.float64).numpy() - 0.5
        near = (parts + shift * (spacing / np.maximum(longest, spacing))[:, None]).clip(0, None)
        near /= near.sum(axis=1, keepdims=True)
        for index, surface in enumerate(surfaces):
            rows = np.nonzero((faces >= first[index]) & (faces < first[index + 1]))[0]
            if len(rows):
                colors = surface.colors(faces[rows] - first[index], near[rows])
                total[rows] += colors * np.concatenate([colors[:, 3:].repeat(3, 1), np.ones((len(rows), 1))], axis=1)
    return np.concatenate([total[:, :3] / np.maximum(total[:, 3:], 1e-6), total[:, 3:] / _SHADES], axis=1)


def _facing(normals: Float[Tensor, "N 3"]) -> Float[Tensor, "N 4"]:
    """Quaternions (w, x, y, z) that turn the z axis to unit normals by the shortest way."""
    x, y, z = normals.unbind(-1)
    quats = torch.stack([1 + z, -y, x, torch.zeros_like(x)], dim=-1)
    length = quats.norm(dim=-1, keepdim=True)
    upside_down = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=quats.dtype)
    return torch.where(length > 1e-6, quats / length.clamp_min(1e-6), upside_down)
