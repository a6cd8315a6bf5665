"""A latent field as the scene of a run: it is what is trained and drawn, and splats are what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn import Parameter

from invert3d_ns.base.random import random_stream
from invert3d_ns.scenes.blending import Blend, SameEverywhere
from invert3d_ns.scenes.cameras import FOV_Y, orbit_camera_to_world
from invert3d_ns.scenes.latent_field_model import LatentFieldModel, LatentFieldModelConfig
from invert3d_ns.scenes.latent_splats import LatentSplatModel, LatentSplatModelConfig
from invert3d_ns.scenes.training_views import TrainingViews

RINGS = (-20.0, 10.0, 40.0)
"""Degrees from which splats see the field that they are fitted to."""
VIEWS = 8
"""Views of each of these rings."""


@dataclass
class FieldSceneModelConfig(LatentSplatModelConfig):
    """A radiance field of several objects at once, in the object frame, and splats that are fitted to it."""

    _target: type = field(default_factory=lambda: FieldSceneModel)
    nerf: LatentFieldModelConfig = field(default_factory=LatentFieldModelConfig)
    """The radiance field."""


class FieldSceneModel(LatentSplatModel):
    """A :class:`.LatentSplatModel` that is drawn and trained as a field; its splats are what was fitted to that last.

    So a run of it is read as any run of splats, while nerfstudio's viewer and ns-render show the field.

    Attributes:
        nerf: the field.
    """

    config: FieldSceneModelConfig
    nerf: LatentFieldModel

    def populate_modules(self) -> None:
        """Build the field, and splats in no place yet."""
        super().populate_modules()
        config = self.config.nerf
        config.objects = self.objects
        device = self.kwargs.get("device", "cpu")
        self.nerf = config.setup(scene_box=self.scene_box, num_train_data=self.num_train_data, device=device)
        # A checkpoint fits one kind of features: what was left open is settled from here on.
        config.field.encoding = self.nerf.field.kind
        self.nerf.blend = self.blend

    @contextmanager
    def at(self, blend: Blend) -> Iterator[None]:
        """Draw another blend within a block."""
        with super().at(blend), self.nerf.at(blend):
            yield

    def begin_step(self, seed: int, index: int) -> None:
        """Make what is random in a training step depend on seed and step alone, and look where anything is."""
        self.nerf.generator = random_stream("samples along rays", seed, index)
        self.nerf.after_step(index, random_stream("points that are looked at", seed, index))

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """The field's groups: "features" and "heads"."""
        return self.nerf.get_param_groups()  # type: ignore[return-value]

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor | list]:
        """Render one camera from the field; its time leads along the edges."""
        with self.nerf.at(self.blend_in_time(camera) or self.blend):
            return self.nerf.get_outputs(camera, None if self.training else self.crop_box)  # type: ignore[return-value]

    def render(self, cameras: Cameras) -> Float[Tensor, "F H W 3"]:
        """See :meth:`.ObjectSplatModel.render`; of the field."""
        with self.nerf.at(self.blend):
            return self.nerf.render(cameras)

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
        """See :meth:`.RendersToTrain.render_to_train`; of the field."""
        with self.nerf.at(self.blend):
            return self.nerf.render_to_train(camera_to_world, size, background=background, fov_y=fov_y)

    def fit_views(
        self,
        images: Float[Tensor, "P F 3 H W"],
        weights: Float[Tensor, "P K"],
        camera_to_world: Float[Tensor, "F r 4"],
        *,
        count: int,
        steps: int,
        seed: int,
        keep_first: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Fit the field to views of blends of the objects; see :func:`.fit_field`.

        Args:
            count: nothing here.
            keep_first: nothing here: the views of the first object are what keeps it.
        """
        from invert3d_ns.scenes.field_fitting import fit_field

        fit_field(
            self.nerf, images, camera_to_world, weights.to(images.device), steps=steps, seed=seed, progress=progress
        )

    def moved(self) -> Float[Tensor, ""]:
        """0: a field has nothing that moves."""
        return torch.zeros((), device=self.device)

    def fit_splats(
        self,
        weights: Float[Tensor, "P K"],
        *,
        size: int,
        count: int,
        steps: int,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Fit aligned splats to what the field shows of blends, and keep them.

        Args:
            weights: blends, all objects among them.
            size: side of the views in pixels.
            count: of splats.
            steps: of the fit.
            seed: of the choice of starting points.
            progress: called with what is done and the total.
        """
        azimuths = torch.arange(VIEWS) * (360.0 / VIEWS)
        poses = torch.cat(
            [orbit_camera_to_world(azimuths + 15.0 * i, torch.tensor(height)) for i, height in enumerate(RINGS)]
        )
        views = []
        with torch.no_grad():
            for blend in weights:
                with self.nerf.at(SameEverywhere.of(blend)):
                    rgb, alpha, _ = self.nerf.renderer()(poses, size)
                    views.append((rgb + 1 - alpha).clamp(0, 1))
        super().fit_views(torch.stack(views), weights, poses, count=count, steps=steps, seed=seed, progress=progress)

    def step_post_backward(self, step: int) -> None:
        """Nothing: a field is not densified."""
