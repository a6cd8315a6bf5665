"""Diffusion features: against a plain pass of the UNet, on every kind of prior, and what is left behind: nothing."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from ldm_checkpoints import tiny_clip, tiny_vae
from pretend_cuda import CUDA, on_cuda, pretend_cuda
from single_view import SCHEDULER, SD21_UNET
from tiny_priors import tiny_tokenizer
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.random import random_stream
from invert3d_ns.metrics.diffusion_features import (
    OFFICIAL,
    SMALL,
    diffusion_features,
    feature_choice,
    layer_features,
    recorded_outputs,
)
from invert3d_ns.scenes.cameras import camera_condition

CAMERAS = camera_condition(torch.tensor([0.0, 120.0, 240.0]), torch.full((3,), 15.0))
BLOCKS = ["up_blocks.0", "up_blocks.1.resnets.0", "up_blocks.1"]


def images(size: int = 32, views: int = 3) -> Tensor:
    return torch.rand(views, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def own_prior(tiny_encoding_prior):
    """One that a test may change."""
    return copy.deepcopy(tiny_encoding_prior)


def four_block_prior(folder, *, cameras: bool):
    """Stable Diffusion 2.1's UNet at a tiny width; with cameras, MVDream's."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    from invert3d_ns.prior.info import PriorInfo
    from invert3d_ns.prior.multiview import MultiViewPrior

    torch.manual_seed(0)
    config: dict[str, Any] = {key: value for key, value in SD21_UNET.items() if not key.startswith("_")}
    config |= {"block_out_channels": (8, 8, 16, 16), "attention_head_dim": 2, "norm_num_groups": 4, "sample_size": 8}
    encoder = tiny_clip("gelu")
    config["cross_attention_dim"] = encoder.config.hidden_size
    if cameras:
        config |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
    unet, vae = UNet2DConditionModel(**config), tiny_vae()
    scheduler = DDIMScheduler.from_config({**SCHEDULER, "_class_name": "DDIMScheduler"})
    tokenizer = tiny_tokenizer(folder)
    info = PriorInfo.from_components("four", unet, vae, encoder, tokenizer, scheduler)
    return MultiViewPrior(unet, vae, encoder, tokenizer, scheduler, info)


@pytest.mark.parametrize("kind", ["tiny_prior", "tiny_v_prior", "tiny_encoding_prior"])
def test_features_are_what_a_plain_pass_makes(kind: str, request: pytest.FixtureRequest) -> None:
    prior, step = request.getfixturevalue(kind), 261
    found = layer_features(prior, images(), CAMERAS, BLOCKS, 0.261, ensemble=3, seed=5)

    noises = [torch.randn(1, 3, 4, 4, 4, generator=random_stream("diffusion features", 5, i)) for i in range(3)]
    share = prior.alphas_cumprod[step]
    seen: dict[str, list[Tensor]] = {name: [] for name in BLOCKS}
    modules = dict(prior.unet.named_modules())
    handles = [modules[name].register_forward_hook(lambda *a, n=name: seen[n].append(a[-1])) for name in BLOCKS]
    with torch.no_grad():
        latents = prior.encode_images(images()[None])
        for noise in noises:
            noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
            prior.predict(noisy, torch.tensor([step]), prior.encode_prompt(""), CAMERAS[None])
    for handle in handles:
        handle.remove()
    for name in BLOCKS:
        torch.testing.assert_close(found[name], torch.stack(seen[name]).mean(0), rtol=1e-4, atol=1e-5)
    assert found["up_blocks.0"].shape == (3, 32, 4, 4) and found["up_blocks.1"].shape == (3, 16, 4, 4)


@pytest.mark.parametrize("cameras", [True, False])
def test_networks_of_full_size_priors_are_read_where_the_official_code_reads(tmp_path, cameras: bool) -> None:
    prior = four_block_prior(tmp_path, cameras=cameras)
    assert feature_choice(prior) == OFFICIAL == ("up_blocks.1", 0.261)
    views = images(prior.info.image_size)
    features = diffusion_features(prior, views, CAMERAS, ensemble=2)
    # The second decoder block, its upsampler included: half the latent's resolution.
    assert features.shape == (3, 16, 4, 4) and features.isfinite().all()
    turned = diffusion_features(prior, views, CAMERAS.flip(0), ensemble=2)
    assert torch.equal(turned, features) != cameras, "a prior of single views looks at no cameras"
    alone = torch.cat([diffusion_features(prior, views[:1], CAMERAS[:1], ensemble=1, t=0.0)])
    together = diffusion_features(prior, views, CAMERAS, ensemble=1, t=0.0)[:1]
    assert torch.allclose(alone, together, atol=1e-3) != cameras, "views see each other, if the prior's do"


def test_small_networks_are_read_where_the_table_says(tiny_prior) -> None:
    assert feature_choice(tiny_prior) == SMALL
    chosen = layer_features(tiny_prior, images(), CAMERAS, [SMALL.layer], SMALL.t, ensemble=2)[SMALL.layer]
    assert torch.equal(diffusion_features(tiny_prior, images(), CAMERAS, ensemble=2), chosen)
    other = diffusion_features(tiny_prior, images(), CAMERAS, ensemble=2, t=0.1)
    assert other.shape == chosen.shape and not torch.allclose(other, chosen)
    # Attention layers give tuples.
    attended = diffusion_features(tiny_prior, images(), CAMERAS, ensemble=1, layer="up_blocks.1.attentions.0")
    assert attended.shape == (3, 16, 4, 4)


def test_seeds_decide_the_noise_and_more_noises_agree_better(tiny_v_prior) -> None:
    def features(ensemble: int, seed: int) -> Tensor:
        return diffusion_features(tiny_v_prior, images(), CAMERAS, ensemble=ensemble, seed=seed)

    assert torch.equal(features(2, 0), features(2, 0))
    few, many = (float((features(n, 1) - features(n, 2)).norm()) for n in (1, 16))
    assert 0 < many < 0.5 * few


@pytest.mark.parametrize(("t", "step"), [(0.0, 0), (0.1, 100), (0.261, 261), (1.0, 999)])
def test_timesteps_are_shares_of_the_diffusion(own_prior, t: float, step: int, monkeypatch) -> None:
    steps = []
    predict = own_prior.predict
    monkeypatch.setattr(
        own_prior, "predict", lambda x, at, *a, **k: (steps.append(int(at)), predict(x, at, *a, **k))[1]
    )
    diffusion_features(own_prior, images(), CAMERAS, t=t, ensemble=1)
    assert steps == [step]


def hooks(prior) -> list[str]:
    return [name for name, module in prior.unet.named_modules() if module._forward_hooks]


def test_nothing_after_the_layer_is_computed_and_no_hook_stays(own_prior) -> None:
    before, calls = hooks(own_prior), []
    handle = own_prior.unet.conv_out.register_forward_hook(lambda *_: calls.append(1))
    diffusion_features(own_prior, images(), CAMERAS, layer="up_blocks.0", ensemble=2)
    handle.remove()
    assert not calls and hooks(own_prior) == before
    with torch.no_grad():
        own_prior.predict(
            torch.zeros(1, 3, 4, 4, 4), torch.tensor([5]), own_prior.encode_prompt(""), CAMERAS[None]
        )  # goes to the end again


def test_no_hook_stays_where_an_error_is_raised(own_prior, monkeypatch) -> None:
    before = hooks(own_prior)
    own_prior.unet._compiled_call_impl = compiled = object()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(own_prior.unet.mid_block, "forward", fail)
    with pytest.raises(RuntimeError, match="no such kernel"):
        diffusion_features(own_prior, images(), CAMERAS)
    assert hooks(own_prior) == before and own_prior.unet._compiled_call_impl is compiled


def test_a_compiled_unet_is_read_uncompiled(own_prior) -> None:
    plain = diffusion_features(own_prior, images(), CAMERAS, ensemble=1)
    own_prior.unet._compiled_call_impl = compiled = lambda *_, **__: pytest.fail("the graph knows of no hooks")
    assert torch.equal(diffusion_features(own_prior, images(), CAMERAS, ensemble=1), plain)
    assert own_prior.unet._compiled_call_impl is compiled


def test_passes_of_other_threads_go_to_their_end(own_prior) -> None:
    results = []

    @torch.no_grad()
    def other() -> None:
        context = own_prior.encode_prompt("")
        results.append(own_prior.predict(torch.zeros(1, 3, 4, 4, 4), torch.tensor([5]), context, CAMERAS[None]))

    with recorded_outputs(own_prior.unet, {"up_blocks.0": own_prior.unet.up_blocks[0]}) as outputs:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert not outputs and results[0].shape == (1, 3, 4, 4, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same(own_prior, dtype: torch.dtype, monkeypatch) -> None:
    full = diffusion_features(own_prior, images(), CAMERAS, ensemble=2)
    own_prior.unet.to(dtype)
    own_prior.vae.to(dtype)
    noised, add_noise = [], own_prior.add_noise
    monkeypatch.setattr(own_prior, "add_noise", lambda *a: (noised.append(a[0].dtype), add_noise(*a))[1])
    half = diffusion_features(own_prior, images().to(dtype), CAMERAS, ensemble=2)
    assert noised == [torch.float32] * 2
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    assert torch.cosine_similarity(half.flatten(), full.flatten(), dim=0) > 0.99


def test_features_are_where_the_prior_is(tiny_encoding_prior) -> None:
    prior = copy.deepcopy(tiny_encoding_prior)
    with pretend_cuda():
        prior = prior.to(CUDA)
        assert on_cuda(diffusion_features(prior, images(), CAMERAS, ensemble=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": torch.rand(3, 1, 32, 32)}, r"views of shape \(3, 1, 32, 32\)"),
        ({"views": torch.zeros(3, 3, 32, 32, dtype=torch.uint8)}, r"torch\.uint8"),
        ({"views": torch.rand(3, 3, 33, 33)}, "33x33"),
        ({"cameras": CAMERAS[:2]}, r"cameras of shape \(2, 16\) do not belong to 3 views"),
        ({"t": 1.5}, "t is 1.5"),
        ({"t": float("nan")}, "t is nan"),
        ({"ensemble": 0}, "0 noises"),
        ({"layer": "up_blocks.7"}, r"no layer 'up_blocks\.7'; its decoder blocks are up_blocks\.0 to up_blocks\.1"),
        ({"layer": ""}, "no layer ''"),
        ({"layer": "time_embedding"}, "time_embedding gives no map"),
        ({"layer": "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"}, "gives no map"),
    ],
)
def test_what_has_no_features_is_refused_by_name(own_prior, change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"views": images(), "cameras": CAMERAS, **change}
    with pytest.raises(InputError, match=message) as error:
        diffusion_features(own_prior, given.pop("views"), given.pop("cameras"), **given)
    assert "\n" not in str(error.value) and not hooks(own_prior)
