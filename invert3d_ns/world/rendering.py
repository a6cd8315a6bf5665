"""Exact renders of the procedural world: color, coverage, depth, normals and part labels, sphere-traced in C.

Own renderer, because a training set of 100,000 views with masks, depth and part labels has to come from the package
alone, in minutes on two cores, with no mesh assets and no OpenGL context.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.cameras import FOV_Y
from invert3d_ns.world.objects import WorldObject
from invert3d_ns.world.primitives import PRIMITIVE_FLOATS

LIGHT = (-0.45, -0.65, 0.61)
"""Direction to the light, in the object frame (from the front, left and above)."""

INTERFACE = 2
"""What ``sdf_interface`` of the compiled renderer must return: other arguments than it takes would crash."""


@dataclass
class Renders:
    """Views of several objects. Every array starts with (objects, views, height, width)."""

    rgb: UInt8[np.ndarray, "O F H W 3"]
    """Composited on white."""
    alpha: UInt8[np.ndarray, "O F H W"]
    """Coverage."""
    depth: Float[np.ndarray, "O F H W"]
    """Along the optical axis, in world units; 0 where empty."""
    normals: Float[np.ndarray, "O F H W 3"]
    """Object frame, unit length; 0 where empty."""
    parts: UInt8[np.ndarray, "O F H W"]
    """Index of the part; 255 where empty."""


def render_objects(
    objects: Sequence[WorldObject],
    camera_to_world: Float[Tensor, "O F 4 4"],
    size: int = 64,
    *,
    samples: int = 2,
    threads: int | None = None,
) -> Renders:
    """Sphere-trace views of objects.

    Args:
        objects: what to render.
        camera_to_world: OpenGL camera axes, object frame.
        size: pixels of the square image.
        samples: rays a pixel, along each side.
        threads: worker threads; torch's number when not given.

    Raises:
        InputError: the package was installed without a C compiler, or the renderer compiled from other sources.
    """
    library = _library()
    count, views = camera_to_world.shape[:2]
    most = max(len(o.primitives) for o in objects)
    table = np.zeros((count, most, PRIMITIVE_FLOATS), np.float32)
    for row, item in zip(table, objects, strict=True):
        row[: len(item.primitives)] = item.primitives
    counts = np.array([len(o.primitives) for o in objects], np.int32)
    cameras = np.ascontiguousarray(camera_to_world.numpy(), np.float32)
    shape = (count, views, size, size)
    rgba, parts = np.empty((*shape, 4), np.uint8), np.empty(shape, np.uint8)
    depth, normals = np.empty(shape, np.float32), np.empty((*shape, 3), np.float32)
    light = np.array(LIGHT, np.float32)
    pointer = lambda a: ctypes.c_void_p(a.ctypes.data)  # noqa: E731
    library.sdf_render(
        pointer(table),
        pointer(counts),
        most,
        pointer(cameras),
        count,
        views,
        size,
        samples,
        ctypes.c_float(math.tan(math.radians(FOV_Y) / 2)),
        pointer(light),
        pointer(rgba),
        pointer(depth),
        pointer(normals),
        pointer(parts),
        threads or torch.get_num_threads(),
    )
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-9)
    return Renders(rgba[..., :3], rgba[..., 3], depth, normals, parts)


def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("invert3d_ns.world._sdf")
    if spec is None or spec.origin is None:
        raise InputError(
            "the renderer of the training world was not compiled; "
            "install a C compiler and reinstall with `pip install -e .`"
        )
    library = ctypes.CDLL(spec.origin)
    if not hasattr(library, "sdf_interface") or library.sdf_interface() != INTERFACE:
        raise InputError(
            "the compiled renderer of the training world is of another version of invert3d-ns; reinstall the package"
        )
    return library
