"""What an object is, in plain words: a noun, colors of its parts, a pattern and a style, chosen by CLIP from lists.

Edits go from what an object is to what it shall be; the more surely the words say what it is, the less an edit touches
besides. So an inversion keeps a description beside its vectors. Each kind of word is chosen by itself, zero-shot, and
left out where the choice is not a clear one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.english import with_article, with_article_unless_plural

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from invert3d_ns.alignment.clip import ClipTowers
    from invert3d_ns.scenes.cloud import SplatCloud

UNNAMED = "object"
"""The noun of what no list has a name for."""
_NOUNS = """
airplane apple backpack ball banana barrel basket bear bed bench bicycle bird boat book boot bottle bowl box bread
bridge bucket building bus cactus cake camera candle car castle cat chair chest clock coat couch cow crab crown cup
desk dinosaur dog doll door dragon dress drum duck elephant face fish flower fork frog gameboy gift guitar hammer hat
helmet horse house human jacket jug key knife lamp laptop lion lizard mask monkey motorcycle mouse mug mushroom owl
panda pen penguin phone piano pig pineapple pizza plant pot pumpkin rabbit radio robot rock rocket scissors shark
sheep shield ship shirt shoe skull snake snowman sofa spaceship spoon statue stool suitcase sword table tank teapot
teddy television tiger tower toy tractor train treasure tree truck turtle umbrella vase watch whale wheel zebra
"""
COMMON_NOUNS = tuple(_NOUNS.split())
"""Nouns for towers that have seen everything; those of the bundled towers are the classes of their training set."""
SURE = {"noun": 0.6, "pattern": 0.8, "style": 0.8}
"""Least share of the choice's probability, by kind of word; less says nothing."""
MAIN, PRESENT = 0.15, 0.08
"""Least share of the object's pixels of a color that may be the object's, or a part's."""
_PIXELS = 128
KNOWN = 0.7
"""Least similarity of the bundled towers between the object and the whole description: of 14 held-out objects of known
classes all but those in small patterns had more, of 15 others four."""
_MISPLACED = 0.15
"""What a color costs that stands the object's whole height from where its part does."""
_GAIN = 0.01
"""What a part has to add to the similarity of a caption."""


@dataclass(frozen=True)
class Description:
    """What an object is. Empty words are not known."""

    noun: str = UNNAMED
    color: str = ""
    part: str = ""
    part_color: str = ""
    pattern: str = ""
    style: str = ""

    @property
    def text(self) -> str:
        """A noun phrase without an article, as edits take it: "red striped chair with yellow legs"."""
        words = " ".join(word for word in (self.color, self.pattern, self.noun) if word)
        if not self.part:
            return words
        return f"{words} with {with_article_unless_plural(f'{self.part_color} {self.part}')}"


@torch.no_grad()
def describe_views(towers: ClipTowers, views: Float[Tensor, "F 3 H W"], noun: str = "") -> Description:
    """Describe the object in some views.

    Args:
        towers: bundled ones know the classes of the training world; others are asked for :data:`COMMON_NOUNS`.
        views: RGB in [0, 1] on white.
        noun: what is known already.
    """
    from invert3d_ns.world.color_names import color_shares_of_views, heights_of_colors
    from invert3d_ns.world.vocabulary import PATTERNS, STYLES, SYNONYMS

    vectors = towers.encode_views(views[None].to(towers.mean.device))
    scale = float(getattr(towers.model, "logit_scale", torch.tensor(4.6)).exp())

    def choose(kind: str, wordings: Mapping[str, Sequence[str]], otherwise: str = "") -> str:
        sure = (towers.classify(vectors, list(wordings.values()))[0] * scale).softmax(0)
        return list(wordings)[int(sure.argmax())] if float(sure.max()) >= SURE[kind] else otherwise

    nouns = {name: SYNONYMS.get(name, (name,)) for name in _nouns(towers)}
    given = bool(noun)
    noun = noun or choose(
        "noun", {name: [with_article(word) for word in words] for name, words in nouns.items()}, UNNAMED
    )
    colors = color_shares_of_views(views)
    color = next((name for name, share in colors.items() if share >= MAIN), "")
    thing = noun if noun != UNNAMED else "thing"
    patterns = {name: words or ("plain",) for name, words in PATTERNS.items()}
    pattern = choose(
        "pattern", {name: [with_article(f"{word} {thing}") for word in words] for name, words in patterns.items()}
    )
    style = choose(
        "style", {name: [word.format(with_article(thing)) for word in words] for name, words in STYLES.items()}
    )
    part, part_color = _part(towers, vectors, noun, color, colors, heights_of_colors(views))
    found = Description(
        noun, color, part, part_color, "" if pattern == "plain" else pattern, "" if style == "photo" else style
    )
    if given or noun == UNNAMED or not towers.name.startswith("bundled"):
        return found
    # A choice is always made of what the list has: what is on none of it is seen by how badly the whole fits.
    fits = float(vectors[0] @ towers.encode_text([with_article(found.text)])[0])
    return found if fits >= KNOWN else replace(found, noun=UNNAMED, part="", part_color="")


def describe_splats(towers: ClipTowers, cloud: SplatCloud) -> Description:
    """Describe an object of splats, in the object frame, from eight views around it."""
    from invert3d_ns.scenes.rendering import render_orbit

    azimuths = 22.5 + torch.arange(8) * 45.0
    views = render_orbit(cloud, azimuths, torch.full((8,), 15.0), _PIXELS)
    return describe_views(towers, views)


def _nouns(towers: ClipTowers) -> Sequence[str]:
    from invert3d_ns.world.shapes import CLASSES

    return list(CLASSES) if towers.name.startswith("bundled") else COMMON_NOUNS


def _part(
    towers: ClipTowers,
    vectors: Float[Tensor, "1 D"],
    noun: str,
    color: str,
    colors: Mapping[str, float],
    heights: Mapping[str, float],
) -> tuple[str, str]:
    """A named part and its color, if saying so makes the caption fit better; colors stand where their parts do."""
    from invert3d_ns.world.shapes import part_heights, secondary_parts

    names = secondary_parts(noun)
    others = [name for name, share in colors.items() if share >= PRESENT]
    if not names or len(others) < 2:
        return "", ""
    pairs = [(part, other) for part in names for other in others if other != color]
    plain = with_article(f"{color} {noun}".strip())
    texts = [f"{plain} with {with_article_unless_plural(f'{other} {part}')}" for part, other in pairs]
    scores = (vectors @ towers.encode_text([plain, *texts]).T)[0]
    places = part_heights(noun)
    off = torch.tensor([abs(places[part] - heights[other]) for part, other in pairs]).to(scores)
    best = int((scores[1:] - _MISPLACED * off).argmax())
    return pairs[best] if float(scores[1 + best] - scores[0]) >= _GAIN else ("", "")
