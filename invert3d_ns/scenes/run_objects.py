"""Which object of a run that holds several, or what between them, a command is about."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.notices import warn
from invert3d_ns.scenes.aligned_splats import mix_splats
from invert3d_ns.scenes.blending import Blend, SameEverywhere, checked_weights
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.hybrids import read_anchors
from invert3d_ns.scenes.runs import is_run, read_run_objects, read_run_record

_LONGEST_NAME = 40


@dataclass(frozen=True)
class BlendChoice:
    """What a person chose: weights, or a file of anchors."""

    weights: tuple[float, ...] | None = None
    """One for each object of the run."""
    anchors: Path | None = None
    """A file as :func:`.read_anchors` reads it."""

    def __bool__(self) -> bool:
        return self.weights is not None or self.anchors is not None

    def read(self, run: Path) -> SplatCloud:
        """The blend of a run's objects, in the object frame.

        Raises:
            InputError: the run holds one object or none, both kinds of choice were made, or they make no sense.
        """
        objects, prompts = read_aligned_run(run)
        return mix_splats(objects, self.blend(objects, prompts))

    def blend(self, objects: tuple[SplatCloud, ...], prompts: tuple[str, ...]) -> Blend:
        """What was chosen, for these objects.

        Raises:
            InputError: see :meth:`read`.
        """
        if self.weights is not None and self.anchors is not None:
            raise InputError("--blend and --anchors exclude each other; give one of them")
        if self.anchors is None:
            return SameEverywhere.of(checked_weights(self.weights or (), len(objects), "--blend"))
        hybrid = read_anchors(self.anchors, prompts)
        for anchor in hybrid.far_from(
            sum((cloud.means for cloud in objects), start=0 * objects[0].means) / len(objects)
        ):
            shown = ", ".join(f"{value:.3g}" for value in anchor.position)
            warn(f"{self.anchors}: the anchor at ({shown}) lies on no object")
        return hybrid


def object_file(number: int, prompt: str) -> str:
    """What the file of an object is called: its number, counted from 1, and its words."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:_LONGEST_NAME].strip("-")
    return f"{number}-{words or 'object'}.ply"


def read_aligned_run(run: Path) -> tuple[tuple[SplatCloud, ...], tuple[str, ...]]:
    """The objects of a run that holds several, and their prompts.

    Raises:
        InputError: it holds one alone, or is no run.
    """
    if not is_run(run):
        raise InputError(f"{run} is no run; blends are of runs of a3d, which hold several objects")
    objects = read_run_objects(run)
    if len(objects) < 2:
        raise InputError(f"{run} holds one object alone, which mixes with nothing; leave --blend and --anchors out")
    prompts = read_run_record(run).prompts
    if len(prompts) != len(objects):
        prompts = tuple(f"object {number}" for number in range(1, len(objects) + 1))
    return objects, prompts
