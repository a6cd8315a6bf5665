"""A latent field as a nerfstudio model: what :class:`~invert3d_ns.scenes.splats.ObjectSplatModel` is for splats."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.base_model import Model, ModelConfig
from torch import Tensor, nn

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.metrics import psnr, ssim
from invert3d_ns.base.ranges import Range, at_least
from invert3d_ns.scenes.blending import Blend, SameEverywhere, vertex
from invert3d_ns.scenes.cameras import FOV_Y, PinholeCameras, pinhole_cameras
from invert3d_ns.scenes.field_drawing import POINTS_AT_ONCE, Drawn, draw_rays, explain_out_of_memory
from invert3d_ns.scenes.latent_field import LatentField, LatentFieldConfig
from invert3d_ns.scenes.occupancy import Occupancy
from invert3d_ns.scenes.ray_marching import camera_rays
from invert3d_ns.scenes.shading import Lighting
from invert3d_ns.scenes.training_views import TrainingViews

SAMPLES_ON_GPU, SAMPLES_ON_CPU = 512, 64
"""Along the diameter of the sphere. A3D: 512."""


@dataclass
class LatentFieldModelConfig(ModelConfig):
    """A radiance field of one or more objects that share it, in the object frame."""

    number_ranges: ClassVar[dict[str, Range]] = {"eval_num_rays_per_chunk": at_least(1)}
    _target: type = dataclasses.field(default_factory=lambda: LatentFieldModel)
    objects: Annotated[int, at_least(1, 64)] = 1
    """Number of objects that share the field."""
    field: LatentFieldConfig = dataclasses.field(default_factory=LatentFieldConfig)
    """The field."""
    samples: Annotated[int | None, at_least(4, 4096)] = None
    """Samples along the diameter of the object's sphere. None: 512 on a GPU, 64 on a CPU."""
    background_color: Literal["white", "black"] = "white"
    """Background of every picture."""
    enable_collider: bool = False
    """Nothing: rays begin where they enter the object's sphere."""
    eval_num_rays_per_chunk: int = 4096
    """Rays that are drawn at once, unless training; fewer take less memory."""


@dataclass(frozen=True)
class FieldViews:
    """Views to be trained on, and what regularizers read."""

    rgb: Float[Tensor, "F 3 S S"]
    """Over the background."""
    alpha: Float[Tensor, "F 1 S S"]
    """In [0, 1]."""
    depth: Float[Tensor, "F 1 S S"]
    """In world units where anything is seen, 0 elsewhere."""
    normals: Float[Tensor, "F 3 S S"] | None
    """Of what is seen, in the object frame, of length alpha at most; where asked for."""
    drawn: Drawn
    """The samples, their weights and normals."""
    directions: Float[Tensor, "M 3"]
    """Of the samples' rays."""


class LatentFieldModel(Model):
    """A latent field that is drawn in one blend of its objects at a time: :attr:`blend`, the first alone by default."""

    config: LatentFieldModelConfig

    def populate_modules(self) -> None:
        """Build the field; nerfstudio moves it to the device afterwards."""
        self.objects = self.config.objects
        device = torch.device(self.kwargs.get("device") or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.field = LatentField(self.config.field, self.objects, on_gpu=device.type == "cuda")
        self.occupancy = Occupancy(self.objects)
        self._blend: Blend = SameEverywhere.of(vertex(0, self.objects))
        self.generator: torch.Generator | None = None
        """Where training renders draw the offsets of their samples from, if no other is given."""

    @property
    def blend(self) -> Blend:
        """How much of each object is drawn, and where."""
        return self._blend

    @blend.setter
    def blend(self, blend: Blend) -> None:
        if blend.objects != self.objects:
            raise InputError(f"a blend of {blend.objects} objects does not fit a scene of {self.objects}; give as many")
        self._blend = blend

    @contextmanager
    def at(self, blend: Blend) -> Iterator[None]:
        """Draw in another blend within this context."""
        previous, self.blend = self._blend, blend
        try:
            yield
        finally:
            self._blend = previous

    @property
    def samples(self) -> int:
        """Samples along the diameter of the sphere."""
        return self.config.samples or (SAMPLES_ON_GPU if self.device.type == "cuda" else SAMPLES_ON_CPU)

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Groups for optimizers: "features" (A3D's learning rate: 0.01) and "heads" (0.001)."""
        heads = [*self.field.density_head.parameters(), *self.field.albedo_head.parameters()]
        return {"features": list(self.field.features.parameters()), "heads": heads}

    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Keep track of what is empty: to be called after each training step.

        Args:
            step: of training.
            generator: of the points that are looked at, on the CPU; the same as always where nothing is due.
        """
        self.occupancy.update(step, self.field.density, generator)

    def density(self, points: Float[Tensor, "M 3"]) -> Float[Tensor, " M"]:
        """Density of the blend at points of the object frame, on the model's device."""
        points = points.to(self.device)
        return torch.cat([self.field.density(part, self._weights_at(part)) for part in points.split(POINTS_AT_ONCE)])

    def renderer(self) -> Callable[[Float[Tensor, "F r 4"], int], tuple[Tensor, Tensor, Tensor]]:
        """What draws the blend as it is now, without gradients: from camera-to-world matrices and the side of the views
        in pixels to RGB over black, alpha and depth along the camera's axis, each (F, C, S, S).
        """
        blend = self.blend

        @torch.no_grad()
        def render(camera_to_world: Float[Tensor, "F r 4"], size: int) -> tuple[Tensor, Tensor, Tensor]:
            with self.at(blend):
                color, alpha, depth = self._look(pinhole_cameras(camera_to_world, size))
            return color.movedim(-1, 1), alpha.movedim(-1, 1), depth.movedim(-1, 1)

        return render

    def render_to_train(
        self,
        camera_to_world: Float[Tensor, "F r 4"],
        size: int,
        *,
        background: Float[Tensor, "F 3"] | float = 1.0,
        scale_factor: float = 1.0,
        fov_y: float = FOV_Y,
        densify: bool = False,
        generator: torch.Generator | None = None,
    ) -> TrainingViews:
        """See :meth:`.RendersToTrain.render_to_train`; ``generator`` is that of :meth:`draw_to_train`."""
        views = self.draw_to_train(camera_to_world, size, background=background, fov_y=fov_y, generator=generator)
        return views.rgb, views.alpha, views.depth

    def draw_to_train(
        self,
        camera_to_world: Float[Tensor, "F r 4"],
        size: int,
        *,
        background: Float[Tensor, "F 3"] | float = 1.0,
        fov_y: float = FOV_Y,
        lighting: Lighting | None = None,
        normals: bool = False,
        generator: torch.Generator | None = None,
    ) -> FieldViews:
        """The same views with all that regularizers read.

        Args:
            camera_to_world: OpenGL axes, object frame, on any device.
            size: side of the views in pixels.
            background: RGB behind everything, of each view, or one gray for all.
            fov_y: vertical field of view in degrees.
            lighting: with a light for each view; albedo is shown by default.
            normals: find these as well.
            generator: on the CPU, of the offsets of samples along the rays; by default :attr:`generator`. Without
                either they are drawn from torch's own while training, and are halves of the spacing otherwise.

        Raises:
            InputError: the GPU's memory is full.
        """
        poses = camera_to_world.to(self.device)
        rays = camera_rays(pinhole_cameras(poses, size, fov_y=fov_y))
        generator = generator or self.generator
        random = generator is not None or self.training
        offsets = torch.rand(len(rays), generator=generator).to(self.device) if random else 0.5
        if lighting is not None:
            each = lighting.positions.to(self.device).repeat_interleave(size * size, dim=0)
            lighting = dataclasses.replace(lighting, positions=each)
        with explain_out_of_memory(True, self.samples):
            drawn = draw_rays(
                self.field,
                self.occupancy,
                rays,
                self._weights_at,
                count=self.samples,
                offsets=offsets,
                lighting=lighting,
                normals=normals,
            )
        behind = torch.as_tensor(background, device=self.device).expand(len(poses), 3)[..., None, None]

        def views(values: Tensor) -> Tensor:
            return values.unflatten(0, (len(poses), size, size)).movedim(-1, 1)

        alpha = views(drawn.alpha)
        return FieldViews(
            rgb=views(drawn.color) + (1 - alpha) * behind,
            alpha=alpha,
            depth=views(drawn.depth),
            normals=None if drawn.normals is None else views(drawn.normals),
            drawn=drawn,
            directions=rays.directions[drawn.samples.rays],
        )

    def render(self, cameras: Cameras) -> Float[Tensor, "F H W 3"]:
        """Pictures of all ``cameras`` (shape (F,), one common size) on white, in [0, 1].

        Differentiable in the field.
        """
        color, alpha, _ = self._look(pinhole_cameras(cameras))
        return (color + 1 - alpha).clamp(0.0, 1.0)

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:
        """What :meth:`get_outputs` gives, of what lies within a box, if one is given."""
        return self.get_outputs(camera, obb_box)

    def get_outputs(self, camera: Cameras, obb_box: OrientedBox | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        """Render one camera.

        Returns:
            ``rgb`` (H, W, 3) in [0, 1], ``accumulation`` and ``depth`` (H, W, 1), and ``background`` (H, W, 3).
        """
        color, alpha, depth = (image[0] for image in self._look(pinhole_cameras(camera), obb_box))
        background = torch.full_like(color, 1.0 if self.config.background_color == "white" else 0.0)
        return {
            "rgb": (color + (1 - alpha) * background).clamp(0.0, 1.0),
            "accumulation": alpha,
            "depth": torch.where(alpha > 0, depth, depth.detach().max()),
            "background": background,
        }

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Float[Tensor, "H W 4"]:
        """The picture with alpha and without background, which ``ns-render --rendered-output-names rgba`` asks for."""
        alpha = outputs["accumulation"]
        color = (outputs[output_name] - (1 - alpha) * outputs["background"]) / alpha.clamp_min(1e-6)
        return torch.cat([color.clamp(0.0, 1.0), alpha], dim=-1)

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Mean squared error to a true picture, for what trains on pictures."""
        return {"rgb_loss": (outputs["rgb"] - _truth(outputs, batch)).square().mean()}

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR and SSIM, and the truth beside the rendered picture."""
        truth, predicted = _truth(outputs, batch), outputs["rgb"]
        images = {"img": torch.cat([truth, predicted], dim=1)}
        truth, predicted = truth.permute(2, 0, 1)[None], predicted.permute(2, 0, 1)[None]
        return {"psnr": psnr(predicted, truth), "ssim": float(ssim(predicted, truth))}, images

    def get_extra_state(self) -> dict[str, Any]:
        """What checkpoints hold besides tensors."""
        return {"kind": self.field.kind, "objects": self.objects}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Nothing: :meth:`load_state_dict` has read what :meth:`get_extra_state` gave."""

    def load_state_dict(self, state_dict: dict[str, Any], *args: Any, **kwargs: Any):  # type: ignore[override]
        """Load a field of as many objects, with the features that it was trained with if the settings leave these open.

        Raises:
            InputError: it has another number of objects, other features, or needs tiny-cuda-nn, which is not here.
        """
        stored = state_dict.get("_extra_state", self.get_extra_state())
        if stored["objects"] != self.objects:
            raise InputError(
                f"the checkpoint's field has {stored['objects']} objects and the settings say {self.objects}; "
                "give as many (--pipeline.model.objects)"
            )
        fast = any("tcnn_encoding" in key for key in state_dict)
        here = any("tcnn_encoding" in key for key, _ in self.field.named_parameters())
        if stored["kind"] != self.field.kind and self.config.field.encoding != "auto":
            raise InputError(
                f"the checkpoint's field has the encoding {stored['kind']!r} and the settings say "
                f"{self.field.kind!r}; leave --pipeline.model.field.encoding at auto"
            )
        if stored["kind"] != self.field.kind or fast != here:
            device = self.device
            self.field = LatentField(self.config.field, self.objects, on_gpu=fast, kind=stored["kind"]).to(device)
            if fast and not any("tcnn_encoding" in key for key, _ in self.field.named_parameters()):
                raise InputError(
                    "the checkpoint's hash grid is tiny-cuda-nn's, which is not installed here; install it, or train "
                    "with --pipeline.model.field.encoding planes"
                )
        return super().load_state_dict(state_dict, *args, **kwargs)

    def _weights_at(self, points: Float[Tensor, "M 3"], rays: Tensor | None = None) -> Float[Tensor, "*M K"]:
        """Weights of the blend."""
        uniform = self._blend.uniform()
        return self._blend.at(points) if uniform is None else uniform.to(points)

    def _look(
        self, cameras: PinholeCameras, box: OrientedBox | None = None
    ) -> tuple[Float[Tensor, "F H W 3"], Float[Tensor, "F H W 1"], Float[Tensor, "F H W 1"]]:
        """Color over black, alpha and depth: in pieces, unless gradients are kept."""
        rays = camera_rays(cameras.to(self.device_indicator_param))
        chunk = len(rays) if torch.is_grad_enabled() else self.config.eval_num_rays_per_chunk
        parts = []
        with explain_out_of_memory(torch.is_grad_enabled(), self.samples):
            for start in range(0, len(rays), chunk):
                drawn = draw_rays(
                    self.field,
                    self.occupancy,
                    rays[start : start + chunk],
                    self._weights_at,
                    count=self.samples,
                    within=None if box is None else box.within,
                )
                parts.append((drawn.color, drawn.alpha, drawn.depth))
        shape = (len(cameras), cameras.height, cameras.width)
        color, alpha, depth = (torch.cat(values).unflatten(0, shape) for values in zip(*parts, strict=True))
        return color, alpha, depth


def _truth(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> Float[Tensor, "H W 3"]:
    """The true picture in [0, 1], over the background where it has alpha."""
    image = batch["image"].to(outputs["rgb"].device)
    image = image / 255.0 if image.dtype == torch.uint8 else image
    if image.shape[-1] == 3:
        return image
    return image[..., :3] * image[..., 3:] + (1 - image[..., 3:]) * outputs["background"]
