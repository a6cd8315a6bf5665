"""Edits as data: what shall change, in which words, how strongly and where. They are checked, saved and read back."""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.ranges import above, at_least, check_numbers
from invert3d_ns.editing.phrases import find_phrase, place_term
from invert3d_ns.editing.typed import as_edit_words
from invert3d_ns.prior.placeholders import check_placeholders

if TYPE_CHECKING:
    from invert3d_ns.words.embedding import ObjectEmbedding

TOKEN = "<object>"
"""The placeholder that stands for the object in an edit's prompt, whatever the embedding calls it."""
FORMAT_VERSION = 2
"""Of files of edits. Version 1 had neither ``change`` nor a region; its files are read as edits of the whole scene."""
_FORMAT = "invert3d_ns.edits"

LARGEST_SEED = 2**32 - 1
_WEIGHTS = at_least(0, 10)

Space = Literal["prediction", "encoded", "pooled", "input", "prompt"]
"""Where the sum of eq. 9 is taken; see :mod:`invert3d_ns.editing.conditions`."""
Structure = Literal["flow", "sdedit", "ddim"]
"""How views keep the scene's structure; see :mod:`invert3d_ns.editing.views`."""
Sampler = Literal["ddim", "dpm++"]
Change = Literal["colors", "geometry"]
"""What of the splats may change."""
BoxHolds = Literal["auto", "object", "part"]
Box = tuple[float, float, float, float, float, float]
"""xmin, ymin, zmin, xmax, ymax, zmax in the object frame."""


@dataclass(frozen=True)
class Region:
    """Where an edit may change a scene: in a box, in what words are about, in both, or everywhere."""

    box: Box | None = None
    """Only what lies in this box changes: xmin ymin zmin xmax ymax zmax in the object frame."""
    box_holds: BoxHolds = "auto"
    """object: all of what the words describe, in a scene of several; it is shown to the prior alone and as large as
    the prior knows objects. part: a part of it. auto: whichever the words explain better."""
    relevance: str | None = None
    """Only splats that these words are about change, as "wheels"; found by the prior's attention to them."""
    relevance_threshold: Annotated[float, above(0, 1)] = 0.5
    """Share of the greatest relevance from which on a splat changes: high chooses few."""

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the scene."""
        return self.box is None and self.relevance is None

    def covers(self, other: Region) -> bool:
        """Whether it has all of another region in it for certain, by what the two say and in any scene.

        Words for a region are known to cover only the very same region.
        """
        if self.relevance is not None:
            names = ("box", "relevance", "relevance_threshold")
            return all(getattr(self, name) == getattr(other, name) for name in names)
        if self.box is None or other.box is None:
            return self.box is None
        pairs = list(zip(self.box, other.box, strict=True))
        return all(own <= its for own, its in pairs[:3]) and all(own >= its for own, its in pairs[3:])

    def check(self) -> None:
        """Refuse what is no region.

        Raises:
            InputError: a box that is none (see :func:`check_box`), words that are empty, a threshold out of range, or
                settings of a box or of words that are not given.
        """
        _check_kinds(self)
        if self.box is not None:
            check_box(self.box)
        if self.box_holds not in get_args(BoxHolds):
            raise InputError(f"unknown box-holds {self.box_holds!r}; use one of {', '.join(get_args(BoxHolds))}")
        if self.box is None and self.box_holds != "auto":
            raise InputError(f"box-holds is {self.box_holds}, but there is no box; give one, or leave box-holds out")
        if self.relevance is not None and not self.relevance.strip():
            raise InputError("the words of the region are empty; name a part, or leave them out")
        check_numbers(self, "")
        if self.relevance is None and self.relevance_threshold != Region.relevance_threshold:
            raise InputError("a relevance-threshold is given without words of a region; give --relevance as well")


@dataclass(frozen=True)
class Edit:
    """One edit of an inverted object: what shall change, where, and how the words are followed.

    Invert3D's personalization, eqs. 9-11: z_edit = z* + amount (E(target) - E(source)), and words of the prompt
    re-weighted. The fields are flags of commands as well; see :class:`~invert3d_ns.editing.options.EditOptions`.
    """

    prompt: Annotated[str, tyro.conf.Fixed, tyro.conf.Suppress] = ""
    """Words around the placeholder: "<object> in van gogh style". Empty: the object alone."""
    source: str = ""
    """What the object is now, as "red" or "with black wheels"; together with a target."""
    target: str = ""
    """What it shall be instead, as "blue" or "with white wheels"."""
    noun: str = ""
    """What the object is in plain words, as "car" or, better, "red car with black wheels": the more it says, the less
    an edit touches besides. Default: the word that its inversion started from."""
    amount: Annotated[float, at_least(-5, 5)] = 1.0
    """How far to go from source to target (lambda of eq. 9): 0 changes nothing, negative goes the other way."""
    weights: Annotated[Mapping[str, float], tyro.conf.Fixed, tyro.conf.Suppress] = field(default_factory=dict)
    """Factors c of eq. 11, 0 to 10, by the words of the prompt or of the target that they weigh."""
    negative_prompt: str = ""
    """What to keep away from."""
    guidance_scale: Annotated[float, at_least(1, 50)] | None = None
    """Classifier-free guidance: higher follows the words more closely. Default: the prior's own."""
    space: Space | None = None
    """Where source and target are taken from and added to the object's words (eq. 9). Default: the best by
    measurement."""
    strength: Annotated[float, at_least(0, 1)] | None = None
    """Share of the diffusion that is redone, above 0 and up to 1: small keeps more of the scene. Default: the
    structure's own."""
    structure: Structure | None = None
    """How the scene's structure is kept. Default: the best by measurement."""
    keep_silhouette: bool = True
    """Change nothing outside the scene's own silhouette: right for colors, patterns and styles, wrong for shapes."""
    seed: Annotated[int, at_least(0, LARGEST_SEED)] = 0
    """Of the noise that views are made from, and of the order in which splats follow them: same seed, same result."""
    steps: Annotated[int, at_least(1, 1000)] | None = None
    """Denoising steps of a whole diffusion. Default: the prior's own."""
    sampler: Sampler = "ddim"
    """How noise is removed; dpm++ needs fewer steps."""
    change: Change = "colors"
    """colors: splats stay where they are. geometry: they may move, turn, grow and fade as well."""
    region: Annotated[Region, tyro.conf.arg(name="")] = Region()
    """Where the scene may change."""

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
            InputError: by name, whatever is empty, out of range, not a number, or about absent words; see also
                :meth:`Region.check`.
        """
        _check_kinds(self)
        if not (self.prompt.strip() or self.source.strip() or self.target.strip()):
            raise InputError('the edit is empty; give a prompt such as "in van gogh style" or a target such as "blue"')
        check_placeholders(self.prompt, (TOKEN,))
        for text in (self.source, self.target, self.noun, self.negative_prompt, self.region.relevance or ""):
            check_placeholders(text, ())
        if self.prompt and TOKEN not in self.prompt:
            raise InputError(f"the prompt {self.prompt!r} does not mention the object; put {TOKEN} where it belongs")
        for phrase, weight in self.weights.items():
            if not isinstance(weight, int | float) or weight not in _WEIGHTS:
                raise InputError(f"the weight of {phrase!r} is {weight}; give {_WEIGHTS}")
            texts = (self.prompt or TOKEN, self.target)
            if not phrase.strip() or not any(find_phrase(phrase, text) for text in texts):
                raise InputError(
                    f"the word {phrase!r} has a weight but is not in the edit {self.label!r}; weigh words that are in "
                    "it"
                )
        for name, choices in (("space", Space), ("structure", Structure), ("sampler", Sampler), ("change", Change)):
            value = getattr(self, name)
            if value not in get_args(choices) and not (value is None and getattr(Edit, name) is None):
                raise InputError(f"unknown {name} {value!r}; use one of {', '.join(get_args(choices))}")
        self.region.check()
        check_numbers(self, "")
        if self.strength == 0:
            raise InputError("a strength of 0 changes nothing; give more than 0, up to 1")

    def to_dict(self) -> dict[str, Any]:
        """It as built-in types on one level, for files, checkpoints and reports; :meth:`from_dict` is the way back."""
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "region"}
        region = asdict(self.region)
        if self.region.box is not None:
            region["box"] = list(self.region.box)
        return {**plain, "weights": dict(self.weights), **region}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Edit:
        """The edit of :meth:`to_dict`; what is absent has its default. Nothing is checked but names.

        Raises:
            InputError: an entry is none that an edit has.
        """
        own = {entry.name for entry in fields(cls)} - {"region"}
        where = {entry.name for entry in fields(Region)}
        unknown = sorted(set(entries) - own - where)
        if unknown:
            raise InputError(f"an edit has the unknown entries {unknown}; save it again")
        region = {name: value for name, value in entries.items() if name in where}
        if region.get("box") is not None:
            region["box"] = tuple(region["box"])
        return cls(**{name: value for name, value in entries.items() if name in own}, region=Region(**region))


def parse_edit(text: str, **settings: Any) -> Edit:
    """An edit from what a person types.

    "blue instead of red", "red -> blue", "replace red with blue" and "turn red into blue" become source and target;
    text with the placeholder is the prompt as it stands; other words are put as edits take them (see
    :func:`~invert3d_ns.editing.typed.as_edit_words`) and where they belong around the object (see
    :func:`~invert3d_ns.editing.phrases.place_term`). Words about a part change that part alone.

    Args:
        text: what shall change.
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
        if match and TOKEN not in text and match["source"].lower() not in ("it", "this", "that", "the object"):
            edit = Edit(source=match["source"], target=match["target"])
            break
    else:
        words, part = (text, "") if TOKEN in text else as_edit_words(text)
        edit = Edit(prompt=words if TOKEN in words else place_term(words, TOKEN))
        if part and "region" not in settings:
            edit = replace(edit, region=Region(relevance=part))
    edit = replace(edit, **settings)
    edit.check()
    return edit


def check_box(box: Sequence[float]) -> Box:
    """The box as six numbers.

    Raises:
        InputError: there are not six, one is not finite, or a least coordinate is not below the greatest.
    """
    if len(box) != 6:
        raise InputError(f"the region has {len(box)} numbers; give six: xmin ymin zmin xmax ymax zmax")
    if not all(math.isfinite(value) for value in box):
        raise InputError("the region has a number that is NaN or infinite; give six finite numbers")
    for axis, low, high in zip("xyz", box[:3], box[3:], strict=True):
        if not low < high:
            raise InputError(
                f"the region is empty: {axis}min {low:g} is not below {axis}max {high:g}; give xmin ymin zmin, then "
                "xmax ymax zmax"
            )
    x0, y0, z0, x1, y1, z1 = map(float, box)
    return x0, y0, z0, x1, y1, z1


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
        "edits": [edit.to_dict() for edit in edits],
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
    except (ValueError, RecursionError) as error:
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
    edits, entries = [], document.get("edits", [])
    if not isinstance(entries, list):
        raise InputError(f"{path} is damaged: its edits are no list; save the edits again")
    for entry in entries:
        try:
            edit = Edit.from_dict(entry)
            edit.check()
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path} is damaged: {error}") from error
        edits.append(edit)
    return edits


def _check_kinds(values: Any) -> None:
    """Refuse fields of a dataclass that are of another kind than declared, as files may have them."""
    for name, hint in get_type_hints(type(values)).items():
        kinds, value = _kinds(hint), getattr(values, name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = next((words for kind, words in _WORDS_FOR.items() if kind in kinds), "what its flag takes")
            raise InputError(f"{name.replace('_', '-')} is {value}; give {wanted}")


def _kinds(hint: Any) -> tuple[type, ...]:
    """The classes that a value of a type hint may have."""
    if get_origin(hint) is Literal:
        return (str,)
    if isinstance(hint, type):
        return (int, float) if hint is float else (hint,)
    origin = get_origin(hint)
    if isinstance(origin, type) and origin is not types.UnionType:
        return (origin,)
    return tuple(kind for inner in get_args(hint) for kind in _kinds(inner))


_WORDS_FOR = {float: "a number", int: "a whole number", bool: "true or false", str: "words"}
