"""``invert3d train``: stages in their order, settings that a training keeps, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from invert3d_ns.cli import main
from invert3d_ns.prior.checkpoints import load_prior
from invert3d_ns.prior.info import fingerprint
from invert3d_ns.training.recipe import sample_grid
from invert3d_ns.world.data import world_views

pytestmark = pytest.mark.usefixtures("small_networks")


def _run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return int(stopped.value.code or 0)


def _tiny(out: Path, *extra: str) -> list[str]:
    numbers = ["--objects", "8", "--images", "8", "--autoencoder-steps", "2", "--decoder-steps", "2"]
    options = [
        "--denoiser-steps",
        "2",
        "--assemblies",
        "6",
        "--changes",
        "4",
        "--encoder-steps",
        "2",
        "--no-gates",
        "--no-evaluate",
    ]
    return ["train", "prior", "--out", str(out), *numbers, *options, *extra]


@pytest.fixture(scope="module")
def rendered(small_networks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the training set alone."""
    folder = tmp_path_factory.mktemp("rendered")
    assert _run(_tiny(folder, "--stage", "data")) == 0
    assert not (folder / "autoencoder.pt").exists()
    world_views(folder / "data", 8, seed=77, split="held-out", views=4)
    return folder


@pytest.fixture(scope="module")
def finished(rendered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished training."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(rendered, folder, dirs_exist_ok=True)
    assert _run(_tiny(folder)) == 0
    return folder


@pytest.fixture()
def used(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to go on in."""
    return Path(shutil.copytree(finished, tmp_path / "used"))


@pytest.fixture()
def fresh(rendered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rendered, tmp_path / "fresh"))


def test_training_ends_with_a_prior_that_loads_and_samples(used: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prior = load_prior(used / "prior")
    assert prior.info.prediction_type == "v_prediction"
    assert prior.info.training["steps"] == 2
    views = prior.sample("a red ball", torch.zeros(1, 4, 16), steps=2)
    assert views.shape == (1, 4, 3, 64, 64) and views.isfinite().all()
    assert prior.ray_reader is not None
    assert prior.info.fingerprint == fingerprint([prior.unet, prior.text_encoder, prior.ray_reader])
    assert {"thing", "object"} & set(prior.info.words)
    sample_grid(prior, used / "samples" / "2.png", steps=1)
    assert (used / "samples" / "2.png").stat().st_size > 1000
    # Again: everything is trained already, and more steps go on from there.
    assert _run(_tiny(used, "--denoiser-steps", "3")) == 0
    assert str(used / "prior") in capsys.readouterr().out.replace("\n", "")
    assert load_prior(used / "prior").info.training["steps"] == 3


def test_a_bad_stage_stops_the_next(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gated = [word for word in _tiny(fresh, "--stage", "denoiser") if word != "--no-gates"]
    assert _run(gated) == 1
    error = capsys.readouterr().err
    assert "gate" in error and "--no-gates" in error and error.count("\n") == 1
    assert (fresh / "autoencoder.pt").exists() and not (fresh / "denoiser.pt").exists()


def test_the_stage_of_the_denoiser_ends_with_a_prior_that_has_the_finished_decoder(fresh: Path) -> None:
    assert _run(_tiny(fresh, "--stage", "decoder")) == 0
    assert not (fresh / "prior").exists()
    assert _run(_tiny(fresh, "--stage", "denoiser")) == 0
    finished = torch.load(fresh / "decoder.pt", weights_only=True)["model"]["decoder.conv_in.weight"]
    began = torch.load(fresh / "autoencoder.pt", weights_only=True)["model"]["decoder.conv_in.weight"]
    prior = load_prior(fresh / "prior")
    kept = prior.vae.state_dict()["decoder.conv_in.weight"]
    assert (kept - finished).norm() < (kept - began).norm()


def test_a_finished_prior_is_trained_on_with_its_autoencoder_as_it_is(
    fresh: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = _tiny(fresh, "--start", str(finished / "prior"))
    assert _run([*command, "--stage", "export"]) == 1
    assert "no checkpoint" in capsys.readouterr().err
    assert _run([*command, "--stage", "denoiser"]) == 0
    assert not (fresh / "autoencoder.pt").exists()
    first, start = load_prior(fresh / "prior"), load_prior(finished / "prior")
    told = first.info.training
    assert told["started_from"] == start.info.fingerprint != first.info.fingerprint
    assert told["steps"] == 2 and told["steps_before"] == start.info.training["steps"]
    assert told["command"] == "invert3d train prior --start PRIOR"
    assert told["autoencoder_steps"] == start.info.training["autoencoder_steps"]
    assert first.tokenizer.get_vocab() == start.tokenizer.get_vocab()
    for one, other in zip(first.vae.parameters(), start.vae.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    # Two steps of a warm-up hardly move a network: had it started afresh, nothing would agree.
    for one, other in zip(first.unet.parameters(), start.unet.parameters(), strict=True):
        assert (one - other).norm() <= 0.05 * other.norm() + 1e-2
    # The checkpoint again, as a training that still runs would leave it.
    assert _run([*command, "--stage", "export"]) == 0
    again = load_prior(fresh / "prior")
    assert again.info.training == told and again.info.fingerprint == first.info.fingerprint
    assert _run([*command, "--stage", "autoencoder"]) == 1
    assert "--start" in capsys.readouterr().err
    # The same start under another name is the same start.
    moved = shutil.copytree(finished / "prior", fresh / "elsewhere")
    assert _run(_tiny(fresh, "--start", str(moved), "--stage", "denoiser", "--denoiser-steps", "3")) == 0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--seed", "1"], "--seed was 0 and is now 1"),
        (["--objects", "9"], "--objects was 8 and is now 9"),
        (["--images", "16"], "--images was 8 and is now 16"),
        (["--changes", "5"], "--changes was 4 and is now 5"),
        (["--denoiser-lr", "0.001"], "--denoiser-lr was not given and is now 0.001"),
        (["--autoencoder-steps", "3"], "--autoencoder-steps was 2 and is now 3"),
        (["--autoencoder-steps", "3", "--stage", "decoder"], "--autoencoder-steps was 2 and is now 3"),
        (["--autoencoder-steps", "3", "--stage", "autoencoder"], "--autoencoder-steps was 2 and is now 3"),
        (["--denoiser-steps", "1"], "has 2 steps behind it, but --denoiser-steps is 1"),
        (["--start", "PRIOR"], "--start was not given and is now "),
        (["--start", "PRIOR", "--stage", "export"], "--start was not given and is now "),
    ],
)
def test_a_used_folder_refuses_other_settings(
    flags: list[str], told: str, used: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in used.rglob("*") if path.is_file()}
    flags = [str(finished / "prior") if flag == "PRIOR" else flag for flag in flags]
    capsys.readouterr()
    assert _run(_tiny(used, *flags)) == 1
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in used.rglob("*") if path.is_file()} == before


def test_another_stage_may_run_beside_a_denoiser_without_its_flags(used: Path) -> None:
    assert _run(_tiny(used, "--stage", "decoder", "--decoder-steps", "3", "--images", "32")) == 0
    assert torch.load(used / "decoder.pt", weights_only=True)["done"] == 3


def test_clip_and_judge_refuse_other_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("clip", "judge"):
        command = ["train", name, "--out", str(tmp_path), "--objects", "8", f"--{name}-steps", "1"]
        assert _run(command) == 0
        capsys.readouterr()
        assert _run([*command, "--seed", "1", "--objects", "9"]) == 1
        error = capsys.readouterr().err
        assert "--seed was 0 and is now 1; --objects was 8 and is now 9" in error and error.count("\n") == 1
    assert _run([*command, "--start", "bundled"]) == 1
    assert "--start was not given and is now a2ac4dea" in capsys.readouterr().err


def test_the_demo_scene_can_be_made_again(tmp_path: Path) -> None:
    from invert3d_ns.scenes.assets import DEMO_SCENE
    from invert3d_ns.scenes.ply import read_splats

    assert _run(["train", "demo", "--out", str(tmp_path)]) == 0
    made, shipped = read_splats(tmp_path / "demo.ply"), read_splats(DEMO_SCENE)
    torch.testing.assert_close(made.means, shipped.means, atol=1e-4, rtol=0)
    torch.testing.assert_close(made.features_dc, shipped.features_dc, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["prior", "--objects", "0"],
        ["prior", "--objects", "1000000000"],
        ["prior", "--images", "0"],
        ["prior", "--denoiser-steps", "-3"],
        ["prior", "--denoiser-lr", "nan"],
        ["prior", "--denoiser-lr", "0"],
        ["prior", "--device", "nowhere"],
        ["prior", "--start", "no/such/prior"],
        ["clip", "--clip-steps", "0"],
        ["clip", "--device", "meta"],
        ["judge", "--judge-steps", "-1"],
        ["prior", "--changes", "-1"],
        ["judge", "--start", "nowhere.safetensors"],
        ["judge", "--seed", "-1"],
        ["judge", "--seed", "3000000000"],
    ],
)
def test_bad_input_is_refused_by_name(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["train", *arguments, "--out", str(tmp_path / "x")]) == 1
    error = capsys.readouterr().err
    assert (arguments[1] in error or arguments[2] in error) and error.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["prior", "clip", "judge", "demo"])
def test_an_output_folder_that_cannot_be_is_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a file")
    assert _run(["train", kind, "--out", str(tmp_path / "file" / "below")]) == 1
    error = capsys.readouterr().err
    assert "file is a file" in error and "--out" in error and error.count("\n") == 1
