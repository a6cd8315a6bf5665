"""Evaluation of styles: are they recognized from sides that no step saw, by whom, and at what cost to the scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from invert3d_ns.alignment.style_words import StyleWords, encode_words
from invert3d_ns.base.english import with_article
from invert3d_ns.base.metrics import ssim
from invert3d_ns.metrics.correspondence import silhouette_iou
from invert3d_ns.metrics.edit_rows import ROWS_FILE, Row, append_row, read_rows
from invert3d_ns.metrics.held_out import Prompt, expected_judgment
from invert3d_ns.metrics.report import mean_and_spread
from invert3d_ns.metrics.strips import join_strips, keep_strip
from invert3d_ns.metrics.stylization_runs import (
    DEFAULT,
    PLAIN,
    Way,
    case_splats,
    in_style,
    make_styles,
    run_settings,
    settings_digest,
)
from invert3d_ns.metrics.warped_views import warped_difference
from invert3d_ns.scenes.cameras import orbit_camera_to_world, pinhole_cameras
from invert3d_ns.world.vocabulary import STYLES

if TYPE_CHECKING:
    from invert3d_ns.alignment.clip import ClipTowers
    from invert3d_ns.metrics.judge import Judge
    from invert3d_ns.scenes.cloud import SplatCloud

AZIMUTHS = (torch.arange(8) * 45.0 + 11.0).repeat(3)
"""Degrees of the views that are graded. The cameras of a run lie on a spiral that begins at random, so that none of
these is among them."""
ELEVATIONS = torch.tensor([-20.0, 5.0, 25.0]).repeat_interleave(8)
"""Degrees of the same: below all of a run's cameras, and between them."""
TURN = 15.0
"""Degrees of azimuth between a graded view and its neighbor."""
SIZE = 64
"""Least pixels of a view; more where a tower sees more."""
TRUTH, BEFORE = "true renders", "unstyled"
"""Rows beside the ways': the true object drawn in the style, and the scene as it was under the same words."""
GEOMETRY = ("means", "scales", "quats", "opacities")
COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("style", "style right %", 1),
    ("class", "class right %", 1),
    ("score", "CLIP-S", 2),
    ("direction", "CLIP-SIM", 2),
    ("second score", "second CLIP-S", 2),
    ("second direction", "second CLIP-SIM", 2),
    ("together", "directional consistency", 3),
    ("content", "content (SSIM)", 3),
    ("silhouette", "silhouette IoU", 3),
    ("warped", "warped / unstyled", 3),
    ("by view", "warped / view alike", 3),
    ("geometry", "geometry change", 4),
    ("seconds", "seconds", 1),
)
"""Measures of a style: key of a row, title, digits."""


@dataclass(frozen=True)
class Graders:
    """Who is asked."""

    judge: Judge
    followed: Sequence[ClipTowers]
    """The towers that steps follow."""
    second: ClipTowers
    """A tower that they do not."""

    @property
    def size(self) -> int:
        """Pixels of the views that all of them are shown."""
        return max(SIZE, *(max(towers.size) for towers in (*self.followed, self.second)))

    def stamp(self) -> dict[str, Any]:
        """Fingerprints of the towers."""
        from invert3d_ns.prior.info import fingerprint

        followed = [fingerprint([towers.model]) for towers in self.followed]
        return {"followed": followed, "second tower": fingerprint([self.second.model])}

    def independent(self) -> bool:
        """Whether the second tower is none of those that are followed."""
        stamp = self.stamp()
        return stamp["second tower"] not in stamp["followed"]


@dataclass(frozen=True)
class StylizationPlan:
    """What is measured."""

    cases: Sequence[Prompt]
    styles: Sequence[str]
    """Names in STYLES."""
    ways: Sequence[Way]
    seeds: Sequence[int]
    towers: Sequence[str]
    """Names of those that are followed."""
    steps: int | None = None
    """Of each style; the method's own number if None."""

    @property
    def total(self) -> int:
        """Styles that are made."""
        return len(self.cases) * len(self.styles) * len(self.ways) * len(self.seeds)


@dataclass(frozen=True)
class Seen:
    """What is seen of an object from the graded cameras, and from their neighbors."""

    images: Float[Tensor, "2 V 3 S S"]
    """RGB in [0, 1] on white: graded views, then their neighbors."""
    coverage: Float[Tensor, "V 1 S S"] | None = None
    """Of the graded views; of splats."""
    warped: float = float("nan")
    """See :func:`.warped_difference`; of splats."""


def _poses() -> Float[Tensor, "W 4 4"]:
    return orbit_camera_to_world(torch.cat([AZIMUTHS, AZIMUTHS + TURN]), ELEVATIONS.repeat(2))


@torch.no_grad()
def look_at(cloud: SplatCloud, size: int = SIZE) -> Seen:
    """Draw splats in the object frame from the graded cameras and their neighbors, four samples a pixel."""
    from invert3d_ns.scenes.rendering import rasterize_splats

    poses = _poses()
    fine, alphas, _ = rasterize_splats(cloud, pinhole_cameras(poses, size, supersampling=2), with_depth=True)
    fine, alphas = fine.permute(0, 3, 1, 2), alphas.permute(0, 3, 1, 2)
    colors = (fine[:, :3] + 1 - alphas).clamp(0, 1)
    neighbors = torch.arange(len(poses), device=colors.device).roll(len(poses) // 2)
    warped = warped_difference(colors, fine[:, 3:], alphas, poses, neighbors)
    images = functional.avg_pool2d(colors, 2).unflatten(0, (2, -1))
    return Seen(images, functional.avg_pool2d(alphas, 2)[: images.shape[1]], warped)


def true_look(case: Prompt, seed: int, size: int = SIZE) -> Seen:
    """Draw the true object that a prompt asks for, in its style, from the same cameras.

    Args:
        case: the prompt.
        seed: of the style's texture.
        size: pixels.
    """
    from invert3d_ns.world.rendering import render_objects
    from invert3d_ns.world.styles import apply_styles

    drawn = apply_styles(render_objects([case.object()], _poses()[None], size), [case.style], [seed])[0]
    images = torch.from_numpy(np.ascontiguousarray(drawn)).permute(0, 3, 1, 2).float() / 255
    return Seen(images.unflatten(0, (2, -1)))


def words_of(case: Prompt) -> StyleWords:
    """An object in a style, and as it is, in words without its color, which some styles hide."""
    noun = with_article(case.name)
    return StyleWords({STYLES[case.style][0].format(noun): 1.0}, f"a photo of {noun}")


@torch.no_grad()
def clip_figures(after: Seen, before: Seen, words: StyleWords, towers: ClipTowers) -> tuple[float, float, float]:
    """What a tower says of a style: CLIP-S, CLIP-SIM, both times 100, and directional consistency.

    With E(x) of unit length, I a graded view in the style, I' its neighbor, J and J' the same of the scene as it was:
    CLIP-S is cos(E(I), E(words)); CLIP-SIM is cos(E(I) - E(J), E(words) - E(source)); directional consistency is
    cos(E(I') - E(I), E(J') - E(J)). Means over views; a change that is none counts as 0.
    """
    asked, source = encode_words(towers, words)
    device = towers.mean.device
    styled, plain = (
        towers.encode_image(seen.images.flatten(0, 1).to(device)).unflatten(0, seen.images.shape[:2])
        for seen in (after, before)
    )
    score = styled[0] @ asked
    direction = functional.cosine_similarity(styled[0] - plain[0], (asked - source)[None], dim=-1)
    together = functional.cosine_similarity(styled[1] - styled[0], plain[1] - plain[0], dim=-1)
    return 100 * float(score.mean()), 100 * float(direction.mean()), float(together.mean())


@torch.no_grad()
def grade_look(after: Seen, before: Seen, case: Prompt, graders: Graders) -> dict[str, float]:
    """Figures of views: what the judge and the towers say, and what is left of the views before."""
    from invert3d_ns.world.styles import LUMA

    images = after.images[0].cpu()
    right = graders.judge.judge(images).right(expected_judgment([case], AZIMUTHS[None]))
    words = words_of(case)
    followed = [clip_figures(after, before, words, towers) for towers in graders.followed]
    second = clip_figures(after, before, words, graders.second)
    weights = torch.tensor(LUMA).view(1, 3, 1, 1)
    luma, luma_before = ((some * weights).sum(1, keepdim=True) for some in (images, before.images[0].cpu()))
    return {
        "style": 100 * float(right["style"].mean()),
        "class": 100 * float(right["class"].mean()),
        "score": fmean(one[0] for one in followed),
        "direction": fmean(one[1] for one in followed),
        "second score": second[0],
        "second direction": second[1],
        "together": second[2],
        "content": float(ssim(luma, luma_before)),
    }


def measure_style(
    styled: SplatCloud, original: SplatCloud, case: Prompt, graders: Graders, before: Seen | None = None
) -> tuple[dict[str, float], Seen]:
    """Figures of splats in a style, beside the same splats as they were.

    Args:
        styled: splat i is splat i of ``original``.
        original: the scene as it was.
        case: what it should show now.
        graders: who is asked.
        before: what is seen of ``original``, where that is known.
    """
    before = look_at(original, graders.size) if before is None else before
    after = look_at(styled, graders.size)
    alike = replace(styled, features_rest=torch.zeros_like(styled.features_rest))
    assert after.coverage is not None and before.coverage is not None
    figures = grade_look(after, before, case, graders) | {
        "silhouette": silhouette_iou(before.coverage, after.coverage),
        "warped": _ratio(after.warped, before.warped),
        "by view": _ratio(after.warped, look_at(alike, graders.size).warped),
        "geometry": max(float((getattr(styled, name) - getattr(original, name)).abs().amax()) for name in GEOMETRY),
    }
    return figures, after


def _ratio(value: float, other: float) -> float:
    return value / other if other > 0 else float("nan")


def measure_stylization(
    graders: Graders,
    out: Path,
    plan: StylizationPlan,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Row]:
    """Give every object every style in every way with every seed, and measure it; a run makes all styles of an object.

    Rows are appended to ``rows.jsonl`` in ``out``, and what is there already is not made again, unless other settings
    made it. Some views of the first seed are kept in ``views``, and shown together in ``styles.png``.
    """
    stamp = graders.stamp()
    digests = {way.name: settings_digest(way, plan.steps) for way in plan.ways}
    done = {
        key: row for key, row in read_rows(out / ROWS_FILE, stamp).items() if row["settings"] == digests.get(key[2], "")
    }
    rows: list[Row] = []
    device = graders.second.mean.device

    def keep(case: Prompt, style: str, name: str, seed: int, figures: dict[str, float], seen: Seen) -> None:
        key = (case.text, style, name, str(seed))
        done[key] = {"object": case.text, "edit": style, "method": name, "seed": seed, **stamp}
        done[key] |= {"settings": digests.get(name, ""), **figures}
        _keep_strip(out, key, seen)
        append_row(out / ROWS_FILE, done[key])

    def missing(case: Prompt, name: str, seed: int) -> list[str]:
        return [style for style in plan.styles if (case.text, style, name, str(seed)) not in done]

    made = 0
    for seed in plan.seeds:
        for case in plan.cases:
            cloud = None
            for style in missing(case, TRUTH, seed):
                seen, photo = (true_look(one, seed, graders.size) for one in (in_style(case, style), case))
                keep(case, style, TRUTH, seed, grade_look(seen, photo, in_style(case, style), graders), seen)
            for way in plan.ways:
                if progress is not None:
                    progress(f"{way.name}: {case.text}", made, plan.total)
                made += len(plan.styles)
                wanted = missing(case, way.name, seed)
                if not wanted:
                    continue
                cloud = case_splats(case) if cloud is None else cloud
                found = make_styles(run_settings(way, wanted, seed, plan.towers, plan.steps), cloud)
                original = found.original.to(device)
                before = look_at(original, graders.size)
                for style, splats, seconds in zip(wanted, found.styles, found.seconds, strict=True):
                    asked = in_style(case, style)
                    figures, seen = measure_style(splats.to(device), original, asked, graders, before)
                    if (case.text, style, BEFORE, str(seed)) not in done:
                        keep(case, style, BEFORE, seed, _of_unstyled(before, asked, graders), before)
                    keep(case, style, way.name, seed, {**figures, "seconds": seconds}, seen)
            names = (TRUTH, BEFORE, *(way.name for way in plan.ways))
            rows += [done[case.text, style, name, str(seed)] for style in plan.styles for name in names]
    write_styles_picture(out, plan)
    return rows


def _of_unstyled(before: Seen, case: Prompt, graders: Graders) -> dict[str, float]:
    figures = grade_look(before, before, case, graders)
    return {name: figures[name] for name in ("style", "class", "score", "second score")}


def _strip(out: Path, key: Sequence[str]) -> Path:
    name = "_".join("".join(c if c.isalnum() else "-" for c in part) for part in key)
    return out / "views" / f"{name}.png"


def _keep_strip(out: Path, key: Sequence[str], seen: Seen) -> None:
    """Three views, one of each elevation."""
    keep_strip(_strip(out, key), seen.images[0, [15, 18, 5]].cpu(), columns=3)


def write_styles_picture(out: Path, plan: StylizationPlan) -> Path | None:
    """Write the strips of the first seed as one picture: a row for each object and style; true renders, the scene as it
    was, and each way beside each other.
    """
    names = (TRUTH, BEFORE, *(way.name for way in plan.ways))
    rows = [
        [path for name in names if (path := _strip(out, (case.text, style, name, str(plan.seeds[0])))).exists()]
        for case in plan.cases
        for style in plan.styles
    ]
    if not any(rows):
        return None
    join_strips(out / "styles.png", rows, gap=8, background="lightgray")
    return out / "styles.png"


def tabulate(rows: Sequence[Row], plan: StylizationPlan) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Lines of a table: means over objects and styles, and their spread over seeds; and the headline figures."""
    table = []
    size = f"{len(plan.cases)} objects, {len(plan.styles)} styles"

    def values(name: str, key: str, **where: Any) -> list[float]:
        mine = (row for row in rows if row["method"] == name and all(row[k] == v for k, v in where.items()))
        return [row[key] for row in mine if row.get(key) is not None and row[key] == row[key]]

    for name in (TRUTH, BEFORE, *(way.name for way in plan.ways)):
        line = {"way": f"{name} ({size})"}
        for key, title, digits in COLUMNS:
            means = [fmean(some) for seed in plan.seeds if (some := values(name, key, seed=seed))]
            if means:
                line[title] = mean_and_spread(means, digits)
        table.append(line)
    figures: dict[str, Any] = {}
    if own := [row for row in rows if row["method"] == DEFAULT]:
        for key, title in (("style", "style right %"), ("class", "class right %")):
            figures[f"{title}, {DEFAULT}"] = round(fmean(values(DEFAULT, key)), 2)
            figures[f"{title}, {TRUTH}"] = round(fmean(values(TRUTH, key)), 2)
        for key, title in (("warped", "warped / unstyled"), ("by view", "warped / view alike")):
            figures[f"{title}, {DEFAULT}"] = round(fmean(values(DEFAULT, key)), 4)
        for key, title in (("second direction", "CLIP-SIM"), ("second score", "CLIP-S")):
            ours, plain = values(DEFAULT, key), values(PLAIN, key)
            if plain and abs(fmean(plain)) > 1e-6:
                gain = 100 * (fmean(ours) - fmean(plain)) / abs(fmean(plain))
                figures[f"{title} on the second tower, {DEFAULT} over {PLAIN}, %"] = round(gain, 2)
        for style in dict.fromkeys(row["edit"] for row in own):
            figures[f"style right %, {DEFAULT}, {style}"] = round(fmean(values(DEFAULT, "style", edit=style)), 2)
    for way in plan.ways:
        most = max(values(way.name, "geometry"), default=0.0)
        figures[f"most geometry change, {way.name}"] = most
    return table, figures
