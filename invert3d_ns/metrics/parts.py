"""Do the same splats make the same parts of two objects? For objects of the procedural world, whose parts are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.random import random_stream
from invert3d_ns.world.distances import signed_distances
from invert3d_ns.world.objects import WorldObject

NEAR = 0.06
"""World units from an object's surface within which a point is taken to show it: a fifteenth of the object's radius."""
SAME, AT_RANDOM, IN_SPACE = "same splat", "at random", "nearest in space"
"""Ways to pair points of two objects: by number, which is what is measured; by chance; and by place."""


@dataclass(frozen=True)
class PartCorrespondence:
    """How consistently the parts of one object go with parts of another, over pairs of points. All are shares.

    NaN where nothing can be told: no pairs, or either object shows but one part.
    """

    one_to_one: float
    """Pairs that the best one-to-one mapping of parts to parts explains. Where one object has more parts than the
    other, some are left without a partner, so that less than 1 can be reached."""
    majority: float
    """Pairs that mapping each part of A to whatever part of B it meets most often explains."""
    mutual_information: float
    """Normalized by the arithmetic mean of the two entropies: 0 if a part of A says nothing about the part of B, 1 if
    either gives the other away."""
    near: float
    """Pairs that count, among all: those near both surfaces."""


def part_labels(item: WorldObject, points: Float[Tensor, "M 3"]) -> Int[Tensor, " M"]:
    """The part of an object that each point of the object frame is nearest to, as the renderer numbers parts."""
    labels, _ = _nearest_parts(item, points)
    return labels


def part_correspondence(
    points_a: Float[Tensor, "M 3"],
    points_b: Float[Tensor, "M 3"],
    object_a: WorldObject,
    object_b: WorldObject,
    *,
    within: float = NEAR,
) -> PartCorrespondence:
    """How consistently points that show a part of A show, as points of B, one part of it.

    Args:
        points_a: of A, in the object frame: centers of the splats that are seen.
        points_b: of B; point i of B is the same splat as point i of A.
        object_a: what ``points_a`` show.
        object_b: what ``points_b`` show.
        within: world units; pairs count where both points are as near to the surface.

    Raises:
        InputError: points do not pair up.
    """
    _check_pairs(points_a, points_b)
    labels_a, far_a = _nearest_parts(object_a, points_a)
    labels_b, far_b = _nearest_parts(object_b, points_b)
    counts = (far_a <= within) & (far_b.to(far_a.device) <= within)
    return label_agreement(labels_a[counts], labels_b.to(counts.device)[counts], total=len(points_a))


def compare_pairings(
    points_a: Float[Tensor, "M 3"],
    points_b: Float[Tensor, "M 3"],
    object_a: WorldObject,
    object_b: WorldObject,
    *,
    within: float = NEAR,
    seed: int = 0,
) -> dict[str, PartCorrespondence]:
    """:func:`part_correspondence` of the same splats, beside that of the same points paired at random and by place.

    Baselines pair the points that count: each of A with one of B drawn without replacement, or with the nearest of B.
    Splats that do not move between the objects, as in a field that only changes density, are at the level of the
    latter.

    Returns:
        By :data:`SAME`, :data:`AT_RANDOM` and :data:`IN_SPACE`.
    """
    from scipy.spatial import KDTree

    _check_pairs(points_a, points_b)
    points_a, points_b = points_a.detach().cpu(), points_b.detach().cpu()
    labels_a, far_a = _nearest_parts(object_a, points_a)
    labels_b, far_b = _nearest_parts(object_b, points_b)
    counts, total = (far_a <= within) & (far_b <= within), len(points_a)
    labels_a, labels_b, places_a, places_b = (x[counts] for x in (labels_a, labels_b, points_a, points_b))
    shuffled = torch.randperm(len(labels_a), generator=random_stream("pairs of points", seed))
    nearest = shuffled
    if len(labels_a):
        nearest = torch.as_tensor(KDTree(places_b.numpy()).query(places_a.numpy())[1])
    return {
        SAME: label_agreement(labels_a, labels_b, total=total),
        AT_RANDOM: label_agreement(labels_a, labels_b[shuffled], total=total),
        IN_SPACE: label_agreement(labels_a, labels_b[nearest], total=total),
    }


def label_agreement(
    labels_a: Int[Tensor, " N"], labels_b: Int[Tensor, " N"], *, total: int | None = None
) -> PartCorrespondence:
    """How far two labelings of the same pairs say the same under other names; ``total`` pairs if N of them count."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    count = len(labels_a)
    near = count / total if total else float(count > 0)
    if min(len(labels_a.unique()), len(labels_b.unique())) < 2:
        return PartCorrespondence(math.nan, math.nan, math.nan, near)
    a, b = labels_a.cpu().numpy(), labels_b.cpu().numpy()
    table: Any = contingency_matrix(a, b)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return PartCorrespondence(
        float(table[rows, columns].sum()) / count,
        float(table.max(1).sum()) / count,
        float(normalized_mutual_info_score(a, b)),
        near,
    )


def _nearest_parts(item: WorldObject, points: Tensor) -> tuple[Int[Tensor, " M"], Float[Tensor, " M"]]:
    """The nearest part of each point, and how far the object's surface is, inside or out."""
    nearest, primitive = signed_distances(item.primitives, points.detach()).min(1)
    parts = torch.as_tensor(item.primitives[:, 26].astype(int), device=points.device)
    return parts[primitive], nearest.abs()


def _check_pairs(points_a: Tensor, points_b: Tensor) -> None:
    if points_a.shape != points_b.shape or points_a.ndim != 2 or points_a.shape[1] != 3:
        raise InputError(
            f"points of shapes {tuple(points_a.shape)} and {tuple(points_b.shape)} are no pairs; give (points, 3) of "
            "the same splats"
        )
