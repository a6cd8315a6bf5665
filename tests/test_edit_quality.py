"""How edits are graded: cases, true renders, the judge's reading, tables, and `invert3d evaluate edit` as typed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from invert3d_ns.base.errors import InputError
from invert3d_ns.cli import main
from invert3d_ns.editing.scene_edit_config import SceneEditConfig
from invert3d_ns.metrics import edit_quality, edit_splats
from invert3d_ns.metrics.edit_cases import (
    KINDS,
    OBJECTS,
    EditCase,
    cases_of,
    chosen_cases,
    evaluation_orbit,
    object_of,
    part_names,
    read_colors,
    truth_of,
)
from invert3d_ns.metrics.edit_grading import grade_edited_views, silhouette_overlap
from invert3d_ns.metrics.edit_quality import TRUTH, UNEDITED, Method, Plan, evaluate_edits
from invert3d_ns.metrics.edit_rows import ROWS_FILE, read_rows
from invert3d_ns.metrics.edit_splats import evaluate_splats, local_change, tabulate_splats, unseen_orbit, warp_error
from invert3d_ns.metrics.edit_table import tabulate_edits
from invert3d_ns.metrics.judge import Judge, Judgment
from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.world import splats as training_splats
from invert3d_ns.world.objects import held_out, sample_object
from invert3d_ns.world.splats import splats_of
from invert3d_ns.world.vocabulary import COLORS

AROUND = torch.tensor([20.0, 110.0, 200.0, 290.0]), torch.full((4,), 12.0)


@pytest.fixture(scope="module")
def chair() -> SplatCloud:
    return splats_of(object_of("chair_red"), spacing=0.05, size=64, views=6)


@pytest.fixture(autouse=True)
def coarse(chair: SplatCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every evaluation here is of the same few splats."""
    monkeypatch.setattr(training_splats, "splats_of", lambda item: chair)


def _tiny(**settings) -> Plan:
    base = Plan(("chair_red",), seeds=(3,), sampling_steps=1, inversion_steps=1, vectors=2, groups=1)
    return dataclasses.replace(base, **settings)


@pytest.mark.parametrize("name", OBJECTS)
def test_twelve_edits_of_held_out_objects_and_none_is_void(name: str) -> None:
    item = object_of(name)
    cases = cases_of(item)
    assert held_out(item.name, item.color) and (item.pattern, item.style, item.pose) == ("plain", "photo", "upright")
    assert [sum(case.kind == kind for case in cases) for kind in KINDS] == [4, 3, 2, 3]
    assert len({case.label for case in cases}) == 12
    for case in cases:
        assert case.target != case.source
        edit = case.edit(seed=4)
        edit.check()
        assert edit.seed == 4 and not edit.is_identity
        if case.kind == "part":
            assert case.target not in (item.color, item.second) and case.part in part_names(item)[1:]
            assert case.part in edit.target and case.target in edit.target and case.source in edit.source


def test_an_object_of_one_part_takes_more_colors_instead() -> None:
    ball = sample_object(np.random.default_rng(0), name="ball", color="blue", plain=True)
    cases = cases_of(ball)
    assert [case.kind for case in cases].count("color") == 6 and len({case.label for case in cases}) == 12
    assert "blue" not in [case.target for case in cases]


def test_an_edit_changes_paint_and_nothing_else_of_the_true_object() -> None:
    item = object_of("chair_red")
    legs = item.primitives[:, 26] == part_names(item).index("legs")
    for case in cases_of(item):
        rows = case.applied(item).primitives
        geometry = [*range(18), 26, 27, 28]
        assert np.array_equal(rows[:, geometry], item.primitives[:, geometry])
        repainted = (rows[:, 18:21] != item.primitives[:, 18:21]).any(1)
        wanted = {"color": ~legs, "part": legs}.get(case.kind, np.zeros(len(rows), bool))
        assert np.array_equal(repainted, wanted)
        assert (rows[:, 24] > 0).all() == (case.kind == "pattern")


def test_edits_are_chosen_by_kind_target_or_label() -> None:
    item = object_of("chair_red")
    assert [case.kind for case in chosen_cases(item, ["part", "van gogh"])] == ["part", "part", "style"]
    assert [case.label for case in chosen_cases(item, ["red -> green"])] == ["red -> green"]
    assert len(chosen_cases(item, None)) == 12
    # A color that this object has already is no edit of it, but may be one of another.
    assert chosen_cases(item, ["red"]) == []
    with pytest.raises(InputError, match="no edit 'mauve'"):
        chosen_cases(item, ["mauve"])
    with pytest.raises(InputError, match="chair_red"):
        object_of("sofa")


def test_a_parts_color_is_read_in_its_own_light() -> None:
    item = object_of("chair_red")
    for case in cases_of(item):
        if case.kind == "part":
            truth = truth_of(item, case, *AROUND)
            names = list(COLORS)
            assert read_colors(truth.target, truth, "part").tolist() == [names.index(case.target)] * 4
            assert read_colors(truth.original, truth, "part").tolist() == [names.index(case.source)] * 4
            assert read_colors(truth.target, truth, "main").tolist() == [names.index("red")] * 4
            dim = truth.target * 0.8 + 0.02
            assert (read_colors(dim, truth, "part") == names.index(case.target)).float().mean() >= 0.75


def test_truth_passes_and_the_unedited_object_fails() -> None:
    judge, item = Judge.load(), object_of("mushroom_orange")
    for label in ("orange -> green", "stem: green -> cyan", "pencil sketch"):
        case = chosen_cases(item, [label])[0]
        truth = truth_of(item, case, *AROUND)
        right = grade_edited_views(judge, case, item.color, truth, truth.target, truth.original)
        wrong = grade_edited_views(judge, case, item.color, truth, truth.original, truth.original)
        assert right["changed"] == [1] * 4 and wrong["changed"] == [0] * 4
        assert wrong["iou"] == [1.0] * 4 and min(right["iou"]) > 0.95
        assert set(right["kept"]) == {"class", "color", "pattern", "style", "azimuth"} - {case.kind}
        # Nothing was touched, so everything that was read right is right still.
        assert all(count == of for count, of in wrong["kept"].values())
        assert right["kept"]["class"] == [4, 4] and right["kept"]["azimuth"] == [0, 0]
        if label == "pencil sketch":
            assert right["kept"]["color"] == [0, 0]


def test_a_hidden_part_is_not_judged() -> None:
    item = object_of("mug_blue")
    case = chosen_cases(item, ["part"])[0]
    # The handle is at +x: behind the mug when seen from -x, level.
    truth = truth_of(item, case, torch.tensor([-90.0, 90.0]), torch.tensor([0.0, 0.0]))
    marks = grade_edited_views(Judge.load(), case, item.color, truth, truth.target, truth.original)["changed"]
    assert marks == [None, 1]


class _Scripted(Judge):
    """Says of views, told apart by their brightest value, what it was told to."""

    def __init__(self, answers: dict[float, Judgment]) -> None:
        torch.nn.Module.__init__(self)
        self.answers = answers

    def judge(self, images, batch: int = 256) -> Judgment:
        return self.answers[round(float(images.mean()), 3)]


def test_only_what_was_read_right_before_can_be_lost() -> None:
    item = object_of("chair_red")
    case = chosen_cases(item, ["red -> blue"])[0]
    truth = truth_of(item, case, *AROUND)
    before = dataclasses.replace(truth.expected_before, classes=truth.expected_before.classes.clone())
    before.classes[0] += 1
    classes, colors = truth.expected_after.classes.clone(), truth.expected_after.colors.clone()
    after = dataclasses.replace(
        truth.expected_after, classes=classes, colors=colors, styles=truth.expected_after.styles + 1
    )
    after.classes[:2] += 1
    after.colors[3] += 1
    views = torch.full((4, 3, 64, 64), 0.5)
    judge = _Scripted({round(float(truth.original.mean()), 3): before, 0.5: after})
    row = grade_edited_views(judge, case, item.color, truth, views, truth.original)
    assert row["changed"] == [1, 1, 1, 0]
    assert row["kept"] == {"class": [2, 3], "pattern": [4, 4], "style": [0, 4], "azimuth": [4, 4]}
    assert row["read"]["class"] == [3, 4]


def test_overlap_counts_pixels_of_filled_silhouettes() -> None:
    views = torch.ones(3, 3, 16, 16)
    others = views.clone()
    views[0, :, 4:12, 4:12] = 0.2
    views[0, :, 6:8, 6:8] = 1.0
    others[0, :, 4:12, 8:16] = 0.2
    views[1, :, 2:6, 2:6] = 0.95
    assert silhouette_overlap(views, others).tolist() == pytest.approx([32 / 96, 1.0, 1.0])


def test_methods_are_names_or_settings() -> None:
    item = object_of("chair_red")
    case = chosen_cases(item, ["toon"])[0]
    for name in edit_quality.METHODS:
        Method.parse(name).edit(case, item, seed=1, steps=2).check()
    assert Method.parse("re-weighted").edit(case, item).weights == {"cartoon": 2.0}
    assert not Method.parse("from noise").originals and Method.parse("noun").edit(case, item).noun == "chair"
    own = Method.parse("space=encoded,amount=2,steps=7,keep_silhouette=no").edit(case, item, steps=20)
    assert (own.space, own.amount, own.steps, own.keep_silhouette) == ("encoded", 2.0, 7, False)
    nouns = {case.kind: Method.parse("described").edit(case, item).noun for case in cases_of(item)}
    assert set(nouns.values()) == {"a red chair with yellow legs"}
    for bad, says in (
        ("quickly", "unknown method"),
        ("prompt=red", "unknown method"),
        ("amount=lots", "amount cannot be"),
        ("originals=maybe", "originals cannot be"),
        ("noun=yes", "noun cannot be"),
        ("weights=nan", "weights cannot be"),
        ("amount=nan", "amount is nan"),
        ("space=outer", "unknown space"),
    ):
        with pytest.raises(InputError, match=says):
            Method.parse(bad)


def test_a_second_run_goes_on_where_the_first_stopped(
    tiny_v_prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge.load()
    plan = _tiny(edits=("cyan", "van gogh"))
    rows = evaluate_edits(tiny_v_prior, judge, tmp_path, plan)
    assert [(row["edit"], row["method"]) for row in rows] == [
        ("legs: yellow -> cyan", TRUTH),
        ("legs: yellow -> cyan", UNEDITED),
        ("van gogh", TRUTH),
        ("van gogh", UNEDITED),
        ("legs: yellow -> cyan", "default"),
        ("van gogh", "default"),
    ]
    assert rows[0]["changed"] == [1, 1, 1, 1] and rows[1]["changed"] == [0, 0, 0, 0]
    words = list((tmp_path / "words").iterdir())
    assert len(words) == 1 and tiny_v_prior.info.fingerprint in words[0].name
    lines = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    # Killed while it wrote the last row.
    (tmp_path / "rows.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])
    made = []
    from invert3d_ns.editing import views

    real = views.edited_views
    monkeypatch.setattr(views, "edited_views", lambda *a, **k: made.append(a) or real(*a, **k))
    monkeypatch.setattr(
        edit_quality, "learned_words", lambda *a, learned=edit_quality.learned_words, **k: learned(*a, **k)
    )
    again = evaluate_edits(tiny_v_prior, judge, tmp_path, plan)
    assert len(made) == 1
    assert [row | {"seconds": 0} for row in again] == [row | {"seconds": 0} for row in rows]
    assert len(read_rows(tmp_path / ROWS_FILE, plan.stamp(tiny_v_prior))) == 6
    # Rows of other settings are another measurement.
    other = dataclasses.replace(plan, guidance_scale=2.0)
    assert read_rows(tmp_path / ROWS_FILE, other.stamp(tiny_v_prior)) == {}


def test_seeds_have_cameras_of_their_own_and_may_share_words(tiny_v_prior, chair: SplatCloud, tmp_path: Path) -> None:
    first, other = (evaluation_orbit(0, 1, seed, 4)[0] for seed in (0, 1))
    assert not torch.equal(first, other) and torch.equal(first, evaluation_orbit(0, 1, 0, 4)[0])
    plan = _tiny(seeds=(0, 1), one_inversion=True)
    shared = [plan.embedding(tiny_v_prior, "chair_red", chair, seed, tmp_path).vectors for seed in (0, 1)]
    assert torch.equal(*shared) and len(list((tmp_path / "words").iterdir())) == 1
    own = dataclasses.replace(plan, one_inversion=False).embedding(tiny_v_prior, "chair_red", chair, 1, tmp_path)
    assert not torch.equal(own.vectors, shared[0])


def _row(**values) -> dict:
    kept = {"class": [4, 4], "pattern": [2, 4]}
    return {
        "object": "chair_red",
        "edit": "red -> blue",
        "kind": "color",
        "method": "default",
        "seed": 0,
        "seconds": 1.0,
        "changed": [1, 1, 0, 0],
        "kept": kept,
        "iou": [0.8, 1.0],
        "read": {"class": [3, 4]},
    } | values


def test_tables_average_over_edits_then_seeds() -> None:
    rows = [
        _row(),
        _row(edit="x", kind="part", changed=[1, None], iou=[0.0]),
        _row(seed=1, changed=[1, 1]),
        _row(method=TRUTH),
        _row(kind="part", method=TRUTH, changed=[None, None]),
    ]
    table, figures = tabulate_edits(rows)
    assert [line["views"] for line in table] == ["default", TRUTH]
    assert table[0]["changed %"] == "87.5 ± 17.7" and table[0]["kept %"] == "75.0 ± 0.0"
    # Seed 1 has no part edit, truth's cannot be seen; neither counts as a failure.
    assert table[0]["part %"] == "100.0" and table[1]["part %"] == "" and table[0]["style %"] == ""
    assert table[0]["IoU"] == "0.900 ± 0.000" and table[0]["kept pattern %"] == "50.0 ± 0.0"
    assert figures["default_changed"] == 87.5 and figures["default_changed_color"] == 75.0
    assert figures["judge_class"] == 75.0 and figures["true_renders_iou"] == 0.9


def test_splats_of_one_object_agree_and_view_dependent_ones_do_not(chair: SplatCloud) -> None:
    calm = warp_error(chair, 64)
    shiny = dataclasses.replace(
        chair, features_rest=torch.randn(len(chair), 3, 3, generator=torch.Generator().manual_seed(0))
    )
    assert 0 < calm < 0.1 and warp_error(shiny, 64) > 1.3 * calm


def test_change_below_the_middle_is_noticed(chair: SplatCloud) -> None:
    moved = dataclasses.replace(chair, features_dc=chair.features_dc.clone())
    low, high = (int(i) for i in (chair.means[:, 2].argmin(), chair.means[:, 2].argmax()))
    moved.features_dc[high] += 0.5
    assert local_change(chair, moved) == {"outside": 0.0, "inside": pytest.approx(0.5)}
    moved.features_dc[low, 1] -= 1e-3
    assert local_change(chair, moved)["outside"] == pytest.approx(1e-3, abs=1e-5)


def test_edits_are_carried_into_splats(tiny_v_prior, tmp_path: Path) -> None:
    config = SceneEditConfig(orbits=1, fit_steps=1)
    plan = _tiny(edits=("cyan",))
    rows = evaluate_splats(tiny_v_prior, Judge.load(), tmp_path, plan, config)
    assert [row["edit"] for row in rows] == ["legs: yellow -> cyan", edit_splats.LOCAL, edit_splats.RECONSTRUCTION]
    assert len(rows[0]["edited"]) == 4 and len(rows[0]["changed"]) == len(unseen_orbit()[0]) == 16
    assert rows[1]["outside"] == 0.0 < rows[1]["inside"]
    assert rows[2]["psnr"] < rows[2]["psnr_splats"]
    assert evaluate_splats(tiny_v_prior, Judge.load(), tmp_path, plan, config) == rows
    table, figures = tabulate_splats([*rows[1:], rows[0] | {"edited": [1, 1, 1, 1], "changed": [1] * 12 + [0] * 4}])
    assert table[0]["share of success"] == "0.75" and figures["share_of_success"] == 0.75
    assert figures["largest_change_outside"] == 0.0 and figures["reconstruction_psnr"] < figures["splats_psnr"]
    assert [line["splats"] for line in table] == [
        "all edits",
        "part",
        "chair_red, upper half, seed 3",
        "chair_red, from z* alone, seed 3",
    ]
    assert len(list((tmp_path / "splats").iterdir())) == 3


@pytest.fixture(scope="module")
def prior_folder(tiny_v_prior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material") / "tiny"
    save_prior(tiny_v_prior, folder, dtype=torch.float32)
    return folder


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def test_evaluate_edit_as_typed(prior_folder: Path, tmp_path: Path) -> None:
    options = ("--quick", "--prior", prior_folder, "--steps", 1, "--vectors", 2, "--sampling-steps", 1)
    choice = ("--edits", "cyan", "--methods", "default", "prompt only", "--words", tmp_path / "words")
    assert _run("evaluate", "edit", *options, *choice, "--out", tmp_path / "r") == 0
    document = json.loads((tmp_path / "r" / "table.json").read_text())
    assert [row["views"] for row in document["rows"]] == [TRUTH, UNEDITED, "default", "prompt only"]
    assert document["figures"]["true_renders_changed_part"] == 100.0 and document["seeds"] == [0]
    assert "--edits cyan --methods default 'prompt only'" in document["command"]
    assert len(list((tmp_path / "words").iterdir())) == 1
    with Image.open(tmp_path / "r" / "chair_red_default.png") as picture:
        # One edit: four originals, four edited views, four true ones, each of 64 pixels.
        assert picture.size == (12 * 64, 64)
    assert (tmp_path / "r" / "chair_red_prompt_only.png").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--objects", "sofa"], "no object 'sofa'"),
        (["--edits", "mauve"], "no edit 'mauve'"),
        (["--methods", "magic"], "unknown method 'magic'"),
    ],
)
def test_bad_choices_are_one_line(
    arguments: list[str], says: str, prior_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("evaluate", "edit", "--prior", prior_folder, *arguments, "--out", tmp_path / "r") == 1
    error = capsys.readouterr().err
    assert says in error and error.startswith("Error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_case_says_which_words_it_weighs() -> None:
    assert EditCase("style", "toon").phrase == "cartoon" and EditCase("color", "blue", "red").phrase == "blue"
