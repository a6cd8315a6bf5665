"""Aligned splats: objects whose splat i is the same part in each, so that they can be mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.blending import Blend
from invert3d_ns.scenes.cloud import TENSORS, SplatCloud, unit_quaternions

_MOST_MATCHED = 3000
"""Points that are matched exactly at most: the time grows with the cube."""


def mix_splats(objects: Sequence[SplatCloud], blend: Blend) -> SplatCloud:
    """One object of several aligned ones: the weighted mean of each splat's attributes, before any activation.

    Where a blend differs from place to place (a hybrid), a splat counts as being where it is on average over the
    objects. Differentiable in the attributes.

    Args:
        objects: K, of equally many splats and harmonics.
        blend: of K objects.

    Raises:
        InputError: the objects are not aligned, or not as many as the blend is of.
    """
    shapes = {tuple(tuple(tensor.shape) for tensor in cloud.tensors().values()) for cloud in objects}
    if len(shapes) != 1:
        raise InputError("these objects are not aligned: they differ in their number of splats or of harmonics")
    if blend.objects != len(objects):
        raise InputError(f"a blend of {blend.objects} objects does not fit {len(objects)}; give a weight for each")
    same = blend.uniform()
    if same is not None and bool((same == 1).any()):
        return objects[int(same.argmax())]
    stacked = {name: torch.stack([getattr(cloud, name) for cloud in objects], 1) for name in TENSORS}
    weights = blend.at(stacked["means"].detach().mean(1))
    mixed = {name: weighted_sum(values, weights) for name, values in stacked.items()}
    return replace(objects[0], **{**mixed, "quats": unit_quaternions(mixed["quats"])})


def weighted_sum(values: Float[Tensor, "N K *rest"], weights: Float[Tensor, "N K"]) -> Float[Tensor, "..."]:
    """The sum over K, weighted for each of N."""
    return (values * weights.reshape(*weights.shape, *[1] * (values.dim() - 2))).sum(1)


def match_points(points: Float[Tensor, "N D"], others: Float[Tensor, "N D"], extent: int = 3) -> Int[Tensor, " N"]:
    """For each point one of as many others, every one once, so that the squared distances sum to the least.

    The first ``extent`` numbers are positions: both sets are brought into one box first, so that what is at the foot of
    a tall object is matched with what is at the foot of a low one. Whatever else follows counts as it is. Of many
    points, random subsets are matched, and the rest among themselves.

    Raises:
        InputError: there are not equally many.
    """
    from scipy.optimize import linear_sum_assignment

    if points.shape != others.shape:
        raise InputError(f"{len(points)} points cannot be matched with {len(others)}; give equally many")
    here, there = (_boxed(given.float().cpu(), extent) for given in (points, others))
    found = torch.empty(len(here), dtype=torch.long)
    parts = max(-(-len(here) // _MOST_MATCHED), 1)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(here), generator=generator).chunk(parts)
    columns = torch.randperm(len(here), generator=generator).chunk(parts)
    for some, candidates in zip(rows, columns, strict=True):
        cost = torch.cdist(here[some], there[candidates]).square()
        mine, yours = linear_sum_assignment(cost.numpy())
        found[some[torch.from_numpy(mine)]] = candidates[torch.from_numpy(yours)]
    return found


def _boxed(points: Float[Tensor, "N D"], extent: int) -> Float[Tensor, "N D"]:
    """Positions in the unit box of their own bounds, thin ones as thin as they are; the rest as it is."""
    positions = points[:, :extent]
    low, high = positions.amin(0), positions.amax(0)
    size = (high - low).clamp_min(0.2 * float((high - low).amax().clamp_min(1e-6)))
    return torch.cat([(positions - (low + high) / 2) / size, points[:, extent:]], dim=1)
