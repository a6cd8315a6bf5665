"""A turntable: level cameras that circle an object once and see all of it, and nerfstudio's file of such a path."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.ranges import above, at_least

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, UInt8
    from torch import Tensor

    from invert3d_ns.scenes.cloud import SplatCloud

CAMERA_PATH = "camera_path.json"
"""What the file of a camera path is called in a run's folder."""


@dataclass(kw_only=True)
class Turntable:
    """One turn around an object in the object frame, z up. Free of torch until it is used."""

    seconds: Annotated[float, above(0, 600)] = 6.0
    """Duration of the turn, less than 600."""
    fps: Annotated[int, at_least(1, 240)] = 24
    """Frames a second, 1 to 240."""
    size: Annotated[int, at_least(16, 4096)] = 512
    """Height and width of the frames in pixels, 16 to 4096."""
    elevation: Annotated[float, above(-90, 90)] = 15.0
    """Degrees by which the camera looks down on the object, between -90 and 90."""
    turns: Annotated[int, at_least(1, 100)] = 1
    """Turns within these seconds, 1 to 100."""

    def poses(self, cloud: SplatCloud) -> Float[Tensor, "F 4 4"]:
        """Camera-to-world matrices (OpenGL axes), the front of the object first, that see all of it.

        Raises:
            InputError: no splat can be seen.
        """
        import torch

        from invert3d_ns.scenes.cameras import orbit_camera_to_world
        from invert3d_ns.scenes.extent import framing_distance

        frames = max(1, round(self.seconds * self.fps))
        azimuths = torch.arange(frames) * (360.0 * self.turns / frames)
        return orbit_camera_to_world(azimuths, torch.tensor(self.elevation), framing_distance(cloud, self.elevation))

    def frames(
        self, cloud: SplatCloud | Callable[[float], SplatCloud], poses: Float[Tensor, "F 4 4"]
    ) -> Iterator[UInt8[np.ndarray, "S S 3"]]:
        """The pictures from the :meth:`poses` on white, one by one, drawn on the device of the splats.

        Args:
            cloud: the splats, or what they are at a share, 0 to 1, of the path.
            poses: see :meth:`poses`.
        """
        import torch

        from invert3d_ns.base.pictures import to_pixels
        from invert3d_ns.scenes.rendering import render_splats

        for index, pose in enumerate(poses):
            with torch.no_grad():
                shown = cloud(index / len(poses)) if callable(cloud) else cloud
                picture, _ = render_splats(shown, pose[None], self.size)
            yield to_pixels(picture)[0]

    def camera_path(self, poses: Float[Tensor, "F 4 4"], *, crop: bool = False, timed: bool = False) -> dict[str, Any]:
        """The turn as nerfstudio's camera paths hold it, for ``ns-render camera-path``.

        Args:
            poses: see :meth:`poses`.
            crop: let nothing be drawn but what lies within the object's sphere, or rather the box around it.
            timed: each camera has a time, from 0 to 1, for scenes that change with it.
        """
        from invert3d_ns.scenes.cameras import FOV_Y, OBJECT_RADIUS

        side = 2 * 1.1 * OBJECT_RADIUS
        box = {
            "crop_center": [0.0, 0.0, 0.0],
            "crop_scale": [side, side, side],
            "crop_rot": [0.0, 0.0, 0.0],
            "crop_bg_color": {"r": 255, "g": 255, "b": 255},
        }
        return {
            "camera_type": "perspective",
            "render_height": self.size,
            "render_width": self.size,
            "fps": self.fps,
            "seconds": self.seconds,
            "is_cycle": True,
            "smoothness_value": 0.0,
            "keyframes": [],
            "crop": box if crop else None,
            "camera_path": [
                {"camera_to_world": pose.flatten().tolist(), "fov": FOV_Y, "aspect": 1.0}
                | ({"render_time": index / len(poses)} if timed else {})
                for index, pose in enumerate(poses)
            ],
        }

    def write_camera_path(
        self, path: Path | str, poses: Float[Tensor, "F 4 4"], *, crop: bool = False, timed: bool = False
    ) -> None:
        """Write :meth:`camera_path` into a file, whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(self.camera_path(poses, crop=crop, timed=timed)) + "\n", encoding="utf-8")
