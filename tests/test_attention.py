"""Cross-view attention against MVDream's network, and what regrouping must and must not mix."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_mvdream import FIXTURE, PlainMVDream, write_golden

from invert3d_ns.prior.conversion import convert_unet
from invert3d_ns.prior.golden import TOLERANCE, golden_difference


@pytest.mark.parametrize("style", ["sd15", "sd21"])
def test_original_network_is_reproduced(shared_dir: Path, style: str) -> None:
    assert golden_difference(shared_dir / "fixtures" / f"mvdream_unet_{style}_style.safetensors") <= TOLERANCE


def test_stored_golden_file_is_reproduced(tmp_path: Path) -> None:
    path = tmp_path / "golden.safetensors"
    path.write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    assert golden_difference(path) <= TOLERANCE


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("shape", [{}, {"depth": 2, "attends": (True, False)}])
def test_plain_network_is_reproduced_over_two_levels(tmp_path: Path, linear: bool, shape: dict) -> None:
    path = tmp_path / "golden.safetensors"
    write_golden(path, mult=(1, 2), linear=linear, seed=3, **shape)
    assert golden_difference(path) <= TOLERANCE


@pytest.mark.parametrize(
    ("linear", "context", "heads"), [(False, 768, [8, 8, 8, 8]), (True, 1024, [5, 10, 20, 20])], ids=["sd1.5", "sd2.1"]
)
def test_full_size_architecture_is_read_off_the_weights(linear: bool, context: int, heads: list[int]) -> None:
    with torch.device("meta"):
        network = PlainMVDream(320, (1, 2, 4, 4), context, 8, linear, depth=2, attends=(True, True, True, False))
    unet = convert_unet(network.state_dict())
    assert unet.config["block_out_channels"] == [320, 640, 1280, 1280]
    assert unet.config["attention_head_dim"] == heads
    assert unet.config["cross_attention_dim"] == context
    assert sum(p.numel() for p in unet.parameters()) == sum(p.numel() for p in network.parameters())


def test_wrong_number_of_views_is_noticed(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "golden.safetensors"
    write_golden(path, mult=(1,), linear=False)
    save_file(load_file(path), path, {"num_frames": "2", "num_heads": "2"})
    assert golden_difference(path) > 1e-3


def predict(prior, noisy, context, cameras, t=500):
    return prior.predict(noisy, torch.full((len(noisy),), t), context, cameras)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, 3, 4, 4, 4, generator=generator),
        torch.randn(2, 9, 24, generator=generator),
        torch.randn(2, 3, 16, generator=generator),
    )


def test_views_see_each_other_and_objects_do_not(tiny_prior, inputs) -> None:
    noisy, context, cameras = inputs
    before = predict(tiny_prior, noisy, context, cameras)
    changed = noisy.clone()
    changed[0, 2] += 1
    after = predict(tiny_prior, changed, context, cameras)
    assert (after[0, 0] - before[0, 0]).abs().max() > 1e-4
    torch.testing.assert_close(after[1], before[1])


def test_permuting_views_permutes_predictions(tiny_prior, inputs) -> None:
    noisy, context, cameras = inputs
    order = [2, 0, 1]
    permuted = predict(tiny_prior, noisy[:, order], context, cameras[:, order])
    torch.testing.assert_close(permuted, predict(tiny_prior, noisy, context, cameras)[:, order], rtol=1e-4, atol=1e-5)


def test_prompt_of_the_object_equals_prompt_of_each_view(tiny_prior, inputs) -> None:
    noisy, context, cameras = inputs
    repeated = context[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(
        predict(tiny_prior, noisy, context, cameras),
        predict(tiny_prior, noisy, repeated, cameras),
        rtol=1e-4,
        atol=1e-5,
    )


def test_one_view_alone_is_an_ordinary_unet(tiny_prior, inputs) -> None:
    from diffusers.models.attention_processor import AttnProcessor2_0

    noisy, context, cameras = (x[:, :1] if x.ndim != 3 or x.shape[-1] == 16 else x for x in inputs)
    ours = predict(tiny_prior, noisy, context, cameras)
    processors = tiny_prior.unet.attn_processors
    tiny_prior.unet.set_attn_processor(AttnProcessor2_0())
    try:
        plain = tiny_prior.unet(noisy[:, 0], torch.tensor(500), context, class_labels=cameras[:, 0]).sample
    finally:
        tiny_prior.unet.set_attn_processor(processors)
    torch.testing.assert_close(ours[:, 0], plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["fused", "plain", "sliced"])
@pytest.mark.parametrize("per_view", [False, True])
def test_weights_multiply_an_explicit_attention_map_without_renormalizing(tiny_prior, inputs, kind, per_view) -> None:
    """Every cross-attention layer's output against softmax, times c, times V, spelled out."""
    from diffusers.models.attention_processor import Attention

    from invert3d_ns.prior.attention import install_cross_view_attention

    noisy, context, cameras = inputs
    context = context[:, None].expand(-1, 3, -1, -1) if per_view else context
    weights = torch.ones(2, 9)
    weights[0, 2:5], weights[1, 7] = 3.0, 0.0
    seen = []

    def explicit(module: Any, args, kwargs, output) -> None:
        if kwargs.get("encoder_hidden_states") is None:
            return
        hidden, states = args[0], kwargs["encoder_hidden_states"].repeat_interleave(1 if per_view else 3, 0)
        scales = weights.repeat_interleave(3, 0)
        q, k, v = (
            layer(x).unflatten(-1, (module.heads, -1)).transpose(1, 2)
            for layer, x in ((module.to_q, hidden), (module.to_k, states), (module.to_v, states))
        )
        probabilities = (q @ k.transpose(-1, -2) * module.scale).softmax(-1) * scales[:, None, None]
        torch.testing.assert_close(
            output, module.to_out((probabilities @ v).transpose(1, 2).flatten(2)), rtol=1e-4, atol=1e-5
        )
        seen.append(module)

    install_cross_view_attention(tiny_prior.unet, kind)
    layers: list[Any] = [m for m in tiny_prior.unet.modules() if isinstance(m, Attention)]
    for layer in layers:
        layer.to_out.forward = lambda x, steps=layer.to_out: steps[1](steps[0](x))  # a list of modules, not a sequence
    hooks = [layer.register_forward_hook(explicit, with_kwargs=True) for layer in layers]
    try:
        tiny_prior.predict_each(noisy, torch.full((2,), 500), context[None], cameras, token_weights=weights[None])
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            del layer.to_out.forward
        install_cross_view_attention(tiny_prior.unet)
    assert len(seen) == len(layers) // 2 > 0


def test_weights_of_one_change_nothing_and_others_do(tiny_prior, inputs) -> None:
    noisy, context, cameras = inputs
    t = torch.full((2,), 500)
    plain = predict(tiny_prior, noisy, context, cameras)
    ones = tiny_prior.predict_each(noisy, t, context[None], cameras, token_weights=torch.ones(1, 2, 9))[0]
    torch.testing.assert_close(ones, plain, rtol=1e-4, atol=1e-5)
    doubled = tiny_prior.predict_each(noisy, t, context[None], cameras, token_weights=torch.full((1, 2, 9), 2.0))[0]
    assert (doubled - plain).abs().max() > 1e-3
