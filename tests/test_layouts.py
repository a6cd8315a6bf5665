"""Folders of every layout end up as the same networks; what is no prior is named for what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ldm_checkpoints import (
    assert_one_line,
    assert_same_networks,
    mvdream_state,
    tiny_clip,
    write_checkpoint,
    write_community_folder,
)
from safetensors.torch import load_file, save_file

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.checkpoints import load_prior, open_source
from invert3d_ns.prior.layouts import LAYOUTS, find_layout, read_source
from invert3d_ns.weights.formats import choose_weights

UNET = "unet/diffusion_pytorch_model.safetensors"
KEY = "input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def community(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The community's layout, in half precision. Read-only."""
    return write_community_folder(tmp_path_factory.mktemp("layouts") / "mvdream-sd2.1-diffusers")


@pytest.fixture
def folder(community: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return shutil.copytree(community, tmp_path / "copy")


def change(file: Path, edit: Callable[[dict], dict]) -> None:
    save_file(edit(load_file(file)), file)


def test_community_folder_becomes_the_same_networks(community: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    prior = load_prior(community, "cpu")
    assert_same_networks(prior, "sd2.1")
    # open_clip, and with it Stable Diffusion 2.x, fills the context with zeros.
    ids = torch.tensor([[49406, 320, 2368, 49407] + [0] * 73])
    with torch.no_grad():
        torch.testing.assert_close(prior.encode_prompt("a cat"), tiny_clip("gelu")(ids).last_hidden_state)
    assert prior.info.prediction_type == "epsilon" and prior.info.image_size == 256
    assert UNET in prior.info.sources and not any(name.endswith(".py") for name in prior.info.sources)


def test_copies_that_wrap_the_unet(folder: Path) -> None:
    change(folder / UNET, lambda state: {"unet." + key: value for key, value in state.items()})
    assert find_layout(read_source(folder)) == "community"
    assert_same_networks(open_source(folder), "sd2.1")


def test_diffusers_unet_with_a_camera_projection_beside_it(folder: Path) -> None:
    unet = open_source(folder).unet
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet")
    state = load_file(folder / UNET)
    cameras = {key: state.pop(key) for key in list(state) if key.startswith("class_embedding.")}
    save_file(state, folder / UNET)
    config = json.loads((folder / "unet" / "config.json").read_text())
    config |= {"class_embed_type": None, "projection_class_embeddings_input_dim": None}
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    (folder / "camera_proj").mkdir()
    (folder / "camera_proj" / "config.json").write_text(json.dumps({"_class_name": "CameraMatrixEmbedding"}))
    renamed = {key.removeprefix("class_embedding."): value for key, value in cameras.items()}
    torch.save(renamed, folder / "camera_proj" / "diffusion_pytorch_model.bin")
    assert find_layout(read_source(folder)) == "camera-proj"
    assert_same_networks(open_source(folder), "sd2.1")


def test_vae_with_old_names_of_its_attention(folder: Path) -> None:
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older(state: dict) -> dict:
        renamed = {}
        for key, value in state.items():
            for new, old in names.items():
                key = key.replace(f".{new}.", f".{old}.")
            is_old = any(f".{old}.weight" in key for old in names.values())
            renamed[key] = value[:, :, None, None].contiguous() if is_old else value
        return renamed

    change(folder / "vae" / "diffusion_pytorch_model.safetensors", older)
    assert_same_networks(open_source(folder), "sd2.1")


def test_folder_with_a_single_checkpoint_is_that_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "mvdream.pt", "sd1.5")
    (tmp_path / "README.md").write_text("weights")
    prior = open_source(tmp_path)
    assert list(prior.info.sources) == ["mvdream.pt"]
    torch.save({}, tmp_path / "other.pt")
    with pytest.raises(InputError) as error:
        open_source(tmp_path)
    assert_one_line(error, "mvdream.pt, other.pt")


def test_of_the_same_weights_one_copy_is_chosen() -> None:
    names = ["a.fp16.bin", "a.bin", "a.fp16.safetensors", "a.safetensors", "a.non_ema.safetensors", "config.json"]
    assert choose_weights(names, half=False) == ["a.safetensors"]
    assert choose_weights(names, half=True) == ["a.fp16.safetensors"]
    shards = ["b-00001-of-00002.safetensors", "b-00002-of-00002.safetensors", "b.fp16-00001-of-00001.safetensors"]
    assert choose_weights(shards, half=False) == shards[:2]
    assert choose_weights(shards, half=True) == shards[2:]
    assert choose_weights(["config.json"], half=True) == []


# Bad input


def test_unknown_layout_of_a_file_names_the_expected_keys(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pt"
    torch.save({"layer1.0.conv1.weight": torch.zeros(3)}, path)
    with pytest.raises(InputError) as error:
        open_source(path)
    expected = [key for keys in LAYOUTS["mvdream"].keys.values() for key in keys]
    assert_one_line(error, *expected, "layer1.0.conv1.weight", "no known layout")


def test_unknown_layout_of_a_folder_names_the_nearest_one(folder: Path) -> None:
    change(folder / UNET, lambda state: {"net." + key: value for key, value in state.items()})
    with pytest.raises(InputError) as error:
        open_source(folder)
    assert_one_line(error, "unet/camera_embed.0.weight", "(UNet)", LAYOUTS["community"].description)


def test_folder_without_a_part(folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    with pytest.raises(InputError) as error:
        open_source(folder)
    assert_one_line(error, "vae/encoder.conv_in.weight (autoencoder)", "prior.json")


def test_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        open_source(tmp_path)
    assert_one_line(error, "prior.json", "vae/*.safetensors")


def test_checkpoint_with_half_of_its_camera_embedding(tmp_path: Path) -> None:
    path = tmp_path / "mvdream.pt"
    torch.save({k: v for k, v in mvdream_state("sd1.5").items() if "camera_embed.2" not in k}, path)
    with pytest.raises(InputError) as error:
        open_source(path)
    assert_one_line(error, "camera_embed.2.weight is missing")


def test_model_of_images_is_refused(folder: Path) -> None:
    change(folder / UNET, lambda state: state | {"image_embed.proj_in.weight": torch.zeros(1)})
    with pytest.raises(InputError) as error:
        open_source(folder)
    assert_one_line(error, "ImageDream", "image_embed.proj_in.weight")


def test_wrong_architecture_names_the_first_key_and_both_shapes(folder: Path) -> None:
    config = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps(config | {"latent_channels": 8}))
    with pytest.raises(InputError) as error:
        open_source(folder)
    assert_one_line(error, "autoencoder", "decoder.conv_in.weight is 16x4x3x3 in the file, 16x8x3x3 in the model")


def test_config_of_another_kind(folder: Path) -> None:
    (folder / "text_encoder" / "config.json").write_text(json.dumps({"hidden_size": "large"}))
    with pytest.raises(InputError) as error:
        open_source(folder)
    assert_one_line(error, "text_encoder/config.json")


def test_missing_shard_means_half_downloaded(folder: Path) -> None:
    state = load_file(folder / UNET)
    keys = sorted(state)
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (folder / UNET).unlink()
    save_file({key: state[key] for key in keys[::2]}, folder / "unet" / names[0])
    index = {"weight_map": {key: names[i % 2] for i, key in enumerate(keys)}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError) as error:
        open_source(folder)
    assert_one_line(error, names[1], "half-downloaded")
    save_file({key: state[key] for key in keys[1::2]}, folder / "unet" / names[1])
    assert_same_networks(open_source(folder), "sd2.1")


class Exploit:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickle_with_code_in_a_folder_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / UNET).unlink()
    torch.save({KEY: torch.zeros(1), "x": Exploit(tmp_path / "ran")}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError) as error:
        open_source(folder)
    assert_one_line(error, "refused", "code")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["sd.pt.part", "sd.safetensors.crdownload"])
def test_half_downloaded_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"half")
    for path in (tmp_path / name, (tmp_path / name).with_suffix("")):
        with pytest.raises(InputError) as error:
            open_source(path)
        assert_one_line(error, "half-downloaded", name)
