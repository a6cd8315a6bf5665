"""Where the object is: its visual hull from the silhouettes in posed images (Laurentini 1994), and what stands in
without them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from invert3d_ns.base.errors import InputError


@dataclass
class Views:
    """Some posed images, small. Cameras have OpenGL axes; undistorted pinholes are assumed, which is enough to find an
    object.
    """

    camera_to_worlds: Float[Tensor, "F 3 4"]
    focals: Float[Tensor, "F 2"]
    """Focal lengths in units of the image's width and height."""
    principals: Float[Tensor, "F 2"]
    """Principal points in units of the image's width and height."""
    rgb: list[Float[Tensor, "H W 3"]]
    """Colors in [0, 1]."""
    alpha: list[Float[Tensor, "H W"]]
    """Coverage by the object in [0, 1]."""

    def project(self, index: int, points: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, "N 2"], Float[Tensor, " N"]]:
        """Image coordinates in [0, 1] and depths of world points seen by one camera; negative depths lie behind it."""
        pose = self.camera_to_worlds[index]
        local = (points - pose[:, 3]) @ pose[:, :3]
        depth = -local[:, 2]
        plane = local[:, :2] * torch.tensor([1.0, -1.0]) / depth.clamp_min(1e-6)[:, None]
        return plane * self.focals[index] + self.principals[index], depth


def common_focus(camera_to_worlds: Float[Tensor, "F 3 4"]) -> tuple[Float[Tensor, "3"], float]:
    """The point nearest to all optical axes (least squares), and the median distance of the cameras from it.

    Raises:
        InputError: the cameras look in parallel, or away from every common point.
    """
    origins, directions = camera_to_worlds[:, :, 3], -camera_to_worlds[:, :, 2]
    across = torch.eye(3) - directions[:, :, None] * directions[:, None, :]
    system = across.sum(dim=0).double()
    if torch.linalg.eigvalsh(system)[0] < 1e-3 * len(origins):
        raise InputError("the cameras all look in the same direction; give images from different sides of the object")
    point = torch.linalg.solve(system, (across @ origins[:, :, None]).sum(dim=0).double())[:, 0].float()
    offsets = point - origins
    if ((offsets * directions).sum(dim=-1) > 0).float().mean() < 0.5:
        raise InputError(
            "the cameras do not look at a common object; check the camera poses (camera-to-world, OpenGL axes)"
        )
    return point, float(offsets.norm(dim=-1).median())


def visual_hull(
    views: Views, resolution: int = 64, rounds: int = 3
) -> tuple[Float[Tensor, "N 3"], Bool[Tensor, " N"], float]:
    """Points of a grid that lie inside every silhouette that could show them.

    The grid starts as the cube that reaches to the cameras and closes in on what it found. Until the last round
    silhouettes are grown by a voxel, so that thin parts between grid points are not lost.

    Returns:
        The points, whether each lies at the surface, and the spacing of the grid.

    Raises:
        InputError: no point is inside all silhouettes.
    """
    center, distance = common_focus(views.camera_to_worlds)
    half = torch.full((3,), distance)
    inside = points = torch.empty(0)
    for round_ in range(rounds):
        spacing = float(half.max()) * 2 / resolution
        counts = (half * 2 / spacing).ceil().long().clamp_min(2)
        axes = [(torch.arange(int(n)) + 0.5 - int(n) / 2) * spacing for n in counts]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) + center
        grow = spacing if round_ < rounds - 1 else 0.0
        # What a few views do not show may be cropped; what many do not show is rather a spot that no view excludes.
        for shown in (0.8, 0.4):
            inside = _inside(views, points.flatten(0, 2), grow, shown).reshape(points.shape[:3])
            if inside.any():
                break
        else:
            raise InputError(
                "the cameras see nothing of an object: no point lies inside the masks of all images;"
                " check poses and masks"
            )
        found = points[inside]
        low, high = found.amin(dim=0) - spacing, found.amax(dim=0) + spacing
        center, half = (low + high) / 2, (high - low) / 2
    covered = functional.avg_pool3d(inside[None, None].float(), 3, stride=1, padding=1)[0, 0]
    return points[inside], covered[inside] < 0.99, spacing


def _inside(views: Views, points: Float[Tensor, "N 3"], grow: float, shown: float) -> Bool[Tensor, " N"]:
    """Whether points lie in the (grown) silhouettes wherever they are seen, and that share of the views shows them."""
    seen, missed = torch.zeros(len(points)), torch.zeros(len(points))
    for index, alpha in enumerate(views.alpha):
        uv, depth = views.project(index, points)
        if grow > 0:
            nearest = depth[depth > 0].median() if (depth > 0).any() else torch.tensor(1.0)
            pixels = int(torch.ceil(grow * views.focals[index].max() * max(alpha.shape) / nearest))
            alpha = functional.max_pool2d(alpha[None], 2 * pixels + 1, stride=1, padding=pixels)[0]
        value = functional.grid_sample(
            alpha[None, None], (uv * 2 - 1)[None, None], mode="nearest", align_corners=False
        ).flatten()
        visible = (depth > 0) & (uv > 0).all(dim=-1) & (uv < 1).all(dim=-1)
        seen += visible
        missed += visible & (value < 0.5)
    # One view in thirty may be wrong: a bad mask.
    return (missed <= len(views.alpha) // 30) & (seen >= max(2.0, shown * len(views.alpha)))


def explained(views: Views, hull: Float[Tensor, "N 3"], spacing: float) -> float:
    """Share of the silhouettes' pixels that a visual hull covers, in [0, 1]: near 1 where the silhouettes agree.

    Where poses or pictures are wrong, no hull is seen as every silhouette shows it, and the intersection is too small.
    """
    shares = []
    for index, alpha in enumerate(views.alpha):
        uv, depth = views.project(index, hull)
        size = torch.tensor([alpha.shape[1], alpha.shape[0]])
        columns, rows = (uv * size).long().unbind(dim=-1)
        seen = (depth > 0) & (columns >= 0) & (columns < size[0]) & (rows >= 0) & (rows < size[1])
        covered = torch.zeros_like(alpha)
        covered[rows[seen], columns[seen]] = 1
        grow = math.ceil(0.5 * spacing * float(views.focals[index].max()) * max(alpha.shape) / float(depth.median()))
        covered = functional.max_pool2d(covered[None], 2 * grow + 1, stride=1, padding=grow)[0]
        shares.append(covered[alpha > 0.5].mean())
    return float(torch.stack(shares).mean())


def apparent_radius(views: Views, center: Float[Tensor, "3"]) -> float:
    """Radius of the sphere around ``center`` that every silhouette just fits into.

    A hull is larger than its object where no camera looks along the surface, such as above and below; the sphere's
    outline is seen from everywhere, so cameras on all sides bound it well.
    """
    radii = []
    for index, alpha in enumerate(views.alpha):
        rows, columns = torch.nonzero(alpha > 0.5, as_tuple=True)
        if len(rows) == 0:
            continue
        uv = torch.stack([(columns + 0.5) / alpha.shape[1], (rows + 0.5) / alpha.shape[0]], dim=-1)
        plane = (uv - views.principals[index]) / views.focals[index] * torch.tensor([1.0, -1.0])
        rays = functional.normalize(torch.cat([plane, -torch.ones(len(plane), 1)], dim=-1), dim=-1)
        pose = views.camera_to_worlds[index]
        offset = (center - pose[:, 3]) @ pose[:, :3]
        radii.append((offset - (rays @ offset)[:, None] * rays).norm(dim=-1).max())
    return float(torch.stack(radii).sort().values[-1 - len(radii) // 30])


def hull_colors(views: Views, points: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """The mean color in [0, 1] that the images show where points project into the silhouette; occlusion is not
    resolved.
    """
    total, weight = torch.zeros(len(points), 3), torch.zeros(len(points), 1)
    for index, (rgb, alpha) in enumerate(zip(views.rgb, views.alpha, strict=True)):
        uv, depth = views.project(index, points)
        picture = torch.cat([rgb * alpha[..., None], alpha[..., None]], dim=-1).permute(2, 0, 1)[None]
        sample = functional.grid_sample(picture, (uv * 2 - 1)[None, None], align_corners=False)[0, :, 0].T
        sample = sample * (depth > 0)[:, None]
        total, weight = total + sample[:, :3], weight + sample[:, 3:]
    return total / weight.clamp_min(1e-3)


def uniform_background(images: list[Float[Tensor, "H W 3"]]) -> Float[Tensor, "3"] | None:
    """The color that surrounds the object in all images, if there is one color at nine tenths of their borders."""
    borders = torch.cat([torch.cat([i[0], i[-1], i[1:-1, 0], i[1:-1, -1]]) for i in images])
    color = borders.median(dim=0).values
    near = (borders - color).abs().amax(dim=-1) < 8 / 255
    return color if near.float().mean() > 0.9 else None


def look_inverted(alphas: list[Float[Tensor, "H W"]]) -> bool:
    """Whether silhouettes cover the borders of their images and not the middle, as masks of the background do."""
    borders = torch.cat([torch.cat([a[0], a[-1], a[:, 0], a[:, -1]]) for a in alphas])
    thirds = [(a.shape[0] // 3, a.shape[1] // 3, a) for a in alphas]
    middles = torch.stack([a[top : 2 * top + 1, left : 2 * left + 1].mean() for top, left, a in thirds])
    return float(borders.mean()) > 0.9 and float(middles.mean()) < 0.5


def alpha_from_background(
    image: Float[Tensor, "H W 3"], background: Float[Tensor, "3"] | Float[Tensor, "H W 3"]
) -> Float[Tensor, "H W"]:
    """A silhouette: what differs from the background, one color or a picture, with its holes filled."""
    from scipy.ndimage import binary_fill_holes

    differs = (image - background).abs().amax(dim=-1) > 12 / 255
    return torch.from_numpy(binary_fill_holes(differs.numpy())).float()
