"""Pinned prompts: what the bundled prior makes of them is known, so that a worse prior or sampler is noticed soon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from invert3d_ns.metrics.held_out import Prompt, expected_judgment, held_out_prompts
from invert3d_ns.metrics.judge import ASPECTS, Judge
from invert3d_ns.scenes.cameras import camera_condition

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior

TEXTS = (
    "a blue car",
    "a yellow spotted mug with white spots",
    "a green chair",
    "a white striped house with blue stripes",
    "a pencil sketch of a green checkered snowman with white checks",
    "a pencil sketch of a white striped car with purple stripes",
    "a watercolor painting of an orange spotted airplane with white spots",
    "a watercolor painting of a purple spotted house with black spots",
    "pixel art of a green chair",
    "pixel art of a red checkered ball with white checks",
    "a cartoon of an orange airplane",
    "a cartoon of a white car",
    "a purple snowman at night",
    "a blue mug at night",
    "a gray car at night",
    "a sepia photo of a purple checkered car with white checks",
    "a sepia photo of a yellow checkered mushroom with white checks",
    "a neon sign of a blue striped tree with white stripes",
    "a neon sign of a purple spotted car with white spots",
    "a black chair in van gogh style",
    "a purple checkered cylinder with black checks in van gogh style",
    "a brown striped cube with black stripes in van gogh style",
    "a blueprint of a green spotted ring with white spots",
    "a blueprint of a white spotted car with orange spots",
)
"""Of :func:`.held_out.held_out_prompts`: every style and pattern, most of classes that have a front."""
STEPS = 8
"""Denoising steps of their views."""
PASSES = {"class": (96, 96), "color": (55, 72), "pattern": (64, 96), "style": (80, 96), "azimuth": (54, 72)}
"""Of the bundled prior :data:`FINGERPRINT`: views that show each aspect, and views where it can be judged. Of true
renders it is 96, 66, 82, 91 and 61."""
FINGERPRINT = "887dd5ed"
"""The prior that these counts are of; another one has others, and its own list here."""
SLACK = 3
"""Views by which another machine's rounding may miss."""


def pinned_prompts() -> list[Prompt]:
    """The prompts, and what they ask for."""
    known = {case.text: case for case in held_out_prompts()}
    return [known[text] for text in TEXTS]


def count_passes(prior: MultiViewPrior, judge: Judge) -> dict[str, tuple[int, int]]:
    """Sample four views of each of :data:`TEXTS` and judge them.

    Returns:
        For each of :data:`.judge.ASPECTS`, how many views show what was asked for, and how many could be judged.
    """
    cases = pinned_prompts()
    azimuths = torch.arange(len(cases))[:, None] * 35.0 + torch.arange(4) * 90.0
    cameras = camera_condition(azimuths, torch.full_like(azimuths, 10.0))
    parts = []
    for start in range(0, len(cases), 8):
        some = slice(start, start + 8)
        parts.append(prior.sample(TEXTS[some], cameras[some], steps=STEPS, seed=start).cpu())
    right = judge.judge(torch.cat(parts).flatten(0, 1)).right(expected_judgment(cases, azimuths))
    return {key: (int(right[key].nansum()), int((~right[key].isnan()).sum())) for key in ASPECTS}
