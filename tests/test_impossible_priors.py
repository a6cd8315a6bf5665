"""Priors whose descriptions cannot be: refused in one line and at once, whatever is written there."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from ldm_checkpoints import assert_one_line, write_community_folder
from plain_mvdream import FIXTURE

from invert3d_ns.base.errors import InputError
from invert3d_ns.cli import main
from invert3d_ns.prior.checkpoints import load_prior, open_source
from invert3d_ns.prior.info import PriorInfo
from invert3d_ns.prior.storage import save_prior
from invert3d_ns.weights.network_config import check_network_config

DEEP = "[" * 50_000 + "]" * 50_000


@pytest.fixture(scope="module")
def saved(tiny_v_prior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved prior without a manifest, so that what is changed is read. Read-only."""
    folder = tmp_path_factory.mktemp("impossible") / "prior"
    save_prior(tiny_v_prior, folder)
    (folder / "manifest.json").unlink()
    return folder


@pytest.fixture(scope="module")
def community(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The community's layout. Read-only."""
    return write_community_folder(tmp_path_factory.mktemp("impossible") / "community")


def changed(folder: Path, tmp_path: Path, file: str, changes: dict[str, Any] | str) -> Path:
    """A copy of a folder with other entries in one of its JSON files."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    path = copy / file
    path.write_text(changes if isinstance(changes, str) else json.dumps(json.loads(path.read_text()) | changes))
    return copy


UNET, VAE, TEXT = "unet/config.json", "vae/config.json", "text_encoder/config.json"
SCHEDULER, PRIOR = "scheduler/scheduler_config.json", "prior.json"


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        (UNET, {"attention_head_dim": -2}),
        (UNET, {"attention_head_dim": 0}),
        (UNET, {"attention_head_dim": "two"}),
        (UNET, {"layers_per_block": 10**9}),
        (UNET, {"layers_per_block": 200, "transformer_layers_per_block": 200}),
        (UNET, {"block_out_channels": [-16, 32]}),
        (UNET, {"block_out_channels": [10**6, 10**6]}),
        (UNET, {"block_out_channels": []}),
        (UNET, {"norm_num_groups": 0}),
        (UNET, {"sample_size": 0}),
        (UNET, {"sample_size": 8}),
        (UNET, {"sample_size": None}),
        (UNET, {"projection_class_embeddings_input_dim": 12}),
        (UNET, {"cross_attention_dim": 10**30}),
        (UNET, {"down_block_types": ["NoBlock2D", "DownBlock2D"]}),
        (UNET, "[]"),
        (UNET, "{"),
        (UNET, '{"sample_size": NaN}'),
        (UNET, f'{{"sample_size": {DEEP}}}'),
        (VAE, {"latent_channels": -4}),
        (VAE, {"latent_channels": 10**6}),
        (VAE, {"layers_per_block": 10**9}),
        (VAE, {"norm_num_groups": 3}),
        (TEXT, {"hidden_size": 0}),
        (TEXT, {"hidden_size": 10**6, "intermediate_size": 10**6}),
        (TEXT, {"num_hidden_layers": 10**9}),
        (TEXT, {"num_hidden_layers": 3}),
        (TEXT, {"num_attention_heads": -2}),
        (TEXT, {"num_attention_heads": 0}),
        (TEXT, {"hidden_act": "none of them"}),
        (TEXT, {"vocab_size": "many"}),
        (SCHEDULER, {"num_train_timesteps": 0}),
        (SCHEDULER, {"num_train_timesteps": -1000}),
        (SCHEDULER, {"num_train_timesteps": 10**12}),
        (SCHEDULER, {"beta_start": -3.0, "trained_betas": None}),
        (SCHEDULER, {"beta_schedule": "of my own"}),
        (SCHEDULER, {"prediction_type": "epsilon"}),
        (SCHEDULER, {"_class_name": 7}),
        (SCHEDULER, {"_class_name": "utils"}),
        (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}),
        (SCHEDULER, DEEP),
        (PRIOR, {"image_size": -16}),
        (PRIOR, {"image_size": "64"}),
        (PRIOR, {"image_size": 64}),
        (PRIOR, {"image_size": True}),
        (PRIOR, {"latent_channels": 0}),
        (PRIOR, {"token_dim": 768}),
        (PRIOR, {"context_length": 10**9}),
        (PRIOR, {"pad_token_id": 10**6}),
        (PRIOR, {"pad_token_id": -1}),
        (PRIOR, {"num_views": 0}),
        (PRIOR, {"prediction_type": "sample"}),
        (PRIOR, {"prediction_type": "epsilon"}),
        (PRIOR, {"guidance_scale": "strong"}),
        (PRIOR, {"guidance_scale": -3}),
        (PRIOR, {"edit_guidance_scale": []}),
        (PRIOR, {"guidance_rescale": 2}),
        (PRIOR, {"sampling_steps": 0}),
        (PRIOR, {"sampling_steps": 2.5}),
        (PRIOR, {"inversion_learning_rate": 0}),
        (PRIOR, {"inversion_timesteps": [0.5]}),
        (PRIOR, {"inversion_timesteps": [0.9, 0.1]}),
        (PRIOR, {"inversion_timesteps": [0, 7]}),
        (PRIOR, {"training": [1]}),
        (PRIOR, {"init_word": ""}),
        (PRIOR, {"init_word": None}),
        (PRIOR, {"name": 3}),
        (PRIOR, {"format_version": "1"}),
        (PRIOR, {"format_version": None}),
        (PRIOR, '{"format_version": 1}'),
        (PRIOR, '{"format_version": 1, "guidance_scale": NaN}'),
        (PRIOR, "null"),
        (PRIOR, DEEP),
    ],
)
def test_a_folder_that_cannot_be(saved: Path, tmp_path: Path, file: str, changes, capsys) -> None:
    folder = changed(saved, tmp_path, file, changes)
    with pytest.raises(InputError) as error:
        load_prior(folder, "cpu")
    assert_one_line(error, str(folder), "; ")
    with pytest.raises(SystemExit) as exit:
        main(["prior", "check", str(folder)])
    out = capsys.readouterr().out
    assert exit.value.code == 1 and out.startswith(f"FAILED {folder}") and out.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        (UNET, {"num_heads": -16}),
        (UNET, {"num_heads": 0}),
        (UNET, {"num_heads": 7}),
        (UNET, {"num_heads": "eight"}),
        (UNET, {"num_head_channels": 10**9}),
        (UNET, {"num_head_channels": 100}),
        (UNET, {"num_head_channels": 0.5}),
        (UNET, {"image_size": 0}),
        (UNET, {"image_size": -32}),
        (UNET, {"image_size": 10**9}),
        (UNET, DEEP),
        (VAE, {"layers_per_block": 10**9}),
        (VAE, {"block_out_channels": [10**6] * 4}),
        (VAE, {"latent_channels": -1}),
        (TEXT, {"num_hidden_layers": 10**9}),
        (TEXT, {"hidden_size": 0}),
        (TEXT, {"hidden_size": 10**6}),
        (TEXT, "3"),
    ],
)
def test_a_repository_that_cannot_be(community: Path, tmp_path: Path, file: str, changes) -> None:
    folder = changed(community, tmp_path, file, changes)
    with pytest.raises(InputError) as error:
        open_source(folder)
    assert_one_line(error, "; ")


@pytest.mark.parametrize("name", ["num_frames", "num_heads"])
@pytest.mark.parametrize("value", ["-16", "0", "nan", "1e9", "999999999", "9" * 5000, "²", "", "3"])
def test_a_golden_file_that_cannot_be(tmp_path: Path, name: str, value: str, capsys) -> None:
    from safetensors.torch import save_file

    from invert3d_ns.weights.tensors import read_safetensors

    path = tmp_path / "golden.safetensors"
    path.write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    tensors, metadata = read_safetensors(path)
    metadata.pop("num_head_channels", None)
    save_file(tensors, path, metadata | {name: value})
    with pytest.raises(SystemExit) as exit:
        main(["prior", "check", str(path)])
    out = capsys.readouterr().out
    assert exit.value.code == 1 and out.startswith(f"FAILED {path}") and out.count("\n") == 1 and len(out) < 500


def test_tensors_of_other_shapes(tmp_path: Path) -> None:
    import torch
    from ldm_checkpoints import mvdream_state

    for key, value in {
        "model.diffusion_model.camera_embed.0.weight": torch.zeros(()),
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(0, 4, 3, 3),
        "model.diffusion_model.out.2.weight": torch.zeros(3),
        "first_stage_model.post_quant_conv.weight": torch.zeros(()),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.zeros(5),
    }.items():
        torch.save(mvdream_state("sd1.5") | {key: value}, tmp_path / "odd.pt")
        with pytest.raises(InputError) as error:
            open_source(tmp_path / "odd.pt")
        assert_one_line(error, "; ")


def test_a_description_of_a_newer_version_keeps_what_is_known(tiny_prior) -> None:
    from dataclasses import asdict

    document = json.loads(json.dumps(asdict(tiny_prior.info) | {"of_a_newer_version": 1}))
    assert PriorInfo.from_document(document) == tiny_prior.info


def test_the_list_works_without_a_home(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(SystemExit) as exit:
        main(["prior", "list"])
    rows = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert exit.value.code == 0 and rows["bundled"] == "yes" and rows["mvdream-sd1.5"] == "no"
    for arguments in (["prior", "fetch", "mvdream-sd1.5"], ["prior", "check", "~nobody-of-this-name/prior"]):
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        shown = capsys.readouterr()
        said = shown.out + shown.err
        assert exit.value.code == 1 and said.count("\n") == 1 and "set HOME" in said


@pytest.mark.parametrize(
    ("entries", "passes"),
    [
        ({"init_logit_bias": -10, "pad_token_id": -1, "eos_token_id": [-2]}, True),
        ({"vision_cfg": {"layers": -12}}, False),
        ({"num_attention_heads": -16}, False),
        ({"attention_head_dim": [-8]}, False),
        ({"vocab_size": -1}, False),
        ({"init_logit_bias": -(10**9)}, False),
        ({"beta_end": math.nan}, False),
        ({"beta_end": math.inf}, False),
        ({"hidden_size": 10**3000}, False),
    ],
)
def test_numbers_below_zero_are_refused_where_they_count(entries: dict, passes: bool) -> None:
    if passes:
        check_network_config(entries, 100, Path("config.json"))
        return
    with pytest.raises(InputError) as error:
        check_network_config(entries, 100, Path("config.json"))
    assert_one_line(error, "config.json describes no network", "; ")
    assert len(str(error.value)) < 200


def test_null_in_a_config_is_the_default(community: Path, tmp_path: Path) -> None:
    folder = changed(community, tmp_path, UNET, {"num_heads": None, "num_head_channels": None, "image_size": None})
    assert open_source(folder).info.image_size == open_source(community).info.image_size


def test_a_prior_with_the_scheduler_of_another_program_loads_again(tiny_v_prior, tmp_path: Path) -> None:
    """Schedulers write their defaults as they are, among them minus infinity."""
    from diffusers import DPMSolverMultistepScheduler

    before = tiny_v_prior.scheduler
    tiny_v_prior.scheduler = DPMSolverMultistepScheduler.from_config(before.config)
    try:
        save_prior(tiny_v_prior, tmp_path / "prior")
    finally:
        tiny_v_prior.scheduler = before
    (tmp_path / "prior" / "manifest.json").unlink()
    path = tmp_path / "prior" / SCHEDULER
    assert "-Infinity" in path.read_text()
    scheduler = load_prior(tmp_path / "prior", "cpu").scheduler
    assert scheduler.config["lambda_min_clipped"] == -math.inf
    path.write_text(path.read_text().replace("-Infinity", "Infinity"))
    with pytest.raises(InputError) as error:
        load_prior(tmp_path / "prior", "cpu")
    assert_one_line(error, "lambda_min_clipped is inf", "; ")


@pytest.mark.parametrize("manifest", [True, False])
def test_weights_of_a_stranger_take_no_ones_place(tiny_prior, tmp_path: Path, manifest: bool) -> None:
    folder = tmp_path / "prior"
    save_prior(tiny_prior, folder)
    if not manifest:
        (folder / "manifest.json").unlink()
    (weights,) = (folder / "unet").glob("*.safetensors")
    shutil.copy(weights, folder / "unet" / "zzz.safetensors")
    with pytest.raises(InputError) as error:
        load_prior(folder, "cpu")
    says = "zzz.safetensors is not in manifest.json" if manifest else "both have the weight"
    assert_one_line(error, "unet/zzz.safetensors", says, "; ")
