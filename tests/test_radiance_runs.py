"""Runs of radiance fields are loaded as what they are, and nothing that they say is run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic import make_cloud
from test_run_scenes import make_run

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.cameras import orbit_camera_to_world, pinhole_cameras
from invert3d_ns.scenes.radiance_fields import RadianceField, Sphere
from invert3d_ns.scenes.radiance_runs import is_radiance_run, load_radiance_model
from invert3d_ns.scenes.runs import NoSplats, last_checkpoint, read_run


@pytest.fixture
def copied(radiance_run, tmp_path) -> Path:
    """A run to change."""
    shutil.copytree(radiance_run, tmp_path / "run")
    return tmp_path / "run"


def checkpoint(run: Path) -> Path:
    (path,) = (run / "nerfstudio_models").iterdir()
    return path


def change_state(run: Path, change) -> None:
    state = torch.load(checkpoint(run), weights_only=False)
    change(state["pipeline"])
    torch.save(state, checkpoint(run))


def change_settings(run: Path, pattern: str, text: str) -> None:
    path = run / "config.yml"
    changed, count = re.subn(pattern, lambda _: text, path.read_text())
    assert count, "the settings have no such line"
    path.write_text(changed)


def test_a_model_is_that_of_the_run(radiance_run):
    model: Any = load_radiance_model(radiance_run / "config.yml")
    saved = last_checkpoint(radiance_run)["pipeline"]
    assert any(name.startswith("_model.lpips.") for name in saved), "as real checkpoints have it"
    state = model.state_dict()
    assert state and all(torch.equal(value, saved[f"_model.{name}"]) for name, value in state.items())
    assert model.num_train_data == 9 and torch.equal(model.scene_box.aabb, torch.tensor([[-1.0] * 3, [1.0] * 3]))
    assert (model.config.num_levels, model.config.num_proposal_samples_per_ray) == (4, (64,))
    assert model.config.camera_optimizer.mode == "SO3xR3"
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_loading_draws_no_random_numbers_and_leaves_the_registered_settings(radiance_run):
    from nerfstudio.configs.method_configs import all_methods

    before = torch.get_rng_state()
    load_radiance_model(radiance_run)
    assert torch.equal(torch.get_rng_state(), before)
    assert all_methods["nerfacto"].pipeline.model.num_levels == 16  # type: ignore[attr-defined]


def test_runs_are_told_apart(radiance_run, copied, tmp_path):
    assert is_radiance_run(radiance_run) and is_radiance_run(radiance_run / "config.yml")
    assert not is_radiance_run(make_run(tmp_path / "splats", make_cloud(20)))
    with pytest.raises(NoSplats, match=r"which a run of a radiance field gives: invert3d export \S*run"):
        read_run(copied)
    (copied / "config.yml").unlink()
    assert not is_radiance_run(copied), "nobody can say what model it is"


def test_a_run_of_several_gpus_is_read(radiance_run, copied):
    def wrap(state: dict[str, Any]) -> None:
        for name in [name for name in state if name.startswith("_model.")]:
            state[name.replace("_model.", "_model.module.")] = state.pop(name)

    change_state(copied, wrap)
    assert is_radiance_run(copied)
    state, expected = load_radiance_model(copied).state_dict(), load_radiance_model(radiance_run).state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_torch_tensors_are_read_whatever_the_settings_asked_for(radiance_run, copied):
    """nerfstudio trains with torch where tiny-cuda-nn is missing, and its settings go on to say tcnn."""
    change_settings(copied, r"implementation: torch", "implementation: tcnn")
    assert load_radiance_model(copied).config.implementation == "torch"  # type: ignore[attr-defined]


def test_settings_are_never_run(copied, tmp_path):
    """Neither in the model's settings nor elsewhere; what is no plain value keeps its default."""
    call = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{tmp_path / 'ran'}]]"
    change_settings(copied, r"appearance_embed_dim: 4", f"appearance_embed_dim: 4\n    average_init_density: {call}")
    change_settings(copied, r"project_name: \S+", f"project_name: {call}")
    load_radiance_model(copied)
    assert not (tmp_path / "ran").exists()


_MODEL = r"!!python/object:nerfstudio.models.nerfacto.NerfactoModelConfig"
_REFUSED: list[tuple[str, Any, str]] = [
    (
        "of an unknown class",
        lambda run: change_settings(run, _MODEL, "!!python/object:evil.NerfModelConfig"),
        r"whose model \(evil\.NerfModelConfig\) no installed method of nerfstudio has; install it",
    ),
    (
        "that builds something else",
        lambda run: change_settings(run, "name:nerfstudio.models.nerfacto.NerfactoModel", "name:os.system"),
        "no installed method of nerfstudio has",
    ),
    (
        "with a part of an unknown class",
        lambda run: change_settings(run, "camera_optimizers.CameraOptimizerConfig", "camera_optimizers.Other"),
        "has nerfstudio.cameras.camera_optimizers.Other for camera_optimizer, which its method has not",
    ),
    (
        "with words for numbers",
        lambda run: change_settings(run, "num_levels: 4", "num_levels: many"),
        "cannot be built from its config.yml and checkpoint alone",
    ),
    (
        "of other settings",
        lambda run: change_settings(run, "hidden_dim: 16\n    hidden_dim_color", "hidden_dim: 8\n    hidden_dim_color"),
        r"does not fit its config.yml \(size mismatch for",
    ),
    (
        "without a tensor",
        lambda run: change_state(run, lambda state: state.pop("_model.field.mlp_head.layers.0.weight")),
        r"does not fit its config.yml \(field.mlp_head.layers.0.weight is missing\)",
    ),
    (
        "with a tensor too many",
        lambda run: change_state(run, lambda state: state.update({"_model.sky": torch.zeros(1)})),
        r"does not fit its config.yml \(sky is unknown\)",
    ),
    (
        "with text for a tensor",
        lambda run: change_state(run, lambda state: state.update({"_model.field.aabb": "box"})),
        r"does not fit its config.yml",
    ),
    (
        "whose field is not a number",
        lambda run: change_state(run, lambda state: state["_model.field.mlp_head.layers.0.weight"].fill_(torch.nan)),
        r"is damaged: field.mlp_head.layers.0.weight has values that are not finite",
    ),
    (
        "of tiny-cuda-nn",
        lambda run: change_state(
            run, lambda state: state.update({"_model.field.mlp_base.model.params": torch.zeros(9)})
        ),
        "was trained with tiny-cuda-nn, which is not here and needs CUDA",
    ),
    (
        "with half a checkpoint",
        lambda run: checkpoint(run).write_bytes(checkpoint(run).read_bytes()[:5000]),
        "cannot be read",
    ),
    ("without checkpoint", lambda run: checkpoint(run).unlink(), "has no checkpoint"),
]


@pytest.mark.parametrize(("make", "says"), [case[1:] for case in _REFUSED], ids=[case[0] for case in _REFUSED])
def test_a_run_is_refused_in_one_line(copied, monkeypatch, make, says):
    monkeypatch.setattr("nerfstudio.utils.external.TCNN_EXISTS", False)
    make(copied)
    with pytest.raises(InputError, match=says) as caught:
        load_radiance_model(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["vanilla-nerf", "tensorf", "mipnerf"])
def test_relatives_are_built_from_their_tensors_alone_and_drawn(method, tmp_path):
    """Registered models that know no images, or no box."""
    import copy

    import yaml
    from nerfstudio.configs.method_configs import all_methods
    from nerfstudio.data.scene_box import SceneBox

    from invert3d_ns import compat

    config: Any = copy.deepcopy(all_methods[method])
    small = {"num_coarse_samples": 4, "num_importance_samples": 4, "init_resolution": 8, "final_resolution": 8}
    for name, value in small.items():
        if hasattr(config.pipeline.model, name):
            setattr(config.pipeline.model, name, value)
    with compat.without_lpips():
        model = config.pipeline.model.setup(
            scene_box=SceneBox(torch.tensor([[-1.5] * 3, [1.5] * 3])), num_train_data=5, metadata={}
        )
    for name, value in model.state_dict().items():
        if "density" in name:  # something is there, everywhere
            value.abs_().add_(1.0)
    (tmp_path / "nerfstudio_models").mkdir()
    (tmp_path / "config.yml").write_text(yaml.dump(config))
    state = {f"_model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"pipeline": state}, tmp_path / "nerfstudio_models" / "step-000000001.ckpt")
    assert is_radiance_run(tmp_path)
    loaded = load_radiance_model(tmp_path)
    again = loaded.state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())
    field = RadianceField(loaded, "run")
    field.look_at(Sphere(torch.zeros(3), 1.0))
    view, _ = field.render(pinhole_cameras(orbit_camera_to_world(torch.zeros(1), torch.zeros(1)), 6))
    assert view.shape == (6, 6, 4) and view[0, 0, 3] == 0 < view[3, 3, 3] <= 1, "a sphere of fog"
