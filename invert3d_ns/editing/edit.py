"""Edits as data: what shall change, in which words, how strongly. They are checked, saved, composed and replayed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path

if TYPE_CHECKING:
    from invert3d_ns.words.embedding import ObjectEmbedding

TOKEN = "<object>"
"""The placeholder that stands for the object in an edit's prompt, whatever the embedding calls it."""
FORMAT_VERSION = 1
_FORMAT = "invert3d_ns.edits"

Space = Literal["prediction", "encoded", "pooled", "input", "prompt"]
"""Where the sum of eq. 9 is taken; see :mod:`invert3d_ns.editing.conditions`."""
Structure = Literal["flow", "sdedit", "ddim"]
"""How views keep the scene's structure; see :mod:`invert3d_ns.editing.views`."""
Sampler = Literal["ddim", "dpm++"]


@dataclass(frozen=True)
class Edit:
    """One edit of an inverted object.

    Invert3D's personalisation, eqs. 9-11: z_edit = z* + amount (E(target) - E(source)), and words of the prompt
    re-weighted.
    """

    prompt: str = ""
    """Words around the placeholder: "<object> in van gogh style". Empty: the object alone."""
    source: str = ""
    """What the object is now, as "red" or "with black wheels"; may be empty."""
    target: str = ""
    """What it shall be instead, as "blue" or "with white wheels"."""
    noun: str = ""
    """What the object is in plain words, as "car" or, better, "red car with black wheels": the more it says, the less
    an edit touches besides. The word that its inversion started from if empty."""
    amount: float = 1.0
    """Lambda of eq. 9, -5 to 5: 0 changes nothing, negative goes the other way."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Factors c of eq. 11, 0 to 10, by the words of the prompt or of the target that they weigh."""
    negative_prompt: str = ""
    """What to keep away from."""
    guidance_scale: float | None = None
    """How strongly the words are followed, 1 to 50; the prior's own if None."""
    space: Space | None = None
    """Where the sum of eq. 9 is taken; the best by measurement if None."""
    strength: float | None = None
    """Share of the diffusion that is redone, in (0, 1]: small keeps more of the scene; the structure's own if None."""
    structure: Structure | None = None
    """How the scene's structure is kept; the best by measurement if None."""
    keep_silhouette: bool = True
    """Change nothing outside the scene's own silhouette: right for colors, patterns and styles, wrong for shapes."""
    seed: int = 0
    """Of the noise: same seed, same views."""
    steps: int = 20
    """Denoising steps of a whole diffusion."""
    sampler: Sampler = "ddim"
    """dpm++ needs fewer steps."""

    @property
    def is_identity(self) -> bool:
        """Whether it asks for no change: no words and no terms, or an amount of 0 without words."""
        return self.prompt.strip() in ("", TOKEN) and (not (self.source or self.target) or self.amount == 0)

    @property
    def label(self) -> str:
        """A few words for panels and logs, such as "red -> blue" or "in van gogh style"."""
        words = self.prompt.replace(TOKEN, "").strip(" ,") if self.prompt else ""
        terms = f"{self.source or 'as it is'} -> {self.target or 'without'}" if self.source else self.target
        return ", ".join(part for part in (words, terms) if part) or "no change"

    def check(self) -> None:
        """Refuse what cannot be carried out.

        Raises:
            InputError: by name, whatever is empty, out of range, not a number, or about absent words.
        """
        if not (self.prompt.strip() or self.source.strip() or self.target.strip()):
            raise InputError('the edit is empty; give a prompt such as "in van gogh style" or a target such as "blue"')
        if self.prompt and TOKEN not in self.prompt:
            raise InputError(f"the prompt {self.prompt!r} does not mention the object; put {TOKEN} where it belongs")
        _within("amount", self.amount, -5, 5)
        if self.guidance_scale is not None:
            _within("guidance scale", self.guidance_scale, 1, 50)
        if self.strength is not None:
            _within("strength", self.strength, 0, 1)
            if self.strength == 0:
                raise InputError("a strength of 0 changes nothing; give more than 0, up to 1")
        for phrase, weight in self.weights.items():
            _within(f"the weight of {phrase!r}", weight, 0, 10)
            texts = (self.prompt or TOKEN, self.target)
            if not phrase.strip() or not any(find_phrase(phrase, text) for text in texts):
                raise InputError(
                    f"the word {phrase!r} has a weight but is not in the edit {self.label!r}; weigh words that are in "
                    "it"
                )
        for name, options in (("space", Space), ("structure", Structure)):
            value = getattr(self, name)
            if value is not None and value not in get_args(options):
                raise InputError(f"unknown {name} {value!r}; use one of {', '.join(get_args(options))}")
        if self.sampler not in get_args(Sampler):
            raise InputError(f"unknown sampler {self.sampler!r}; use one of {', '.join(get_args(Sampler))}")
        if self.steps < 1 or self.steps > 1000:
            raise InputError(f"{self.steps} steps cannot be taken; give 1 to 1000")


def parse_edit(text: str, **settings: Any) -> Edit:
    """An edit from what a person types.

    "blue instead of red", "red -> blue", "replace red with blue" and "turn red into blue" become source and target;
    text with the placeholder is the prompt as it stands; other words are put where they belong around the object (see
    :func:`place`).

    Args:
        text: what is wanted.
        settings: further fields of :class:`Edit`.

    Raises:
        InputError: see :meth:`Edit.check`.

    Example:
        >>> parse_edit("in van gogh style").prompt
        '<object> in van gogh style'
        >>> parse_edit("blue instead of red").target
        'blue'
    """
    text = " ".join(text.split())
    if not text:
        raise InputError('the prompt is empty; write what shall change, such as "in van gogh style"')
    for pattern in (
        r"(?P<target>.+) instead of (?P<source>.+)",
        r"(?P<source>.+?) ?(?:->|→) ?(?P<target>.+)",
        r"replace (?P<source>.+) (?:with|by) (?P<target>.+)",
        r"turn (?P<source>.+) into (?P<target>.+)",
    ):
        match = re.fullmatch(pattern, text, re.IGNORECASE)
        if match and TOKEN not in text:
            edit = Edit(source=match["source"], target=match["target"])
            break
    else:
        edit = Edit(prompt=text if TOKEN in text else place(text, TOKEN))
    edit = replace(edit, **settings)
    edit.check()
    return edit


def place(term: str, noun: str) -> str:
    """Put a term where it belongs beside a noun (or the placeholder).

    Terms that begin with a preposition or a comma follow it; ones that begin with an article and name a kind of
    picture take it as "of"; all others are adjectives before it.

    Example:
        >>> place("in van gogh style", "<object>"), place("a pencil sketch", "<object>"), place("blue", "<object>")
        ('<object> in van gogh style', 'a pencil sketch of <object>', 'a blue <object>')
    """
    term = term.strip()
    if not term:
        return noun
    first = term.split()[0].lower()
    bare = re.sub(r"^(an?|the) ", "", noun)
    if term.startswith(","):
        return f"{noun}{term}"
    if first in _AFTER:
        return f"{noun} {term}"
    if first in ("a", "an", "the"):
        return f"{term} {noun}" if term.endswith(" of") else f"{term} of {noun}"
    return with_article(f"{term} {bare}")


_AFTER = frozenset(
    {
        "in",
        "with",
        "as",
        "at",
        "on",
        "of",
        "by",
        "from",
        "made",
        "painted",
        "drawn",
        "wearing",
        "holding",
        "that",
        "which",
        "like",
        "under",
        "without",
        "covered",
    }
)
"""Words that begin what follows a noun."""


def with_article(words: str) -> str:
    """The words after "a" or "an"."""
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


def find_phrase(phrase: str, text: str) -> list[tuple[int, int]]:
    """Where whole words of ``text`` say ``phrase``, as pairs of first and last-plus-one character."""
    pattern = rf"(?<![\w]){re.escape(phrase.strip())}(?![\w])"
    return [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]


def save_edits(edits: Sequence[Edit], path: Path | str, embedding: ObjectEmbedding | None = None) -> None:
    """Write edits as JSON, with the fingerprint of the prior that the embedding belongs to.

    Raises:
        InputError: the file cannot be written.
    """
    document = {
        "format": _FORMAT,
        "version": FORMAT_VERSION,
        "prior": embedding.prior if embedding else "",
        "fingerprint": embedding.fingerprint if embedding else "",
        "edits": [{k: dict(v) if k == "weights" else v for k, v in asdict(edit).items()} for edit in edits],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_edits(path: Path | str, embedding: ObjectEmbedding | None = None) -> list[Edit]:
    """Read edits that :func:`save_edits` wrote.

    Raises:
        InputError: missing, damaged, written by a newer version of this package, or made for words of another prior
            than the embedding's.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a file of edits") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged: it is no JSON ({error}); save the edits again") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise InputError(f"{path} holds no edits; give an edits.json that this package wrote")
    version = document.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InputError(f"{path} has version {version}, this package reads up to {FORMAT_VERSION}; update invert3d-ns")
    made_for = document.get("fingerprint", "")
    if embedding is not None and made_for and embedding.fingerprint != made_for:
        raise InputError(
            f"{path} was made with prior {document.get('prior')!r} ({made_for}), the embedding belongs to "
            f"{embedding.prior!r} ({embedding.fingerprint}); edit with words of the same prior"
        )
    known = {f.name for f in fields(Edit)}
    edits = []
    for entry in document.get("edits", []):
        unknown = set(entry) - known if isinstance(entry, dict) else {"?"}
        if unknown:
            raise InputError(f"{path} is damaged: an edit has the unknown entries {sorted(unknown)}; save it again")
        try:
            edit = Edit(**entry)
            edit.check()
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is damaged: {error}; save the edits again") from error
        edits.append(edit)
    return edits


def _within(name: str, value: float, low: float, high: float) -> None:
    if not isinstance(value, (int, float)) or math.isnan(value) or not low <= value <= high:
        raise InputError(f"{name} is {value}; give a number from {low} to {high}")
