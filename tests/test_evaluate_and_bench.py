"""`invert3d evaluate` and `invert3d bench`, as typed, with a tiny prior whose weights are random."""

from __future__ import annotations

import functools
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from invert3d_ns.alignment.checkpoints import load_clip
from invert3d_ns.base.metrics import silhouette_overlap
from invert3d_ns.cli import main
from invert3d_ns.metrics import inversion_objects
from invert3d_ns.metrics.inversion_objects import OBJECTS, InversionObject, unseen_object
from invert3d_ns.metrics.inversion_quality import (
    Start,
    default_starts,
    evaluate_object,
    tabulate_inversions,
)
from invert3d_ns.metrics.judge import ASPECTS
from invert3d_ns.metrics.report import mean_and_spread
from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.world.shapes import CLASSES, UNSEEN_CLASSES


@pytest.fixture(scope="module")
def prior_folder(tiny_v_prior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material") / "tiny"
    save_prior(tiny_v_prior, folder, dtype=torch.float32)
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_object():
    """Every inversion here is of the same splats, which take a second to make."""
    cloud = unseen_object("robot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inversion_objects, "unseen_object", lambda name, seed=5: cloud)
        yield


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def _read(out: Path, *pictures: str) -> dict:
    """table.json of a report that is complete."""
    assert sorted(path.name for path in out.iterdir()) == sorted(["table.json", "table.md", *pictures])
    document = json.loads((out / "table.json").read_text())
    assert {"torch", "invert3d_ns", "python"} <= document["versions"].keys()
    assert document["hardware"]["processor"] and document["hardware"]["cores"] >= 1
    text = (out / "table.md").read_text()
    assert document["title"] in text and document["command"] in text
    for row in document["rows"]:
        assert any(all(str(value) in line for value in row.values()) for line in text.splitlines()), row
    for key, value in document["figures"].items():
        assert f"- {key}: {value}" in text
    return document


def test_evaluate_prior(prior_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a" / "report"
    options = ("--quick", "--prior", prior_folder, "--sampling-steps", 1, "--seeds", 3, 4, "--no-cross-view")
    assert _run("evaluate", "prior", *options, "--out", out) == 0
    pictures = [f"{name}.png" for name in ("held_out", "views_apart", "photo", "consistency")]
    document = _read(out, *pictures, "prompts.txt")
    assert str(out) in capsys.readouterr().out.replace("\n", "")
    # A quick run is one of the first seed only, and says so.
    assert document["seeds"] == [3]
    typed = f"--quick --seeds 3 4 --prior {prior_folder} --sampling-steps 1 --prompts 200 --no-cross-view"
    assert document["command"] == f"invert3d evaluate prior {typed} --consistency-objects 12 --out {out}"
    asked = (out / "prompts.txt").read_text().splitlines()
    assert len(asked) == 6 and asked[0] == "a blue car"
    labels = [row["views"] for row in document["rows"]]
    kinds = ("true", "generated", "generated, views apart")
    assert labels[:7] == [
        "judge on true renders (6)",
        "held-out combinations (6)",
        "held-out combinations, views apart (6)",
        "plain photos of held-out class and color (6)",
        *(f"splats of 4 views, {kind} (1)" for kind in kinds),
    ]
    assert {"style: photo", "style: pencil sketch", "pattern: plain", "class: car"} <= set(labels[7:])
    figures = document["figures"]
    runs = ("judge", "held_out", "views_apart", "photo")
    assert {f"{run}_{aspect}" for run, aspect in product(runs, ASPECTS)} - figures.keys() <= {"photo_azimuth"}
    assert all(0 <= value <= 1 for key, value in figures.items() if key.startswith(runs))
    assert figures["judge_class"] > 0.9 and figures["consistency_true_db"] > 10
    behind = figures["consistency_true_db"] - figures["consistency_generated_db"]
    assert figures["consistency_generated_behind_db"] == pytest.approx(behind, abs=0.002)
    with Image.open(out / "photo.png") as picture:
        # Six prompts of four 32-pixel views, each enlarged to 64 pixels, sixteen in a row.
        assert picture.size == (16 * 64, 2 * 64)


def test_evaluate_inversion(prior_folder: Path, tmp_path: Path) -> None:
    options = ("--quick", "--prior", prior_folder, "--starts", "word:2", "--vectors", 2, "--sampling-steps", 1)
    assert _run("evaluate", "inversion", *options, "--assemblies", 0, "--seeds", 1, "--out", tmp_path / "r") == 0
    document = _read(tmp_path / "r", "views.png")
    assert document["seeds"] == [1]
    assert document["command"].startswith("invert3d evaluate inversion --quick --seeds 1 ")
    assert "--starts word:2 --assemblies 0 --assets --vectors 2" in document["command"]
    labels = ["autoencoder", "init word", "caption", "word + 2 steps"]
    assert [row["words"] for row in document["rows"]] == labels
    figures = document["figures"]
    for row in document["rows"]:
        assert float(row["psnr"]) == pytest.approx(figures[f"psnr, class, {row['words']}"], abs=1e-2)
        assert 0 <= float(row["iou"]) <= 1 and -1 <= float(row["clip"]) <= 1
        assert ("loss" in row) == (row["words"] != "autoencoder")
    assert "least gain over the caption in dB, word + 2 steps" in figures
    with Image.open(tmp_path / "r" / "views.png") as picture:
        assert picture.size == (4 * 4 * 64, 64)


@pytest.mark.parametrize("what", ["inversion", "guidance", "rasterization"])
def test_bench(what: str, prior_folder: Path, tmp_path: Path) -> None:
    prior = [] if what == "rasterization" else ["--prior", prior_folder]
    assert _run("bench", what, "--quick", *prior, "--out", tmp_path / "r") == 0
    document = _read(tmp_path / "r")
    rows, figures = document["rows"], document["figures"]
    if what == "inversion":
        ratios = {row["what"]: row["ratio"] for row in rows}
        assert ratios["bare forward"] == 1.0
        assert figures["step_over_forward"] == ratios["inversion step"] > 1.0
        assert rows[0]["prior"] == "tiny-v_prediction"
    elif what == "guidance":
        samples = {row["guidance"]: row["UNet samples"] for row in rows}
        assert samples["sds"] == 8 and samples["ge3d"] == 72 and figures.keys() == {f"{k}_over_parts" for k in samples}
    else:
        assert {row["backend"] for row in rows} <= {"kernel", "torch"}
        assert all(figures[key] > 0 for key in figures if key.endswith("_ms"))
        assert "least_speedup" in figures


def test_bench_startup_compares_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from invert3d_ns.metrics import bench_startup

    def seconds(code: str) -> float:
        compile(code, "startup", "exec")
        return 1.0 if "if True:" in code else 1.25

    monkeypatch.setattr(bench_startup, "_seconds", seconds)
    monkeypatch.setattr(bench_startup, "entry_points", lambda group: [_Entry()])
    assert _run("bench", "startup", "--quick", "--out", tmp_path / "r") == 0
    assert _read(tmp_path / "r")["figures"] == {"added_s": 0.25}


class _Entry:
    value = "invert3d_ns.configs:invert3d"


def test_bench_startup_without_an_installed_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from invert3d_ns.metrics import bench_startup

    monkeypatch.setattr(bench_startup, "entry_points", lambda group: [])
    assert _run("bench", "startup", "--out", tmp_path / "r") == 1
    assert "pip install" in capsys.readouterr().err and not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["evaluate", "prior", "--prior", "nonsense"], "unknown prior 'nonsense'"),
        (["evaluate", "inversion", "--prior", "nonsense"], "unknown prior 'nonsense'"),
        (["evaluate", "prior", "--prior", "PRIOR", "--seeds"], "at least one seed"),
        (["evaluate", "prior", "--prompts", "0"], "--prompts is 0; give 1 to 200"),
        (["evaluate", "prior", "--prompts", "201"], "--prompts is 201; give 1 to 200"),
        (["evaluate", "prior", "--sampling-steps", "1001"], "--sampling-steps"),
        (["evaluate", "prior", "--guidance-scale", "nan"], "--guidance-scale is nan; give 1 to 50"),
        (["evaluate", "edit", "--vectors", "0"], "--vectors is 0; give 1 to 75"),
        (["evaluate", "edit", "--methods"], "--methods is empty"),
        (["evaluate", "prior", "--prior", "PRIOR", "--consistency-objects", "-1"], "--consistency-objects"),
        (["evaluate", "inversion", "--prior", "PRIOR", "--starts", "word"], "'word' is no start of an inversion"),
        (["evaluate", "inversion", "--prior", "PRIOR", "--starts", "encoder:5"], "has no view encoder"),
        (["evaluate", "inversion", "--objects", "armchair"], "unknown object 'armchair'; use some of robot"),
        (["evaluate", "inversion", "--prior", "PRIOR", "--quick", "--vectors", "99"], "99"),
        (["evaluate", "edit", "--seeds", "0", "-1"], "--seeds is -1; give 0 to 2147483647"),
        (["evaluate", "edit", "--sampling-steps", "0"], "--sampling-steps is 0; give 1 to 1000"),
        (["evaluate", "clip", "--seeds", "3000000000"], "--seeds is 3000000000; give 0 to 2147483647"),
        (["bench", "prior", "--runs", "-1"], "--runs is -1; give 0 to 1000"),
        (["bench", "inversion", "--prior", "nonsense"], "unknown prior 'nonsense'"),
        (["bench", "rasterization", "--ply", "nowhere.ply"], "nowhere.ply"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], says: str, prior_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(prior_folder) if argument == "PRIOR" else argument for argument in arguments]
    assert _run(*arguments, "--out", tmp_path / "r") == 1
    error = capsys.readouterr().err
    assert says in error and error.startswith("Error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["evaluate", "prior"], ["evaluate", "inversion"], ["bench", "rasterization"]])
@pytest.mark.parametrize("inside", ["", "report"])
def test_a_file_in_the_way_is_said_before_anything_is_measured(
    command: list[str], inside: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    # No such prior or splats either: had they been looked for first, the message would be about them.
    absent = ["--ply" if command[0] == "bench" else "--prior", "nonsense"]
    assert _run(*command, *absent, "--out", tmp_path / "file" / inside) == 1
    error = capsys.readouterr().err
    assert "is a file" in error and "--out" in error and error.count("\n") == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_spread() -> None:
    assert mean_and_spread([0.123456]) == "0.12"
    assert mean_and_spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert mean_and_spread([1.0, 2.0], 3) == "1.500 ± 0.707"


@pytest.fixture(scope="module")
def towers():
    return load_clip("bundled", "cpu")


@pytest.fixture(scope="module")
def robot() -> InversionObject:
    return InversionObject("robot", "class", "a green robot", unseen_object("robot"))


def test_words_that_were_not_trained_are_the_init_word(tiny_v_prior, towers, robot) -> None:
    settings: dict[str, Any] = {"vectors": 1, "sampling_steps": 1, "groups": 2}
    rows, views = evaluate_object(tiny_v_prior, towers, robot, 0, [Start("word", 0)], **settings)
    assert [row["words"] for row in rows] == ["autoencoder", "init word", "caption", "word alone"]
    _, init, caption, words = rows
    assert words["loss"] == pytest.approx(init["loss"], rel=1e-5)
    assert words["psnr"] == pytest.approx(init["psnr"], rel=1e-4)
    assert caption["loss"] != pytest.approx(init["loss"], rel=1e-5)
    # True views first; then each one's, in the order of the rows.
    assert views.shape == (4, 4, 3, 32, 32)
    torch.testing.assert_close(views[3], views[1], rtol=0, atol=1e-4)
    green = views[0].mean((0, 2, 3))
    assert green.argmax() == 1 and (views[0, :, :, 0, 0] == 1).all()


def test_training_moves_only_the_words_and_repeats_by_seed(tiny_v_prior, towers, robot) -> None:
    settings: dict[str, Any] = {"vectors": 1, "sampling_steps": 1, "groups": 2}
    evaluate = functools.partial(evaluate_object, tiny_v_prior, towers, robot, 0, **settings)
    first, again = ([{**row, "seconds": 0} for row in evaluate([Start("word", 2)])[0]] for _ in range(2))
    untrained = [{**row, "seconds": 0} for row in evaluate([Start("word", 0)])[0]]
    assert first == again
    assert first[:3] == untrained[:3] and first[3]["loss"] != untrained[3]["loss"]


def test_the_view_encoder_is_a_start_of_its_own(tiny_encoding_prior, towers, robot) -> None:
    starts = [Start("encoder", 0), Start("encoder", 2), Start("word", 0)]
    rows, _ = evaluate_object(tiny_encoding_prior, towers, robot, 0, starts, sampling_steps=1, groups=5)
    losses = {row["words"]: row["loss"] for row in rows if "loss" in row}
    assert len({round(losses[start.label], 7) for start in starts}) == 3
    assert default_starts(tiny_encoding_prior)[0] == starts[0]
    table, figures = tabulate_inversions(rows)
    assert {row["words"] for row in table} == {
        "autoencoder",
        "init word",
        "caption",
        *(start.label for start in starts),
    }
    assert {"psnr, class, encoder alone", "iou, class, autoencoder"} <= figures.keys()


def test_equal_silhouettes_overlap_wholly_and_apart_ones_not() -> None:
    views = torch.ones(2, 3, 8, 8)
    views[:, :, 2:6, 2:6] = 0.2
    assert silhouette_overlap(views, views) == 1.0
    assert silhouette_overlap(views, views.roll(2, -1)) == pytest.approx(8 / 24)
    assert silhouette_overlap(views, views.roll(4, -1)) == 0.0


def test_inverted_objects_are_of_classes_that_no_training_holds() -> None:
    assert set(OBJECTS) <= set(UNSEEN_CLASSES) and not set(OBJECTS) & set(CLASSES)
    assert all(caption == f"a {color} {name}" for name, (color, caption) in OBJECTS.items())
