"""A triangle mesh as plain arrays: what surfaces are found as, textures are baked onto, and files hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8


@dataclass
class Mesh:
    """Triangles with their corners in the order in which they appear counterclockwise from outside."""

    vertices: Float[np.ndarray, "V 3"]
    """World units."""
    faces: Int[np.ndarray, "F 3"]
    """Rows of :attr:`vertices`."""
    normals: Float[np.ndarray, "V 3"]
    """Unit vectors that point outwards."""
    colors: Float32[np.ndarray, "V 3"] | None = None
    """RGB of the vertices in [0, 1], as displays take it (sRGB)."""
    uvs: Float32[np.ndarray, "V 2"] | None = None
    """Where the vertices lie in the texture, in [0, 1], v up: (0, 0) is the lower left corner of the picture."""
    texture: UInt8[np.ndarray, "T T 3"] | None = None
    """RGB picture (sRGB), the upper row first; there if :attr:`uvs` are."""


def vertex_normals(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "V 3"]:
    """Unit normals of vertices: the mean of those of the faces around, weighted by area; (0, 0, 1) where there is none.

    Args:
        vertices: world units.
        faces: rows of ``vertices``.
    """
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    crossed = np.cross(b - a, c - a)
    sums = np.stack(
        [np.bincount(faces.ravel(), np.repeat(crossed[:, axis], 3), minlength=len(vertices)) for axis in range(3)],
        axis=-1,
    )
    length = np.linalg.norm(sums, axis=-1, keepdims=True)
    return np.where(length > 0, sums / np.maximum(length, 1e-300), (0.0, 0.0, 1.0)).astype(vertices.dtype)


def moved(mesh: Mesh, transform: Float[np.ndarray, "4 4"]) -> Mesh:
    """A mesh under a similarity (rotation, uniform scale, translation), in its precision."""
    scale = np.cbrt(np.linalg.det(transform[:3, :3]))
    return replace(
        mesh,
        vertices=mesh.vertices @ transform[:3, :3].T + transform[:3, 3],
        normals=(mesh.normals @ (transform[:3, :3] / scale).T).astype(mesh.normals.dtype),
    )
