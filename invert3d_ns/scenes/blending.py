"""Blends of several objects that share one scene: points of the simplex whose vertices are the objects (A3D).

Weights u of K objects are nonnegative and sum to 1. A vertex is one object, an edge the way from one to another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.notices import warn

Weights = Float[Tensor, "*M K"]
"""Shares of K objects, nonnegative, of sum 1."""
_TOLERANCE = 1e-4
"""What weights may miss the simplex by without a word."""


def vertex(index: int, objects: int) -> Float[Tensor, " K"]:
    """The weights of one object alone."""
    weights = torch.zeros(objects)
    weights[index] = 1.0
    return weights


def project_to_simplex(values: Float[Tensor, "*M K"]) -> Weights:
    """The nearest weights (Duchi et al. 2008); those that are weights already stay as they are.

    Example:
        >>> project_to_simplex(torch.tensor([1.5, 0.1])).tolist()
        [1.0, 0.0]
    """
    ordered = values.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    counts = torch.arange(1, values.shape[-1] + 1, device=values.device)
    last = (ordered * counts > excess).sum(-1, keepdim=True).clamp_min(1)
    return (values - excess.gather(-1, last - 1) / last).clamp_min(0)


def checked_weights(values: Sequence[float], objects: int, what: str) -> Float[Tensor, " K"]:
    """Weights that a person gave, projected to the simplex with a warning where they miss it.

    Args:
        what: names them in messages, such as a flag.

    Raises:
        InputError: they are not finite, or not one for each object.
    """
    weights = torch.tensor([float(value) for value in values])
    if len(weights) != objects:
        raise InputError(f"{what} has {len(weights)} weights for {objects} objects; give one for each")
    if not bool(weights.isfinite().all()):
        raise InputError(f"{what} has a weight that is not a number; give numbers from 0 to 1 that sum to 1")
    nearest = project_to_simplex(weights)
    if float((nearest - weights).abs().max()) > _TOLERANCE:
        shown = ", ".join(f"{value:.3g}" for value in nearest.tolist())
        warn(f"{what}: the weights do not sum to 1, or one is below 0; the nearest that do are taken: {shown}")
    return nearest


def along_edges(share: float, objects: int) -> Float[Tensor, " K"]:
    """Weights on the way from the first object through all others and back; at 0 and 1 the first alone.

    Args:
        share: 0 to 1, of the way.

    Example:
        >>> along_edges(0.25, 2).tolist(), along_edges(0.5, 2).tolist()
        ([0.5, 0.5], [0.0, 1.0])
    """
    if objects == 1:
        return torch.ones(1)
    place = min(max(share, 0.0), 1.0) * objects
    first = min(int(place), objects - 1)
    rest = place - first
    return (1 - rest) * vertex(first, objects) + rest * vertex((first + 1) % objects, objects)


def draw_weights(
    objects: int, generator: torch.Generator, *, edge: float = 0.5, interior: float = 0.0
) -> Float[Tensor, " K"]:
    """Random weights to train at: of a vertex, of an edge, or of the interior.

    Args:
        objects: K; of one there is nothing to draw.
        edge: probability of a point of a random edge, evenly between its ends. Official code: 0.5.
        interior: probability of a point inside, evenly (of three objects or more). Official code: 0.
    """
    dice, place = torch.rand(2, generator=generator).tolist()
    order = torch.randperm(objects, generator=generator).tolist()
    inside = -torch.rand(objects, generator=generator).clamp_min(1e-12).log()
    if objects == 1:
        return torch.ones(1)
    if dice < interior and objects > 2:
        return inside / inside.sum()
    if dice < interior + edge:
        return place * vertex(order[0], objects) + (1 - place) * vertex(order[1], objects)
    return vertex(order[0], objects)


class Blend(ABC):
    """How much of each object there is at each place."""

    objects: int
    """K."""

    @abstractmethod
    def at(self, points: Float[Tensor, "M 3"]) -> Float[Tensor, "M K"]:
        """The weights at points of the object frame, on the points' device."""

    def uniform(self) -> Float[Tensor, " K"] | None:
        """The weights where they are the same everywhere; None of a hybrid."""
        return None


@dataclass(frozen=True)
class SameEverywhere(Blend):
    """One point of the simplex for the whole scene."""

    weights: tuple[float, ...]
    """Of sum 1, and nonnegative, unless what is drawn goes beyond an object: (-0.5, 1.5) is the second, overdone."""

    @property
    def objects(self) -> int:  # type: ignore[override]
        """K."""
        return len(self.weights)

    @classmethod
    def of(cls, weights: Float[Tensor, " K"] | Sequence[float]) -> SameEverywhere:
        """From a tensor or numbers, which must be weights."""
        return cls(tuple(float(value) for value in weights))

    def at(self, points: Float[Tensor, "M 3"]) -> Float[Tensor, "M K"]:
        """See :meth:`Blend.at`; nothing is copied."""
        return torch.tensor(self.weights).to(points).expand(len(points), -1)

    def uniform(self) -> Float[Tensor, " K"]:
        """The weights."""
        return torch.tensor(self.weights)
