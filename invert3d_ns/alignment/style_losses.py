"""Losses that pull views towards words by CLIP: plain score, augmented score, directional, and by patches.

Plain: CLIP-GS's fine-tuning. Directional and by patches: CLIPstyler (CVPR 2022), on splats CLIPGaussian (NeurIPS 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from invert3d_ns.alignment.augmentation import apply_crops, draw_crops
from invert3d_ns.alignment.clip import ClipTowers
from invert3d_ns.alignment.style_words import StyleWords, encode_words
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import above, at_least

_WEIGHT = at_least(0)


@dataclass
class StyleLossConfig:
    """What pulls views towards words, and how strongly."""

    clip: Annotated[float, _WEIGHT] = 0.0
    """Weight of the plain score: one minus the cosine of a view and the prompt. Easily fooled."""
    augmented: Annotated[float, _WEIGHT] = 0.0
    """Weight of the score of slanted views and large crops of them."""
    directional: Annotated[float, _WEIGHT] = 1.0
    """Weight of the direction in which a view moves, against that from what the scene is to the prompt."""
    patch: Annotated[float, _WEIGHT] = 1.0
    """Weight of the same for small slanted crops."""
    reach: Annotated[float, at_least(0)] = 4.0
    """How far views shall move in that direction, in units of how far the prompt is from what the scene is: the more,
    the less is left of what they were. 0: only the direction counts, as published."""
    crops: Annotated[int, at_least(1, 64)] = 3
    """Crops of each view, of either kind."""
    crop_side: tuple[Annotated[float, above(0, 1)], Annotated[float, above(0, 1)]] = (0.4, 0.8)
    """Range of the sides of small crops, in sides of a view."""
    perspective: Annotated[float, at_least(0, 0.9)] = 0.4
    """How slanted crops are."""
    same_crops: bool = True
    """Give all views of a step the same crops, so that neighbors are asked the same."""

    def check(self) -> None:
        """Refuse settings under which nothing is asked for.

        Raises:
            InputError: no weight is above 0, or the range of crops is none.
        """
        if not any((self.clip, self.augmented, self.directional, self.patch)):
            raise InputError("no loss is left: give --pipeline.style.directional 1, or another weight above 0")
        if self.crop_side[0] > self.crop_side[1]:
            low, high = self.crop_side
            raise InputError(f"--pipeline.style.crop-side goes from {low:g} to {high:g}; give the smaller one first")


_SEEN_AS = {"clip": "whole", "augmented": "large", "directional": "whole", "patch": "small"}
"""What each term looks at: views, large crops of them, or small ones."""
_MOVING = ("directional", "patch")
"""Terms that count how views have moved."""
LARGE_CROPS = (0.7, 1.0)
"""Sides of the crops of the augmented score, in sides of a view."""


class StyleLoss:
    """Terms that fall as views come to look as words say; averaged over towers.

    Args:
        towers: one or more, frozen, all on the device of the views.
        words: see :meth:`follow`.
        config: the weights.
    """

    def __init__(self, towers: Sequence[ClipTowers], words: StyleWords, config: StyleLossConfig) -> None:
        self.towers, self.config = list(towers), config
        self.follow(words)

    def follow(self, words: StyleWords) -> None:
        """Ask for other words from now on.

        Raises:
            InputError: see :func:`~invert3d_ns.alignment.style_words.encode_words`; prompt and source are one.
        """
        encoded = [encode_words(towers, words) for towers in self.towers]
        if any(float((asked - source).norm()) < 1e-4 for asked, source in encoded):
            raise InputError(f"{str(words)!r} is what the scene is already, in CLIP's eyes; say something else")
        self.words, self._encoded = words, encoded

    def __call__(
        self, views: Float[Tensor, "B 3 H W"], source: Float[Tensor, "B 3 H W"], generator: torch.Generator
    ) -> dict[str, Float[Tensor, ""]]:
        """Terms, by the names of their weights, times these.

        Args:
            views: RGB, gradients reach them.
            source: the same views of the scene as it was.
            generator: of the crops; on the CPU.
        """
        config, count = self.config, len(views)
        drawn = 1 if config.same_crops else count
        large = draw_crops(config.crops * drawn, generator, side=LARGE_CROPS, perspective=config.perspective / 2)
        small = draw_crops(config.crops * drawn, generator, side=config.crop_side, perspective=config.perspective)
        terms: dict[str, list[Tensor]] = {}
        for towers, (asked, words) in zip(self.towers, self._encoded, strict=True):
            size = min(towers.size)
            asks = _Asked(asked, words, config.reach)
            kinds = {_SEEN_AS[name] for name in _SEEN_AS if getattr(config, name)}
            make: dict[str, Callable[[Tensor], Tensor]] = {
                "whole": lambda images: images,
                "large": partial(self._crop, crops=large, size=size),
                "small": partial(self._crop, crops=small, size=size),
            }
            seen = self._encode(towers, {kind: make[kind](views) for kind in sorted(kinds)})
            moving = {_SEEN_AS[name] for name in _MOVING if getattr(config, name)}
            with torch.no_grad():
                before = self._encode(towers, {kind: make[kind](source) for kind in sorted(moving)})
            for name, kind in _SEEN_AS.items():
                if weight := getattr(config, name):
                    term = asks.direction(seen[kind], before[kind]) if name in _MOVING else asks.score(seen[kind])
                    terms.setdefault(name, []).append(weight * term)
        return {name: torch.stack(values).mean() for name, values in terms.items()}

    def _crop(self, views: Tensor, crops: Tensor, size: int) -> Tensor:
        count = self.config.crops
        each = crops.repeat(len(views) // (len(crops) // count), 1, 1)
        return apply_crops(views.repeat_interleave(count, 0), each, size)

    @staticmethod
    def _encode(towers: ClipTowers, sets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Vectors of all sets, in one pass of the tower."""
        if not sets:
            return {}
        prepared = [towers.preprocess(images) for images in sets.values()]
        vectors = towers.encode_prepared(torch.cat(prepared)).split([len(images) for images in prepared])
        return dict(zip(sets, vectors, strict=True))


@dataclass(frozen=True)
class _Asked:
    """What one tower is asked for."""

    asked: Float[Tensor, " D"]
    source: Float[Tensor, " D"]
    reach: float

    def score(self, seen: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
        return 1 - (seen @ self.asked).mean()

    def direction(self, seen: Float[Tensor, "N D"], before: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
        way = self.asked - self.source
        if self.reach:
            goal = functional.normalize(before + self.reach * way, dim=-1)
            return 1 - (seen * goal).sum(-1).mean()
        # Where nothing has moved there is no direction, and the gradient of a cosine is none.
        return 1 - functional.cosine_similarity(seen - before, way[None], dim=-1, eps=1e-4).mean()
