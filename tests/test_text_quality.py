"""What splats from words are graded by: saturation, kernel distance, equal cost; and the command as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from invert3d_ns.alignment.checkpoints import load_clip
from invert3d_ns.cli import main
from invert3d_ns.guidance.ge3d import EditingTrajectoriesConfig
from invert3d_ns.guidance.ism import IntervalScoreMatchingConfig
from invert3d_ns.guidance.sds import ScoreDistillationConfig
from invert3d_ns.metrics.held_out import held_out_photos
from invert3d_ns.metrics.judge import Judge
from invert3d_ns.metrics.prior_quality import true_views
from invert3d_ns.metrics.text_quality import (
    AZIMUTHS,
    ELEVATIONS,
    TextPlan,
    diversity,
    grade,
    kernel_distance,
    saturation,
)
from invert3d_ns.metrics.text_runs import VARIANTS, guidance_of, samples_a_step


def test_saturation_is_of_the_object_alone() -> None:
    image = torch.ones(1, 3, 4, 4)
    assert saturation(image) == 0.0
    image[0, :, 0] = torch.tensor([1.0, 0.0, 0.0])[:, None]
    assert saturation(image) == pytest.approx(1.0)
    image[0, :, 1] = 0.5
    assert saturation(image) == pytest.approx(0.5)


def test_true_renders_are_graded_right_and_others_are_not() -> None:
    case = next(case for case in held_out_photos(6) if case.name == "chair" or case.pattern == "plain")
    views = true_views([case], AZIMUTHS[None], ELEVATIONS[None])[0]
    judge, towers = Judge.load(), load_clip("bundled", "cpu")
    right, wrong = grade(views, case, judge, towers), grade(1 - views, case, judge, towers)
    assert right["class and color"] > 0.9 > 0.3 > wrong["class and color"]
    assert right["clip"] > wrong["clip"]


def test_distances_of_views() -> None:
    towers = load_clip("bundled", "cpu")
    cases = held_out_photos(4)
    chairs, others = (true_views([case] * 1, AZIMUTHS[None], ELEVATIONS[None])[0] for case in (cases[0], cases[1]))
    assert kernel_distance(chairs, chairs.flip(0), towers) < kernel_distance(chairs, others, towers)
    assert abs(diversity([chairs, chairs], towers)) < 1e-5 < 1e-2 < diversity([chairs, others], towers)


def test_prompts_take_turns_and_are_held_out() -> None:
    cases = held_out_photos(20)
    assert all(case.held_out and case.style == "photo" for case in cases)
    assert {case.pattern == "plain" for case in cases[:2]} == {True, False}
    assert len({case.text for case in cases}) == 20 and held_out_photos(3) == cases[:3]


def test_variants_cost_the_same() -> None:
    assert samples_a_step(ScoreDistillationConfig()) == 8
    assert samples_a_step(EditingTrajectoriesConfig(jump=(0.05, 0.05))) == 72, "the official code takes 136"
    assert 12 < samples_a_step(IntervalScoreMatchingConfig()) < 28
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    assert guidance_of(VARIANTS[5]).balance is False  # type: ignore[attr-defined]


def test_each_guidance_is_run_with_each_number_of_samples() -> None:
    known = {variant.name: variant for variant in VARIANTS}
    plan = TextPlan("bundled", [], [0], [None, known["views only"], known["sds"]], (72, 144))
    expected = {"default": 72, "views only": 72, "sds, 72 samples": 72, "sds, 144 samples": 144}
    assert {name: samples for name, (_, samples) in plan.runs().items()} == expected
    assert list(TextPlan("bundled", [], [0], [known["sds"]], (72,)).runs()) == ["sds"]


def test_the_command_compares_what_it_is_asked_for(tmp_path: Path, capsys) -> None:
    words = ["evaluate", "text-to-3d", "--quick", "--variants", "views only", "sds", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert not stopped.value.code, capsys.readouterr().err
    table = json.loads((tmp_path / "table.json").read_text())
    lines = {row["splats"].split(" (")[0]: row for row in table["rows"]}
    assert list(lines) == ["true renders", "the prior's own views", "views only", "sds"]
    assert float(lines["true renders"]["class and color %"]) > 80
    assert float(lines["sds"]["UNet samples"]) == pytest.approx(float(lines["views only"]["UNet samples"]) + 72)
    assert (tmp_path / "splats.png").is_file() and (tmp_path / "quality.png").is_file()


def test_the_prior_that_is_asked_for_makes_the_splats(tmp_path: Path, stored_prior: Path, monkeypatch) -> None:
    """What trained priors are called says nothing: "bundled" is in the description of most."""
    from invert3d_ns.metrics import text_quality

    asked: list[str] = []

    def noted(variant, prompt, seed, prior, samples, *, start=None):
        asked.append(prior)
        raise KeyboardInterrupt

    monkeypatch.setattr(text_quality, "make_splats", noted)
    words = ["evaluate", "text-to-3d", "--quick", "--variants", "views only", "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*words, "--prior", str(stored_prior)])
    assert asked == [str(stored_prior)]


def test_variants_that_nobody_knows(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "text-to-3d", "--variants", "magic", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 1 and not (tmp_path / "out").exists()
    assert "--variants magic; known are all, views only, sds, ism, ge3d" in capsys.readouterr().err
