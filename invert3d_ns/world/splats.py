"""Turn objects of the procedural world into splats: the demo scene, and scenes of classes that no prior was shown."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from invert3d_ns.scenes.cameras import FOV_Y, orbit_camera_to_world
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.rasterization import SH_C0
from invert3d_ns.world.objects import WorldObject
from invert3d_ns.world.primitives import pack_primitives
from invert3d_ns.world.rendering import render_objects
from invert3d_ns.world.shapes import CLASSES
from invert3d_ns.world.vocabulary import COLORS


def demo_object() -> WorldObject:
    """The object of the bundled demo scene: a red chair with yellow legs.

    The bundled prior knows chairs and saw none in red: that pair is held out (:func:`.objects.held_out`).
    """
    shape = CLASSES["chair"](np.random.default_rng(8))
    paint = {"seat": "red", "back": "red", "legs": "yellow"}
    rows = pack_primitives(shape, {part: COLORS[color] for part, color in paint.items()})
    return WorldObject("chair", "red", "plain", "yellow", "legs", rows, main="seat")


def splats_of(item: WorldObject, *, spacing: float = 0.016, size: int = 192, views: int = 12) -> SplatCloud:
    """Make splats that cover an object's visible surface with flat splats, one a voxel, in its shaded colors.

    Args:
        item: the object.
        spacing: edge of the voxels, in world units.
        size: pixels of the views that see the surface.
        views: azimuths of each of the four rings of views.
    """
    elevations = torch.tensor([-55.0, -15.0, 20.0, 60.0]).repeat_interleave(views)
    azimuths = torch.arange(views).repeat(4) * (360.0 / views) + 7.0
    cameras = orbit_camera_to_world(azimuths, elevations)
    renders = render_objects([item], cameras[None], size, samples=1)
    solid = renders.alpha[0] == 255
    rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    tangent = np.tan(np.radians(FOV_Y) / 2)
    u, v = ((columns + 0.5) / size * 2 - 1) * tangent, (1 - (rows + 0.5) / size * 2) * tangent
    rays = np.stack([u, v, -np.ones_like(u)], -1)
    m = cameras.numpy()
    points = np.einsum("fij,fhwj->fhwi", m[:, :3, :3], rays * renders.depth[0][..., None]) + m[:, None, None, :3, 3]
    points, normals, colors = points[solid], renders.normals[0][solid], renders.rgb[0][solid] / 255.0
    _, inverse, counts = np.unique(
        np.floor(points / spacing).astype(int), axis=0, return_inverse=True, return_counts=True
    )
    inverse = inverse.reshape(-1)

    def mean(x: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(inverse, x[:, k]) for k in range(3)], 1) / counts[:, None]

    points, normals, colors = mean(points), mean(normals), mean(colors)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    # Both faces of a thin part can share a voxel; their normals cancel, and any direction serves.
    normals = np.where(lengths > 1e-3, normals / np.maximum(lengths, 1e-3), [[0.0, 0.0, 1.0]])
    # A splat shows around its center, and the screen-space filter of rasterizers widens it further: sink it a little.
    points = points - 0.6 * spacing * normals
    helper = np.where(np.abs(normals[:, :1]) < 0.9, [[1.0, 0, 0]], [[0, 1.0, 0]])
    first = np.cross(helper, normals)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    frames = np.stack([first, np.cross(normals, first), normals], -1)
    xyzw = Rotation.from_matrix(frames).as_quat()
    count = len(points)
    scales = np.log(np.array([0.42, 0.42, 0.1]) * spacing)[None].repeat(count, 0)
    tensor = lambda a: torch.as_tensor(np.ascontiguousarray(a), dtype=torch.float32)  # noqa: E731
    return SplatCloud(
        means=tensor(points),
        scales=tensor(scales),
        quats=tensor(xyzw[:, [3, 0, 1, 2]]),
        opacities=torch.full((count, 1), 4.0),
        features_dc=tensor((colors - 0.5) / SH_C0),
        features_rest=torch.zeros(count, 0, 3),
    )
