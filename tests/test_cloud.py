"""Splats as tensors: selection, moves between devices, and how they must be drawn, which everything keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from synthetic import make_cloud
from torch._subclasses.fake_tensor import FakeTensorMode

from invert3d_ns.scenes import normalization
from invert3d_ns.scenes.cloud import TENSORS, SplatCloud
from invert3d_ns.scenes.normalization import from_object_frame, rotation_about_z, to_object_frame, transform_splats
from invert3d_ns.scenes.ply import read_splats, write_splats
from invert3d_ns.scenes.rasterization import SH_C0
from invert3d_ns.scenes.runs import read_run
from invert3d_ns.scenes.splats import ObjectSplatModelConfig


@pytest.fixture
def antialiased() -> SplatCloud:
    return replace(make_cloud(40, 1), rasterize_mode="antialiased")


def make_model(cloud: SplatCloud, **options):
    metadata = {"splats": cloud}
    return ObjectSplatModelConfig(**options).setup(
        scene_box=None, num_train_data=4, metadata=metadata, seed_points=None
    )


def write_run(folder: Path, state: dict, settings: str = "") -> Path:
    (folder / "nerfstudio_models").mkdir(parents=True)
    torch.save({"pipeline": state}, folder / "nerfstudio_models" / "step-000000001.ckpt")
    (folder / "config.yml").write_text("!!python/object:invert3d_ns.Config\n" + settings)
    return folder


def test_tensors_are_all_fields_but_how_they_are_drawn(antialiased: SplatCloud) -> None:
    assert tuple(antialiased.tensors()) == TENSORS
    assert set(SplatCloud.__dataclass_fields__) == {*TENSORS, "rasterize_mode", "origin"}
    assert all(antialiased.tensors()[name] is getattr(antialiased, name) for name in TENSORS)


def test_selected_splats_are_the_rows_of_a_mask_or_of_numbers(antialiased: SplatCloud) -> None:
    mask = antialiased.means[:, 0] > 0.3
    by_mask, by_number = antialiased.select(mask), antialiased.select(mask.nonzero()[:, 0])
    assert 0 < len(by_mask) == int(mask.sum()) < 40 and by_mask.sh_degree == 1
    for name, tensor in antialiased.tensors().items():
        assert torch.equal(getattr(by_mask, name), tensor[mask])
        assert torch.equal(getattr(by_number, name), tensor[mask])


def test_base_colors_are_means_over_directions() -> None:
    cloud = make_cloud(10)
    cloud.features_dc[0] = 0.5 / SH_C0
    torch.testing.assert_close(cloud.base_colors[0], torch.ones(3))
    assert torch.equal(cloud.base_colors, 0.5 + SH_C0 * cloud.features_dc)


def test_what_is_done_to_splats_keeps_how_they_are_drawn(antialiased: SplatCloud, tmp_path: Path) -> None:
    framed, _ = to_object_frame(antialiased)
    write_splats(tmp_path / "a.ply", antialiased, up="y")
    write_splats(tmp_path / "classic.ply", make_cloud(4))
    model = make_model(antialiased)
    for cloud in (
        antialiased.to("cpu"),
        antialiased.select(torch.arange(3)),
        framed,
        from_object_frame(framed, "y"),
        transform_splats(antialiased, rotation_about_z(30.0)),
        read_splats(tmp_path / "a.ply"),
        model.cloud(),
    ):
        assert cloud.rasterize_mode == "antialiased"
    assert read_splats(tmp_path / "classic.ply").rasterize_mode == "classic"


def test_a_model_draws_as_its_splats_were_fitted_or_as_it_is_told(antialiased: SplatCloud) -> None:
    classic = replace(antialiased, rasterize_mode="classic")
    assert make_model(classic).cloud().rasterize_mode == "classic"
    assert make_model(classic, rasterize_mode="antialiased").cloud().rasterize_mode == "antialiased"


def test_edits_are_fitted_to_what_an_antialiased_model_shows() -> None:
    """Both draw alike; before, an editor drew classic splats, and pixels differed by 0.2."""
    from invert3d_ns.scenes.cameras import orbit_cameras
    from invert3d_ns.scenes.rendering import render_splats

    cloud = to_object_frame(make_cloud(200, 1))[0]
    cloud.scales -= 2
    model = make_model(cloud, rasterize_mode="antialiased").eval()
    cameras = orbit_cameras(torch.tensor([0.0, 90.0]), torch.zeros(2), 32)
    shown = model.get_outputs_for_camera(cameras[:1])["rgb"]
    drawn = render_splats(model.cloud(), cameras)[0].clamp(0, 1).permute(0, 2, 3, 1).detach()
    classic = render_splats(cloud, cameras)[0].clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(drawn[0], shown.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(drawn, model.render(cameras).detach(), rtol=0, atol=1e-5)
    assert (classic - drawn).abs().max() > 0.1


def test_runs_remember_how_their_splats_are_drawn(antialiased: SplatCloud, tmp_path: Path) -> None:
    """By their checkpoint, since splats may come from a scene that only says so itself; else by their settings."""
    saved = {f"_model.{name}": value for name, value in make_model(antialiased).state_dict().items()}
    run = write_run(tmp_path / "run", saved, "pipeline:\n  model:\n    rasterize_mode: classic\n")
    assert read_run(run).rasterize_mode == "antialiased"
    plain = {name: value for name, value in saved.items() if "gauss_params" in name}
    for number, (settings, mode) in enumerate(
        [
            ("pipeline:\n  model:\n    rasterize_mode: antialiased\n", "antialiased"),
            ("pipeline:\n  model:\n    rasterize_mode: classic\n", "classic"),
            ("pipeline: something\n", "classic"),
            ("a: 1\n", "classic"),
        ]
    ):
        assert read_run(write_run(tmp_path / str(number), plain, settings)).rasterize_mode == mode


def test_a_resumed_model_draws_as_before_and_older_checkpoints_load(antialiased: SplatCloud) -> None:
    classic = replace(antialiased, rasterize_mode="classic")
    state = make_model(antialiased).state_dict()
    resumed = make_model(classic)
    resumed.load_state_dict(state)
    assert resumed.cloud().rasterize_mode == "antialiased"
    older = {name: value for name, value in state.items() if "extra_state" not in name}
    model = make_model(classic, rasterize_mode="antialiased")
    model.load_state_dict(older)
    assert model.cloud().rasterize_mode == "antialiased" and "_extra_state" not in older


@pytest.mark.parametrize("transform_device", ["cpu", "cuda"])
def test_splats_move_where_they_are(transform_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors of another device refuse to meet those of the CPU, as true ones do."""
    # What reads numbers off tensors, which fake ones have not, is on the CPU anyway.
    monkeypatch.setattr(normalization, "_to_quaternion", lambda rotation: torch.tensor([1.0, 0.0, 0.0, 0.0]))
    monkeypatch.setattr(normalization, "_harmonic_rotations", lambda degree, rotation: [torch.eye(3)])
    monkeypatch.setattr(torch, "equal", lambda a, b: False)
    with FakeTensorMode():
        cloud = make_cloud(20, 1).to("cuda")
        assert cloud.device.type == "cuda"
        part = cloud.select(torch.arange(5)).select(torch.arange(3, device="cuda"))
        moved = transform_splats(part, torch.eye(4, device=transform_device))
        for name, tensor in moved.tensors().items():
            assert tensor.device.type == "cuda" and tensor.shape == getattr(part, name).shape
        assert part.base_colors.device.type == "cuda"
