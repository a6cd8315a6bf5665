"""Grading of a prior: the fixed prompts, what they ask for, and the shares of views that show it."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch

from invert3d_ns.metrics.held_out import PROMPTS, expected_judgment, held_out_prompts, photo_prompts
from invert3d_ns.metrics.judge import Judge
from invert3d_ns.metrics.prior_quality import (
    aspect_means,
    attribute_table,
    evaluate_prior,
    grade_true_renders,
    table_row,
    true_views,
)
from invert3d_ns.scenes.cameras import random_orbit
from invert3d_ns.world.captions import full_description
from invert3d_ns.world.objects import held_out, sample_object
from invert3d_ns.world.shapes import CLASSES, FRONTED
from invert3d_ns.world.vocabulary import COLORS, PATTERNS, STYLES


def test_the_list_of_prompts_is_fixed() -> None:
    cases = held_out_prompts()
    text = "\n".join(case.text for case in cases)
    # Figures of different versions are comparable only while this holds.
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "a173bfa88cd56c50"
    assert len(cases) == PROMPTS == len({case.text for case in cases})
    assert held_out_prompts(7) == cases[:7]
    assert Counter(case.style for case in cases) == dict.fromkeys(STYLES, PROMPTS // len(STYLES))
    counts = Counter(case.name for case in cases)
    assert counts.keys() == CLASSES.keys() and min(counts.values()) >= 10
    assert {case.pattern for case in cases} == PATTERNS.keys() and {case.color for case in cases} == COLORS.keys()


def test_prompts_are_held_out_and_say_what_they_ask_for() -> None:
    for case in held_out_prompts():
        assert case.held_out and held_out(case.name, case.color, case.pattern, case.style)
        assert case.name in case.text and case.color in case.text
        assert (case.pattern in case.text) == (case.pattern != "plain") == (case.second is not None)
        assert case.second is None or (case.second != case.color and case.second in case.text)
        item = case.object(3)
        assert (item.name, item.color, item.pattern, item.second, item.style, item.pose) == (
            case.name,
            case.color,
            case.pattern,
            case.second,
            case.style,
            "upright",
        )
        assert full_description(item) == case.text


def test_no_training_object_is_what_a_prompt_asks_for() -> None:
    rng = np.random.default_rng(0)
    seen = [sample_object(rng) for _ in range(2000)]
    combinations = {(o.name, o.color, o.pattern, o.style) for o in seen}
    assert not combinations & {(c.name, c.color, c.pattern, c.style) for c in held_out_prompts()}


def test_photo_prompts_are_split_like_training_is() -> None:
    kept, seen = photo_prompts(True), photo_prompts(False)
    pairs = [(p.name, p.color) for p in kept + seen]
    assert sorted(pairs) == sorted(product(CLASSES, COLORS))
    assert all(p.held_out and held_out(p.name, p.color) for p in kept)
    assert not any(p.held_out or held_out(p.name, p.color) for p in seen)
    assert photo_prompts(False, 7) == seen[:7] and photo_prompts(False, seed=1) != seen
    assert all(p.text == f"{'an' if p.color == 'orange' else 'a'} {p.color} {p.name}" for p in kept + seen)


def test_azimuths_are_asked_only_of_what_has_a_front() -> None:
    cases = [next(c for c in photo_prompts(False) if c.name == name) for name in ("car", "ball")]
    truth = expected_judgment(cases, torch.tensor([[0.0, 190.0], [0.0, 190.0]]))
    assert truth.azimuths[:2].tolist() == [0, -170] and truth.azimuths[2:].isnan().all()
    assert truth.classes.tolist() == [list(CLASSES).index(n) for n in ("car", "car", "ball", "ball")]
    assert "car" in FRONTED and "ball" not in FRONTED


def test_every_prompt_is_graded_with_every_seed(tiny_prior) -> None:
    cases, counts = held_out_prompts(3), []
    judge = Judge.load()
    rows, views = evaluate_prior(
        tiny_prior, judge, cases, [5, 6], steps=1, batch=2, progress=lambda *count: counts.append(count)
    )
    assert [(row["seed"], row["prompt"]) for row in rows] == [(s, c.text) for s in (5, 6) for c in cases]
    assert views.shape == (3, 4, 3, 32, 32) and counts == [(2, 6), (3, 6), (5, 6), (6, 6)]
    # The pictures are the views that were graded, against the cameras that they were asked for from.
    azimuths, _ = random_orbit(3, 4, generator=torch.Generator().manual_seed(5))
    for index, (row, images) in enumerate(zip(rows, views, strict=False)):
        right = judge.judge(images).right(expected_judgment(cases[index : index + 1], azimuths[index : index + 1]))
        for aspect, values in right.items():
            assert row[aspect] == pytest.approx(values.nanmean().item(), nan_ok=True)


def test_true_renders_are_graded_from_the_same_cameras_and_are_mostly_right() -> None:
    cases = held_out_prompts(10)
    rows = grade_true_renders(Judge.load(), cases, [1])
    azimuths, elevations = random_orbit(10, 4, generator=torch.Generator().manual_seed(1))
    views = true_views(cases, azimuths, elevations)
    right = Judge.load().judge(views.flatten(0, 1)).right(expected_judgment(cases, azimuths))
    assert [row["class"] for row in rows] == right["class"].view(10, 4).mean(1).tolist()
    assert aspect_means(rows)["class"][0] >= 0.9 and (views[:, :, :, 0, 0] == 1).all()
    sketch = rows[1]
    assert sketch["asked style"] == "pencil sketch" and math.isnan(sketch["color"])


def test_summary_and_lines_of_the_table() -> None:
    nan = math.nan
    rows = [
        {
            "seed": seed,
            "name": name,
            "asked style": style,
            "asked pattern": "plain",
            "class": a,
            "color": b,
            "pattern": 1.0,
            "style": 0.5,
            "azimuth": c,
        }
        for seed, name, style, a, b, c in (
            (1, "car", "photo", 1.0, 0.5, 0.5),
            (0, "car", "photo", 0.0, 1.0, 0.75),
            (1, "ball", "sepia", 0.5, nan, nan),
            (0, "ball", "sepia", 1.0, nan, nan),
        )
    ]
    assert aspect_means(rows) == {
        "class": [0.5, 0.75],
        "color": [1.0, 0.5],
        "pattern": [1, 1],
        "style": [0.5, 0.5],
        "azimuth": [0.75, 0.5],
    }
    line = table_row("all", rows)
    assert line["views"] == "all" and line["class %"] == "62.5 ± 17.7" and line["pattern %"] == "100.0 ± 0.0"
    truth = [row | {"class": 1.0} for row in rows]
    table = {row["views"]: row for row in attribute_table(rows, truth)}
    assert list(table) == ["style: photo", "style: sepia", "pattern: plain", "class: car", "class: ball"]
    assert table["class: ball"]["class %"] == "75.0 ± 35.4 (100.0 ± 0.0)"
    assert table["style: sepia"]["color %"] == "" and table["class: ball"]["azimuth %"] == ""
