"""From the names of latent diffusion to diffusers': full sizes, copies of other programs, and what is left over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ldm_checkpoints import WIDTH, assert_one_line, mvdream_state, rounded, tiny_clip
from plain_mvdream import PlainMVDream
from single_view import SD15_UNET, SD21_UNET, write_sd_folder
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.checkpoints import open_source
from invert3d_ns.prior.conversion import CLIP_PREFIX, OPEN_CLIP_PREFIX, convert_text_encoder, convert_unet

UNET = "model.diffusion_model."


def stable_diffusion() -> dict[str, Tensor]:
    """A tiny Stable Diffusion 1.x: MVDream's keys but the camera embedding."""
    return {key: value for key, value in mvdream_state("sd1.5").items() if "camera_embed" not in key}


@pytest.mark.parametrize(
    ("published", "parameters", "heads"), [(SD15_UNET, 859_520_964, [8] * 4), (SD21_UNET, 865_910_724, [5, 10, 20, 20])]
)
def test_full_size_becomes_the_published_architecture(published: dict, parameters: int, heads: list[int]) -> None:
    linear = published.get("use_linear_projection", False)
    with torch.device("meta"):
        mult, attends = (1, 2, 4, 4), (True, True, True, False)
        plain = PlainMVDream(320, mult, published["cross_attention_dim"], 8, linear, depth=2, attends=attends)
    state = {UNET + key: value for key, value in plain.state_dict().items() if "camera_embed" not in key}
    unet = convert_unet(state, sample_size=64, cameras=False)
    found = json.loads(unet.to_json_string())
    expected = {name: value for name, value in published.items() if not name.startswith("_")}
    assert {name: found[name] for name in expected} == expected | {"attention_head_dim": heads}
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters


# Text towers


@torch.no_grad()
def test_a_copy_without_the_last_layer_has_lost_it_already() -> None:
    """What is written from diffusers' form holds 23 of ViT-H's 24 layers, and no projection."""
    from open_clip.transformer import TextTransformer

    torch.manual_seed(3)
    tower = rounded(TextTransformer(77, 100, width=WIDTH, heads=1, layers=24, output_dim=WIDTH))
    whole = {OPEN_CLIP_PREFIX + key: value for key, value in tower.state_dict().items()}
    cut = {key: value for key, value in whole.items() if ".resblocks.23." not in key and "projection" not in key}
    assert len(cut) < len(whole) - 10
    ids = torch.arange(77)[None]
    x = tower.token_embedding(ids) + tower.positional_embedding
    for block in list(tower.transformer.resblocks)[:23]:
        x = block(x, attn_mask=tower.attn_mask)
    for state in (whole, cut):
        encoder = convert_text_encoder(state).eval()
        assert encoder.config.num_hidden_layers == 23
        torch.testing.assert_close(encoder(ids).last_hidden_state, tower.ln_final(x), rtol=1e-3, atol=1e-4)


def test_a_text_tower_in_newer_names(tmp_path: Path) -> None:
    state = {key.replace(CLIP_PREFIX + "text_model.", CLIP_PREFIX): value for key, value in stable_diffusion().items()}
    assert not any("text_model" in key for key in state)
    torch.save(state, tmp_path / "sd.pt")
    prior = open_source(tmp_path / "sd.pt")
    ids = torch.tensor([[49406, 320, 2368] + [49407] * 74])
    with torch.no_grad():
        torch.testing.assert_close(prior.encode_prompt("a cat"), tiny_clip()(ids).last_hidden_state)


# What is left over is of another model


@pytest.mark.parametrize(
    ("key", "shape", "expected"),
    [
        (UNET + "label_emb.0.0.weight", (4, 4), "UNet"),  # unCLIP's noise level, or other cameras
        (UNET + "camera_embed.2.weight", (4, 4), "UNet"),  # half of MVDream's
        (UNET + "input_blocks.1.1.transformer_blocks.1.norm1.weight", (32,), "UNet"),  # deeper, as SDXL's
        ("first_stage_model.encoder.down.3.attn.0.norm.weight", (16,), "autoencoder"),  # of a higher factor
    ],
)
def test_weights_that_nobody_asks_for_are_named(key: str, shape: tuple, expected: str, tmp_path: Path) -> None:
    torch.save(stable_diffusion() | {key: torch.zeros(shape)}, tmp_path / "sd.pt")
    with pytest.raises(InputError) as error:
        open_source(tmp_path / "sd.pt")
    assert_one_line(error, f"the {expected}'s weights do not fit", "1 unexpected", key.split(".")[-2])


@pytest.mark.parametrize(
    ("name", "warned"),
    [("sd-v1.5-4view.pt", True), ("MVDream_copy.pt", True), ("multi_view.pt", True), ("v1-5-pruned.pt", False)],
)
def test_a_multi_view_name_without_a_camera_embedding_is_pointed_out(
    name: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(stable_diffusion(), tmp_path / name)
    assert not open_source(tmp_path / name).takes_cameras
    said = capsys.readouterr().err
    assert said.count("\n") == warned and ("no camera embedding" in said) == warned
    torch.save(mvdream_state("sd1.5"), tmp_path / name)
    assert open_source(tmp_path / name).takes_cameras and not capsys.readouterr().err


def test_a_folder_with_such_a_name_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_source(write_sd_folder(tmp_path / "sd"))
    assert "Warning" not in capsys.readouterr().err
    open_source(write_sd_folder(tmp_path / "mvdream-sd2.1-diffusers"))
    assert "named like a multi-view model" in capsys.readouterr().err
