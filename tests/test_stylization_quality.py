"""``invert3d evaluate stylization``: what is measured of styles, rows that are kept, and the command as it is typed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from invert3d_ns.alignment.checkpoints import load_clip
from invert3d_ns.cli import main
from invert3d_ns.editing.phrases import place_term
from invert3d_ns.editing.typed import as_edit_words
from invert3d_ns.metrics import stylization_quality
from invert3d_ns.metrics.judge import Judge
from invert3d_ns.metrics.stylization_quality import (
    BEFORE,
    TRUTH,
    Graders,
    Seen,
    StylizationPlan,
    clip_figures,
    grade_look,
    look_at,
    measure_style,
    measure_stylization,
    tabulate,
    true_look,
    words_of,
)
from invert3d_ns.metrics.stylization_runs import (
    DEFAULT,
    PLAIN,
    WAYS,
    MadeStyles,
    color_styles,
    in_style,
    run_settings,
    said,
    settings_digest,
    stylization_cases,
)
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.world.splats import splats_of
from invert3d_ns.world.vocabulary import STYLES

KNOWN = {way.name: way for way in WAYS}
CHAIR = stylization_cases(1)[0]


@pytest.fixture(scope="module")
def graders() -> Graders:
    towers = load_clip("bundled", "cpu")
    return Graders(Judge.load(), [towers], towers)


@pytest.fixture(scope="module")
def chair() -> SplatCloud:
    return splats_of(CHAIR.object(), spacing=0.03)


def _with_harmonics(cloud: SplatCloud, size: float) -> SplatCloud:
    drawn = torch.randn(len(cloud), 3, 3, generator=torch.Generator().manual_seed(0))
    return replace(cloud, features_rest=size * drawn)


def test_objects_are_held_out_and_of_different_classes() -> None:
    cases = stylization_cases()
    assert len({case.name for case in cases}) == 6 and all(case.held_out for case in cases)
    assert {case.style for case in cases} == {"photo"}


def test_styles_are_typed_so_that_the_method_says_them_as_captions_do() -> None:
    assert len(color_styles()) == 8
    for style in color_styles():
        assert place_term(as_edit_words(said(style))[0], "a chair") == STYLES[style][0].format("a chair")
        assert words_of(in_style(CHAIR, style)).prompts == {STYLES[style][0].format("a chair"): 1.0}


def test_ways_are_settings_of_the_method() -> None:
    assert len(WAYS) == 12
    plain = run_settings(KNOWN[PLAIN], ["night", "sepia"], 3, ["bundled"], 7)
    losses = plain.pipeline.style
    assert (losses.clip, losses.augmented, losses.directional, losses.patch) == (1, 0, 0, 0)
    assert plain.pipeline.prompts == ("at night", "a sepia photo") and plain.machine.seed == 3
    assert plain.pipeline.free == () and plain.pipeline.steps == 7
    everything = run_settings(KNOWN[f"{DEFAULT}, reach 0, all"], ["night"], 0, ["bundled"]).pipeline
    assert everything.style.reach == 0 and everything.free == ("opacities", "scales", "means", "quats")
    assert run_settings(KNOWN[DEFAULT], ["night"], 0, ["bundled"]).pipeline.style.reach > 0
    assert len({settings_digest(way) for way in WAYS}) == 12
    assert settings_digest(KNOWN[PLAIN]) != settings_digest(KNOWN[PLAIN], 7) == settings_digest(KNOWN[PLAIN], 7)


def test_a_scene_that_did_not_change_is_all_there_and_in_no_style(graders, chair) -> None:
    figures, seen = measure_style(chair, chair, in_style(CHAIR, "blueprint"), graders)
    assert figures["geometry"] == 0 and figures["warped"] == figures["by view"] == 1
    assert figures["content"] == pytest.approx(1, abs=1e-5) == figures["silhouette"]
    assert (
        figures["together"] == pytest.approx(1, abs=1e-4) and figures["direction"] == figures["second direction"] == 0
    )
    assert figures["style"] < 5 and figures["class"] > 80 and seen.images.shape[:2] == (2, 24)


def test_the_truth_is_in_its_style_and_moves_as_words_do(graders) -> None:
    case = in_style(CHAIR, "blueprint")
    truth, photo = true_look(case, 0), true_look(CHAIR, 0)
    figures = grade_look(truth, photo, case, graders)
    assert figures["style"] > 80 and figures["class"] > 80 and figures["direction"] > 20
    assert figures["score"] > grade_look(photo, photo, case, graders)["score"] and figures["content"] < 0.95


def test_colors_that_depend_on_the_view_are_told_from_texture(graders, chair) -> None:
    case, before = in_style(CHAIR, "night"), look_at(chair)
    noise = torch.rand(len(chair), 3, generator=torch.Generator().manual_seed(1))
    textured, _ = measure_style(replace(chair, features_dc=noise - 0.5), chair, case, graders, before)
    moving, _ = measure_style(_with_harmonics(chair, 0.4), chair, case, graders, before)
    assert before.warped < 0.03
    assert textured["by view"] == 1 < textured["warped"]  # what texture costs is resampling
    assert moving["by view"] > 1.5 and moving["warped"] > 1.5
    assert moving["content"] < 1 and moving["geometry"] == 0 and moving["together"] < 0.99


def test_geometry_that_moved_is_said_by_how_much(graders, chair) -> None:
    away = replace(chair, means=chair.means + torch.tensor([0.0, 0.0, 0.25]))
    figures, _ = measure_style(away, chair, in_style(CHAIR, "night"), graders)
    assert figures["geometry"] == pytest.approx(0.25, abs=1e-5) and figures["silhouette"] < 0.8


def test_clip_figures_against_their_formulas(graders) -> None:
    towers = graders.second
    views = torch.rand(4, 2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    after, before = Seen(views[:2]), Seen(views[2:])
    words = words_of(in_style(CHAIR, "sepia"))
    score, direction, together = clip_figures(after, before, words, towers)
    e = [towers.encode_image(one) for one in views]
    text, source = towers.encode_text(["a sepia photo of a chair", "a photo of a chair"])

    def cos(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean())

    assert score == pytest.approx(100 * cos(e[0], text), abs=1e-3)
    assert direction == pytest.approx(100 * cos(e[0] - e[2], text - source), abs=1e-3)
    assert together == pytest.approx(cos(e[1] - e[0], e[3] - e[2]), abs=1e-4)


def test_rows_are_kept_and_tabulated(graders, chair, tmp_path: Path, monkeypatch) -> None:
    made: list[tuple[tuple[str, ...], int]] = []

    def make(config, cloud) -> MadeStyles:
        prompts = config.pipeline.prompts
        made.append((prompts, config.machine.seed))
        gray = replace(chair, features_dc=chair.features_dc.mean(1, keepdim=True).expand(-1, 3).contiguous())
        plain = config.pipeline.style.clip == 1
        return MadeStyles(chair, (chair if plain else gray,) * len(prompts), (2.0,) * len(prompts))

    monkeypatch.setattr(stylization_quality, "make_styles", make)
    monkeypatch.setattr(stylization_quality, "case_splats", lambda case: chair)
    plan = StylizationPlan([CHAIR], ["sepia"], [KNOWN[DEFAULT], KNOWN[PLAIN]], [0, 1], ["bundled"])
    assert plan.total == 4
    rows = measure_stylization(graders, tmp_path, plan)
    sepia = ("a sepia photo",)
    assert made == [(sepia, 0), (sepia, 0), (sepia, 1), (sepia, 1)] and len(rows) == 2 * plan.total
    assert (tmp_path / "styles.png").is_file()
    assert measure_stylization(graders, tmp_path, plan) == rows and len(made) == 4
    more = replace(plan, styles=["sepia", "night"], ways=[KNOWN[DEFAULT]], seeds=[0])
    measure_stylization(graders, tmp_path, more)
    assert made[4:] == [(("at night",), 0)]  # what is missing alone
    measure_stylization(graders, tmp_path, replace(more, styles=["night"], steps=9))
    assert made[5:] == [(("at night",), 0)]  # by other settings
    lines, figures = tabulate(rows, plan)
    assert [line["way"] for line in lines] == [f"{n} (1 objects, 1 styles)" for n in (TRUTH, BEFORE, DEFAULT, PLAIN)]
    assert lines[2]["seconds"] == "2.0 ± 0.0" and "seconds" not in lines[0]
    assert "warped / unstyled" not in lines[1] and lines[3]["warped / unstyled"] == "1.000 ± 0.000"
    row = next(row for row in rows if row["method"] == DEFAULT)
    other = next(row for row in rows if row["method"] == PLAIN)
    gain = 100 * (row["second score"] / other["second score"] - 1)
    assert figures[f"CLIP-S on the second tower, {DEFAULT} over {PLAIN}, %"] == pytest.approx(gain, abs=0.01)
    # Nothing moved in the other way, so there is nothing to be better than.
    assert f"CLIP-SIM on the second tower, {DEFAULT} over {PLAIN}, %" not in figures
    assert figures[f"most geometry change, {PLAIN}"] == 0
    assert figures[f"style right %, {DEFAULT}, sepia"] == pytest.approx(row["style"], abs=0.01)
    assert figures[f"style right %, {TRUTH}"] > 80


def test_the_command_makes_and_measures_a_style(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "stylization", "--quick", "--ways", "plain", "--styles", "night", "--out", str(tmp_path)])
    said_of = capsys.readouterr().err
    assert not stopped.value.code, said_of
    document = json.loads((tmp_path / "table.json").read_text())
    names = [line["way"].split(" (")[0] for line in document["rows"]]
    assert names == [TRUTH, BEFORE, PLAIN] and document["figures"]["most geometry change, plain"] == 0
    truth, before, plain = document["rows"]
    assert float(truth["style right %"]) > 80 > float(before["style right %"])
    assert float(plain["seconds"]) > 0 and 0 < float(plain["content (SSIM)"]) < 1
    assert float(plain["CLIP-S"]) > float(before["CLIP-S"])
    row = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[-1])
    followed = "is one that is followed, too" in said_of
    assert followed == (row["second tower"] in row["followed"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ways", "magic"], "--ways magic; known are all; plain; plain, SH + opacity"),
        (["--styles", "cubist"], "--styles cubist; known are all; pencil sketch"),
        (["--styles", "pixel art"], "--styles pixel art; known are all"),
        (["--ways"], "--ways is empty"),
        (["--towers"], "--towers is empty"),
        (["--objects", "7"], "--objects is 7; give 1 to 6"),
        (["--judge-towers", "nonsense"], "unknown CLIP model 'nonsense'"),
    ],
)
def test_choices_that_nobody_knows(words: list[str], says: str, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "stylization", *words, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 1 and not (tmp_path / "out").exists()
    assert says in capsys.readouterr().err
