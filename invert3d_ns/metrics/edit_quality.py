"""Evaluation of edited views: ways of editing, on held-out objects, graded by the independent judge."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.metrics.edit_cases import (
    OBJECTS,
    EditCase,
    chosen_cases,
    evaluation_orbit,
    object_of,
    truth_of,
)
from invert3d_ns.metrics.edit_grading import grade_edited_views
from invert3d_ns.metrics.edit_rows import ROWS_FILE, Row, append_row, read_rows, strip_path
from invert3d_ns.metrics.judge import Judge
from invert3d_ns.metrics.strips import keep_strip

if TYPE_CHECKING:
    from invert3d_ns.editing.edit import Edit
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.scenes.cloud import SplatCloud
    from invert3d_ns.words.embedding import ObjectEmbedding
    from invert3d_ns.world.objects import WorldObject

METHODS: dict[str, str] = {
    "default": "",
    "prediction": "space=prediction",
    "encoded": "space=encoded",
    "pooled": "space=pooled",
    "input": "space=input",
    "prompt only": "space=prompt",
    "re-weighted": "weights=2",
    "noun": "noun=class",
    "described": "noun=full",
    "free silhouette": "keep_silhouette=no",
    "sdedit 0.5": "structure=sdedit,strength=0.5,keep_silhouette=no",
    "sdedit 0.7": "structure=sdedit,strength=0.7,keep_silhouette=no",
    "sdedit 0.9": "structure=sdedit,strength=0.9,keep_silhouette=no",
    "ddim": "structure=ddim,keep_silhouette=no",
    "from noise": "originals=no",
}
"""Ways of editing that are compared, each by the settings in which it differs from the default."""
TRUTH, UNEDITED = "true renders", "unedited splats"
"""Rows beside the methods: the object as the edit should make it, and as it was."""


@dataclasses.dataclass(frozen=True)
class Method:
    """One way of editing: the settings of the Edit, and what it is told of the object."""

    name: str
    settings: Mapping[str, Any]
    """Fields of the Edit."""
    originals: bool = True
    """Whether the scene's own views are given, or views come from noise."""
    noun: Literal["", "class", "full"] = ""
    """Whether the edit says in plain words what the object is: its class, or its colors too."""
    weight: float | None = None
    """Factor of eq. 11 on the edit's words; none if None."""

    @classmethod
    def parse(cls, name: str) -> Method:
        """Parse a method: its name in :data:`METHODS`, or its settings as "space=encoded,amount=2".

        Fields of the Edit are meant, and besides: originals=no (from noise), noun=class or noun=full (say what the
        object is: its class, or its colors too), weights=2 (of the edit's words).

        Raises:
            InputError: an unknown name or field, or a value that the field does not take.
        """
        from invert3d_ns.editing.edit import Edit

        text = METHODS.get(name, name)
        # Types are text there; a number may say its range beside its type.
        fields = {field.name: re.findall(r"\w+", str(field.type)) for field in dataclasses.fields(Edit)}
        settings: dict[str, Any] = {}
        special: dict[str, Any] = {}
        for part in filter(None, text.split(",")):
            key, found, value = (word.strip() for word in part.partition("="))
            if not found or (key not in fields and key != "originals") or key in ("prompt", "source", "target", "seed"):
                raise InputError(
                    f"unknown method {name!r}; give {', '.join(METHODS)}, or settings such as space=encoded,amount=2"
                )
            try:
                if key == "noun":
                    special[key] = {"class": "class", "full": "full"}[value]
                elif key == "originals":
                    special[key] = {"yes": True, "no": False}[value]
                elif "bool" in fields.get(key, ()):
                    settings[key] = {"yes": True, "no": False}[value]
                elif key == "weights":
                    special["weight"] = float(value)
                    if not math.isfinite(special["weight"]):
                        raise ValueError(value)
                else:
                    kind = fields[key]
                    number = int if "int" in kind else float if "float" in kind else str
                    settings[key] = number(value)
            except (KeyError, ValueError) as error:
                raise InputError(f"method {name!r}: {key} cannot be {value!r}") from error
        Edit(target="blue", **settings).check()
        return cls(name, settings, **special)

    def edit(self, case: EditCase, item: WorldObject, **settings: Any) -> Edit:
        """The Edit of one case on an object."""
        from invert3d_ns.world.captions import full_description

        extra: dict[str, Any] = {}
        if self.noun:
            extra["noun"] = full_description(item) if self.noun == "full" else item.name
        if self.weight is not None:
            extra["weights"] = {case.phrase: self.weight}
        return case.edit(**(settings | extra | dict(self.settings)))


def learned_words(
    prior: MultiViewPrior,
    name: str,
    cloud: SplatCloud,
    seed: int,
    folder: Path,
    *,
    steps: int | None = None,
    vectors: int | None = None,
    groups: int = 48,
    progress: Callable[[int, int], None] | None = None,
) -> ObjectEmbedding:
    """Invert one object, once for each seed and prior: later calls read the embedding from ``folder``.

    Raises:
        InputError: the folder cannot be written, or what it holds is damaged.
    """
    from invert3d_ns.alignment.checkpoints import load_clip
    from invert3d_ns.metrics.inversion_quality import invert_splats
    from invert3d_ns.words.description import describe_splats
    from invert3d_ns.words.embedding import ObjectEmbedding

    steps = prior.info.inversion_steps if steps is None else steps
    path = folder / f"{name}_{seed}_{prior.info.fingerprint}_{steps}x{vectors or 'own'}.safetensors"
    if path.exists():
        embedding = ObjectEmbedding.load(path)
        embedding.check_prior(prior)
        return embedding
    folder.mkdir(parents=True, exist_ok=True)
    _, _, words = invert_splats(
        prior, cloud, seed, steps=steps, vectors=vectors, groups=groups, heldout_groups=1, progress=progress
    )
    embedding = ObjectEmbedding.for_prior(prior, words, init_word=prior.info.init_word, steps=steps)
    embedding.description = describe_splats(load_clip("bundled", prior.device), cloud).text
    embedding.save(path)
    return embedding


@dataclasses.dataclass
class Plan:
    """What an evaluation of edits measures, and with which settings."""

    objects: Sequence[str] = tuple(OBJECTS)
    edits: Sequence[str] | None = None
    """Kinds, targets or labels; all if None."""
    methods: Sequence[str] = ("default",)
    seeds: Sequence[int] = (0, 1, 2)
    """Of words, noise and cameras."""
    sampling_steps: int | None = None
    """The prior's own if None."""
    guidance_scale: float | None = None
    """The prior's own if None."""
    inversion_steps: int | None = None
    """The prior's own if None."""
    vectors: int | None = None
    """The view encoder's, or 32 from a word, if None."""
    groups: int = 48
    """Orbits in the inversion's bank."""
    words: Path | None = None
    """Folder of inversions; "words" in the report's folder if None."""
    one_inversion: bool = False
    """Every seed has the first one's words; otherwise its own."""

    def edit(self, method: Method, case: EditCase, item: WorldObject, seed: int) -> Edit:
        """The Edit of one case on an object."""
        return method.edit(case, item, seed=seed, steps=self.sampling_steps, guidance_scale=self.guidance_scale)

    def stamp(self, prior: MultiViewPrior) -> Row:
        """What tells rows of this plan from those of others, besides object, edit, method and seed."""
        steps = prior.info.inversion_steps if self.inversion_steps is None else self.inversion_steps
        inversion = f"{steps}x{self.vectors or 'own'}{', one' if self.one_inversion else ''}"
        return {
            "prior": prior.info.fingerprint,
            "steps": self.sampling_steps or prior.info.sampling_steps,
            "guidance": self.guidance_scale,
            "inversion": inversion,
        }

    def embedding(self, prior: MultiViewPrior, name: str, cloud: SplatCloud, seed: int, out: Path) -> ObjectEmbedding:
        """The words of an object for one seed; inverted now if no earlier run has."""
        return learned_words(
            prior,
            name,
            cloud,
            self.seeds[0] if self.one_inversion else seed,
            self.words or out / "words",
            steps=self.inversion_steps,
            vectors=self.vectors,
            groups=self.groups,
        )


def evaluate_edits(
    prior: MultiViewPrior,
    judge: Judge,
    out: Path,
    plan: Plan,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Row]:
    """Grade every edit of every object with every method and seed.

    Rows are appended to ``rows.jsonl`` in ``out`` one by one, and what is there already is not made again; views of the
    first seed go to ``views``.

    Args:
        progress: called with what is at work, and the number of rows done and in all.

    Raises:
        InputError: an unknown object, edit or method.
    """
    from invert3d_ns.editing.views import edited_views
    from invert3d_ns.metrics.inversion_quality import renderer
    from invert3d_ns.scenes.cameras import camera_condition
    from invert3d_ns.words.bank import render_views
    from invert3d_ns.world.splats import splats_of

    methods = [Method.parse(name) for name in plan.methods]
    things = {name: object_of(name) for name in plan.objects}
    cases = {name: chosen_cases(item, plan.edits) for name, item in things.items()}
    done = read_rows(out / ROWS_FILE, plan.stamp(prior))
    views, size = prior.info.num_views, prior.info.image_size
    total = sum(len(c) for c in cases.values()) * len(plan.seeds) * (len(methods) + 2)
    kept_rows: list[Row] = []
    clouds: dict[str, SplatCloud] = {}

    def tell(words: str) -> None:
        if progress is not None:
            progress(words, len(kept_rows), total)

    for seed in plan.seeds:
        for name, item in things.items():
            for method in [None, *methods]:
                for case in cases[name]:
                    labels = (TRUTH, UNEDITED) if method is None else (method.name,)
                    keys = [(name, case.label, label, str(seed)) for label in labels]
                    if all(key in done for key in keys):
                        kept_rows += [done[key] for key in keys]
                        continue
                    tell(f"{name}, {case.label}, {labels[0]}, seed {seed}")
                    if name not in clouds:
                        clouds[name] = splats_of(item)
                    index = list(OBJECTS).index(name), [c.label for c in chosen_cases(item, None)].index(case.label)
                    azimuths, elevations = evaluation_orbit(*index, seed, views)
                    truth = truth_of(item, case, azimuths, elevations, size)
                    originals = render_views(renderer(clouds[name]), azimuths, elevations, size)
                    pairs = [(truth.target, truth.original), (originals, originals)]
                    started = time.perf_counter()
                    if method is not None:
                        embedding = plan.embedding(prior, name, clouds[name], seed, out)
                        edit = plan.edit(method, case, item, seed * 1009 + index[1])
                        started = time.perf_counter()
                        made = (
                            edited_views(
                                prior,
                                embedding,
                                [edit],
                                camera_condition(azimuths, elevations)[None],
                                originals=originals[None] if method.originals else None,
                            )[0]
                            .float()
                            .cpu()
                        )
                        pairs = [(made, originals)]
                        if seed == plan.seeds[0]:
                            path = strip_path(out, name, index[1], method.name)
                            keep_strip(path, torch.cat([originals, made, truth.target]), columns=3 * views)
                    seconds = round(time.perf_counter() - started, 2)
                    for label, (shown, before) in zip(labels, pairs, strict=True):
                        row = (
                            {
                                "object": name,
                                "edit": case.label,
                                "kind": case.kind,
                                "method": label,
                                "seed": seed,
                                "seconds": seconds,
                            }
                            | plan.stamp(prior)
                            | grade_edited_views(judge, case, item.color, truth, shown, before)
                        )
                        append_row(out / ROWS_FILE, row)
                        kept_rows.append(row)
    tell("done")
    return kept_rows
