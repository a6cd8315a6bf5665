"""``invert3d evaluate a3d``: what is measured of pairs, rows that are kept, and the command as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from invert3d_ns.alignment.checkpoints import load_clip
from invert3d_ns.cli import main
from invert3d_ns.metrics import aligned_quality
from invert3d_ns.metrics.aligned_quality import AlignedPlan, likely_truth, measure_aligned, measure_pair, tabulate
from invert3d_ns.metrics.aligned_runs import PAIRINGS, MadePair, pair_cases
from invert3d_ns.metrics.judge import Judge
from invert3d_ns.prior.checkpoints import load_prior
from invert3d_ns.world.distances import signed_distances
from invert3d_ns.world.splats import splats_of


@pytest.fixture(scope="module")
def graders():
    """The bundled prior, judge and CLIP."""
    return load_prior("bundled", "cpu"), Judge.load(), load_clip("bundled", "cpu")


def test_pairs_are_held_out_and_of_different_classes() -> None:
    cases = pair_cases()
    assert len(cases) == 10
    assert all(one.held_out and two.held_out and one.name != two.name for one, two in cases)


def _truth(index: int, which: int, seed: int = 0):
    return splats_of(pair_cases()[index][which].object(seed), spacing=0.03)


def test_an_object_and_itself_are_alike_in_everything_but_their_words(graders) -> None:
    prior, judge, towers = graders
    chair = _truth(0, 0)
    figures, edge = measure_pair(MadePair((chair, chair), 10, 2.0), pair_cases()[0], prior, judge, towers)
    assert figures["dift"] == 0 and figures["iou"] > 0.999 and len(edge) == aligned_quality.STOPS
    assert figures["parts"] != figures["parts"] or figures["parts"] > 0.3  # the second is labeled as a table's
    assert figures["second"] < 20 < 40 < figures["class and color"]  # a chair is half of what was asked for
    assert (figures["samples"], figures["seconds"]) == (10.0, 2.0)


def test_true_objects_are_what_was_asked_for_and_less_alike(graders) -> None:
    prior, judge, towers = graders
    figures, edge = measure_pair(MadePair((_truth(0, 0), _truth(0, 1)), 0, 0.0), pair_cases()[0], prior, judge, towers)
    assert figures["class and color"] > 80 and figures["dift"] > 0.05 and figures["iou"] < 0.7
    assert len(edge) == 2 and "unevenness" not in figures  # of other numbers of splats, nothing lies between


def test_the_likely_truth_has_the_proportions_of_what_was_made() -> None:
    case = pair_cases()[0][0]
    for seed in (3, 17):
        points = splats_of(case.object(seed), spacing=0.05).means

        def away(item, points=points) -> float:
            return float(signed_distances(item.primitives, points).amin(1).abs().mean())

        found = away(likely_truth(case, points))
        assert found <= away(case.object(seed)) < 0.03
        assert found < 0.5 * sum(away(case.object(other)) for other in range(10)) / 10


def test_rows_are_kept_and_tabulated_over_seeds(graders, tmp_path: Path, monkeypatch) -> None:
    prior, judge, towers = graders
    made: list[tuple[str, int]] = []
    chair, table = _truth(0, 0), _truth(0, 1)

    def make(pairing, prompts, seed, name):
        made.append((pairing.name, seed))
        return MadePair((chair, chair if pairing.name == "a3d" else table), 8, float(seed))

    monkeypatch.setattr(aligned_quality, "make_pair", make)
    ways = [pairing for pairing in PAIRINGS if pairing.name in ("a3d", "independent")]
    plan = AlignedPlan("bundled", pair_cases(1), ways, [0, 1])
    rows = measure_aligned(prior, judge, towers, tmp_path, plan)
    assert made == [("a3d", 0), ("independent", 0), ("a3d", 1), ("independent", 1)]
    assert (tmp_path / "pairs.png").is_file()
    again = measure_aligned(prior, judge, towers, tmp_path, plan)
    assert len(made) == 4 and [row["iou"] for row in again] == [row["iou"] for row in rows]
    lines, figures = tabulate(rows, plan)
    assert lines[0]["seconds"] == "0 ± 1" and lines[0]["way"] == "a3d (1 pairs)"
    assert figures["iou: better than independent, pairs"] == 1 == figures["dift: better than independent, pairs"]


def test_the_command_measures_a_real_pair(tmp_path: Path, capsys) -> None:
    words = ["evaluate", "a3d", "--quick", "--ways", "given, a3d", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert not stopped.value.code, capsys.readouterr().err
    (line,) = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert line["way"] == "given, a3d (1 pairs)" and float(line["UNet samples"]) > 0
    assert 0 < float(line["silhouette IoU"]) < 1 and 0 < float(line["DIFT distance"]) < 1


def test_ways_that_nobody_knows(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "a3d", "--ways", "magic", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 1 and not (tmp_path / "out").exists()
    assert "--ways magic; known are all, a3d" in capsys.readouterr().err
