"""Multi-view consistency: views of one object agree with splats of half of them, views of several do not."""

from __future__ import annotations

import pytest
import torch

from invert3d_ns.metrics.consistency import (
    APART,
    GENERATED,
    TRUE,
    VIEWS,
    cross_validate,
    evaluate_consistency,
    tabulate_consistency,
)
from invert3d_ns.metrics.held_out import held_out_prompts, photo_prompts
from invert3d_ns.metrics.prior_quality import sample_views, true_views
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world, random_orbit


def test_views_of_different_objects_are_less_consistent_than_those_of_one() -> None:
    azimuths, elevations = torch.arange(VIEWS) * 45.0 + 10, torch.full((VIEWS,), 15.0)
    poses = orbit_camera_to_world(azimuths, elevations)
    cases = [case for case in photo_prompts(False) if case.name in ("chair", "mug", "snowman", "car")][:VIEWS]
    several = true_views(cases, azimuths.expand(len(cases), -1), elevations.expand(len(cases), -1))
    one, drawn = cross_validate(several[0], poses, count=600, steps=80)
    mixed, _ = cross_validate(torch.stack([several[i, i] for i in range(VIEWS)]), poses, count=600, steps=80)
    assert drawn.shape == several[0].shape
    assert one > mixed + 4


def test_every_kind_of_views_is_measured_on_the_same_cameras(tiny_v_prior) -> None:
    cases, counts = held_out_prompts(2), []
    rows, views = evaluate_consistency(
        tiny_v_prior, cases, [3], steps=1, apart=True, fit_steps=2, progress=lambda *count: counts.append(count)
    )
    assert [(row["prompt"], row["views"]) for row in rows] == [
        (case.text, kind) for case in cases for kind in (TRUE, GENERATED, APART)
    ]
    assert counts[-1] == (6, 6) and views.shape == (2 * 3 * 2, VIEWS, 3, 32, 32)
    start = torch.rand(2, generator=torch.Generator().manual_seed(3))[1] * 360
    azimuths, elevations = start + torch.arange(VIEWS) * 45.0, torch.full((VIEWS,), 15.0)
    torch.testing.assert_close(
        views[6], true_views(cases[1:], azimuths[None], elevations[None], 32)[0][None].squeeze(0)
    )
    expected = tiny_v_prior.sample(cases[1].text, camera_condition(azimuths, elevations)[None], steps=1, seed=300_010)
    torch.testing.assert_close(views[8], expected[0], atol=1e-4, rtol=0)


def test_views_apart_do_not_depend_on_each_other(tiny_v_prior) -> None:
    cameras = camera_condition(*random_orbit(2, 4, generator=torch.Generator().manual_seed(0)))
    other = cameras.clone()
    other[:, 3] = cameras[:, 0]
    changed = {}
    for cross_view in (True, False):
        a, b = (
            sample_views(
                tiny_v_prior, ["a red cube", "a mug"], c, seed=1, cross_view=cross_view, steps=2, guidance_scale=1.0
            )
            for c in (cameras, other)
        )
        assert a.shape == (2, 4, 3, 32, 32)
        changed[cross_view] = (a - b).abs()[:, :3].max().item()
    assert changed[False] < 1e-4 < changed[True]


def test_table_says_how_far_behind_the_truth() -> None:
    rows = [
        {"prompt": prompt, "seed": seed, "views": kind, "psnr": value + seed}
        for seed in (0, 1)
        for prompt in ("a", "b")
        for kind, value in ((TRUE, 24.0), (GENERATED, 22.5), (APART, 18.0))
    ]
    table, figures = tabulate_consistency(rows)
    assert [row["views"] for row in table] == [f"splats of 4 views, {kind} (2)" for kind in (TRUE, GENERATED, APART)]
    assert table[0]["PSNR dB, 4 others"] == "24.50 ± 0.71" and "behind true dB" not in table[0]
    assert table[1]["behind true dB"] == "1.50 ± 0.00"
    assert figures == pytest.approx(
        {
            "consistency_true_db": 24.5,
            "consistency_generated_db": 23.0,
            "consistency_generated_behind_db": 1.5,
            "consistency_views_apart_db": 18.5,
            "consistency_views_apart_behind_db": 6.0,
        }
    )
