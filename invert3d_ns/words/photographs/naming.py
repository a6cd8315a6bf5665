"""What is in a photograph, in plain words: the frozen prior as a classifier over words and cameras at once (as in Li et
al. 2023, "Your diffusion model is secretly a zero-shot classifier").

One view says little about the others. Vectors that are learned from nothing explain that view by whatever works and
mean nothing from other sides; words that the prior was trained on mean an object from all sides. So the inversion of
photographs starts from the plain words that explain them best.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from invert3d_ns.base.english import with_article

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.words.photographs.inversion import ImageInversion

MOST_WORDS = 1000
"""Vocabularies up to this size are tried word by word."""
_LEAST_LETTERS = 3
_CAMERAS, _ROUGH, _FINALISTS, _KEPT = 6, 3, 8, 64
_GAIN = 0.004
"""Share of the loss that a further word has to save."""


def vocabulary(prior: MultiViewPrior) -> list[str]:
    """The prior's whole words, if there are few enough to try them all; else none."""
    tokens = prior.tokenizer.get_vocab()
    if len(tokens) > MOST_WORDS:
        return []
    words = (token.removesuffix("</w>") for token in tokens if token.endswith("</w>"))
    return sorted(word for word in words if word.isalpha() and word.islower() and len(word) >= _LEAST_LETTERS)


@torch.no_grad()
def name_object(inversion: ImageInversion, words: Sequence[str], start: str = "", rounds: int = 3) -> str:
    """Choose words, one by one, that explain the photographs best, each before or after those found so far.

    Args:
        inversion: of the photographs; the cameras that it thinks possible are tried.
        words: candidates.
        start: what is known already, such as "chair".
        rounds: most words in all.

    Returns:
        Words such as "blue car"; ``start`` if there are no candidates.
    """
    found, words = start, list(words)
    for turn in range(len(found.split()), rounds):
        others = [word for word in words if word not in found.split()]
        if not others:
            break
        # Which of "blue" and "car" is the plainer to see is not known beforehand, and either may come first.
        tried = [f"{w} {found}" for w in others] + [f"{found} {w}" for w in others] if found else others
        inversion.search(inversion.prior.encode_prompt(with_article(found or "object")), sharpness=2.0)
        cameras = list(inversion.weights.topk(min(_CAMERAS, int(inversion.possible.sum(1).min()))).indices)
        rough = _scores(inversion, tried, [c[:_ROUGH] for c in cameras], range(20 * turn + 1, 20 * turn + 2))
        finalists = [tried[i] for i in rough.argsort()[:_FINALISTS]] + ([found] if found else [])
        fine = _scores(inversion, finalists, cameras, range(20 * turn + 2, 20 * turn + 8))
        best = int(fine.argmin())
        if found and fine[best] > fine[-1] * (1 - _GAIN):
            break
        found = finalists[best]
        # What says least of the picture now will not say most of it beside another word.
        order = rough.reshape(-1, len(others)).amin(0).argsort()
        words = [others[i] for i in order[:_KEPT]]
    return found


def _scores(
    inversion: ImageInversion, texts: Sequence[str], cameras: Sequence[Int[Tensor, " G"]], draws: range
) -> Float[Tensor, " P"]:
    """Loss of each text, each photograph from the camera that suits it best."""
    contexts = inversion.prior.encode_prompt([with_article(text) for text in texts])
    each = [inversion.losses(index, contexts, choice, draws).amin(1) for index, choice in enumerate(cameras)]
    return torch.stack(each).mean(0)
