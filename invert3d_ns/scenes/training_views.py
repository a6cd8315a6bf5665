"""What whoever trains by views asks of a scene, splats or field: views that are differentiable in it."""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from invert3d_ns.scenes.cameras import FOV_Y

TrainingViews = tuple[Float[Tensor, "F 3 S S"], Float[Tensor, "F 1 S S"], Float[Tensor, "F 1 S S"]]
"""RGB (not clamped), alpha in [0, 1], and depth in world units where anything is seen, 0 elsewhere."""


class RendersToTrain(Protocol):
    """A scene that phases train by views of it."""

    def render_to_train(
        self,
        camera_to_world: Float[Tensor, "F r 4"],
        size: int,
        *,
        background: Float[Tensor, "F 3"] | float = 1.0,
        scale_factor: float = 1.0,
        fov_y: float = FOV_Y,
        densify: bool = False,
    ) -> TrainingViews:
        """Square views of all cameras in one pass, differentiable in every parameter of the scene.

        Args:
            camera_to_world: OpenGL axes, object frame.
            size: side of the views in pixels.
            background: RGB behind everything, of each view, or one gray for all.
            scale_factor: every splat is drawn this much larger; nothing to a field.
            fov_y: vertical field of view in degrees.
            densify: let densification read what the views come to; nothing to a field.
        """
        ...
