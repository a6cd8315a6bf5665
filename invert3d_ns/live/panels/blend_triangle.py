"""A triangle in the 3D view, whose corners are three objects and in which a handle is dragged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from invert3d_ns.scenes.blending import project_to_simplex

if TYPE_CHECKING:
    from viser import ViserServer

_COLOR = (255, 211, 105)
_NAME = "/blend"
_RADIUS, _HEIGHT = 1.1, -1.0
"""Of the triangle, in the object frame: around the object's feet."""


def corners() -> Float[np.ndarray, "3 3"]:
    """The triangle in the object frame."""
    angles = np.deg2rad([90.0, 210.0, 330.0])
    return np.stack([_RADIUS * np.cos(angles), _RADIUS * np.sin(angles), np.full(3, _HEIGHT)], axis=1)


def weights_at(position: Sequence[float] | np.ndarray) -> torch.Tensor:
    """Barycentric coordinates of a place over the triangle; outside of it, those of the nearest weights.

    Example:
        >>> weights_at(corners()[1]).round(decimals=3).tolist()
        [0.0, 1.0, 0.0]
    """
    system = np.vstack([corners()[:, :2].T, np.ones(3)])
    values = np.linalg.solve(system, np.array([position[0], position[1], 1.0]))
    return project_to_simplex(torch.from_numpy(values).float())


class BlendTriangle:
    """Edges, names at the corners, and the handle.

    Args:
        server: all browsers see it.
        names: of the three objects.
        show: called with the weights that the handle was dragged to.
    """

    def __init__(self, server: ViserServer, names: Sequence[str], show: Callable[[torch.Tensor], None]) -> None:
        from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

        self._ratio, self._show, self._moving = VISER_NERFSTUDIO_SCALE_RATIO, show, False
        placed = corners() * self._ratio
        ends = placed[[0, 1, 2, 0]]
        # A cubic Bezier curve whose control points lie on the chord is the chord.
        inner = np.stack([ends[:-1] + (ends[1:] - ends[:-1]) * share for share in (1 / 3, 2 / 3)], axis=1)
        server.scene.add_spline_cubic_bezier(f"{_NAME}/edges", ends, inner.reshape(-1, 3), line_width=3.0, color=_COLOR)
        for index, name in enumerate(names):
            server.scene.add_label(f"{_NAME}/name_{index}", name, position=placed[index])
        self._handle: Any = server.scene.add_transform_controls(
            f"{_NAME}/handle", scale=3.0, active_axes=(True, True, False), disable_rotations=True, depth_test=False
        )  # what is empty counts as far away as the object's far side, which would hide the handle behind that
        self.move(np.array([1.0, 0.0, 0.0]))
        self._handle.on_update(lambda handle: self._dragged())

    def move(self, weights: Float[np.ndarray, "3"]) -> None:
        """Put the handle where these weights are."""
        self._moving = True
        try:
            self._handle.position = np.asarray(weights) @ corners() * self._ratio
        finally:
            self._moving = False

    def _dragged(self) -> None:
        if not self._moving:
            self._show(weights_at(np.asarray(self._handle.position) / self._ratio))
