"""What is made of a run of several objects: a file each, blends, hybrids, turns that morph, pictures by ns-render."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from aligned_configs import PROMPTS, configured
from runs import train

from invert3d_ns.cli import main
from invert3d_ns.scenes.aligned_splats import mix_splats
from invert3d_ns.scenes.blending import SameEverywhere
from invert3d_ns.scenes.ply import read_splats
from invert3d_ns.scenes.runs import read_run_objects
from invert3d_ns.scenes.turntable import CAMERA_PATH, Turntable


@pytest.fixture(scope="module")
def finished(stored_prior: Path, tmp_path_factory) -> Path:
    """A whole run. Read-only."""
    options = {"pipeline__steps": 0, "pipeline__reconstruct__steps": 0}
    return train(configured(stored_prior, tmp_path_factory.mktemp("outputs"), "a3d", **options))


def _run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    code = stopped.value.code
    return code if isinstance(code, int) else int(bool(code))


def test_every_object_has_a_file_and_so_has_what_lies_between(finished: Path, tmp_path: Path) -> None:
    between = tmp_path / "between.ply"
    words = ["--objects", tmp_path / "objects", "--blend", "0.25", "0.75", "--out", between, "--up", "z"]
    assert not _run("export", finished, *words)
    objects = read_run_objects(finished)
    for cloud, path in zip(objects, sorted((tmp_path / "objects").iterdir()), strict=True):
        torch.testing.assert_close(read_splats(path).means, cloud.means, atol=1e-6, rtol=0)
    expected = mix_splats(objects, SameEverywhere.of([0.25, 0.75]))
    torch.testing.assert_close(read_splats(between).means, expected.means, atol=1e-6, rtol=0)


def test_anchors_make_a_hybrid(finished: Path, tmp_path: Path, capfd) -> None:
    objects = read_run_objects(finished)
    low, high = objects[0].means.amin(0), objects[0].means.amax(0)
    anchors = [
        {"position": low.clamp(-1, 1).tolist(), "prompt": 0},
        {"position": high.clamp(-1, 1).tolist(), "prompt": PROMPTS[1]},
    ]
    (tmp_path / "anchors.json").write_text(json.dumps({"kind": "ramp", "anchors": anchors}))
    out = tmp_path / "hybrid.ply"
    assert not _run("export", finished, "--anchors", tmp_path / "anchors.json", "--out", out, "--up", "z")
    hybrid = read_splats(out).features_dc
    ends = [cloud.features_dc for cloud in objects]
    share = ((hybrid - ends[0]) / (ends[1] - ends[0])).median(dim=1).values
    assert share.max() - share.min() > 0.2  # not the same everywhere


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--blend", "1.0", "--out", "x.ply"], "--blend has 1 weights for 2 objects"),
        (["--blend", "0.5", "0.5", "--anchors", "a.json", "--out", "x.ply"], "exclude each other"),
        (["--anchors", "missing.json", "--out", "x.ply"], "missing.json is missing"),
    ],
)
def test_blends_that_make_no_sense(words: list[str], message: str, finished: Path, tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert _run("export", finished, *words) == 1
    assert message in capfd.readouterr().err and not (tmp_path / "x.ply").exists()


def test_blends_of_what_is_one_object_are_refused(tmp_path: Path, finished: Path, capfd) -> None:
    single = finished / "objects" / "1-a-red-cube.ply"
    assert _run("export", single, "--objects", tmp_path / "objects") == 1
    assert "is no run; blends are of runs of a3d" in capfd.readouterr().err
    assert _run("turntable", single, "--morph", "--out", tmp_path / "x.gif") == 1


def test_a_turn_morphs(finished: Path, tmp_path: Path) -> None:
    words = ["--morph", "--seconds", "0.25", "--fps", "8", "--size", "32"]
    assert not _run("turntable", finished, *words, "--out", tmp_path / "frames")
    assert len(list((tmp_path / "frames").glob("*.png"))) == 2
    assert _run("turntable", finished, *words, "--blend", "0.5", "0.5", "--out", tmp_path / "x.gif") == 1


def test_frames_of_a_turn_are_of_what_the_scene_is_by_then() -> None:
    from synthetic import make_cloud

    from invert3d_ns.scenes.normalization import to_object_frame

    cloud = to_object_frame(make_cloud(30))[0]
    turn = Turntable(seconds=0.5, fps=8, size=24, turns=2)
    asked: list[float] = []

    def morph(share: float):
        asked.append(share)
        return cloud

    poses = turn.poses(cloud)
    frames = list(turn.frames(morph, poses))
    assert asked == [0.0, 0.25, 0.5, 0.75] and len(frames) == 4
    torch.testing.assert_close(poses[0], poses[2], atol=1e-5, rtol=0)  # twice around


def test_the_camera_path_has_times(finished: Path) -> None:
    path = json.loads((finished / CAMERA_PATH).read_text())["camera_path"]
    times = [camera["render_time"] for camera in path]
    assert times[0] == 0.0 and times == sorted(times) and times[-1] < 1.0
