"""From any scene that can be drawn with depths to a mesh with a texture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.meshes.depth_views import DepthRenderer, depth_views, splat_renderer
from invert3d_ns.scenes.meshes.mesh import Mesh
from invert3d_ns.scenes.meshes.surface import surface_from_density, surface_from_views
from invert3d_ns.scenes.meshes.texturing import textured

FACES = 40_000
"""Number of triangles, at most, unless it is said."""
TEXTURE_SIZE = 1024
"""Height and width of the texture in pixels, unless it is said."""
_VIEWS = 48
_LEAST_PIXELS, _MOST_PIXELS = 512, 768
"""Side of the views: half that of the texture, within these."""


def mesh_of_scene(
    render: DepthRenderer,
    *,
    faces: int = FACES,
    texture_size: int = TEXTURE_SIZE,
    density: Callable[[Float[Tensor, "M 3"]], Float[Tensor, " M"]] | None = None,
    threshold: float = 10.0,
) -> Mesh:
    """A mesh of a scene in the object frame, with a texture, as seen in 48 views from all around it.

    Args:
        render: draws the scene with depths.
        faces: number of triangles, at most, from 1000 on.
        texture_size: height and width of the texture in pixels.
        density: of points in the object frame; if given, the surface is where it has the value of ``threshold``,
            instead of where the depths are.
        threshold: of the density, per world unit; 10 is where a ray of 0.1 units is absorbed to 1 / e.

    Returns:
        In the object frame, closed, with colors of the vertices, too.

    Raises:
        InputError: the scene has no surface.
    """
    views = depth_views(render, _VIEWS, min(max(texture_size // 2, _LEAST_PIXELS), _MOST_PIXELS))
    mesh = surface_from_views(views, faces) if density is None else surface_from_density(density, threshold, faces)
    return textured(mesh, views, texture_size)


@torch.no_grad()
def mesh_of_splats(cloud: SplatCloud, *, faces: int = FACES, texture_size: int = TEXTURE_SIZE) -> Mesh:
    """A mesh of splats in the object frame; see :func:`mesh_of_scene`.

    Example:
        >>> from invert3d_ns.scenes.assets import DEMO_SCENE, read_object
        >>> mesh = mesh_of_splats(read_object(DEMO_SCENE)[0], faces=2000, texture_size=128)
        >>> len(mesh.faces) <= 2000, mesh.texture.shape
        (True, (128, 128, 3))
    """
    return mesh_of_scene(splat_renderer(cloud), faces=faces, texture_size=texture_size)
