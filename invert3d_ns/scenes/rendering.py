"""The one way to draw splats: from any cameras, any channels, on the device that they are on, as they were fitted.

:func:`rasterize_splats` is the set-up that everything shares; the other functions say what is drawn with it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from invert3d_ns.scenes.cameras import FOV_Y, PinholeCameras, orbit_camera_to_world, pinhole_cameras
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.rasterization import evaluate_harmonics, rasterization

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras


def drawable(cloud: SplatCloud) -> SplatCloud:
    """The same splats, of which those that are not numbers (any NaN, anything infinite) are invisible.

    No gradient reaches these, nor anything else by way of them. Infinite logits of opacities are numbers: 0 and 1.
    """
    with torch.no_grad():
        # Where it costs no synchronization, look whether there are any: sums tell. Elsewhere do as if there were.
        if cloud.device.type == "cpu" and all(bool(tensor.sum().isfinite()) for tensor in cloud.tensors().values()):
            return cloud
        opacities = cloud.opacities.sigmoid()
        numbers = {**cloud.tensors(), "opacities": opacities, "scales": cloud.scales.exp()}
        rows = torch.stack([tensor.flatten(1).isfinite().all(dim=1) for tensor in numbers.values()]).all(dim=0)
    kept = {
        name: torch.where(rows.view(-1, *[1] * (tensor.dim() - 1)), tensor, 0.0 if name != "opacities" else -torch.inf)
        for name, tensor in cloud.tensors().items()
    }
    return replace(cloud, **kept)


def rasterize_splats(
    cloud: SplatCloud,
    cameras: PinholeCameras,
    *,
    channels: Float[Tensor, "*F N K"] | None = None,
    sh_degree: int | None = None,
    background: float | Float[Tensor, "*F K"] | None = None,
    with_depth: bool = False,
    absgrad: bool = False,
) -> tuple[Float[Tensor, "F H W C"], Float[Tensor, "F H W 1"], dict[str, Any]]:
    """Activate and rasterize splats on their own device, the way that their ``rasterize_mode`` says.

    Args:
        cloud: differentiable in every tensor; splats that are not numbers are not drawn.
        cameras: moved to the splats' device; differentiable in their poses.
        channels: what to draw of each splat, any range, the same from all cameras or for each; colors by default:
            spherical harmonics, those below 0 drawn as 0 and without gradient, as splatfacto trains.
        sh_degree: no harmonics of a higher degree than this are drawn, if given; colors only.
        background: behind everything, one number or one for each channel; 0 by default.
        with_depth: a last channel has the mean depth of what is seen, in world units.
        absgrad: see :func:`~invert3d_ns.scenes.rasterization.rasterization`.

    Returns:
        Images (C channels: K, or 3 of colors, and one of depth), premultiplied over the background; alphas in [0, 1];
        and the rasterizer's ``meta``, which densification reads.
    """
    return _rasterize(drawable(cloud), cameras, channels, sh_degree, background, with_depth, absgrad)


def _rasterize(
    cloud: SplatCloud,
    cameras: PinholeCameras,
    channels: Tensor | None = None,
    sh_degree: int | None = None,
    background: float | Tensor | None = None,
    with_depth: bool = False,
    absgrad: bool = False,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """:func:`rasterize_splats` of splats that are :func:`drawable`."""
    cameras = cameras.to(cloud.means)
    degree = None
    if channels is None:
        degree = cloud.sh_degree if sh_degree is None else min(sh_degree, cloud.sh_degree)
        rest = cloud.features_rest[:, : (degree + 1) ** 2 - 1]
        channels = torch.cat([cloud.features_dc[:, None], rest], dim=1)
    behind = None
    if background is not None:
        size = len(cameras), 3 if degree is not None else channels.shape[-1]
        behind = torch.as_tensor(background, dtype=cloud.means.dtype, device=cloud.device).expand(size).contiguous()
    return rasterization(
        means=cloud.means,
        quats=cloud.quats,
        scales=cloud.scales.exp(),
        opacities=cloud.opacities.sigmoid().squeeze(-1),
        colors=channels.to(cloud.means),
        viewmats=cameras.viewmats,
        Ks=cameras.intrinsics,
        width=cameras.width,
        height=cameras.height,
        packed=False,
        backgrounds=behind,
        render_mode="RGB+ED" if with_depth else "RGB",
        sh_degree=degree,
        absgrad=absgrad,
        rasterize_mode=cloud.rasterize_mode,
    )


def render_channels(
    cloud: SplatCloud,
    channels: Float[Tensor, "*F N K"],
    cameras: Float[Tensor, "F r 4"] | Cameras,
    size: int | None = None,
    *,
    background: float | Float[Tensor, "*F K"] = 0.0,
    supersampling: int = 1,
    fov_y: float = FOV_Y,
) -> tuple[Float[Tensor, "F K H W"], Float[Tensor, "F 1 H W"]]:
    """Views of any K numbers that each splat has, in place of its color, and the splats' coverage.

    Differentiable in ``channels`` and every tensor of ``cloud``; linear in ``channels``.

    Args:
        cloud: on the device that renders.
        channels: of any range, the same from all cameras or for each.
        cameras: camera-to-world matrices of square views, or nerfstudio cameras; see
            :func:`~invert3d_ns.scenes.cameras.pinhole_cameras`, also for ``size`` and ``fov_y``. They may be on any
            device.
        size: side of the views in pixels, with matrices.
        background: behind everything, one number or one for each channel.
        supersampling: each pixel is the mean of this many samples squared.
        fov_y: vertical field of view in degrees, with matrices.

    Returns:
        The channels over the background, and alpha in [0, 1], on the device of ``cloud``.

    Raises:
        ValueError: cameras and ``size`` do not fit together.

    Example:
        >>> cloud = SplatCloud(*(torch.rand(9, n) for n in (3, 3, 4, 1, 3)), features_rest=torch.zeros(9, 0, 3))
        >>> poses = orbit_camera_to_world(torch.tensor([0.0, 90.0]), torch.tensor(15.0))
        >>> heights, alphas = render_channels(cloud, cloud.means[:, 2:], poses, 64)
        >>> heights.shape, alphas.shape
        (torch.Size([2, 1, 64, 64]), torch.Size([2, 1, 64, 64]))
    """
    return _draw(drawable(cloud), channels, cameras, size, background, supersampling, fov_y)


def _draw(
    cloud: SplatCloud,
    channels: Tensor,
    cameras: Tensor | Cameras,
    size: int | None,
    background: float | Tensor,
    supersampling: int,
    fov_y: float,
) -> tuple[Float[Tensor, "F K H W"], Float[Tensor, "F 1 H W"]]:
    """:func:`render_channels` of splats that are :func:`drawable`."""
    fine = pinhole_cameras(cameras, size, fov_y=fov_y, supersampling=supersampling)
    images, alphas, _ = _rasterize(cloud, fine, channels, background=background)
    if supersampling == 1:
        return images.permute(0, 3, 1, 2), alphas.permute(0, 3, 1, 2)
    pooled = functional.avg_pool2d(torch.cat([images, alphas], dim=-1).permute(0, 3, 1, 2), supersampling)
    return pooled[:, :-1], pooled[:, -1:]


def render_splats(
    cloud: SplatCloud,
    cameras: Float[Tensor, "F r 4"] | Cameras,
    size: int | None = None,
    *,
    background: float | Float[Tensor, "*F 3"] = 1.0,
    supersampling: int = 1,
    fov_y: float = FOV_Y,
) -> tuple[Float[Tensor, "F 3 H W"], Float[Tensor, "F 1 H W"]]:
    """Views of splats with all their harmonics, and their coverage, differentiable in every tensor of ``cloud``.

    The arguments are those of :func:`render_channels`.

    Returns:
        RGB over the background, white by default, not clamped above (harmonics may exceed 1), and alpha in [0, 1], on
        the device of ``cloud``. Colors below 0 are drawn as 0, yet their gradients pass, so that an optimizer can bring
        them back.
    """
    cloud = drawable(cloud)
    colors = cloud.base_colors
    if cloud.sh_degree:
        poses = cameras if isinstance(cameras, Tensor) else cameras.camera_to_worlds
        directions = cloud.means[None] - poses.to(cloud.means)[:, None, :3, 3]
        coefficients = torch.cat([cloud.features_dc[:, None], cloud.features_rest], dim=1)
        colors = 0.5 + evaluate_harmonics(cloud.sh_degree, directions, coefficients.expand(len(poses), -1, -1, -1))
    shown = colors + (-colors).clamp_min(0).detach()
    return _draw(cloud, shown, cameras, size, background, supersampling, fov_y)


@torch.no_grad()
def render_orbit(
    cloud: SplatCloud,
    azimuths: Float[Tensor, "*F"],
    elevations: Float[Tensor, "*F"],
    size: int,
    *,
    supersampling: int = 2,
) -> Float[Tensor, "*F 3 S S"]:
    """Views of splats from the orbit as a prior is shown them: RGB in [0, 1] on white, on the device of ``cloud``.

    Args:
        cloud: in the object frame, on the device that renders.
        azimuths: degrees; broadcast against ``elevations``.
        elevations: degrees in (-90, 90).
        size: side of the views in pixels.
        supersampling: each pixel is the mean of this many samples squared.
    """
    poses = orbit_camera_to_world(azimuths, elevations)
    images, _ = render_splats(cloud, poses.flatten(0, -3), size, supersampling=supersampling)
    return images.clamp(0, 1).unflatten(0, poses.shape[:-2])


@torch.no_grad()
def render_rgba(cloud: SplatCloud, cameras: Cameras) -> Float[Tensor, "F H W 4"]:
    """Straight (not premultiplied) RGBA pictures in [0, 1] of splats, as image files hold them, on the cloud's device.

    Args:
        cloud: the splats.
        cameras: of one common size, on any device.

    Raises:
        ValueError: the cameras have several sizes.
    """
    image, alpha, _ = rasterize_splats(cloud, pinhole_cameras(cameras))
    return torch.cat([(image / alpha.clamp_min(1e-6)).clamp(0, 1), alpha.clamp(0, 1)], dim=-1)
