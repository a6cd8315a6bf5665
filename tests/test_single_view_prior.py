"""Stable Diffusion as a prior: what diffusers' own UNet computes for each view alone, and what it is refused for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import serve_hub
from huggingface_hub import constants
from ldm_checkpoints import assert_one_line, mvdream_state, tiny_clip, tiny_unet, tiny_vae
from single_view import SCHEDULER, SD15_UNET, SD21_UNET, tiny_sd_unet, write_sd_folder

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.checkpoints import PRIORS, load_prior, open_source, save_prior
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.prior.layouts import LAYOUTS, Source, find_layout, read_source
from invert3d_ns.prior.repository import PRIOR_REPOSITORY
from invert3d_ns.prior.schedule_config import build_scheduler
from invert3d_ns.scenes.cameras import camera_condition
from invert3d_ns.weights.hub import HubReference
from invert3d_ns.words.cti import CameraTextInversion

CAMERAS = camera_condition(torch.tensor([[0.0, 90.0, 180.0], [30.0, 60.0, 200.0]]), torch.tensor(10.0))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion in diffusers' form. Read-only."""
    return write_sd_folder(tmp_path_factory.mktemp("stable-diffusion") / "sd")


@pytest.fixture(scope="module")
def prior(stored: Path):
    """The prior in it. Read-only."""
    return open_source(stored)


@pytest.fixture
def folder(stored: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return shutil.copytree(stored, tmp_path / "copy")


@pytest.fixture
def noisy() -> torch.Tensor:
    return torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# What it computes


@torch.no_grad()
def test_each_view_is_what_the_bare_unet_says(prior, noisy) -> None:
    unet, contexts = tiny_sd_unet(), prior.encode_prompt(["a red cube", "a mug"])
    t = torch.tensor([700, 300])
    predicted = prior.predict(noisy, t, contexts, CAMERAS)
    for b in range(2):
        for f in range(3):
            bare = unet(noisy[b, f][None], t[b], contexts[b][None], return_dict=False)[0]
            torch.testing.assert_close(predicted[b, f], bare[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prior.predict_noise(noisy, t, contexts, CAMERAS), predicted)
    own = torch.stack([contexts, contexts.flip(0), contexts], 1)  # each view has words of its own
    each = prior.predict(noisy, t[:, None].expand(-1, 3), own, CAMERAS)
    bare = unet(noisy[0, 1][None], t[0], contexts[1][None], return_dict=False)[0]
    torch.testing.assert_close(each[0, 1], bare[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(each[:, 0], predicted[:, 0], rtol=1e-4, atol=1e-5)
    both = prior.predict_each(noisy, t, torch.stack([contexts, contexts.flip(0)]), CAMERAS)
    torch.testing.assert_close(both[0], predicted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["fused", "plain", "sliced"])
def test_views_do_not_see_each_other_and_cameras_are_not_looked_at(stored: Path, noisy, kind) -> None:
    from invert3d_ns.prior.attention import install_cross_view_attention

    prior = open_source(stored)
    install_cross_view_attention(prior.unet, kind)
    context, t = prior.encode_prompt(["a red cube", "a mug"]), torch.tensor([700, 300])
    before = prior.predict(noisy, t, context, CAMERAS)
    changed = noisy.clone()
    changed[0, 2] += 1
    after = prior.predict(changed, t, context, torch.zeros_like(CAMERAS))
    torch.testing.assert_close(after[0, :2], before[0, :2])
    torch.testing.assert_close(after[1], before[1])
    assert (after[0, 2] - before[0, 2]).abs().max() > 1e-3


def test_facts_text_tower_and_autoencoder_are_stable_diffusions(prior) -> None:
    info = prior.info
    assert not prior.takes_cameras
    assert (info.prediction_type, info.num_views, info.prompt_suffix) == ("epsilon", 1, "")
    assert (info.image_size, info.latent_size, info.latent_channels) == (64, 8, 4)
    assert "scheduler/scheduler_config.json" in info.sources
    assert not any(name.endswith(".py") or "safety" in name for name in info.sources)
    assert not prior.training and not any(p.requires_grad for p in prior.parameters())
    ids = torch.tensor([[49406, 320, 2368, 49407] + [0] * 73])  # filled as Stable Diffusion 2.x fills it
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(prior.encode_prompt("a cat"), tiny_clip("gelu")(ids).last_hidden_state)
        latents = tiny_vae().encode(images * 2 - 1, return_dict=False)[0].mode() * 0.18215
        torch.testing.assert_close(prior.encode_images(images), latents, rtol=1e-4, atol=1e-5)


def test_multi_view_priors_take_cameras(tiny_prior, tiny_encoding_prior) -> None:
    assert tiny_prior.takes_cameras and tiny_encoding_prior.takes_cameras


def test_sampling_one_view_does_not_depend_on_how_many_there_are(prior) -> None:
    views = prior.sample("a mug", CAMERAS[:1], steps=2, seed=3)
    assert views.shape == (1, 3, 3, 64, 64) and views.min() >= 0 and views.max() <= 1
    one = prior.sample("a mug", CAMERAS[:1, :1], steps=2, seed=3)
    torch.testing.assert_close(one[:, 0], views[:, 0], rtol=1e-3, atol=1e-3)
    other = prior.sample("a mug", CAMERAS[1:], steps=2, seed=3)
    torch.testing.assert_close(other, views)


def test_loss_and_its_gradient(prior, noisy) -> None:
    noise, t = torch.randn_like(noisy), torch.tensor([500, 100])
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    context = prior.encode_prompt("a photo of <object>", {"<object>": vectors}).expand(2, -1, -1)
    losses = prior.prediction_loss(noisy, noise, t, context, CAMERAS, reduction="none")
    assert losses.shape == (2, 3)
    expected = (prior.predict(prior.add_noise(noisy, noise, t), t, context, CAMERAS) - noise).square().mean()
    torch.testing.assert_close(losses.mean(), expected)
    losses.mean().backward()
    assert vectors.grad is not None and (vectors.grad.norm(dim=1) > 0).all()


@torch.no_grad()
def test_unguided_conditions_are_the_negative_words_alone(prior, tiny_prior) -> None:
    for some, size in ((prior, 8), (tiny_prior, 4)):
        noisy = torch.randn(1, 3, 4, size, size)
        conditions = Conditions.of_prompt(some, "a red cube", negative_prompt="a cat", guidance_rescale=0.5)
        plain = conditions.unguided()
        assert plain.guidance_scale == 1.0 and plain.guidance_rescale == 0.0 and not plain.directions
        expected = some.predict(noisy, torch.tensor([400]), some.encode_prompt("a cat"), CAMERAS[:1])
        torch.testing.assert_close(plain.predict(some, noisy, torch.tensor([400]), CAMERAS[:1]), expected)


def test_round_trip(prior, tmp_path: Path, noisy) -> None:
    save_prior(prior, tmp_path / "saved")
    again = load_prior(tmp_path / "saved", "cpu")
    assert again.info == prior.info and not again.takes_cameras
    context, t = prior.encode_prompt("a mug").expand(2, -1, -1), torch.tensor([700, 300])
    with torch.no_grad():
        expected = prior.predict(noisy, t, context, CAMERAS)
        torch.testing.assert_close(again.predict(noisy, t, context, CAMERAS), expected, rtol=1e-4, atol=1e-5)


# Where it comes from


def test_named_prior_is_fetched_from_a_hub_and_cached(stored: Path, tmp_path: Path, monkeypatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "INVERT3D_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    repository = PRIORS["sd1.5"].repository
    assert repository == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    shutil.copytree(stored, tmp_path / "hub" / repository)
    with serve_hub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        prior = load_prior("sd1.5", "cpu")
        asked = {name for name, _ in hub.requests}
    assert "scheduler/scheduler_config.json" in asked and not any("safety" in name or ".py" in name for name in asked)
    assert prior.info.name == "sd1.5" and not prior.takes_cameras
    assert load_prior("sd1.5", "cpu").info == prior.info  # without the hub


def test_of_the_real_repositories_files_one_copy_of_each_part_is_chosen() -> None:
    weights = [
        f"{part}/{stem}{kind}"
        for part, stem in (
            ("unet", "diffusion_pytorch_model"),
            ("vae", "diffusion_pytorch_model"),
            ("text_encoder", "model"),
            ("safety_checker", "model"),
        )
        for kind in (".bin", ".fp16.bin", ".fp16.safetensors", ".non_ema.safetensors", ".safetensors")
    ]
    texts = [f"{part}/config.json" for part in ("unet", "vae", "text_encoder", "safety_checker")]
    others = ["scheduler/scheduler_config.json", "tokenizer/vocab.json", "model_index.json", "v1-5-pruned.ckpt"]
    chosen = PRIOR_REPOSITORY.select([*weights, *texts, *others], HubReference("org/sd"))
    half = {"unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"}
    assert set(chosen) == {f"{name}.fp16.safetensors" for name in half} | set(texts[:3]) | {others[0]}


PARAMETERS = {"sd2.1": (SD21_UNET, 865_910_724), "sd1.5": (SD15_UNET, 859_520_964)}
"""As published."""


@pytest.mark.parametrize("style", PARAMETERS)
def test_full_size_unet_takes_the_published_keys(style: str) -> None:
    from diffusers import UNet2DConditionModel

    from invert3d_ns.prior.layouts import _load_unet

    config, count = PARAMETERS[style]
    with torch.device("meta"):
        published = UNet2DConditionModel.from_config(config).state_dict()  # type: ignore[attr-defined]
    width = config["cross_attention_dim"]
    inside = "down_blocks.0.attentions.0"
    assert len(published) == 686
    assert published[f"{inside}.transformer_blocks.0.attn2.to_k.weight"].shape == (320, width)
    assert published[f"{inside}.proj_in.weight"].shape == ((320, 320) if style == "sd2.1" else (320, 320, 1, 1))
    weights = {f"unet/{key}": value for key, value in published.items()}
    source = Source(Path("sd"), (), weights, {"unet": config})
    unet = _load_unet(source, config, source.part("unet"))
    assert sum(p.numel() for p in unet.parameters()) == count
    for block, heads in ((inside, 5), ("mid_block.attentions.0", 20)):
        attention: Any = unet.get_submodule(f"{block}.transformer_blocks.0.attn1")
        assert attention.heads == (heads if style == "sd2.1" else 8)


def test_single_checkpoint_of_stable_diffusion_1(tmp_path: Path) -> None:
    path = tmp_path / "sd.pt"
    torch.save({k: v for k, v in mvdream_state("sd1.5").items() if "camera_embed" not in k}, path)
    prior = open_source(path)
    assert not prior.takes_cameras and prior.info.image_size == 512
    assert prior.info.prompt_suffix == "" and prior.info.num_views == 1
    plain = tiny_unet(False)  # written after the original; without a camera's embedding it is Stable Diffusion's
    noisy, t, context = torch.randn(1, 2, 4, 8, 8), torch.tensor([9]), torch.randn(1, 5, 64)
    with torch.no_grad():
        for parameter in plain.camera_embed.parameters():
            parameter.zero_()
        expected = plain(noisy[0], t.expand(2), context.expand(2, -1, -1), torch.zeros(2, 16), 1)
        torch.testing.assert_close(prior.predict(noisy, t, context, CAMERAS[:1, :2])[0], expected, rtol=1e-3, atol=1e-4)


def test_v_prediction_is_honored(folder: Path) -> None:
    edit_json(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    prior = open_source(folder)
    assert prior.info.prediction_type == "v_prediction"
    noisy, t = torch.randn(1, 1, 4, 8, 8), torch.tensor([500])
    context = prior.encode_prompt("a mug")
    with torch.no_grad():
        v = prior.predict(noisy, t, context, CAMERAS[:1, :1])
        noise = prior.predict_noise(noisy, t, context, CAMERAS[:1, :1])
    share = prior.alphas_cumprod[500]
    torch.testing.assert_close(noise, share.sqrt() * v + (1 - share).sqrt() * noisy)


def test_schedule_is_read_and_its_default_is_stable_diffusions() -> None:
    plain = build_scheduler()
    without = {key: value for key, value in SCHEDULER.items() if key != "prediction_type"}  # as in 1.5
    assert torch.equal(build_scheduler(without).alphas_cumprod, plain.alphas_cumprod)
    assert build_scheduler(without).config["prediction_type"] == "epsilon"
    other = build_scheduler(SCHEDULER | {"beta_end": 0.02, "timestep_spacing": "trailing", "num_train_timesteps": 500})
    assert len(other.alphas_cumprod) == 500 and other.config["timestep_spacing"] == "trailing"


# Bad input


def test_words_of_views_without_cameras_are_refused(prior) -> None:
    with pytest.raises(InputError) as error:
        CameraTextInversion(prior)
    assert_one_line(error, "knows no cameras", "use a multi-view prior such as mvdream-sd2.1")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"prediction_type": "sample"}, "predicts 'sample'"),
        ({"prediction_type": ["epsilon"]}, "predicts ['epsilon']"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"beta_schedule": "of my own"}, "no noise schedule"),
        ({"beta_start": "small"}, "no noise schedule"),
        ({"num_train_timesteps": -1}, "num_train_timesteps"),
    ],
)
def test_schedules_that_are_none(folder: Path, changes: dict[str, Any], expected: str) -> None:
    edit_json(folder / "scheduler" / "scheduler_config.json", **changes)
    with pytest.raises(InputError) as error:
        open_source(folder)
    assert_one_line(error, "scheduler_config.json", expected, "; ")


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (remove("scheduler"), "scheduler_config.json is missing"),
        (remove("vae"), "vae/encoder.conv_in.weight (autoencoder)"),
        (remove("text_encoder"), "(text encoder)"),
        (lambda folder: (folder / "scheduler" / "scheduler_config.json").write_text("{"), "damaged"),
        (
            lambda folder: edit_json(folder / "unet" / "config.json", cross_attention_dim=32),
            "UNet's weights do not fit",
        ),
    ],
)
def test_half_a_folder(folder: Path, damage: Callable[[Path], None], expected: str) -> None:
    damage(folder)
    with pytest.raises(InputError) as error:
        open_source(folder)
    assert_one_line(error, expected)
    assert "camera" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"in_channels": 9}, "latent channels into the UNet is 9"),  # inpainting
        ({"num_class_embeds": 10}, "num_class_embeds"),  # an upscaler
        ({"class_embed_type": "timestep"}, "class embedding of the UNet is timestep"),
        ({"class_embed_type": "projection", "projection_class_embeddings_input_dim": 12}, "camera numbers"),
        ({"addition_embed_type": "text"}, "addition_embed_type"),  # as SDXL's
        ({"cross_attention_dim": 48}, "cross-attention is 48"),
        ({"projection_class_embeddings_input_dim": 16}, "no embedding of them"),
        ({"in_channels": 40}, "takes no cameras, but other parts of it do"),  # rays
    ],
)
def test_models_of_other_things(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as error:
        open_source(write_sd_folder(tmp_path / "sd", **changes))
    assert_one_line(error, expected, "different models")


def test_single_checkpoint_of_stable_diffusion_2_does_not_say_what_it_predicts(tmp_path: Path) -> None:
    path = tmp_path / "sd.pt"
    torch.save({k: v for k, v in mvdream_state("sd2.1").items() if "camera_embed" not in k}, path)
    with pytest.raises(InputError) as error:
        open_source(path)
    assert_one_line(error, "noise or v", "scheduler/scheduler_config.json")


def test_layouts_are_told_apart(stored: Path) -> None:
    assert find_layout(read_source(stored)) == "diffusers"
    assert list(LAYOUTS)[-2:] == ["stable-diffusion", "diffusers"]  # whatever has cameras is told before
