"""Evaluation of inversions: objects that no prior was shown, graded on cameras that no step saw."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.metrics.report import mean_and_spread

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras

    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.scenes.cloud import SplatCloud
    from invert3d_ns.words.bank import LatentBank
    from invert3d_ns.words.cti import CameraTextInversion

OBJECTS: dict[str, tuple[str, str]] = {
    "robot": ("green", "a green robot"),
    "rocket": ("red", "a red rocket"),
    "duck": ("yellow", "a yellow duck"),
    "cactus": ("purple", "a purple cactus"),
    "dumbbell": ("blue", "a blue dumbbell"),
}
"""Classes that no training render holds: main color, and the plain caption that z* has to beat."""
RIVALS = ("z*", "init word", "caption")
"""Kinds of words that are compared, the first against the others."""


def unseen_object(name: str, seed: int = 5) -> SplatCloud:
    """Make splats of one of :data:`OBJECTS`, with a part or a pattern in a second color as the seed has it."""
    import numpy as np

    from invert3d_ns.world.objects import sample_object
    from invert3d_ns.world.splats import splats_of

    rng = np.random.default_rng(seed)
    return splats_of(sample_object(rng, name=name, color=OBJECTS[name][0], style="photo", upright=True))


def renderer(cloud: SplatCloud) -> Callable[[Cameras], Float[Tensor, "F H W 3"]]:
    """Splats as what the latent bank takes: nerfstudio cameras to images on white."""
    from invert3d_ns.scenes.rendering import render_splats

    def render(cameras: Cameras) -> Float[Tensor, "F H W 3"]:
        return render_splats(cloud, cameras)[0].permute(0, 2, 3, 1).clamp(0, 1)

    return render


def invert_splats(
    prior: MultiViewPrior,
    cloud: SplatCloud,
    seed: int,
    *,
    steps: int,
    vectors: int,
    groups: int,
    heldout_groups: int,
    per_view_timesteps: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[LatentBank, CameraTextInversion, Float[Tensor, "N D"]]:
    """Invert splats from the prior's init word, with the prior's own timesteps, jitter and learning rate.

    Args:
        prior: the frozen multi-view diffusion model.
        cloud: the object, in the object frame.
        seed: of the bank's orbits, the jitter and every step.
        steps: optimization steps.
        vectors: number N of pseudo-words.
        groups: orbits in the bank.
        heldout_groups: orbits that no step sees.
        per_view_timesteps: see :class:`.settings.Objective`.
        progress: called with the steps done and their number.

    Returns:
        The bank, the objective and the vectors found.
    """
    from invert3d_ns.words.bank import build_bank
    from invert3d_ns.words.cti import CameraTextInversion, fit_words
    from invert3d_ns.words.settings import Objective

    bank = build_bank(renderer(cloud), prior, groups=groups, heldout_groups=heldout_groups, seed=seed)
    objective = Objective(per_view_timesteps, prior.info.inversion_timesteps)
    inversion = CameraTextInversion(prior, objective, seed=seed)
    words = fit_words(
        inversion,
        bank,
        inversion.initial_words(vectors, prior.info.init_word, prior.info.inversion_jitter),
        steps=steps,
        callback=None if progress is None else lambda step, _: progress(step + 1, steps),
    )
    return bank, inversion, words


def evaluate_object(
    prior: MultiViewPrior,
    name: str,
    seed: int,
    *,
    steps: int = 400,
    vectors: int = 32,
    sampling_steps: int | None = None,
    guidance_scale: float | None = None,
    groups: int = 48,
    per_view_timesteps: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], Float[Tensor, "K F 3 H W"]]:
    """Invert one unseen object and compare z* with the untouched init word and with the plain caption.

    Returns:
        A row for each of the three with ``loss`` (the denoising loss on held-out orbits) and ``psnr`` (generated views
        against the truth, dB); and the first held-out orbit's true views followed by each one's.
    """
    from invert3d_ns.base.metrics import psnr
    from invert3d_ns.words.cti import TOKEN

    bank, inversion, words = invert_splats(
        prior,
        unseen_object(name),
        seed,
        steps=steps,
        vectors=vectors,
        groups=groups,
        heldout_groups=2,
        per_view_timesteps=per_view_timesteps,
        progress=progress,
    )
    conditions: dict[str, tuple[str, Tensor | str]] = {
        "init word": (prior.info.init_word, prior.info.init_word),
        "caption": (OBJECTS[name][1], OBJECTS[name][1]),
        "z*": (TOKEN, words),
    }
    rows, pictures = [], [bank.heldout_images[0]]
    for label, (prompt, condition) in conditions.items():
        views = prior.sample(
            prompt,
            bank.heldout_cameras,
            words={TOKEN: words} if prompt == TOKEN else None,
            steps=sampling_steps,
            seed=seed,
            guidance_scale=guidance_scale,
        ).cpu()
        rows.append(
            {
                "object": name,
                "seed": seed,
                "words": label,
                "loss": inversion.heldout_loss(condition, bank, draws=8),
                "psnr": psnr(views, bank.heldout_images),
            }
        )
        pictures.append(views[0])
    return rows, torch.stack(pictures)


def evaluate_objects(
    prior: MultiViewPrior,
    names: Sequence[str],
    seeds: Sequence[int],
    *,
    both_timesteps: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    **settings: Any,
) -> tuple[list[dict[str, Any]], Float[Tensor, "O K F 3 H W"]]:
    """:func:`evaluate_object` for some of :data:`OBJECTS` and seeds.

    Args:
        both_timesteps: also with a timestep of its own for each view, in rows of z* alone.
        progress: called with the object and seed at work, and its steps done and in all.
        settings: keywords of :func:`evaluate_object`.

    Returns:
        All rows; and the views of each object's first seed.
    """
    rows: list[dict[str, Any]] = []
    pictures: list[Tensor] = []
    for name in names:
        for seed in seeds:
            watch = None
            if progress is not None:
                watch = functools.partial(progress, f"{name}, seed {seed}")
            graded, views = evaluate_object(prior, name, seed, progress=watch, **settings)
            rows += graded
            if seed == seeds[0]:
                pictures.append(views)
            if both_timesteps:
                apart, _ = evaluate_object(prior, name, seed, per_view_timesteps=True, progress=watch, **settings)
                rows += [row | {"words": "z*, a timestep a view"} for row in apart if row["words"] == "z*"]
    return rows, torch.stack(pictures)


def tabulate_inversions(graded: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, str]], dict[str, float]]:
    """Put rows of :func:`evaluate_object` over objects and seeds into a table and headline figures.

    Returns:
        A row for each object and kind of words with mean ± spread over seeds; and, for loss and PSNR, on how many
        objects the mean of z* beats both others, and each kind's mean.
    """
    objects, labels = (list(dict.fromkeys(row[key] for row in graded)) for key in ("object", "words"))
    table: list[dict[str, str]] = []
    figures: dict[str, float] = {"objects_won_loss": 0, "objects_won_psnr": 0, "objects": len(objects)}
    for name in objects:
        of = {label: [r for r in graded if (r["object"], r["words"]) == (name, label)] for label in labels}
        for label, runs in of.items():
            loss, quality = ([r[key] for r in runs] for key in ("loss", "psnr"))
            table.append(
                {
                    "object": name,
                    "words": label,
                    "held-out loss": mean_and_spread(loss, 4),
                    "PSNR dB": mean_and_spread(quality),
                }
            )
        loss, quality = ([mean(r[key] for r in of[label]) for label in RIVALS] for key in ("loss", "psnr"))
        figures["objects_won_loss"] += loss[0] < min(loss[1:])
        figures["objects_won_psnr"] += quality[0] > max(quality[1:])
    for label in labels:
        name = label.replace("*", "").replace(",", "").replace(" ", "_")
        for key in ("loss", "psnr"):
            figures[f"{key}_{name}"] = round(mean(r[key] for r in graded if r["words"] == label), 4)
    return table, figures
