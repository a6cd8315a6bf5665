"""One rasterization function for every machine, with gsplat's signature."""

from __future__ import annotations

import functools
import math
import os
import warnings
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

import invert3d_ns.scenes.rasterization._compiled as _compiled
import invert3d_ns.scenes.rasterization._reference as _reference
from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.rasterization._projection import evaluate_sh, finite_rows, keep_rows, project

Backend = Literal["auto", "gsplat", "kernel", "torch"]
RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]

BACKEND_VARIABLE = "INVERT3D_RASTERIZER"
"""Environment variable that replaces ``backend="auto"`` on a CPU: ``kernel`` or ``torch``."""


def kernel_available() -> bool:
    """Whether the compiled CPU kernel was built and loads."""
    return _compiled.library() is not None


@functools.cache
def _warn_of_fallback() -> None:
    warnings.warn(
        "the compiled rasterization kernel of invert3d-ns is not built, so rendering on this CPU falls back to plain "
        "torch, tens of times slower; install a C compiler (gcc or clang), then reinstall invert3d-ns",
        RuntimeWarning,
        stacklevel=4,
    )


def _cpu_backend(backend: Backend, means: Tensor) -> Literal["kernel", "torch"]:
    if backend == "auto":
        backend = os.environ.get(BACKEND_VARIABLE) or "auto"  # type: ignore[assignment]
        if backend not in ("auto", "kernel", "torch"):
            raise InputError(f"{BACKEND_VARIABLE}={backend} is no CPU rasterizer; use kernel or torch, or unset it")
    if backend == "torch" or (backend == "auto" and not _compiled.supports(means)):
        return "torch"
    if kernel_available():
        return "kernel"
    if backend == "kernel":
        raise InputError("the compiled rasterization kernel is not built; install a C compiler, reinstall invert3d-ns")
    _warn_of_fallback()
    return "torch"


def rasterization(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    scales: Float[Tensor, "N 3"],
    opacities: Float[Tensor, " N"],
    colors: Float[Tensor, "*N K"],
    viewmats: Float[Tensor, "C 4 4"],
    Ks: Float[Tensor, "C 3 3"],
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = True,
    tile_size: int = 16,
    backgrounds: Float[Tensor, "C K"] | None = None,
    render_mode: RenderMode = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    channel_chunk: int = 32,
    distributed: bool = False,
    camera_model: Literal["pinhole", "ortho", "fisheye"] = "pinhole",
    covars: Float[Tensor, "N 3 3"] | None = None,
    *,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "C height width X"], Float[Tensor, "C height width 1"], dict[str, Any]]:
    """Draw N Gaussians into C images: ``gsplat.rasterization`` (1.4), on a CPU too.

    CUDA tensors go to gsplat unchanged. CPU tensors go to the compiled kernel, or to its plain-torch twin where the
    kernel was not built (one warning) or the tensors are not float32; the twin also takes other devices. Gradients
    reach every float argument but ``Ks``, by way of ``meta["means2d"]``, as gsplat's densification strategies expect.
    A Gaussian of which any number is infinite or NaN, or whose projection is, is not drawn, has radius 0 and gets the
    gradient 0; gsplat culls it by its radius as well.

    Args:
        means: centers in world units.
        quats: rotations, wxyz, of any length.
        scales: standard deviations along the rotated axes, world units.
        opacities: in [0, 1].
        colors: [N, K] or [C, N, K] channels of any range; with ``sh_degree``, [N, B, 3] or [C, N, B, 3] coefficients of
            spherical harmonics, of which the first (sh_degree + 1)² are used (color = SH + 0.5, not below 0).
        viewmats: world-to-camera, OpenCV axes (y down, z forward).
        Ks: pinhole intrinsics in pixels; the center of the first pixel is (0.5, 0.5).
        near_plane: Gaussians nearer than this are not drawn; world units.
        far_plane: nor those farther than this.
        radius_clip: nor those whose radius is at most this many pixels.
        eps2d: added to both image-plane variances, pixels².
        packed: in ``meta``, one row for each visible (camera, Gaussian) pair instead of [C, N] arrays.
        tile_size: tile side in pixels; with the kernel a multiple of 4. It decides how far beyond its radius a Gaussian
            is drawn: to the end of the tile.
        backgrounds: color behind everything; black if not given. Depth is always drawn over 0.
        render_mode: what to draw: colors, depth accumulated (D) or divided by alpha (ED), or colors, then depth.
        sparse_grad: CUDA only, as are ``distributed``, ``covars`` and cameras other than "pinhole".
        absgrad: the backward pass gives ``meta["means2d"]`` an attribute ``absgrad``: |dL/dmeans2d| summed over pixels
            (AbsGS).
        rasterize_mode: "antialiased" multiplies opacities by Mip-Splatting's compensation for ``eps2d``.
        channel_chunk: CUDA only; the kernel draws any number of channels at once.
        backend: "auto" chooses as above; the environment variable ``INVERT3D_RASTERIZER`` (kernel, torch) replaces
            "auto" on a CPU.

    Returns:
        Images (X channels: K, 1 or K + 1 by ``render_mode``), alphas in [0, 1], and ``meta``: camera_ids and
        gaussian_ids (None unless packed), radii, means2d, depths, conics, opacities, width, height, tile_size,
        tile_width, tile_height, n_cameras.

    Raises:
        ValueError: shapes or options that do not fit together.
        NotImplementedError: an option that only CUDA has, on a CPU.
        InputError: the kernel was asked for by name and is not built.

    Example:
        >>> n = 100
        >>> image, alpha, meta = rasterization(
        ...     torch.randn(n, 3), torch.randn(n, 4), torch.full((n, 3), 0.1), torch.rand(n), torch.rand(n, 3),
        ...     torch.eye(4)[None], torch.tensor([[[64.0, 0, 32], [0, 64, 24], [0, 0, 1]]]), width=64, height=48,
        ... )
        >>> image.shape, alpha.shape
        (torch.Size([1, 48, 64, 3]), torch.Size([1, 48, 64, 1]))
    """
    if backend == "gsplat" or (backend == "auto" and means.is_cuda):
        from gsplat.rendering import rasterization as gsplat_rasterization

        return gsplat_rasterization(
            means=means,
            quats=quats,
            scales=scales,
            opacities=opacities,
            colors=colors,
            viewmats=viewmats,
            Ks=Ks,
            width=width,
            height=height,
            near_plane=near_plane,
            far_plane=far_plane,
            radius_clip=radius_clip,
            eps2d=eps2d,
            sh_degree=sh_degree,
            packed=packed,
            tile_size=tile_size,
            backgrounds=backgrounds,
            render_mode=render_mode,
            sparse_grad=sparse_grad,
            absgrad=absgrad,
            rasterize_mode=rasterize_mode,
            channel_chunk=channel_chunk,
            distributed=distributed,
            camera_model=camera_model,
            covars=covars,
        )
    if distributed or sparse_grad or covars is not None or camera_model != "pinhole":
        raise NotImplementedError("distributed, sparse_grad, covars and cameras other than pinhole need a CUDA device")
    _check(means, quats, scales, opacities, colors, viewmats, Ks, backgrounds, sh_degree, render_mode, rasterize_mode)
    chosen = _cpu_backend(backend, means)
    n_cameras, n = len(viewmats), len(means)
    options = {
        "eps2d": eps2d,
        "near_plane": near_plane,
        "far_plane": far_plane,
        "radius_clip": radius_clip,
        "antialiased": rasterize_mode == "antialiased",
    }
    projection = project(means, quats, scales, viewmats, Ks, width, height, **options)
    if sh_degree is not None:
        colors = colors[..., : (sh_degree + 1) ** 2, :]
    by_camera = colors.dim() == (3 if sh_degree is None else 4)
    shown = (colors.transpose(0, 1) if by_camera else colors,) if "RGB" in render_mode else ()
    finite = finite_rows(projection, opacities, *shown) if viewmats.isfinite().all() else None
    if finite is not None:
        means, quats, scales = (keep_rows(tensor, finite, 1.0) for tensor in (means, quats, scales))
        opacities, colors = keep_rows(opacities, finite, 0.0), keep_rows(colors, finite, 0.0, dim=int(by_camera))
        projection = project(means, quats, scales, viewmats, Ks, width, height, **options)
        projection = projection._replace(radii=projection.radii * finite)

    radii, means2d, depths, conics, compensations = projection
    opacities = opacities.expand(n_cameras, n)
    if compensations is not None:
        opacities = opacities * compensations
    if sh_degree is not None and "RGB" in render_mode:
        colors = evaluate_sh(sh_degree, means, colors, viewmats, visible=radii > 0)
    elif not by_camera:
        colors = colors.expand(n_cameras, *colors.shape)

    camera_ids = gaussian_ids = None
    offsets = [camera * n for camera in range(n_cameras + 1)]
    if packed:
        camera_ids, gaussian_ids = torch.where(radii > 0)
        offsets = [0, *torch.bincount(camera_ids, minlength=n_cameras).cumsum(0).tolist()]
        radii, means2d, depths, conics, opacities, colors = (
            t[camera_ids, gaussian_ids] for t in (radii, means2d, depths, conics, opacities, colors)
        )
    features = {"D": depths[..., None], "RGB": colors}.get(render_mode.replace("ED", "D"))
    if features is None:
        features = torch.cat([colors, depths[..., None]], dim=-1)

    composite = _compiled.composite if chosen == "kernel" else _reference.composite
    image, alphas = composite(
        means2d,
        conics,
        features,
        opacities,
        radii,
        depths,
        offsets,
        width,
        height,
        tile_size=tile_size,
        absgrad=absgrad,
    )
    if backgrounds is not None and "RGB" in render_mode:
        behind = (1 - alphas) * backgrounds[:, None, None]
        image = image + torch.nn.functional.pad(behind, (0, image.shape[-1] - behind.shape[-1]))
    if "ED" in render_mode:
        image = torch.cat([image[..., :-1], image[..., -1:] / alphas.clamp_min(1e-10)], dim=-1)
    meta = {
        "camera_ids": camera_ids,
        "gaussian_ids": gaussian_ids,
        "n_cameras": n_cameras,
        "radii": radii,
        "means2d": means2d,
        "depths": depths,
        "conics": conics,
        "opacities": opacities,
        "width": width,
        "height": height,
        "tile_size": tile_size,
        "tile_width": math.ceil(width / tile_size),
        "tile_height": math.ceil(height / tile_size),
    }
    return image, alphas, meta


def _check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    backgrounds: Tensor | None,
    sh_degree: int | None,
    render_mode: str,
    rasterize_mode: str,
) -> None:
    n, c = len(means), len(viewmats)
    tail = 1 if sh_degree is None else 2
    expected = {
        "means": means.shape == (n, 3),
        "quats": quats.shape == (n, 4),
        "scales": scales.shape == (n, 3),
        "opacities": opacities.shape == (n,),
        "viewmats": viewmats.shape == (c, 4, 4),
        "Ks": Ks.shape == (c, 3, 3),
        "colors": colors.shape[:-tail] in ((n,), (c, n)),
        "sh_degree": sh_degree is None or (colors.shape[-1] == 3 and (sh_degree + 1) ** 2 <= colors.shape[-2]),
        "backgrounds": backgrounds is None or backgrounds.shape == (c, colors.shape[-1]),
        "render_mode": render_mode in get_args(RenderMode),
        "rasterize_mode": rasterize_mode in ("classic", "antialiased"),
    }
    wrong = [name for name, fits in expected.items() if not fits]
    if wrong:
        raise ValueError(f"rasterization of {n} Gaussians from {c} cameras: {', '.join(wrong)} do(es) not fit")
