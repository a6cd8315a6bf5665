"""Evaluation of inversions: objects that no prior was shown, graded on cameras that no step saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.metrics.report import mean_and_spread

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras

    from invert3d_ns.alignment.clip import ClipTowers
    from invert3d_ns.metrics.inversion_objects import InversionObject
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.scenes.cloud import SplatCloud
    from invert3d_ns.words.bank import LatentBank
    from invert3d_ns.words.cti import CameraTextInversion

FIGURES = {"loss": 4, "psnr": 2, "iou": 3, "clip": 3}
"""What rows hold, and digits: the denoising loss on held-out orbits; generated views against the truth in dB; how well
their silhouettes overlap; and the similarity of their CLIP vectors."""


@dataclass(frozen=True)
class Start:
    """Where words start from, and how many steps follow."""

    init: Literal["encoder", "word"]
    steps: int

    @classmethod
    def parse(cls, text: str) -> Start:
        """A start from "encoder:50" or "word:400".

        Raises:
            InputError: it is neither.
        """
        init, _, steps = text.partition(":")
        if init not in ("encoder", "word") or not steps.isdecimal():
            raise InputError(f"{text!r} is no start of an inversion; give encoder:STEPS or word:STEPS, as encoder:50")
        return cls("encoder" if init == "encoder" else "word", int(steps))

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"{self.init} + {self.steps} steps" if self.steps else f"{self.init} alone"


def default_starts(prior: MultiViewPrior) -> list[Start]:
    """Those that a prior's table compares."""
    steps = prior.info.inversion_steps
    if prior.view_encoder is None:
        return [Start("word", steps)]
    return [Start("encoder", 0), Start("encoder", 50), Start("encoder", steps)]


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
    vectors: int | None = None,
    init: Literal["encoder", "word"] | None = None,
    groups: int,
    heldout_groups: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[LatentBank, CameraTextInversion, Float[Tensor, "N D"]]:
    """Invert splats with the prior's own timesteps, jitter and learning rate.

    Args:
        prior: the frozen multi-view diffusion model.
        cloud: the object, in the object frame.
        seed: of the bank's orbits, the jitter and every step.
        steps: optimization steps.
        vectors: number N of pseudo-words; the view encoder's, or :data:`.cti.VECTORS` from a word, if None.
        init: where they start from; the view encoder if the prior has one and N is its, if None.
        groups: orbits in the bank.
        heldout_groups: orbits that no step sees.
        progress: called with the steps done and their number.

    Returns:
        The bank, the objective and the vectors found.
    """
    from invert3d_ns.words.bank import build_bank
    from invert3d_ns.words.cti import CameraTextInversion
    from invert3d_ns.words.settings import Objective

    bank = build_bank(renderer(cloud), prior, groups=groups, heldout_groups=heldout_groups, seed=seed)
    inversion = CameraTextInversion(prior, Objective(timestep_range=prior.info.inversion_timesteps), seed=seed)
    encoder = prior.view_encoder
    if init is None:
        init = "encoder" if encoder is not None and vectors in (None, encoder.vectors) else "word"
    words = find_words(inversion, bank, Start(init, steps), vectors, progress)
    return bank, inversion, words


def find_words(
    inversion: CameraTextInversion,
    bank: LatentBank,
    start: Start,
    vectors: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "N D"]:
    """Words of a bank's object from one start."""
    from invert3d_ns.words.cti import VECTORS, fit_words

    info = inversion.prior.info
    if start.init == "encoder":
        words = inversion.encoded_words(bank)
    else:
        words = inversion.initial_words(vectors or VECTORS, info.init_word, info.inversion_jitter)
    return fit_words(
        inversion,
        bank,
        words,
        steps=start.steps,
        callback=None if progress is None else lambda step, _: progress(step + 1, start.steps),
    )


def evaluate_object(
    prior: MultiViewPrior,
    towers: ClipTowers,
    item: InversionObject,
    seed: int,
    starts: Sequence[Start],
    *,
    vectors: int | None = None,
    sampling_steps: int | None = None,
    guidance_scale: float | None = None,
    groups: int = 48,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], Float[Tensor, "K F 3 H W"]]:
    """Invert one object from several starts and compare what the words generate with the truth.

    Beside them stand the untouched init word, the plain caption, and what the autoencoder alone makes of the truth,
    which no words can beat.

    Returns:
        A row for each with :data:`FIGURES` and the seconds that the words took; and the first held-out orbit's true
        views followed by each one's.
    """
    from invert3d_ns.words.bank import build_bank
    from invert3d_ns.words.cti import TOKEN, CameraTextInversion
    from invert3d_ns.words.settings import Objective

    bank = build_bank(renderer(item.cloud), prior, groups=groups, heldout_groups=2, seed=seed)
    inversion = CameraTextInversion(prior, Objective(timestep_range=prior.info.inversion_timesteps), seed=seed)
    truth = bank.heldout_images.cpu()
    base = {"object": item.name, "kind": item.kind, "seed": seed}
    passed = prior.decode_latents(bank.heldout_latents).cpu()
    rows = [base | {"words": "autoencoder"} | grade_views(towers, passed, truth)]
    pictures = [truth[0]]
    conditions: dict[str, tuple[str, Tensor | str, float]] = {
        "init word": (prior.info.init_word, prior.info.init_word, 0.0),
        "caption": (item.caption, item.caption, 0.0),
    }
    for start in starts:

        def report(done: int, total: int, start: Start = start) -> None:
            if progress is not None:
                progress(f"{item.name}, seed {seed}, {start.label}", done, total)

        began = time.perf_counter()
        words = find_words(inversion, bank, start, vectors, report)
        conditions[start.label] = TOKEN, words, time.perf_counter() - began
    for label, (prompt, condition, seconds) in conditions.items():
        views = prior.sample(
            prompt,
            bank.heldout_cameras,
            words=None if isinstance(condition, str) else {TOKEN: condition},
            steps=sampling_steps,
            seed=seed,
            guidance_scale=guidance_scale,
            strength=1.0 if isinstance(condition, str) else prior.info.words_strength,
        ).cpu()
        loss = inversion.heldout_loss(condition, bank, draws=8)
        rows.append(base | {"words": label, "loss": loss, "seconds": seconds} | grade_views(towers, views, truth))
        pictures.append(views[0])
    return rows, torch.stack(pictures)


def grade_views(
    towers: ClipTowers, views: Float[Tensor, "G F 3 H W"], truth: Float[Tensor, "G F 3 H W"]
) -> dict[str, float]:
    """How near views come to the truth: PSNR in dB, overlap of silhouettes, similarity of CLIP vectors."""
    from invert3d_ns.base.metrics import psnr, silhouette_overlap

    device = towers.mean.device
    with torch.no_grad():
        vectors = [towers.encode_image(each.flatten(0, 1).to(device)) for each in (views, truth)]
    return {
        "psnr": psnr(views, truth),
        "iou": silhouette_overlap(views, truth),
        "clip": float((vectors[0] * vectors[1]).sum(-1).mean()),
    }


def tabulate_inversions(graded: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, str]], dict[str, float]]:
    """Put rows of :func:`evaluate_object` over objects and seeds into a table and headline figures.

    Returns:
        For each kind of object, and each object that is not one of many assemblies, a line for each kind of words with
        mean ± spread over seeds; and each line's means as figures, with the worst gain over the plain caption.
    """
    table: list[dict[str, str]] = []
    figures: dict[str, float] = {}
    labels = list(dict.fromkeys(row["words"] for row in graded))
    kinds = list(dict.fromkeys(row["kind"] for row in graded))
    for kind in kinds:
        of_kind = [row for row in graded if row["kind"] == kind]
        names = list(dict.fromkeys(row["object"] for row in of_kind))
        several = f"{len(names)} {'assemblies' if kind == 'assembly' else f'{kind}s' if kind == 'asset' else 'classes'}"
        groups = {several: of_kind} if len(names) > 1 else {}
        if kind != "assembly" or len(names) == 1:
            groups |= {name: [row for row in of_kind if row["object"] == name] for name in names}
        for title, rows in groups.items():
            for label in labels:
                means = _seed_means([row for row in rows if row["words"] == label])
                if not means:
                    continue
                shown = {key: mean_and_spread(means[key], digits) for key, digits in FIGURES.items() if key in means}
                seconds = {"seconds": f"{mean(means['seconds']):.1f}"} if any(means.get("seconds", [])) else {}
                table.append({"object": title, "words": label, **shown, **seconds})
                if title == several or len(names) == 1:
                    own = {key: round(mean(means[key]), digits) for key, digits in FIGURES.items() if key in means}
                    figures |= {f"{key}, {kind}, {label}": value for key, value in own.items()}
    captions = {(row["object"], row["seed"]): row["psnr"] for row in graded if row["words"] == "caption"}
    for label in labels:
        if label not in ("autoencoder", "caption", "init word"):
            gains = [row["psnr"] - captions[row["object"], row["seed"]] for row in graded if row["words"] == label]
            figures[f"least gain over the caption in dB, {label}"] = round(min(gains), 2)
    return table, figures


def _seed_means(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """For each figure, its mean over objects for every seed."""
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    keys = [key for key in (*FIGURES, "seconds") if rows and key in rows[0]]
    return {key: [mean(row[key] for row in rows if row["seed"] == seed) for seed in seeds] for key in keys}
