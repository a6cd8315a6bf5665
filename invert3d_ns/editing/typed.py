"""What people type, put as edits take it: "make it red" is "red", "striped legs" is "with striped legs"."""

from __future__ import annotations

import re
from functools import cache

from invert3d_ns.base.english import with_article_unless_plural

_IT = r"(?:it|this|that|the object|the thing)"
_LEADS = (
    rf"(?:please )?(?:make|paint|color|colour|dye|render|draw|turn|have) {_IT}"
    r"(?: look)?(?: into| be| to)? (?P<rest>.+)",
    rf"(?:please )?(?:change|turn) {_IT} (?:in)?to (?P<rest>.+)",
)
"""Ways to say that something shall become otherwise, without saying how."""
_GIVE = rf"(?:please )?(?:give|add) (?:{_IT} )?(?P<rest>.+)"
_MAKE_PART = r"(?:please )?(?:make|paint|color|colour) (?:the|its) (?P<part>[\w ]+?) (?P<rest>[\w-]+)"


def as_edit_words(text: str) -> tuple[str, str]:
    """Words as edits take them, and the part of the object that they are about, if they name one.

    Example:
        >>> as_edit_words("make it red"), as_edit_words("van gogh")
        (('red', ''), ('in van gogh style', ''))
        >>> as_edit_words("striped legs"), as_edit_words("make the wheels white")
        (('with striped legs', 'legs'), ('with white wheels', 'wheels'))
    """
    from invert3d_ns.world.shapes import part_names  # numpy, which --help does not need

    text = " ".join(text.split())
    made = re.fullmatch(_MAKE_PART, text, re.IGNORECASE)
    if made and made["part"].lower() in part_names():
        text = f"{made['rest']} {made['part']}"
    for lead in _LEADS:
        match = re.fullmatch(lead, text, re.IGNORECASE)
        if match:
            text = match["rest"]
            break
    removed = re.fullmatch(r"(?:please )?(?:remove|delete|drop) (?:the |its )?(?P<rest>.+)", text, re.IGNORECASE)
    if removed:
        return f"without {removed['rest']}", ""
    given = re.fullmatch(_GIVE, text, re.IGNORECASE)
    if given:
        text = given["rest"]
    style = _styles().get(text.lower())
    if style:
        return style, ""
    words = text.lower().split()
    bare = [word for word in words if word not in ("a", "an", "the", "its", "with")]
    if len(bare) > 1 and bare[-1] in part_names() and "of" not in words and words[0] not in ("in", "at", "without"):
        return f"with {with_article_unless_plural(' '.join(bare))}", bare[-1]
    return text, ""


@cache
def _styles() -> dict[str, str]:
    """Wordings of styles by their bare names."""
    from invert3d_ns.world.vocabulary import STYLES

    return {
        name: next((w for start in ("{} in ", "{} ") for w in wordings if w.startswith(start)), wordings[0])
        .removeprefix("{} ")
        .replace(" {}", "")
        for name, wordings in STYLES.items()
        if name != "photo"
    }
