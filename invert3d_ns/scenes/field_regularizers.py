"""What keeps radiance fields that are trained by guidance from degenerating: terms to add to the loss.

All are means, so that weights do not depend on the size of the views; the weights are A3D's (official code).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def orientation_loss(
    weights: Float[Tensor, " M"], normals: Float[Tensor, "M 3"], directions: Float[Tensor, "M 3"], rays: int
) -> Float[Tensor, ""]:
    """Normals of what is seen should face the camera (Ref-NeRF, equation 11): weights * min(0, n . -d)^2.

    A3D's weight rises from 10 to 1000 over 5000 steps. The gradient reaches the normals alone.

    Args:
        weights: of the samples in their rays' pictures.
        normals: of the samples, of length 1.
        directions: of the samples' rays, from the camera.
        rays: number of rays that see anything, whose mean the loss is.
    """
    away = (normals * directions).sum(-1).clamp_min(0)
    return (weights.detach() * away.square()).sum() / max(rays, 1)


def normal_smoothness(normals: Float[Tensor, "F 3 H W"]) -> Float[Tensor, ""]:
    """Mean squared difference of neighboring pixels of normal maps (Magic3D); A3D's weight is 10."""
    across = (normals[..., 1:] - normals[..., :-1]).square().mean()
    down = (normals[..., 1:, :] - normals[..., :-1, :]).square().mean()
    return across + down


def sparsity(alpha: Float[Tensor, "F 1 H W"]) -> Float[Tensor, ""]:
    """How much is covered: what is not needed should go (threestudio: the mean of sqrt(alpha^2 + 0.01))."""
    return (alpha.square() + 0.01).sqrt().mean()


def opacity_entropy(alpha: Float[Tensor, "F 1 H W"]) -> Float[Tensor, ""]:
    """How undecided pixels are between empty and covered: 0 to ln 2."""
    share = alpha.clamp(1e-3, 1 - 1e-3)
    return -(share * share.log() + (1 - share) * (1 - share).log()).mean()
