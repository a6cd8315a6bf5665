"""Words that a prior with a small vocabulary knows: others it spells, letter by letter, and they mean nothing to it.

Free of torch, so that prompts are looked at before anything is loaded.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from invert3d_ns.base.english import listed
from invert3d_ns.prior.info import PriorInfo

_WORD = re.compile(r"<[^<>]*>|[^\W\d_]+(?:[-'][^\W\d_]+)*")


def unknown_words(texts: Iterable[str], info: PriorInfo) -> list[str]:
    """Words of some texts that were in none of the prior's training captions, each once; placeholders are no words.

    A prior that does not say what it knows (:attr:`PriorInfo.words` is empty) is taken to know everything.
    """
    known = set(info.words)
    if not known:
        return []
    words = (word.lower() for text in texts for word in _WORD.findall(text) if not word.startswith("<"))
    return [word for word in dict.fromkeys(words) if not _is_known(word, known)]


def _is_known(word: str, known: set[str]) -> bool:
    return word in known or all(piece in known for piece in re.split(r"[-']", word))


def nearest_words(word: str, info: PriorInfo) -> list[str]:
    """Known words that are spelled most like another one, the likest first; none if nothing comes near."""
    return difflib.get_close_matches(word, info.words, n=3, cutoff=0.7)


def explain_unknown(texts: Iterable[str], info: PriorInfo) -> str:
    """One sentence about words that the prior does not know and what to try; empty if it knows them all."""
    unknown = unknown_words(texts, info)
    if not unknown:
        return ""
    near = list(dict.fromkeys(near for word in unknown for near in nearest_words(word, info)))
    hint = f"did you mean {listed([repr(word) for word in near], 'or')}? " if near else ""
    return (
        f"the prior {info.name!r} never learned {listed([repr(word) for word in unknown])}: it sees letters, and what "
        f"comes of them is chance; {hint}`invert3d words` lists what it knows"
    )
