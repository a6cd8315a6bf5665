"""What happens to a Gaussian before it is drawn: projection to the image plane and view-dependent color, in torch.

Written entry by entry instead of with batched 3x3 products (as gsplat's torch twin of its CUDA code is): on a CPU that
is several times faster, and Gaussians behind the camera are replaced before any division, so that no NaN comes back.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from invert3d_ns.scenes.rasterization._harmonics import evaluate_harmonics


class Projection(NamedTuple):
    """Gaussians on the image planes of C cameras, in pixels. Where ``radii == 0``, other entries hold no meaning."""

    radii: Int[Tensor, "C N"]
    """Three standard deviations of the longest axis, rounded up; not differentiable."""
    means2d: Float[Tensor, "C N 2"]
    depths: Float[Tensor, "C N"]
    conics: Float[Tensor, "C N 3"]
    """Entries (xx, xy, yy) of the inverse 2D covariance."""
    compensations: Float[Tensor, "C N"] | None
    """Opacity factor of anti-aliased rendering (Mip-Splatting, eq. 8)."""


def _dot(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
    """a·b of 3-vectors given as entries."""
    return torch.addcmul(torch.addcmul(a[0] * b[0], a[1], b[1]), a[2], b[2])


def scaled_axes(quats: Float[Tensor, "N 4"], scales: Float[Tensor, "N 3"]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Columns of R diag(scales): the covariance is the sum of their outer products."""
    w, x, y, z = F.normalize(quats, dim=-1).t().contiguous().unbind(0)
    sx, sy, sz = scales.t().contiguous().unbind(0)
    tx, ty, tz = 2 * x, 2 * y, 2 * z
    xx, yy, zz, xy, xz, yz, wx, wy, wz = tx * x, ty * y, tz * z, tx * y, tx * z, ty * z, tx * w, ty * w, tz * w
    return [
        (sx * (1 - (yy + zz)), sx * (xy + wz), sx * (xz - wy)),
        (sy * (xy - wz), sy * (1 - (xx + zz)), sy * (yz + wx)),
        (sz * (xz + wy), sz * (yz - wx), sz * (1 - (xx + yy))),
    ]


def project(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    scales: Float[Tensor, "N 3"],
    viewmats: Float[Tensor, "C 4 4"],
    Ks: Float[Tensor, "C 3 3"],
    width: int,
    height: int,
    *,
    eps2d: float = 0.3,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    antialiased: bool = False,
) -> Projection:
    """Perspective projection of Gaussians by the local affine approximation (EWA splatting, Zwicker et al. 2001).

    The same numbers as ``gsplat.fully_fused_projection``: the Jacobian is taken at most 15 % of the field of view
    outside the image, ``eps2d`` (pixels²) is added to both variances, and a Gaussian is visible (``radii > 0``) between
    the planes if its square of three standard deviations touches the image and its radius exceeds ``radius_clip``.
    Differentiable in means, quats, scales and viewmats.
    """
    x, y, z = torch.einsum("cij,nj->icn", viewmats[:, :3, :3], means) + viewmats[:, :3, 3].t()[..., None]  # 3 x [C, N]
    in_range = (z >= near_plane) & (z <= far_plane)
    depths = z
    z = torch.where(in_range, z, 1.0)

    fx, fy, cx, cy = (Ks[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))  # [C, 1]
    rz = z.reciprocal()
    rx, ry = x * rz, y * rz
    means2d = torch.stack([torch.addcmul(cx, fx, rx), torch.addcmul(cy, fy, ry)], dim=-1)

    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    tx = torch.minimum(torch.maximum(rx, -(cx / fx + margin_x)), (width - cx) / fx + margin_x)
    ty = torch.minimum(torch.maximum(ry, -(cy / fy + margin_y)), (height - cy) / fy + margin_y)
    # Rows of the Jacobian times the camera's rotation, without the common factor focal / z.
    r = viewmats[:, :3, :3, None].unbind(1)  # rows, [C, 3, 1]
    row_x = tuple(torch.addcmul(r[0][:, i], tx, r[2][:, i], value=-1) for i in range(3))
    row_y = tuple(torch.addcmul(r[1][:, i], ty, r[2][:, i], value=-1) for i in range(3))
    axes = scaled_axes(quats, scales)
    u = tuple(_dot(row_x, axis) for axis in axes)
    v = tuple(_dot(row_y, axis) for axis in axes)
    zx, zy = fx * rz, fy * rz
    var_x, cov, var_y = zx * zx * _dot(u, u), zx * zy * _dot(u, v), zy * zy * _dot(v, v)

    blurred_x, blurred_y = var_x + eps2d, var_y + eps2d
    det = blurred_x * blurred_y - cov * cov
    inverse = det.clamp_min(1e-10).reciprocal()
    conics = torch.stack([blurred_y * inverse, -cov * inverse, blurred_x * inverse], dim=-1)
    compensations = None
    if antialiased:
        # Not clamped at 0, where the square root's infinite slope would turn zero gradients into NaN.
        compensations = torch.sqrt(((var_x * var_y - cov * cov) * inverse).clamp_min(1e-12))

    with torch.no_grad():
        mid = 0.5 * (blurred_x + blurred_y)
        radii = torch.ceil(3.0 * torch.sqrt(mid + torch.sqrt((mid * mid - det).clamp_min(0.01))))
        mx, my = means2d.unbind(-1)
        visible = in_range & (det > 0) & (radii > radius_clip)
        visible &= (mx + radii > 0) & (mx - radii < width) & (my + radii > 0) & (my - radii < height)
        radii = torch.where(visible, radii, 0.0).int()
    return Projection(radii, means2d, depths, conics, compensations)


@torch.no_grad()
def finite_rows(projection: Projection, *others: Tensor) -> Bool[Tensor, " N"] | None:
    """Which Gaussians are numbers, on every image plane and in every other tensor [N, ...]; None where all are.

    Sums tell that at a fraction of the cost of looking at each number.
    """
    planes = (projection.means2d, projection.depths, projection.conics, projection.compensations)
    tensors = [plane.transpose(0, 1) for plane in planes if plane is not None] + list(others)
    if len(tensors[0]) == 0 or bool(torch.stack([tensor.sum() for tensor in tensors]).isfinite().all()):
        return None
    rows = torch.stack([tensor.isfinite().reshape(len(tensor), -1).all(dim=1) for tensor in tensors]).all(dim=0)
    return None if rows.all() else rows


def keep_rows(tensor: Tensor, rows: Bool[Tensor, " N"], other: float, dim: int = 0) -> Tensor:
    """A tensor with another number in all rows (of dimension ``dim``) but some; no gradient reaches those."""
    return torch.where(rows.view(-1, *[1] * (tensor.dim() - dim - 1)), tensor, other)


def evaluate_sh(
    degree: int,
    means: Float[Tensor, "N 3"],
    coefficients: Float[Tensor, "*N B 3"],
    viewmats: Float[Tensor, "C 4 4"],
    *,
    visible: Bool[Tensor, "C N"],
) -> Float[Tensor, "C N 3"]:
    """Colors seen from C cameras: spherical harmonics of the viewing direction up to ``degree``, + 0.5, not below 0.

    They are evaluated only where ``visible``; other colors are 0.
    """
    rotation, translation = viewmats[:, :3, :3], viewmats[:, :3, 3:]
    positions = -(rotation.transpose(-1, -2) @ translation)[..., 0]
    if visible.all():
        directions = means[None] - positions[:, None]
        coefficients = coefficients.expand(*visible.shape, -1, -1)
        return (evaluate_harmonics(degree, directions, coefficients) + 0.5).clamp_min(0.0)
    cameras, ids = torch.where(visible)
    directions = means.index_select(0, ids) - positions.index_select(0, cameras)
    if coefficients.dim() == 4:
        coefficients, ids = coefficients.flatten(0, 1), torch.where(visible.flatten())[0]
    colors = (evaluate_harmonics(degree, directions, coefficients.index_select(0, ids)) + 0.5).clamp_min(0.0)
    nothing = colors.new_zeros(visible.numel(), 3)
    return nothing.index_copy(0, torch.where(visible.flatten())[0], colors).unflatten(0, visible.shape)
