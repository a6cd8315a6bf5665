"""A texture for a surface: a flat map of its triangles (xatlas), and colors taken from the views of the scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from torch import Tensor

from invert3d_ns.scenes.meshes.depth_views import DepthViews
from invert3d_ns.scenes.meshes.mesh import Mesh
from invert3d_ns.scenes.meshes.surface import project
from invert3d_ns.scenes.meshes.triangles import covered_pixels

_CHUNK = 2500
"""Triangles that are unwrapped together: xatlas' time goes with more than the square of their number (14 s for 19,000
at once, 3 s in pieces of this size), and pieces give no more charts."""
_PADDING = 2
"""Pixels of the texture around each chart."""
_SHARPNESS = 4
"""Power of the cosine of the angle of view by which views count: high ones take the color of the best view, low ones
blend."""
_TOLERANCE = 0.03
"""Depth in world units by which a point may lie behind what a view sees there, and be seen."""
_AT_ONCE = 1 << 19


def textured(mesh: Mesh, views: DepthViews, size: int) -> Mesh:
    """A mesh with a texture and colors of its vertices, as the views show it. What no view sees has the color of what
    is nearest in space that one does; without any view of it a mesh is gray.

    Args:
        mesh: the surface of the scene; vertices at seams are doubled.
        views: of the scene.
        size: height and width of the texture in pixels.
    """
    from scipy.spatial import KDTree

    mesh = unwrapped(mesh, size)
    assert mesh.uvs is not None
    colors, seen = _colors(views, mesh.vertices, mesh.normals)
    if not seen.any():
        colors[:] = 0.5
    elif not seen.all():
        colors[~seen] = colors[seen][KDTree(mesh.vertices[seen]).query(mesh.vertices[~seen])[1]]
    vertices = KDTree(mesh.vertices)
    texture, filled = np.zeros((size * size, 3), dtype=np.float32), np.zeros(size * size, dtype=bool)
    for pixels, points, normals in _texels(mesh, mesh.uvs, size):
        found, seen = _colors(views, points, normals)
        found[~seen] = colors[vertices.query(points[~seen])[1]]
        texture[pixels], filled[pixels] = found, True
    picture = _spread(texture.reshape(size, size, 3), filled.reshape(size, size))
    return replace(mesh, colors=colors, texture=picture)


def unwrapped(mesh: Mesh, size: int) -> Mesh:
    """A mesh whose triangles lie side by side in the unit square, with vertices doubled at the seams.

    Args:
        mesh: any mesh.
        size: side in pixels of the texture that is meant.
    """
    import xatlas

    atlas, chunks = xatlas.Atlas(), _chunks(mesh)
    for rows in chunks:
        kept, faces = np.unique(mesh.faces[rows], return_inverse=True)
        atlas.add_mesh(
            mesh.vertices[kept].astype(np.float32),
            faces.reshape(-1, 3).astype(np.uint32),
            mesh.normals[kept].astype(np.float32),
        )
    options = xatlas.PackOptions()
    options.padding, options.resolution = _PADDING, size
    atlas.generate(pack_options=options)
    sources, faces, uvs, count = [], [], [], 0
    for index, rows in enumerate(chunks):
        source, chunk_faces, chunk_uvs = atlas[index]
        sources.append(np.unique(mesh.faces[rows])[source])
        faces.append(chunk_faces.astype(np.int32) + count)
        uvs.append(chunk_uvs)
        count += len(source)
    source = np.concatenate(sources)
    # xatlas packs into about the resolution that it is given and scales width and height to 1 each.
    return Mesh(
        vertices=mesh.vertices[source],
        faces=np.concatenate(faces),
        normals=mesh.normals[source],
        uvs=np.concatenate(uvs).astype(np.float32).clip(0, 1),
    )


def _chunks(mesh: Mesh) -> list[Int[np.ndarray, " C"]]:
    """Rows of faces that lie together: halved along the longest side until there are few enough in each."""
    centers, chunks, left = mesh.vertices[mesh.faces].mean(axis=1), [], [np.arange(len(mesh.faces))]
    while left:
        rows = left.pop()
        if len(rows) <= _CHUNK:
            chunks.append(np.sort(rows))
            continue
        order = rows[np.argsort(centers[rows, np.ptp(centers[rows], axis=0).argmax()], kind="stable")]
        left += [order[len(order) // 2 :], order[: len(order) // 2]]
    return chunks


def _texels(
    mesh: Mesh, uvs: Float32[np.ndarray, "V 2"], size: int
) -> Iterator[tuple[Int[np.ndarray, " P"], Float32[np.ndarray, "P 3"], Float32[np.ndarray, "P 3"]]]:
    """The pixels of the texture that show a triangle, and the points and normals of the surface in their centers."""
    corners = np.stack([uvs[:, 0], 1 - uvs[:, 1]], axis=-1)[mesh.faces] * size
    for pixels, face, parts in covered_pixels(corners, size):
        weights, rows = parts[:, :, None].astype(np.float32), mesh.faces[face]
        yield pixels, (mesh.vertices[rows] * weights).sum(axis=1), (mesh.normals[rows] * weights).sum(axis=1)


@torch.no_grad()
def _colors(
    views: DepthViews, points: Float[np.ndarray, "P 3"], normals: Float[np.ndarray, "P 3"]
) -> tuple[Float32[np.ndarray, "P 3"], Bool[np.ndarray, " P"]]:
    """Colors of points of the surface in [0, 1], and which of them any view sees."""
    colors, weights = np.zeros((len(points), 3), dtype=np.float32), np.zeros(len(points), dtype=np.float32)
    for start in range(0, len(points), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        found, weight = _blended(views, *(torch.from_numpy(given[rows]).to(views.depth) for given in (points, normals)))
        colors[rows], weights[rows] = found.cpu().numpy(), weight.cpu().numpy()
    return colors, weights > 0


def _blended(
    views: DepthViews, points: Float[Tensor, "P 3"], normals: Float[Tensor, "P 3"]
) -> tuple[Float[Tensor, "P 3"], Float[Tensor, " P"]]:
    """The mean color of points in all views that see them, and the sum of weights, 0 where none does."""
    normals = torch.nn.functional.normalize(normals, dim=-1)
    total, weights = torch.zeros_like(points), torch.zeros_like(points[:, 0])
    for index in range(len(views)):
        z, pixel, within = project(views, index, points)
        depth, facing = views.depth[index].view(-1)[pixel], views.facing[index].view(-1)[pixel].float()
        ray = torch.nn.functional.normalize(views.cameras.camera_to_world[index, :3, 3] - points, dim=-1)
        cosine = (ray * normals).sum(dim=-1).clamp_min(0)
        weight = torch.where(within & (z < depth + _TOLERANCE), facing * cosine**_SHARPNESS, 0.0)
        rows = weight.nonzero()[:, 0]
        total[rows] += weight[rows, None] * _sampled(views, index, points[rows])
        weights += weight
    return total / weights.clamp_min(1e-12)[:, None], weights


def _sampled(views: DepthViews, index: int, points: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3"]:
    """Colors of one view where it has points, between the centers of pixels that show a surface."""
    matrix, k = views.cameras.viewmats[index], views.cameras.intrinsics[index]
    seen = torch.addmm(matrix[:3, 3], points, matrix[:3, :3].T)
    where = (seen[:, :2] / seen[:, 2:] * k[[0, 1], [0, 1]] + k[:2, 2]) * (2 / views.size) - 1
    image = torch.cat([views.rgb[index] * views.solid[index], views.solid[index]]).float()
    found = torch.nn.functional.grid_sample(image[None], where[None, None], padding_mode="border", align_corners=False)[
        0, :, 0
    ].T
    return found[:, :3] / found[:, 3:].clamp_min(1e-3)


def _spread(texture: Float32[np.ndarray, "T T 3"], filled: Bool[np.ndarray, "T T"]) -> UInt8[np.ndarray, "T T 3"]:
    """The picture with every empty pixel as the nearest filled one, so that no seam shows between the charts."""
    from scipy.ndimage import distance_transform_edt

    nearest: Any = distance_transform_edt(~filled, return_distances=False, return_indices=True)
    rows, columns = nearest
    return (texture[rows, columns].clip(0, 1) * 255).round().astype(np.uint8)
