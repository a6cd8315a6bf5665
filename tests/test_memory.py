"""Options that trade speed for memory must change neither what a prior predicts nor what words are taught by it."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import pytest
import torch
from runs import QuietRun, tiny_config
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.metrics.tensor_memory import TensorMemory
from invert3d_ns.prior.attention import PROCESSORS
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.prior.memory import apply_prior_options, preferred_dtype, prior_networks
from invert3d_ns.prior.offload import Offload
from invert3d_ns.prior.out_of_memory import SAVINGS, explain_out_of_memory, out_of_memory_message
from invert3d_ns.prior.settings import PriorOptions, Work
from invert3d_ns.scenes.cameras import camera_condition
from invert3d_ns.scenes.ply import write_splats

CPU = torch.device("cpu")


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inversion_step(prior, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of two objects and the gradient that it gives their words."""
    words = (0.1 * randn(3, 24, seed=seed)).requires_grad_()
    cameras = camera_condition(torch.arange(4) * 90.0, torch.tensor(10.0))[None].expand(2, -1, -1)
    context = prior.encode_prompt(["a red <object>", "<object>"], {"<object>": words})
    loss = prior.prediction_loss(
        randn(2, 4, 4, 4, 4, seed=1), randn(2, 4, 4, 4, 4, seed=2), torch.tensor([300, 800]), context, cameras
    )
    loss.backward()
    assert words.grad is not None
    return loss.detach(), words.grad


@torch.no_grad()
def outcomes(prior) -> dict[str, torch.Tensor]:
    """Everything a prior is asked for."""
    with torch.enable_grad():
        loss, gradient = inversion_step(prior)
    cameras = camera_condition(torch.arange(4) * 90.0, torch.tensor(10.0))[None]
    noisy, context = randn(1, 4, 4, 4, 4), prior.encode_prompt("a red mug")
    changed = noisy.clone()
    changed[0, 3] += 1.0
    conditions = Conditions(context, prior.encode_prompt(""), guidance_scale=5.0)
    guided = conditions.predict(prior, noisy, torch.tensor([500]), cameras)
    # The first view's answer to a change of the last view: what cross-view attention is for.
    seen = prior.predict(changed, torch.tensor([500]), context, cameras)[0, 0]
    return {
        "loss": loss,
        "gradient": gradient,
        "guided": guided,
        "across views": seen - prior.predict(noisy, torch.tensor([500]), context, cameras)[0, 0],
        "latents": prior.encode_images(randn(3, 3, 32, 32).sigmoid()),
        "images": prior.decode_latents(randn(3, 4, 4, 4)),
        "views": prior.sample("a blue cube", cameras, steps=2, guidance_scale=3.0),
    }


@pytest.fixture(scope="module")
def plain(tiny_v_prior) -> dict[str, torch.Tensor]:
    result = outcomes(tiny_v_prior)
    assert result["across views"].abs().max() > 1e-4 and result["gradient"].abs().min() > 0
    return result


@pytest.fixture
def prior(tiny_v_prior):
    return copy.deepcopy(tiny_v_prior)


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "plain"},
        {"attention": "sliced"},
        {"vae_slicing": True},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "attention": "sliced", "vae_slicing": True},
        {"offload": "model"},
        {"offload": "sequential"},
        {"offload": "model", "gradient_checkpointing": True},
        {"offload": "sequential", "gradient_checkpointing": True},
    ],
    ids=str,
)
def test_options_change_no_result(options: dict[str, Any], prior, plain) -> None:
    apply_prior_options(prior, PriorOptions(**options))
    if "offload" in options:
        prior.offload = Offload(prior_networks(prior), CPU, options["offload"])
    assert not any(module.training for module in prior.modules())
    for name, value in outcomes(prior).items():
        torch.testing.assert_close(value, plain[name], rtol=2e-4, atol=2e-5, msg=lambda text, name=name: name + text)
    assert all(parameter.grad is None for parameter in prior.parameters())


def test_compiling_changes_no_result(prior, plain, monkeypatch: pytest.MonkeyPatch) -> None:
    # The graphs that are captured, without the minute in which a C++ compiler makes kernels of them.
    compiler, graphs = torch.nn.Module.compile, []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiler(module, backend=count))
    apply_prior_options(prior, PriorOptions(compile=True, gradient_checkpointing=True))
    loss, gradient = inversion_step(prior)
    assert graphs
    torch.testing.assert_close(loss, plain["loss"])
    torch.testing.assert_close(gradient, plain["gradient"], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_half_precision_teaches_nearly_the_same(dtype: torch.dtype, checkpointing: bool, prior, plain) -> None:
    prior.unet.to(dtype)
    prior.vae.to(dtype)
    apply_prior_options(prior, PriorOptions(gradient_checkpointing=checkpointing))
    loss, gradient = inversion_step(prior)
    assert gradient.dtype == torch.float32
    assert loss.item() == pytest.approx(plain["loss"].item(), rel=0.02)
    assert torch.cosine_similarity(gradient.flatten(), plain["gradient"].flatten(), dim=0) > 0.99
    with torch.no_grad():
        images = prior.decode_latents(randn(3, 4, 4, 4))
    torch.testing.assert_close(images, plain["images"], rtol=0, atol=0.03)


def test_tiles_show_nearly_the_same_pictures() -> None:
    from invert3d_ns.prior.checkpoints import load_prior

    prior = load_prior("bundled", "cpu")
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, prior.info.image_size)] * 2, indexing="ij")
    disc = (x.square() + y.square() < 0.4).float()
    image = torch.stack([torch.ones_like(disc), 1 - disc, 1 - 0.8 * disc])[None]
    with torch.no_grad():
        whole = prior.decode_latents(prior.encode_images(image))
        apply_prior_options(prior, PriorOptions(vae_tiling=True))
        tiled = prior.decode_latents(prior.encode_images(image))
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)
    assert torch.corrcoef(torch.stack([tiled.flatten(), whole.flatten()]))[0, 1] > 0.9


def test_checkpointing_keeps_less_and_turns_no_dropout_on(prior) -> None:
    peaks = {}
    for on in (False, True):
        apply_prior_options(prior, PriorOptions(gradient_checkpointing=on))
        with TensorMemory(prior.parameters()) as counted:
            inversion_step(prior)
        peaks[on] = counted.peak
        assert not any(module.training for module in prior.modules())
    assert peaks[True] < 0.8 * peaks[False]


def test_options_can_be_taken_back(prior, plain) -> None:
    weights = dict(prior.named_parameters())
    everything = PriorOptions(
        attention="sliced", vae_slicing=True, vae_tiling=True, gradient_checkpointing=True, compile=True
    )
    apply_prior_options(prior, everything)
    assert prior.options is everything and prior.unet.is_gradient_checkpointing
    assert isinstance(next(iter(prior.unet.attn_processors.values())), PROCESSORS["sliced"])  # type: ignore[arg-type]
    prior.offload = Offload(prior_networks(prior), CPU, "model")
    inversion_step(apply_prior_options(prior, PriorOptions()))
    assert not prior.unet.is_gradient_checkpointing and prior.offload is None
    assert not prior.vae.use_slicing and not prior.vae.use_tiling
    assert all(weights[name] is parameter for name, parameter in prior.named_parameters())
    torch.testing.assert_close(outcomes(prior), plain, rtol=2e-4, atol=2e-5)


# Offloading


def loaded(weights: dict[str, torch.nn.Parameter], prior) -> set[str]:
    """Networks whose weights are not those in main memory."""
    away = {name for name, parameter in prior.named_parameters() if weights[name] is not parameter}
    return {".".join(name.split(".")[: 2 if name.startswith("vae") else 1]) for name in away}


def test_one_network_at_a_time_is_on_the_device(prior) -> None:
    weights = dict(prior.named_parameters())
    prior.offload = Offload(prior_networks(prior), CPU, "model")
    assert loaded(weights, prior) == set()
    with torch.no_grad():
        prior.encode_images(randn(1, 3, 32, 32))
        assert loaded(weights, prior) == {"vae.encoder", "vae.quant_conv"}
        prior.encode_prompt("a mug")
        assert loaded(weights, prior) == {"text_encoder"}
        prior.decode_latents(randn(1, 4, 4, 4))
        assert loaded(weights, prior) == {"vae.decoder", "vae.post_quant_conv"}
    inversion_step(prior)
    assert loaded(weights, prior) == {"unet"}
    prior.offload.remove()
    assert loaded(weights, prior) == set()


@pytest.mark.parametrize("fails", [False, True])
def test_one_layer_at_a_time_is_on_the_device(fails: bool, prior) -> None:
    weights = dict(prior.named_parameters())
    layer = prior.vae.decoder.conv_out
    prior.offload = Offload(prior_networks(prior), CPU, "sequential")
    seen = []

    def watch(*_: Any) -> None:
        seen.append({name for name, parameter in prior.named_parameters() if weights[name] is not parameter})
        if fails:
            raise RuntimeError("on purpose")

    layer.register_forward_hook(watch)
    try:
        with torch.no_grad():
            prior.decode_latents(randn(1, 4, 4, 4))
    except RuntimeError as error:
        assert str(error) == "on purpose"
    assert len(seen) == 1 and seen[0] <= {"vae.decoder.conv_out.weight", "vae.decoder.conv_out.bias"}
    assert loaded(weights, prior) == set()


def test_layers_come_and_go(prior) -> None:
    """The peak of a guided step holds no more than one layer's weights besides activations."""
    peaks = {}
    cameras = camera_condition(torch.arange(4) * 90.0, torch.tensor(10.0))[None]
    for mode in (None, "sequential", "model"):
        if mode:
            prior.offload = Offload(prior_networks(prior), CPU, mode)
        with torch.no_grad(), TensorMemory(prior.parameters()) as counted:
            prior.predict(randn(1, 4, 4, 4, 4), torch.tensor([3]), randn(1, 7, 24), cameras)
        peaks[mode] = counted.peak
        if prior.offload is not None:
            prior.offload.remove()
    unet = sum(parameter.nbytes for parameter in prior.unet.parameters())
    largest = max(sum(p.nbytes for p in m.parameters(recurse=False)) for m in prior.unet.modules())
    assert peaks[None] <= peaks["sequential"] <= peaks[None] + largest
    assert peaks["model"] >= unet > 2 * largest


def test_on_a_cpu_nothing_is_offloaded(prior) -> None:
    assert apply_prior_options(prior, PriorOptions(offload="sequential"), "cpu").offload is None


# Out of memory


def _fail(*_: Any, **__: Any) -> Any:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nmore lines")


@pytest.mark.parametrize("work", get_args(Work))
def test_running_out_of_memory_names_what_helps(work: Work, prior, monkeypatch: pytest.MonkeyPatch) -> None:
    cameras = camera_condition(torch.arange(4) * 90.0, torch.tensor(10.0))[None]
    calls = {
        "inversion": lambda: inversion_step(prior),
        "sampling": lambda: prior.sample("a mug", cameras, steps=1),
        "encoding": lambda: prior.encode_images(randn(1, 3, 32, 32)),
        "decoding": lambda: prior.decode_latents(randn(1, 4, 4, 4)),
    }
    prior.options = PriorOptions(precision="fp32")
    for network in (prior.unet, prior.vae.encoder, prior.vae.decoder):
        monkeypatch.setattr(network, "forward", _fail)
    with pytest.raises(InputError, match="too little memory") as caught:
        calls[work]()
    message = str(caught.value)
    assert "\n" not in message and "--pipeline.prior-options." in message
    helps = 0
    for name, values in SAVINGS.items():
        for value, savings in values.items():
            helps += work in savings
            assert (f"{name.replace('_', '-')} {value} ({savings.get(work)} % less)" in message) == (work in savings)
    assert helps


def test_what_is_on_already_is_not_advised() -> None:
    assert "precision" not in out_of_memory_message("inversion", PriorOptions())
    assert "offload model" not in out_of_memory_message("sampling", PriorOptions(offload="sequential"))
    assert "offload sequential" in out_of_memory_message("sampling", PriorOptions(offload="model"))
    with pytest.raises(InputError) as caught, explain_out_of_memory("decoding", PriorOptions(vae_slicing=True)):
        _fail()
    assert "vae-slicing" not in str(caught.value) and "vae-tiling True" in str(caught.value)
    everything = PriorOptions(
        vae_slicing=True, vae_tiling=True, offload="sequential", gradient_checkpointing=True, precision="bf16"
    )
    with (
        pytest.raises(InputError, match="every option that lowers it is on"),
        explain_out_of_memory("decoding", everything),
    ):
        _fail()


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="something else"), explain_out_of_memory("sampling"):
        raise RuntimeError("something else")


def test_advice_is_of_options_that_exist() -> None:
    hints = get_type_hints(PriorOptions)
    for name, values in SAVINGS.items():
        for value, savings in values.items():
            assert hints[name] is bool if value == "True" else value in get_args(hints[name])
            assert savings.keys() <= set(get_args(Work)) and all(0 < percent < 100 for percent in savings.values())


# Where options come from


def test_precision_is_chosen_for_where_the_prior_will_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = PriorOptions()
    assert preferred_dtype(auto, "mvdream-sd1.5", "cpu") == torch.float32
    for supported, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda yes=supported, **_: yes)
        assert preferred_dtype(auto, "mvdream-sd1.5", "cuda:0") == expected
        assert preferred_dtype(auto, "bundled", "cuda") == torch.float32
    assert preferred_dtype(replace(auto, precision="fp16"), "bundled", "cpu") == torch.float16


def test_ns_train_and_invert3d_views_take_every_option() -> None:
    import tyro

    from invert3d_ns.cli import _parse
    from invert3d_ns.configs import invert3d

    given = PriorOptions("bf16", "sliced", True, True, "model", True, False)
    arguments = [
        text
        for field in fields(PriorOptions)
        for text in (f"prior-options.{field.name.replace('_', '-')}", str(getattr(given, field.name)))
    ]
    views = _parse(["views", "e.safetensors", *_flags("--", arguments)])
    assert views.prior_options == given
    config = tyro.cli(
        tyro.conf.FlagConversionOff[type(invert3d.config)],
        default=copy.deepcopy(invert3d.config),
        args=_flags("--pipeline.", arguments),
    )
    assert getattr(config.pipeline, "prior_options") == given  # noqa: B009 - typed as any pipeline's


def _flags(prefix: str, arguments: list[str]) -> list[str]:
    return [prefix + text if text.startswith("prior-options.") else text for text in arguments]


def test_the_pipeline_applies_its_options(tiny_v_prior, tmp_path) -> None:
    from invert3d_ns.prior.checkpoints import save_prior

    save_prior(tiny_v_prior, tmp_path / "prior", dtype=torch.float32)
    write_splats(tmp_path / "ball.ply", make_cloud(100))
    losses = {}
    for precision, checkpointing in (("auto", False), ("bf16", True)):
        options = PriorOptions(precision, gradient_checkpointing=checkpointing, vae_slicing=True)  # type: ignore[arg-type]
        config = tiny_config(tmp_path / "ball.ply", tmp_path / "prior", tmp_path, pipeline__prior_options=options)
        config.pipeline.datamanager.data = config.data
        pipeline = config.pipeline.setup(device="cpu", test_mode="inference")
        (words,) = pipeline.prepare(seed=0)
        words.begin(QuietRun(), None)
        terms, _ = words.losses(0)
        terms["denoising"].backward()
        prior = pipeline.inversion.prior
        assert prior.options is options and prior.vae.use_slicing
        assert prior.unet.is_gradient_checkpointing == checkpointing
        assert prior.unet.dtype == (torch.bfloat16 if checkpointing else torch.float32)
        losses[precision] = (terms["denoising"].item(), pipeline.words.grad)
    assert losses["bf16"][0] == pytest.approx(losses["auto"][0], rel=0.05)
    assert torch.cosine_similarity(losses["bf16"][1].flatten(), losses["auto"][1].flatten(), dim=0) > 0.95


def test_options_that_exclude_each_other_are_refused_at_once(
    prior, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    from invert3d_ns.prior.checkpoints import load_prior

    both = PriorOptions(compile=True, offload="model")
    with pytest.raises(InputError, match="compile does not go with offload model"):
        apply_prior_options(prior, both)
    # Before the prior is looked for.
    with pytest.raises(InputError, match="compile does not go with offload model"):
        load_prior("no-such-prior", options=both)
    write_splats(tmp_path / "ball.ply", make_cloud(50))
    config = tiny_config(tmp_path / "ball.ply", tmp_path / "nowhere", tmp_path, pipeline__prior_options=both)
    config.pipeline.datamanager.data = config.data
    with pytest.raises(InputError, match="compile does not go with offload model"):
        config.pipeline.setup(device="cpu", test_mode="inference").prepare(seed=0)


def test_the_command_line_starts_without_torch() -> None:
    """Option fields are read at start-up, where loading torch would cost seconds and lose settings of its threads."""
    import subprocess
    import sys

    code = "import sys, invert3d_ns.prior.settings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
