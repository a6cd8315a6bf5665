"""Crops and tilts of views, drawn once and applied to any picture: the ones that CLIP is asked about.

One homography a view does it all, in one differentiable sampling. Own code, because the augmentations of torchvision
draw from the global random state, so that a view and its source cannot be given the same one, and its perspective
writes into its input.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

SUPERSAMPLING = 2
"""Samples a pixel, along each side."""


def draw_crops(
    count: int,
    generator: torch.Generator,
    *,
    side: tuple[float, float] = (0.35, 0.6),
    perspective: float = 0.5,
) -> Float[Tensor, "N 3 3"]:
    """Draw squares of views, each seen at a slant.

    Args:
        generator: on the CPU; the only source of randomness.
        side: range of the squares' sides, in sides of a view; 1 and more show all of it, the latter with a margin.
        perspective: how far a corner may move towards the square's middle, as torchvision's ``distortion_scale``; 0 for
            none.

    Returns:
        Homographies from the square [-1, 1]² of a crop to that of its view, x to the right, y down.

    Raises:
        ValueError: sides that are not positive, or a perspective out of [0, 1).
    """
    low, high = side
    if not 0 < low <= high or not 0 <= perspective < 1:
        raise ValueError(f"no crops of sides {side} at perspective {perspective}")
    half = low + (high - low) * torch.rand(count, generator=generator)
    middle = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - half).clamp_min(0)[:, None]
    square = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    # A corner moves towards the middle, along each side by up to half of it: Zhang's quadrilateral of torchvision.
    corners = square * (1 - perspective * torch.rand(count, 4, 2, generator=generator))
    tilt = homographies(square.expand(count, 4, 2), corners)
    frame = torch.zeros(count, 3, 3)
    frame[:, 0, 0] = frame[:, 1, 1] = half
    frame[:, :2, 2], frame[:, 2, 2] = middle, 1
    return frame @ tilt


def homographies(source: Float[Tensor, "N 4 2"], target: Float[Tensor, "N 4 2"]) -> Float[Tensor, "N 3 3"]:
    """The projective maps that take four points to four others, no three of which lie on a line."""
    count = len(source)
    ones, zeros = torch.ones(count, 4, 1), torch.zeros(count, 4, 3)
    points = torch.cat([source, ones], -1)
    along_x = torch.cat([points, zeros, -target[..., :1] * source], -1)
    along_y = torch.cat([zeros, points, -target[..., 1:] * source], -1)
    rows, values = torch.cat([along_x, along_y], 1), torch.cat([target[..., 0], target[..., 1]], 1)
    found = torch.linalg.solve(rows.double(), values.double()).to(source)
    return torch.cat([found, torch.ones(count, 1)], 1).unflatten(1, (3, 3))


def apply_crops(
    images: Float[Tensor, "N c H W"], crops: Float[Tensor, "N 3 3"], size: int, *, samples: int = SUPERSAMPLING
) -> Float[Tensor, "N c S S"]:
    """Draw a crop of each picture, bilinearly; beyond the edge is what lies at the edge. Differentiable.

    Args:
        crops: of :func:`draw_crops`.
        size: side of what is drawn, in pixels.
        samples: a pixel is the mean of this many squared.
    """
    fine = size * samples
    steps = (torch.arange(fine, device=images.device, dtype=images.dtype) + 0.5) * (2 / fine) - 1
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).flatten(0, 1)
    mapped = points @ crops.to(images).mT
    grid = (mapped[..., :2] / mapped[..., 2:]).unflatten(1, (fine, fine))
    drawn = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return functional.avg_pool2d(drawn, samples)
