"""Name the object in photographs in plain words, with the frozen prior as a classifier over words and cameras at once
(as in Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier").

One view says little about the others. Vectors that are learned from nothing explain that view by whatever works and
mean nothing from other sides; words that the prior was trained on mean an object from all sides. So the inversion of
photographs starts from the plain words that explain them best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

MOST_WORDS = 1000
"""Vocabularies up to this size are tried word by word."""
_LEAST_LETTERS = 3
_FINALISTS, _KEPT = 8, 64
_GAIN = 0.004
"""Share of the loss that a further word has to save."""


class TextScore(Protocol):
    """How badly texts explain photographs, such as :meth:`.inversion.ImageInversion.text_score` makes it."""

    def __call__(self, texts: Sequence[str], draws: range, *, rough: bool) -> Float[Tensor, " P"]:
        """Score P texts: the less, the better. ``draws`` are numbers of noise draws; ``rough`` tries fewer cameras."""
        ...


def candidate_words(prior: MultiViewPrior) -> list[str]:
    """List the prior's whole words, if they are few enough (:data:`MOST_WORDS`) to try them all; else none."""
    tokens = prior.tokenizer.get_vocab()
    if len(tokens) > MOST_WORDS:
        return []
    words = (token.removesuffix("</w>") for token in tokens if token.endswith("</w>"))
    return sorted(word for word in words if word.isalpha() and word.islower() and len(word) >= _LEAST_LETTERS)


def name_object(score_near: Callable[[str], TextScore], words: Sequence[str], start: str = "", rounds: int = 3) -> str:
    """Choose words, one by one, that explain the photographs best, each before or after those found so far.

    Args:
        score_near: called in every round with the text found so far; gives the score of texts that add to it.
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
        score = score_near(found or "object")
        rough = score(tried, range(20 * turn + 1, 20 * turn + 2), rough=True)
        finalists = [tried[i] for i in rough.argsort()[:_FINALISTS]] + ([found] if found else [])
        fine = score(finalists, range(20 * turn + 2, 20 * turn + 8), rough=False)
        best = int(fine.argmin())
        if found and fine[best] > fine[-1] * (1 - _GAIN):
            break
        found = finalists[best]
        # What says least of the picture now will not say most of it beside another word.
        order = rough.reshape(-1, len(others)).amin(0).argsort()
        words = [others[i] for i in order[:_KEPT]]
    return found
