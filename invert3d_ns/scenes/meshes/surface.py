"""The surface of a scene as triangles: from the depths of its views, or from its density.

Depths are fused into a truncated signed distance (Curless and Levoy, "A Volumetric Method for Building Complex Models
from Range Images", SIGGRAPH 1996) on a regular grid: vectorized, on any device. open3d has the same, but needs system
libraries (X11, OpenGL) that bare machines lack, and so does pymeshlab, which would thin out the triangles; here the
grid is chosen so that there are as many as asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.cameras import OBJECT_RADIUS, ORBIT_RADIUS
from invert3d_ns.scenes.meshes.depth_views import DepthViews
from invert3d_ns.scenes.meshes.mesh import Mesh, vertex_normals
from invert3d_ns.scenes.meshes.triangles import covered_pixels

VOLUME_RADIUS = 1.15 * OBJECT_RADIUS
"""Radius of the sphere around the origin, in world units, beyond which no surface is looked for."""
LEAST_CELLS, MOST_CELLS = 12, 256
"""How finely the volume may be divided along each axis."""
_COARSE_CELLS = 64
"""The grid on which the number of triangles is estimated, and the space around the surface is found."""
_TRUNCATION = 3.0
"""Cells before and behind a surface within which its distance counts. What is behind counts less the deeper it lies:
the back of a thin part must not be pushed away by what is seen of its front."""
_LEAST_SEEN = 1 / 16
"""Share of the views that must look at a point for it to count as seen; those that are missing say that it is inside.
Single ones look into a scene through gaps between splats."""
_SMOOTHING = 0.7
"""Standard deviation in cells by which noise is smoothed away."""
_OUTLINES = 12
"""Views in which the surface is held against the outlines."""
_MOST_MOVED = 0.01
"""World units by which a surface may be moved for that."""
_SMALLEST_PIECE = 0.01
"""Loose pieces are left out whose area is below this share of that of the largest one."""
_NEAR = 0.8
"""Distance, in units of the truncation of a coarser grid, within which a finer one is filled."""
_AT_ONCE = 1 << 20
"""Points that are looked at in one go."""
_TRIES = 4
_SHARE = 0.96
"""How much of the number of triangles that may be used is aimed at."""
_NOTHING = (
    "no surface is seen in the scene: it is empty, or see-through from all sides; look at it with `invert3d turntable`"
)


def surface_from_views(views: DepthViews, faces: int) -> Mesh:
    """The surface between what the views see to be empty and everything else: closed, if a little inflated where
    nobody sees anything.

    Args:
        views: of a scene in the object frame.
        faces: number of triangles, at most.

    Returns:
        Vertices in world units, float32, without colors.

    Raises:
        InputError: no surface is seen.
    """
    known: dict[int, Float[Tensor, "N N N"]] = {}

    def volume(cells: int) -> Float[Tensor, "N N N"]:
        if cells not in known:
            below = cells // 2 if cells > 2 * _COARSE_CELLS else _COARSE_CELLS if cells > _COARSE_CELLS else None
            coarser = [other for other in known if below is not None and below <= other < 0.95 * cells]
            coarse = known[max(coarser)] if coarser else None if below is None else volume(below)
            known[cells] = _fused(views, cells, coarse)
        return known[cells]

    return _filling_outlines(_with_budget(volume, faces), views)


def surface_from_density(
    density: Callable[[Float[Tensor, "M 3"]], Float[Tensor, " M"]], threshold: float, faces: int
) -> Mesh:
    """The surface on which a density has a value, greater ones lying inside; see :func:`surface_from_views`.

    Args:
        density: of points in the object frame, such as a radiance field's; called with a million points at most.
        threshold: the value.
        faces: number of triangles, at most.

    Raises:
        InputError: the density is nowhere above, or nowhere below, the threshold.
    """

    @torch.no_grad()
    def volume(cells: int) -> Float[Tensor, "N N N"]:
        points = _grid(cells)
        values = torch.cat([density(part).reshape(-1).float().cpu() for part in points.split(_AT_ONCE)])
        values = (threshold - values.nan_to_num(-math.inf)).clamp(-1e6, 1e6)
        outside = points.norm(dim=-1) > VOLUME_RADIUS
        values[outside] = values[outside].clamp_min(max(abs(threshold), 1e-6))
        return values.view(cells, cells, cells)

    return _with_budget(volume, faces)


def _with_budget(volume: Callable[[int], Float[Tensor, "N N N"]], faces: int) -> Mesh:
    """Marching cubes on the finest grid that does not give too many triangles, whose number goes with its square."""
    cells = _COARSE_CELLS
    mesh = _extract(volume(cells))
    for _ in range(_TRIES):
        many = len(mesh.faces) > faces
        wanted = int(cells * math.sqrt(_SHARE * faces / len(mesh.faces)))
        wanted = min(max(wanted, LEAST_CELLS), MOST_CELLS, cells - 1 if many else MOST_CELLS)
        if wanted < LEAST_CELLS or (not many and wanted < 1.05 * cells):
            break
        cells, mesh = wanted, _extract(volume(wanted))
    return mesh


def _filling_outlines(mesh: Mesh, views: DepthViews) -> Mesh:
    """A surface moved outwards (or inwards) by the same small distance everywhere, so that it covers as much of the
    views as is seen there.

    Mean depths lie in the middle of what splats are thick, outlines at their rim.
    """
    size, missing, rim = views.size, 0, 0
    for index in range(0, len(views), max(1, len(views) // _OUTLINES)):
        solid = views.solid[index, 0].cpu().numpy() > 0
        matrix, k = (given[index].cpu().numpy() for given in (views.cameras.viewmats, views.cameras.intrinsics))
        seen = mesh.vertices @ matrix[:3, :3].T + matrix[:3, 3]
        corners = (seen[:, :2] / seen[:, 2:] * k[[0, 1], [0, 1]] + k[:2, 2])[mesh.faces]
        covered = np.zeros(size * size, dtype=bool)
        for pixels, _, _ in covered_pixels(corners, size):
            covered[pixels] = True
        missing += int(solid.sum()) - int(covered.sum())
        rim += sum(int(np.diff(solid, axis=axis).sum()) for axis in (0, 1))
    pixel = ORBIT_RADIUS / float(views.cameras.intrinsics[0, 0, 0])
    # A rim at all angles crosses 4 / pi times as many borders between pixels as it is pixels long.
    distance = missing / max(math.pi / 4 * rim, 1) * pixel
    distance = min(max(distance, -_MOST_MOVED), _MOST_MOVED)
    return replace(mesh, vertices=mesh.vertices + np.float32(distance) * mesh.normals)


def _grid(cells: int) -> Float[Tensor, "N*N*N 3"]:
    """Points of the grid in world units, the last axis (z) fastest."""
    line = torch.linspace(-VOLUME_RADIUS, VOLUME_RADIUS, cells)
    return torch.cartesian_prod(line, line, line)


@torch.no_grad()
def _fused(views: DepthViews, cells: int, coarse: Float[Tensor, "C C C"] | None = None) -> Float[Tensor, "N N N"]:
    """Signed distance to the surface in units of the truncation, -1 (inside, or never seen) to 1 (empty), on the CPU.

    Args:
        views: of the scene.
        cells: number of points along each axis.
        coarse: the same on another grid: only where a surface may be near are distances computed anew.
    """
    points = _grid(cells)
    values = torch.ones(len(points))
    inside = points.norm(dim=-1) <= VOLUME_RADIUS
    if coarse is not None:
        near, sign = _near_surface(coarse, cells)
        values = torch.where(inside, sign.flatten(), values)
        inside &= near.flatten()
    rows = inside.nonzero()[:, 0]
    spacing = 2 * VOLUME_RADIUS / (cells - 1)
    for part in rows.split(_AT_ONCE):
        values[part] = _distances(views, points[part].to(views.depth), spacing).cpu()
    return values.view(cells, cells, cells)


def _near_surface(coarse: Float[Tensor, "C C C"], cells: int) -> tuple[Bool[Tensor, "N N N"], Float[Tensor, "N N N"]]:
    """Which points of a finer grid have anything but emptiness, or anything but inside, around them; and -1 or 1 for
    the others.
    """
    pool = torch.nn.functional.max_pool3d
    greatest, least = pool(coarse[None], 3, 1, 1)[0], -pool(-coarse[None], 3, 1, 1)[0]
    near = (greatest > -_NEAR) & (least < _NEAR)
    index = (torch.arange(cells) * ((len(coarse) - 1) / (cells - 1))).round().long()
    picked = index[:, None, None], index[None, :, None], index[None, None, :]
    return near[picked], coarse[picked].sign()


def _distances(views: DepthViews, points: Float[Tensor, "M 3"], spacing: float) -> Float[Tensor, " M"]:
    """:func:`_fused` at some points."""
    total, weights = torch.zeros_like(points[:, 0]), torch.zeros_like(points[:, 0])
    focal = float(views.cameras.intrinsics[0, 0, 0])
    for index in range(len(views)):
        z, pixel, within = project(views, index, points)
        solid, depth = views.solid[index].view(-1)[pixel] > 0, views.depth[index].view(-1)[pixel]
        # Beside the outline the surface is as near as the outline is.
        beside = views.beside[index].view(-1)[pixel].float() * z / focal
        distance = torch.where(solid, depth - z, beside) / (_TRUNCATION * spacing)
        weight = torch.where(solid, views.facing[index].view(-1)[pixel].float(), 1.0)
        weight = weight * (1 + distance).clamp(0, 1) * within
        total += weight * distance.clamp(-1, 1)
        weights += weight
    missing = (_LEAST_SEEN * len(views) - weights).clamp_min(0)
    return (total - missing) / (weights + missing)


def project(
    views: DepthViews, index: int, points: Float[Tensor, "M 3"]
) -> tuple[Float[Tensor, " M"], Tensor, Bool[Tensor, " M"]]:
    """Depths of points in one view, the number of the pixel that each is in, row by row, and whether it is in one."""
    matrix, k = views.cameras.viewmats[index], views.cameras.intrinsics[index]
    seen = torch.addmm(matrix[:3, 3], points, matrix[:3, :3].T)
    z = seen[:, 2]
    x = seen[:, 0] / z * k[0, 0] + k[0, 2]
    y = seen[:, 1] / z * k[1, 1] + k[1, 2]
    size = views.size
    within = (z > 1e-3) & (x >= 0) & (x < size) & (y >= 0) & (y < size)
    pixel = torch.where(within, y, 0.0).long() * size + torch.where(within, x, 0.0).long()
    return z, pixel, within


def _extract(volume: Float[Tensor, "N N N"]) -> Mesh:
    """The surface of a volume, negative inside, without its small loose pieces.

    Raises:
        InputError: there is none.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.measure import marching_cubes

    cells = len(volume)
    padded = np.full((cells + 2,) * 3, max(1.0, float(volume.max())), dtype=np.float32)
    padded[1:-1, 1:-1, 1:-1] = gaussian_filter(volume.numpy(), _SMOOTHING, mode="nearest")
    if not padded.min() < 0 < padded.max():
        raise InputError(_NOTHING)
    spacing = 2 * VOLUME_RADIUS / (cells - 1)
    vertices, faces, _, _ = marching_cubes(padded, 0.0, spacing=(spacing,) * 3, gradient_direction="descent")
    vertices = (vertices - (spacing + VOLUME_RADIUS)).astype(np.float32)
    faces = _large_pieces(vertices, faces)
    kept, index = np.unique(faces, return_inverse=True)
    vertices, faces = vertices[kept], index.reshape(-1, 3).astype(np.int32)
    return Mesh(vertices, faces, vertex_normals(vertices, faces))


def _large_pieces(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces of the pieces that are not small."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = faces[:, [0, 1, 1, 2]].reshape(-1, 2).T
    links = coo_array((np.ones(ends.shape[1], dtype=bool), (ends[0], ends[1])), shape=(len(vertices),) * 2)
    piece = connected_components(links, directed=False)[1][faces[:, 0]]
    a, b, c = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    areas = np.bincount(piece, np.linalg.norm(np.cross(b - a, c - a), axis=-1))
    return faces[areas[piece] >= _SMALLEST_PIECE * areas.max()]
