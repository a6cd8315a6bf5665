"""An object made of Gaussian splats: nerfstudio's splatfacto on any device, from seed points or from splats that exist
already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from gsplat.strategy import DefaultStrategy
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.splatfacto import SH2RGB, SplatfactoModel, SplatfactoModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

from invert3d_ns.base.metrics import ssim
from invert3d_ns.base.ranges import Range, at_least
from invert3d_ns.scenes.cameras import FOV_Y, OBJECT_RADIUS, PinholeCameras, pinhole_cameras
from invert3d_ns.scenes.cloud import RasterizeMode, SplatCloud, unit_quaternions
from invert3d_ns.scenes.normalization import within_object
from invert3d_ns.scenes.rendering import rasterize_splats
from invert3d_ns.scenes.splat_parameters import GAUSSIANS, parameters_from_cloud, parameters_from_points
from invert3d_ns.scenes.training_views import TrainingViews


@dataclass
class ObjectSplatModelConfig(SplatfactoModelConfig):
    """Splats of one object in the object frame."""

    number_ranges: ClassVar[dict[str, Range]] = {
        "sh_degree": at_least(0, 3),
        "num_downscales": at_least(0, 8),
        "num_random": at_least(4),
        **dict.fromkeys(("sh_degree_interval", "resolution_schedule", "refine_every"), at_least(1)),
        **dict.fromkeys(("reset_alpha_every", "max_splats", "n_split_samples", "grid_shape"), at_least(1)),
        **dict.fromkeys(("warmup_length", "stop_split_at", "stop_screen_size_at"), at_least(0)),
        **dict.fromkeys(("cull_alpha_thresh", "ssim_lambda"), at_least(0, 1)),
        **dict.fromkeys(("cull_scale_thresh", "cull_screen_size", "split_screen_size", "random_scale"), at_least(0)),
        **dict.fromkeys(("densify_grad_thresh", "densify_size_thresh", "max_gauss_ratio"), at_least(0)),
    }
    _target: type = field(default_factory=lambda: ObjectSplatModel)
    background_color: Literal["random", "black", "white"] = "white"
    """Background of every picture. While fitting images that have alpha, a random color takes its place, so that white
    parts of an object cannot hide in a white background."""
    sh_degree: int = 1
    """Maximum degree of spherical harmonics when fitting images; splats from a .ply keep their own degree."""
    sh_degree_interval: int = 300
    """every n intervals turn on another sh degree"""
    num_random: int = 4000
    """Number of splats to start from when the scene has neither points nor masks to start from."""
    num_downscales: int = 1
    """at the beginning, resolution is 1/2^d, where d is this number"""
    resolution_schedule: int = 250
    """training starts at 1/d resolution, every n steps this is doubled"""
    warmup_length: int = 200
    """period of steps where refinement is turned off"""
    refine_every: int = 100
    """period of steps where gaussians are culled and densified"""
    stop_split_at: int = 600
    """stop splitting at this step"""
    reset_alpha_every: int = 1000
    """Every this many refinement steps, reset the alpha. The default never does: objects have few floaters and short
    fits."""
    cull_alpha_thresh: float = 0.02
    """threshold of opacity for culling gaussians"""
    densify_grad_thresh: float = 0.002
    """threshold of positional gradient norm for densifying gaussians"""
    densify_size_thresh: float = 0.02
    """below this size, gaussians are *duplicated*, otherwise split"""
    max_splats: int = 60_000
    """No splats are added beyond this number, which bounds time and memory."""
    rasterize_mode: RasterizeMode = "classic"
    """Classic or anti-aliased rendering, for fitting and for showing alike. Splats that were fitted anti-aliased are
    always drawn so."""
    lpips: bool = False
    """Report LPIPS when evaluating, which downloads AlexNet's weights once. If they were downloaded before, it always
    does."""


class ObjectSplatModel(SplatfactoModel):
    """Splatfacto for objects: the same pictures on every backend, a start from given splats, and groups that can be
    frozen.

    It starts from ``metadata["splats"]`` (a :class:`~invert3d_ns.scenes.cloud.SplatCloud` in the object frame) if the
    dataparser gives one, else from seed points, else from random points in the object's sphere.
    """

    config: ObjectSplatModelConfig

    def populate_modules(self) -> None:
        """Build the splats, metrics and densification strategy.

        Replaces splatfacto's, which calls ``.cuda()`` on seed points (nerfstudio issue 2993) and downloads LPIPS
        weights.
        """
        from nerfstudio.utils.colors import get_color
        from torchmetrics.image import PeakSignalNoiseRatio

        self.metadata: dict[str, Any] = self.kwargs.get("metadata") or {}
        splats: SplatCloud | None = self.metadata.get("splats")
        self.rasterize_mode: RasterizeMode = self.config.rasterize_mode
        if splats is not None:
            self.active_sh_degree = splats.sh_degree
            if splats.rasterize_mode == "antialiased":
                self.rasterize_mode = "antialiased"
            parameters = parameters_from_cloud(splats)
        else:
            self.active_sh_degree = self.config.sh_degree
            points, colors = self._start_points()
            parameters = parameters_from_points(points, colors, self.config.sh_degree)
        self.gauss_params = nn.ParameterDict({name: nn.Parameter(parameters[name]) for name in GAUSSIANS})
        self.starts_from_splats = splats is not None
        self.frozen = False

        self.camera_optimizer = self.config.camera_optimizer.setup(num_cameras=self.num_train_data, device="cpu")
        self.psnr = PeakSignalNoiseRatio(data_range=1.0)
        self.ssim = ssim
        self._lpips: list[nn.Module] = []  # in a list, so that its weights stay out of checkpoints
        self.step = 0
        self.crop_box: OrientedBox | None = None
        self.background_color = get_color("black" if self.config.background_color == "black" else "white").float()
        self.info: dict[str, Any] = {}
        self.strategy = DefaultStrategy(
            prune_opa=self.config.cull_alpha_thresh,
            grow_grad2d=self.config.densify_grad_thresh,
            grow_scale3d=self.config.densify_size_thresh,
            grow_scale2d=self.config.split_screen_size,
            prune_scale3d=self.config.cull_scale_thresh,
            prune_scale2d=self.config.cull_screen_size,
            refine_scale2d_stop_iter=self.config.stop_screen_size_at,
            refine_start_iter=self.config.warmup_length,
            refine_stop_iter=self.config.stop_split_at,
            reset_every=self.config.reset_alpha_every * self.config.refine_every,
            refine_every=self.config.refine_every,
            pause_refine_after_reset=self.num_train_data + self.config.refine_every,
            absgrad=self.config.use_absgrad,
            revised_opacity=False,
            verbose=False,
        )
        self.strategy_state = self.strategy.initialize_state(scene_scale=1.0)

    def _start_points(self) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
        """Points in the object frame to start from, and their colors in [0, 1]."""
        if self.seed_points is not None and len(self.seed_points[0]) > 3 and not self.config.random_init:
            points = self.seed_points[0].float()
            has_colors = len(self.seed_points[1]) == len(points)
            return points, self.seed_points[1].float() / 255 if has_colors else torch.full_like(points, 0.5)
        direction = torch.nn.functional.normalize(torch.randn(self.config.num_random, 3), dim=-1)
        distance = torch.rand(self.config.num_random, 1) ** (1 / 3)
        points = 0.8 * OBJECT_RADIUS * distance * direction
        if self.metadata.get("surroundings", False):
            # A third of the points for what lies around the object, denser near it.
            around = torch.arange(len(points)) % 3 == 0
            points[around] = direction[around] * OBJECT_RADIUS * 1.2 * 6 ** torch.rand(int(around.sum()), 1)
        return points, torch.full_like(points, 0.5)

    @property
    def colors(self) -> Float[Tensor, "N 3"]:
        """Base colors. Always spherical harmonics, where splatfacto has a sigmoid at degree 0."""
        return SH2RGB(self.features_dc)

    @property
    def shs_0(self) -> Float[Tensor, "N 3"]:
        """Spherical-harmonic coefficients of degree 0."""
        return self.features_dc

    def cloud(self) -> SplatCloud:
        """The splats as they are now, detached, on the CPU."""
        values = {name: value.detach().cpu().clone() for name, value in self.groups().items()}
        values["quats"] = unit_quaternions(values["quats"])
        return self._as_cloud(values)

    def groups(self) -> dict[str, Tensor]:
        """The tensors that are drawn, by group: those that are trained."""
        return {name: self.gauss_params[name] for name in GAUSSIANS}

    def _as_cloud(self, groups: dict[str, Tensor]) -> SplatCloud:
        """Tensors of all groups as splats that are drawn as this model's."""
        rest = groups["features_rest"][:, : (self.active_sh_degree + 1) ** 2 - 1]
        tensors: dict[str, Any] = {**groups, "features_rest": rest}
        return SplatCloud(**tensors, rasterize_mode=self.rasterize_mode)

    def adopt(self, cloud: SplatCloud) -> None:
        """Make the splats those of a cloud, of any number, before an optimizer has them; densification begins anew."""
        self.active_sh_degree = cloud.sh_degree
        self.rasterize_mode = cloud.rasterize_mode
        for name, value in parameters_from_cloud(cloud).items():
            self.gauss_params[name].data = value.to(self.device)
        self.strategy_state = self.strategy.initialize_state(scene_scale=1.0)

    def freeze(self, *names: str) -> None:
        """Stop training the named groups (``"means"``, ``"opacities"``, ...), or all; once all are frozen,
        densification stops too.
        """
        for name in names or GAUSSIANS:
            self.gauss_params[name].requires_grad_(False)
            self.gauss_params[name].grad = None
        self.frozen = not any(parameter.requires_grad for parameter in self.gauss_params.values())

    def load_state_dict(self, state_dict: dict[str, Any], **kwargs: Any):  # type: ignore[override]
        """Load splats of any number.

        Splatfacto puts new parameters in the place of those that the optimizers hold, so that after ``--load-dir``
        training changed nothing any more (nerfstudio issue 3554); here the same parameters are resized.
        """
        self.step = 30000
        state_dict = {"_extra_state": self.get_extra_state(), **state_dict}  # older checkpoints have none
        for name, parameter in self.gauss_params.items():
            shape = state_dict[f"gauss_params.{name}"].shape
            parameter.data = torch.zeros(shape, device=self.device)
        return nn.Module.load_state_dict(self, state_dict, **kwargs)

    def restore_densification(self, state: dict[str, Any]) -> None:
        """Take over the state of the densification strategy of an earlier run, on the splats' device."""
        self.strategy_state.update(
            {name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in state.items()}
        )

    def get_extra_state(self) -> dict[str, Any]:
        """What checkpoints hold besides tensors."""
        return {"rasterize_mode": self.rasterize_mode}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        self.rasterize_mode = state["rasterize_mode"]

    def step_post_backward(self, step: int) -> None:
        """Densify and prune, unless frozen or nothing was rendered for training in this step."""
        if self.frozen or not self.info:
            return
        # The strategy reads this threshold at each refinement: none passes once there are enough splats, pruning goes
        # on.
        full = self.num_points >= self.config.max_splats
        self.strategy.grow_grad2d = math.inf if full else self.config.densify_grad_thresh
        self.strategy.refine_scale2d_stop_iter = 0 if full else self.config.stop_screen_size_at
        super().step_post_backward(step)

    def set_background(self, background_color: Float[Tensor, "3"]) -> None:
        """Nothing: the viewer calls this with its own color during training, and the background is the scene's."""

    def _get_background_color(self) -> Float[Tensor, "3"]:
        if self.training and not self.frozen and self.metadata.get("has_alpha", False):
            return torch.rand(3, device=self.device)
        image_background = self.metadata.get("image_background")
        if image_background is not None:
            return torch.as_tensor(image_background, dtype=torch.float32, device=self.device)
        return self.background_color.to(self.device)

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor | list]:
        """Render one camera.

        Returns:
            ``rgb`` (H, W, 3) in [0, 1], ``accumulation`` (H, W, 1), ``background`` and, unless training, ``depth`` (H,
            W, 1).
        """
        poses = self.camera_optimizer.apply_to_camera(camera) if self.training else camera.camera_to_worlds
        keep = None
        if self.crop_box is not None and not self.training:
            keep = self.crop_box.within(self.means).squeeze()
            if not keep.any():
                empty = self.get_empty_outputs(
                    int(camera.width.item()), int(camera.height.item()), self._get_background_color()
                )
                return empty  # type: ignore[return-value]

        factor = self._get_downscale_factor()
        camera.rescale_output_resolution(1 / factor)
        k = camera.get_intrinsics_matrices()
        width, height = int(camera.width.item()), int(camera.height.item())
        camera.rescale_output_resolution(factor)
        self.last_size = (height, width)

        fitting = self.training and not self.frozen
        with_depth = self.config.output_depth_during_training or not self.training
        splats = self._as_cloud(self.groups())
        render, alpha, info = rasterize_splats(
            splats if keep is None else splats.select(keep),
            PinholeCameras(poses, k, width, height),
            sh_degree=self.step // self.config.sh_degree_interval if fitting else None,
            with_depth=with_depth,
            absgrad=fitting and self.strategy.absgrad,
        )
        self.info = info if fitting else {}
        if fitting:
            self.strategy.step_pre_backward(
                self.gauss_params, self.optimizers, self.strategy_state, self.step, self.info
            )
        background = self._get_background_color()
        rgb = (render[0, ..., :3] + (1 - alpha[0]) * background).clamp(0.0, 1.0)
        outputs: dict[str, Any] = {"rgb": rgb, "accumulation": alpha[0], "background": background}
        if with_depth:
            depth = render[0, ..., 3:4]
            outputs["depth"] = torch.where(alpha[0] > 0, depth, depth.detach().max())
        if not self.training:
            outputs["background"] = background.expand(height, width, 3)
        return outputs

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Float[Tensor, "H W 4"]:
        """The picture with alpha and without background, which ``ns-render --rendered-output-names rgba`` asks for."""
        alpha = outputs["accumulation"]
        color = (outputs[output_name] - (1 - alpha) * outputs["background"]) / alpha.clamp_min(1e-6)
        return torch.cat([color.clamp(0.0, 1.0), alpha], dim=-1)

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
        """See :meth:`.RendersToTrain.render_to_train`."""
        splats = self._as_cloud(self.groups())
        if scale_factor != 1.0:
            splats = replace(splats, scales=splats.scales + math.log(scale_factor))
        self.last_size = (size, size)
        render, alpha, info = rasterize_splats(
            splats,
            pinhole_cameras(camera_to_world, size, fov_y=fov_y),
            with_depth=True,
            absgrad=densify and self.strategy.absgrad,
        )
        self.info = info if densify else {}
        if self.info:
            self.strategy.step_pre_backward(
                self.gauss_params, self.optimizers, self.strategy_state, self.step, self.info
            )
        behind = torch.as_tensor(background, device=self.device).expand(len(render), 3)[:, None, None]
        rgb = render[..., :3] + (1 - alpha) * behind
        return tuple(image.movedim(-1, 1) for image in (rgb, alpha, render[..., 3:4]))  # type: ignore[return-value]

    def render(self, cameras: Cameras) -> Float[Tensor, "F H W 3"]:
        """Pictures of all ``cameras`` (shape (F,), one common size) on white, in [0, 1].

        Differentiable in every splat parameter. Where the images of a scene show more than the object, only what lies
        within the object's sphere appears.
        """
        splats = self._as_cloud(self.groups())
        if self.metadata.get("surroundings", False):
            splats = splats.select(within_object(splats.means))
        images, _, _ = rasterize_splats(splats, pinhole_cameras(cameras), background=1.0)
        return images.clamp(0.0, 1.0)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR and SSIM, LPIPS if its weights are at hand, and the truth beside the rendered image."""
        truth = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        predicted = outputs["rgb"]
        images = {"img": torch.cat([truth, predicted], dim=1)}
        truth, predicted = truth.permute(2, 0, 1)[None], predicted.permute(2, 0, 1)[None]
        metrics = {"psnr": float(self.psnr(truth, predicted)), "ssim": float(self.ssim(truth, predicted))}
        lpips = self._lpips_metric()
        if lpips is not None:
            metrics["lpips"] = float(lpips(truth, predicted))
        return metrics, images

    def _lpips_metric(self) -> nn.Module | None:
        """LPIPS, built at its first use, and only where that downloads nothing that was not asked for."""
        if not self._lpips:
            from torchvision.models import AlexNet_Weights

            weights = Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.IMAGENET1K_V1.url).name
            if not (self.config.lpips or weights.exists()):
                return None
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            try:
                self._lpips = [LearnedPerceptualImagePatchSimilarity(normalize=True).to(self.device)]
            except OSError as error:
                CONSOLE.print(f"[yellow]LPIPS is left out: its weights cannot be downloaded ({error})")
                self.config.lpips = False
                return None
        return self._lpips[0]
