"""A box in nerfstudio's viewer that people move and size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from viser import ClientHandle, SceneNodeHandle, TransformControlsHandle

    from invert3d_ns.editing.edit import Box

_COLOR = (255, 211, 105)  # nerfstudio's brand color
_NAME = "/edit_region"
# A way along all twelve edges; four of them are gone twice, since every corner has an odd number of edges.
_WAY = (0, 1, 3, 2, 0, 4, 5, 1, 5, 7, 3, 7, 6, 2, 6, 4)


@dataclass(frozen=True)
class BoxState:
    """What the widgets of a box hold, in the object frame, also while it is switched off."""

    on: bool = False
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)
    size: tuple[float, float, float] = (1.0, 1.0, 1.0)


class RegionBox:
    """A checkbox, six numbers, and in the 3D view the edges of the box and a handle that drags it.

    One browser's own.
    """

    def __init__(self) -> None:
        self._client: ClientHandle | None = None
        self._edges: SceneNodeHandle | None = None
        self._handle: TransformControlsHandle | None = None

    def install(self, client: ClientHandle, state: BoxState) -> None:
        """Put the widgets into the folder that is open in this thread, and the box into the browser's scene.

        Args:
            client: the browser.
            state: what the widgets hold at first.
        """
        from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

        self._client, self._ratio = client, VISER_NERFSTUDIO_SCALE_RATIO
        gui = client.gui
        self.on = gui.add_checkbox("Only here", state.on, hint="Change only what lies in the box")
        self.center = gui.add_vector3("Center", state.center, step=0.01, hint="x y z; drag it in the view")
        self.size = gui.add_vector3(
            "Size", state.size, min=(0.0, 0.0, 0.0), step=0.01, hint="Along x, y, z; the object's radius is 0.9"
        )
        self._handle = client.scene.add_transform_controls(
            f"{_NAME}/handle", scale=3.0, line_width=3.0, disable_rotations=True, visible=False
        )
        self._handle.on_update(self._dragged)
        self.on.on_update(lambda event: self._draw())
        self.size.on_update(lambda event: self._draw())
        self.center.on_update(self._centered)
        self._handle.position = np.asarray(state.center) * self._ratio
        self._draw()

    @property
    def state(self) -> BoxState:
        """What the widgets hold."""
        center, size = self.center.value, self.size.value
        return BoxState(bool(self.on.value), (center[0], center[1], center[2]), (size[0], size[1], size[2]))

    @property
    def value(self) -> Box | None:
        """The box in the object frame; None while it is switched off."""
        if self._client is None or not self.on.value:
            return None
        x0, y0, z0, x1, y1, z1 = (float(value) for value in self._corners().ravel())
        return x0, y0, z0, x1, y1, z1

    def _corners(self) -> np.ndarray:
        center, half = np.asarray(self.center.value), np.asarray(self.size.value) / 2
        return np.stack([center - half, center + half])

    def _dragged(self, handle: Any) -> None:
        self.center.value = (np.asarray(handle.position) / self._ratio).round(3)

    def _centered(self, event: Any) -> None:
        # Without a client the number was set by dragging, and the handle is where it is being dragged.
        if event.client is not None and self._handle is not None:
            self._handle.position = np.asarray(self.center.value) * self._ratio
        self._draw()

    def _draw(self) -> None:
        assert self._client is not None and self._handle is not None
        corners = self._corners() * self._ratio
        ends = np.array([[corners[i >> 2 & 1, 0], corners[i >> 1 & 1, 1], corners[i & 1, 2]] for i in _WAY])
        # A cubic Bezier curve whose control points lie on the chord is the chord.
        inner = np.stack([ends[:-1] + (ends[1:] - ends[:-1]) * share for share in (1 / 3, 2 / 3)], axis=1)
        self._edges = self._client.scene.add_spline_cubic_bezier(
            f"{_NAME}/edges", ends, inner.reshape(-1, 3), line_width=3.0, color=_COLOR, visible=bool(self.on.value)
        )
        self._handle.visible = bool(self.on.value)
