"""Pairs of objects that are made to be alike, as a person would make them, for evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from invert3d_ns.metrics.text_runs import Variant, make_splats, quiet_run, run_figures

if TYPE_CHECKING:
    from invert3d_ns.metrics.held_out import Prompt
    from invert3d_ns.scenes.cloud import SplatCloud

PAIRS = (
    ("a red chair", "an orange table"),
    ("an orange mushroom", "a pink lamp"),
    ("a blue mug", "a purple cylinder"),
    ("a blue tree", "an orange cone"),
    ("a cyan chair", "a yellow table"),
    ("a yellow mushroom", "a brown tree"),
    ("a blue car", "a green airplane"),
    ("a gray bottle", "a red lamp"),
    ("a brown cube", "a green chair"),
    ("a red ball", "a white mushroom"),
)
"""Objects of different classes, in colors that training holds back, from near to far in structure and back."""
SEQUENTIAL_STRENGTH = 0.85
"""How much of the diffusion the views of one object go up and down again to become the other: as of a given object."""


@dataclass(frozen=True)
class Pairing:
    """One way of making two objects."""

    name: str
    kind: str = "a3d"
    """a3d: together. independent: each by ge3d. onward, backward: the second by ge3d from the first, or the reverse.
    given: the second by a3d from the first, which stays. guided: the second by plain SDS from the first."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the pipeline, by dotted name."""


PAIRINGS = (
    Pairing("a3d"),
    Pairing("a3d, P(edge) = 0", settings={"edge": 0.0, "start.align": 0.0}),
    Pairing("independent", "independent"),
    Pairing("sequential, 1 to 2", "onward"),
    Pairing("sequential, 2 to 1", "backward"),
    Pairing("a3d, never drawn together", settings={"start.align": 0.0}),
    Pairing("given, a3d", "given"),
    Pairing("given, plain SDS", "guided"),
    Pairing("a3d, SDS", settings={"steps": 100, "guidance.t_max": 0.8, "guidance.t_max_end": 0.4}),
)
"""What can be compared, by name."""
GUIDED_SAMPLES = 1000
"""Views that the UNet is called for by plain SDS: about as many as a3d asks for of a given object."""


@dataclass(frozen=True)
class MadePair:
    """Two objects; of those that are aligned, splat i is the same part in both."""

    objects: tuple[SplatCloud, SplatCloud]
    samples: int
    """Views that the UNet was called for."""
    seconds: float
    """Of the phases of all runs."""


def pair_cases(count: int = len(PAIRS)) -> list[tuple[Prompt, Prompt]]:
    """The first of the fixed pairs, and what they ask for."""
    from invert3d_ns.metrics.held_out import photo_prompts

    known = {case.text: case for case in photo_prompts(True)}
    return [(known[first], known[second]) for first, second in PAIRS[:count]]


def make_pair(pairing: Pairing, prompts: tuple[str, str], seed: int, prior: str) -> MadePair:
    """Make two objects by ``ns-train``, in folders that are thrown away.

    Args:
        pairing: how.
        prompts: of both.
        seed: of everything random, the same for both where there are two runs.
        prior: name or path.
    """
    if pairing.kind == "a3d":
        return _together(pairing, prompts, seed, prior)
    if pairing.kind == "independent":
        made = [make_splats(None, prompt, seed, prior) for prompt in prompts]
    elif pairing.kind == "given":
        return _together(pairing, prompts, seed, prior, make_splats(None, prompts[0], seed, prior).cloud)
    elif pairing.kind == "guided":
        first = make_splats(None, prompts[0], seed, prior)
        plain = Variant("sds", "sds", {"t_max": 0.98, "t_max_end": 0.5})
        made = [first, make_splats(plain, prompts[1], seed, prior, GUIDED_SAMPLES, given=first.cloud)]
    else:
        order = prompts if pairing.kind == "onward" else prompts[::-1]
        first = make_splats(None, order[0], seed, prior)
        second = make_splats(None, order[1], seed, prior, given=first.cloud, strength=SEQUENTIAL_STRENGTH)
        made = [first, second] if pairing.kind == "onward" else [second, first]
    one, two = made
    return MadePair((one.cloud, two.cloud), one.samples + two.samples, one.seconds + two.seconds)


def _together(
    pairing: Pairing, prompts: tuple[str, str], seed: int, prior: str, given: SplatCloud | None = None
) -> MadePair:
    from invert3d_ns.methods.aligned import aligned_objects
    from invert3d_ns.scenes.runs import read_run_objects

    config: Any = aligned_objects("a3d")
    config.prompts, config.machine.seed = prompts, seed
    config.pipeline.prior, config.pipeline.preview_every = prior, 0
    for name, value in pairing.settings.items():
        *path, last = name.split(".")
        target = config.pipeline
        for step in path:
            target = getattr(target, step)
        assert hasattr(target, last), name
        setattr(target, last, value)
    with quiet_run(config, given) as run:
        first, second = read_run_objects(run)
        return MadePair((first, second), *run_figures(run))
