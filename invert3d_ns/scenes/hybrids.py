"""Hybrids of several objects that share one scene: anchors say which object is where, as in A3D's "the head of A on the
body of B".

The paper's page interpolates between the two nearest anchors, its code by radial basis functions over all of them,
without making the weights sum to 1 again; here they always do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.inputs import read_json
from invert3d_ns.scenes.blending import Blend, checked_weights, project_to_simplex, vertex

Interpolation = Literal["nearest", "rbf", "ramp"]
"""nearest: linear between the two nearest anchors. rbf: radial basis functions (a linear kernel) over all. ramp: linear
along the line through two anchors."""
BOX = 1.0
"""Anchors lie within this distance of the origin along each axis; the object's sphere has a radius of 0.9."""
_ADVICE = 'give {"kind": "nearest", "anchors": [{"position": [0, 0, 0.5], "prompt": 0}, ...]}'


@dataclass(frozen=True)
class Anchor:
    """A place that has given weights."""

    position: tuple[float, float, float]
    """In the object frame."""
    weights: tuple[float, ...]
    """Of each object, nonnegative, of sum 1."""


@dataclass(frozen=True)
class Hybrid(Blend):
    """Weights that are interpolated between anchors.

    Raises:
        InputError: fewer than two anchors, other than two for a ramp, two at one place, or one outside of the box.
    """

    anchors: tuple[Anchor, ...]
    """In any order."""
    kind: Interpolation = "nearest"
    """How weights are interpolated."""

    def __post_init__(self) -> None:
        count = len(self.anchors)
        if count < 2:
            raise InputError(f"a hybrid of {count} anchor{'s' * (count != 1)} mixes nothing; give two or more")
        if self.kind == "ramp" and count != 2:
            raise InputError(
                f"a ramp goes from one anchor to another, and there are {count}; give two, or another kind"
            )
        for anchor in self.anchors:
            if not all(abs(value) <= BOX for value in anchor.position):  # NaN fails as well
                raise InputError(
                    f"the anchor at {_shown(anchor.position)} lies outside of the box from {-BOX:g} to {BOX:g}, "
                    "where no object is; give positions in the object frame"
                )
        if len({anchor.position for anchor in self.anchors}) < count:
            raise InputError("two anchors lie at one place; move or remove one")

    @property
    def objects(self) -> int:  # type: ignore[override]
        """K."""
        return len(self.anchors[0].weights)

    def at(self, points: Float[Tensor, "M 3"]) -> Float[Tensor, "M K"]:
        """See :meth:`Blend.at`."""
        positions = torch.tensor([anchor.position for anchor in self.anchors]).to(points)
        weights = torch.tensor([anchor.weights for anchor in self.anchors]).to(points)
        if self.kind == "ramp":
            way = positions[1] - positions[0]
            share = ((points - positions[0]) @ way / way.square().sum()).clamp(0, 1)[:, None]
            return (1 - share) * weights[0] + share * weights[1]
        if self.kind == "rbf":
            return _radial(positions, weights, points)
        distances, nearest = torch.cdist(points, positions).topk(2, largest=False)
        share = (distances[:, :1] / distances.sum(1, keepdim=True).clamp_min(1e-9)).clamp(0, 1)
        return (1 - share) * weights[nearest[:, 0]] + share * weights[nearest[:, 1]]

    def far_from(self, points: Float[Tensor, "M 3"], distance: float = 0.2) -> list[Anchor]:
        """The anchors that lie farther than ``distance`` from all points: on no object."""
        positions = torch.tensor([anchor.position for anchor in self.anchors]).to(points)
        away = torch.cdist(positions, points).amin(1) > distance if len(points) else torch.ones(len(positions)) > 0
        return [anchor for anchor, far in zip(self.anchors, away.tolist(), strict=True) if far]

    def to_dict(self) -> dict[str, Any]:
        """As a file of anchors holds it."""
        anchors = [{"position": list(anchor.position), "weights": list(anchor.weights)} for anchor in self.anchors]
        return {"kind": self.kind, "anchors": anchors}


def read_anchors(path: Path, prompts: Sequence[str]) -> Hybrid:
    """The hybrid in a JSON file: its kind, and anchors with a position and a prompt (number or words) or weights.

    Args:
        path: the file.
        prompts: of the scene, in order.

    Raises:
        InputError: the file cannot be read, or an anchor makes no sense; see :class:`Hybrid`.
    """
    return hybrid_from(read_json(path, _ADVICE), prompts, str(path))


def hybrid_from(document: dict[str, Any], prompts: Sequence[str], where: str) -> Hybrid:
    """The same of a document that was read already; ``where`` names it in messages.

    Raises:
        InputError: see :func:`read_anchors`.
    """
    kind, entries = document.get("kind", "nearest"), document.get("anchors")
    if kind not in get_args(Interpolation):
        raise InputError(f"{where}: no kind of hybrid is called {kind!r}; give {', '.join(get_args(Interpolation))}")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{where} has no list of anchors; {_ADVICE}")
    anchors = [_anchor(entry, prompts, f"{where}: anchor {number}") for number, entry in enumerate(entries, 1)]
    return Hybrid(tuple(anchors), kind)


def _anchor(entry: dict[str, Any], prompts: Sequence[str], where: str) -> Anchor:
    position = entry.get("position")
    if not (isinstance(position, list) and len(position) == 3 and all(_is_number(value) for value in position)):
        raise InputError(f"{where} has no position of three numbers; {_ADVICE}")
    x, y, z = (float(value) for value in position)
    given = entry.get("weights")
    if isinstance(given, list) and all(_is_number(value) for value in given):
        weights = checked_weights(given, len(prompts), where)
    else:
        weights = vertex(_prompt_index(entry.get("prompt"), prompts, where), len(prompts))
    return Anchor((x, y, z), tuple(weights.tolist()))


def _prompt_index(prompt: Any, prompts: Sequence[str], where: str) -> int:
    if isinstance(prompt, str) and prompt in prompts:
        return list(prompts).index(prompt)
    if isinstance(prompt, int) and not isinstance(prompt, bool) and 0 <= prompt < len(prompts):
        return prompt
    known = ", ".join(f"{number} ({text})" for number, text in enumerate(prompts))
    raise InputError(f"{where} names no prompt of the scene; give its number or words: {known}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(position: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.3g}' for value in position)})"


def _radial(
    positions: Float[Tensor, "A 3"], weights: Float[Tensor, "A K"], points: Float[Tensor, "M 3"]
) -> Float[Tensor, "M K"]:
    """Interpolated over all anchors, then brought back to the simplex."""
    from scipy.interpolate import RBFInterpolator

    # Of degree 0, a constant: weights that are the same everywhere stay so, for two anchors on a line as well.
    interpolate = RBFInterpolator(
        positions.double().cpu().numpy(), weights.double().cpu().numpy(), kernel="linear", degree=0
    )
    found = interpolate(np.asarray(points.detach().double().cpu()))
    return project_to_simplex(torch.from_numpy(found)).to(points)
