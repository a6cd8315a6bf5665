"""Kinds of the words of captions: objects, colors, parts and so on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from invert3d_ns.world import vocabulary
from invert3d_ns.world.shapes import CLASSES, part_names

_WORD = re.compile(r"[^\W\d_]+")


def by_kind(words: Iterable[str]) -> dict[str, list[str]]:
    """Words by what they are in the training world's captions; kinds without any are left out."""

    def split(phrases: Iterable[str]) -> set[str]:
        return {word for phrase in phrases for word in _WORD.findall(phrase)}

    def values(table: Mapping[str, Sequence[str]]) -> set[str]:
        return split([*table, *(word for wordings in table.values() for word in wordings)])

    kinds = {
        "objects": split([*CLASSES, "object", "thing"]) | values(vocabulary.SYNONYMS),
        "colors": set(vocabulary.COLORS),
        "patterns": values(vocabulary.PATTERNS) | set(vocabulary.PATTERN_NOUNS.values()),
        "materials": values(vocabulary.MATERIALS),
        "parts": set(part_names()),
        "sizes": values(vocabulary.SIZES),
        "poses": values(vocabulary.POSES),
        "styles": values({name: [w.replace("{}", "") for w in texts] for name, texts in vocabulary.STYLES.items()}),
    }
    rest, sorted_kinds = set(words), {}
    for kind, own in kinds.items():
        sorted_kinds[kind] = sorted(rest & own)
        rest -= own
    return {kind: found for kind, found in {**sorted_kinds, "others": sorted(rest)}.items() if found}
