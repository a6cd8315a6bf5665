"""Turntables: level, framed, from every run and from files, as videos and as nerfstudio's camera paths."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.pictures import write_frames
from invert3d_ns.cli import main
from invert3d_ns.runs.turntable import VIDEO, write_turn
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.extent import framing_distance
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.scenes.rendering import render_splats
from invert3d_ns.scenes.splat_files import write_splat_file
from invert3d_ns.scenes.turntable import CAMERA_PATH, Turntable


def cloud_of(means, scale: float = 0.05, opacity: float = 3.0, colors=0.0) -> SplatCloud:
    means = torch.as_tensor(means, dtype=torch.float32)
    count = len(means)
    return SplatCloud(
        means=means,
        scales=torch.full((count, 3), math.log(scale)),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        opacities=torch.full((count, 1), opacity),
        features_dc=torch.zeros(count, 3) + colors,
        features_rest=torch.zeros(count, 0, 3),
    )


def joined(one: SplatCloud, other: SplatCloud) -> SplatCloud:
    return replace(one, **{name: torch.cat([tensor, getattr(other, name)]) for name, tensor in one.tensors().items()})


def pillar() -> SplatCloud:
    """High and thin, with a foot to one side."""
    z = torch.linspace(-0.9, 0.9, 40)
    upright = torch.stack([0 * z, 0 * z, z], dim=-1)
    return cloud_of(torch.cat([upright, torch.tensor([[0.4, 0.0, -0.8]])]))


def margins(cloud: SplatCloud, turn: Turntable) -> torch.Tensor:
    """Pixels between the object and each border of the picture (top, bottom, left, right), the least of all frames."""
    found = []
    for pose in turn.poses(cloud):
        _, alpha = render_splats(cloud, pose[None], turn.size)
        seen = alpha[0, 0] > 0.02
        rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
        last = turn.size - 1
        found.append([rows[0], last - rows[-1], columns[0], last - columns[-1]])
    return torch.tensor(found).amin(0)


@pytest.mark.parametrize("elevation", [-40.0, 15.0, 75.0])
@pytest.mark.parametrize("kind", ["pillar", "three large splats", "needle"])
def test_all_of_the_object_is_in_every_frame_and_fills_it(kind, elevation):
    if kind == "pillar":
        cloud = pillar()
    elif kind == "needle":
        cloud = cloud_of([[0.0, 0, 0]])
        cloud.scales[0, 0] = math.log(0.4)
    else:
        cloud = cloud_of([[0.3, 0, 0], [-0.3, 0.2, 0], [0, 0, 0.4]], scale=0.3)
    least = margins(cloud, Turntable(size=100, fps=1, seconds=16, elevation=elevation))
    assert least.min() >= 2 and least.min() <= 15, least


def test_frames_are_level_and_turn_once_from_the_front():
    poses = Turntable(seconds=2, fps=4, elevation=20).poses(pillar())
    assert poses.shape == (8, 4, 4)
    assert poses[:, 2, 0].abs().max() < 1e-6, "the image's horizontal is the world's"
    assert (poses[:, 2, 1] > 0.9).all(), "what is up in the world is up in the picture"
    assert poses[0, 1, 3] < 0 and abs(poses[0, 0, 3]) < 1e-6
    steps = torch.atan2(poses[:, 0, 3], -poses[:, 1, 3]).rad2deg() % 360
    torch.testing.assert_close(steps, torch.arange(8) * 45.0, rtol=0, atol=1e-3)


def test_floaters_and_what_cannot_be_seen_do_not_count():
    cloud = pillar()
    expected = framing_distance(cloud, 15)
    others = cloud_of([[0.0, 0, 40.0], [5.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    others.opacities[2], others.scales[2] = -9.0, 2.0
    others.means[3, 0] = math.nan
    both = joined(cloud, others)
    assert framing_distance(both, 15) == pytest.approx(expected)
    with pytest.raises(InputError, match="no splat that can be seen"):
        framing_distance(others, 15)


def typed(*arguments: object) -> int:
    """Exit status of the command."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def saved(folder: Path) -> Path:
    path = folder / "ball.ply"
    write_splats(path, make_cloud(80))
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "h264"), ("b.webm", "vp9"), ("c.GIF", "gif")])
def test_command_writes_a_video(name, codec, tmp_path, capsys):
    import imageio_ffmpeg

    path, out = saved(tmp_path), tmp_path / "made" / name
    assert typed("turntable", path, "--out", out, "--seconds", "0.5", "--fps", "10", "--size", "33") == 0
    assert capsys.readouterr().out.strip() == f"5 frames, 0.5 s: {out}"
    frames = imageio_ffmpeg.read_frames(str(out))
    about = next(frames)
    assert about["codec"].startswith(codec) and about["size"] == (32, 32) and len(list(frames)) == 5
    assert [file.name for file in out.parent.iterdir()] == [name]


def test_command_writes_a_folder_of_pictures_with_the_object_in_the_middle(tmp_path, capsys):
    out = tmp_path / "frames"
    arguments = ["turntable", saved(tmp_path), "--out", out, "--seconds", "0.3", "--fps", "10", "--size", "64"]
    assert typed(*arguments) == 0
    names = sorted(file.name for file in out.iterdir())
    assert names == ["00000.png", "00001.png", "00002.png"]
    for name in names:
        picture = np.asarray(Image.open(out / name))
        assert picture.shape == (64, 64, 3) and picture[24:40, 24:40].min() < 200
        assert all((edge == 255).all() for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]))
    capsys.readouterr()
    assert typed(*arguments) == 1 and "exists already" in capsys.readouterr().err
    assert len(list(out.iterdir())) == 3, "what was there is left alone"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--fps", "0"], "--fps is 0; give 1 to 240"),
        (["--seconds", "0"], "--seconds is 0; give a number between 0 and 600"),
        (["--seconds", "nan"], "--seconds is nan; give a number between 0 and 600"),
        (["--size", "4"], "--size is 4; give 16 to 4096"),
        (["--elevation", "90"], "--elevation is 90; give a number between -90 and 90"),
        (["--out", "a.avi"], "cannot write a.avi; give a name that ends in .mp4, .webm, .gif"),
    ],
)
def test_mistakes_are_named_before_anything_is_drawn(flags, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Turntable, "frames", lambda *_: pytest.fail("drawn"))
    status, error = typed("turntable", saved(tmp_path), *flags), capsys.readouterr().err
    assert status == 1 and says in error and error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["ball.ply"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("cat.v2.ply", "cat.v2_turntable.mp4"),
        ("cat.compressed.ply", "cat_turntable.mp4"),
        ("cat.splat", "cat_turntable.mp4"),
        ("my.scene", "my.scene_turntable.mp4"),
    ],
)
def test_the_video_of_a_file_is_called_as_its_scene_is(source, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if source == "my.scene":
        Path(source).mkdir()
    write_splat_file(Path(source) / "ball.ply" if source == "my.scene" else source, make_cloud(80))
    made = []
    monkeypatch.setattr("invert3d_ns.base.pictures.write_frames", lambda out, frames, fps: made.append(out))
    assert typed("turntable", source) == 0 and made == [Path(name)]


def test_what_keeps_a_video_from_being_written_is_said(tmp_path, monkeypatch):
    frames = [np.zeros((32, 32, 3), np.uint8)]
    (tmp_path / "a.mp4").mkdir()
    with pytest.raises(InputError, match=r"a\.mp4 is a folder; choose"):
        write_frames(tmp_path / "a.mp4", frames, fps=5)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"cannot write .*b\.mp4: ffmpeg did not finish it \(.*No such file.*\); see"):
        write_frames(tmp_path / "b.mp4", frames, fps=5)

    def missing():
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", missing)
    with pytest.raises(InputError, match=r"cannot write .*b\.mp4: there is no ffmpeg; run `pip install"):
        write_frames(tmp_path / "b.mp4", frames, fps=5)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("source", ["nothing", "notes.txt", "unfinished"])
def test_what_holds_no_splats_is_refused(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("hello")
    Path("unfinished").mkdir()
    Path("unfinished/config.yml").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    status, error = typed("turntable", source), capsys.readouterr().err
    assert status == 1 and source in error and error.count("\n") == 1 and "; " in error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_leaves_a_path_and_a_video(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("invert3d_ns.runs.turntable.MOST_SPLATS", 80)
    cloud = to_object_frame(make_cloud(80))[0]
    write_turn(tmp_path, cloud)
    assert sorted(file.name for file in tmp_path.iterdir()) == [CAMERA_PATH, VIDEO]
    path = json.loads((tmp_path / CAMERA_PATH).read_text())
    assert path["seconds"] == 6 and len(path["camera_path"]) == 6 * path["fps"] and path["crop"] is None
    assert (tmp_path / VIDEO).stat().st_size > 1000
    said = capsys.readouterr().out
    assert str(tmp_path / VIDEO) in said and str(tmp_path / CAMERA_PATH) in said


def test_the_object_alone_is_shown_of_a_larger_scene_and_no_video_of_many_splats(tmp_path):
    cloud = to_object_frame(make_cloud(80))[0]
    far = cloud_of(torch.tensor([[4.0, 0, 0], [0, 5, 0], [0, 0, 9.0]]), scale=1.0)
    write_turn(tmp_path, joined(cloud, far))
    path = json.loads((tmp_path / CAMERA_PATH).read_text())
    alone = Turntable().poses(cloud)
    torch.testing.assert_close(torch.tensor(path["camera_path"][3]["camera_to_world"]), alone[3].flatten())
    assert path["crop"]["crop_scale"] == pytest.approx([1.98] * 3)
    assert not (tmp_path / VIDEO).exists()


def test_a_scene_that_cannot_be_seen_has_no_turntable(tmp_path, capsys):
    cloud = make_cloud(5)
    write_turn(tmp_path, replace(cloud, opacities=cloud.opacities - 100))
    assert "There is no turntable" in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [InputError("ffmpeg did not\nfinish"), RuntimeError("No ffmpeg exe could be found")])
def test_a_run_without_a_video_is_finished_all_the_same(error, tmp_path, monkeypatch, capsys):
    def fail(*given, **named):
        raise error

    monkeypatch.setattr("invert3d_ns.runs.turntable.MOST_SPLATS", 80)
    monkeypatch.setattr("invert3d_ns.base.pictures.write_frames", fail)
    write_turn(tmp_path, to_object_frame(make_cloud(80))[0])
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"There is no video of the turntable: {' '.join(str(error).split())}" and CAMERA_PATH in second
    assert [file.name for file in tmp_path.iterdir()] == [CAMERA_PATH]


def test_frames_that_fail_leave_nothing(tmp_path):
    def frames():
        yield np.zeros((16, 16, 3), np.uint8)
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        write_frames(tmp_path / "a.mp4", frames(), fps=5)
    assert not list(tmp_path.iterdir())
