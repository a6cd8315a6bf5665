"""What an iteration of guidance costs with a prior of full size: counted without weights, measured where it can run."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.metrics.bench_prior import Device, measure_once
from invert3d_ns.metrics.random_prior import RandomPrior, Size, random_prior
from invert3d_ns.metrics.tensor_memory import fake_tensors
from invert3d_ns.metrics.text_runs import samples_a_step
from invert3d_ns.metrics.timing import milliseconds
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.scenes.cameras import camera_condition

if TYPE_CHECKING:
    from invert3d_ns.guidance.base import Guidance

Precision = Literal["fp32", "fp16", "bf16"]
ENCODER = "(the encoder alone)"
"""The row of what every kind of guidance shares: views encoded, and a gradient on their latents that comes back."""
PROGRESS = 0.5
"""How much of the guidance is done: all six jumps of GE3D fit there."""
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def guidance_cost(
    size: Size,
    device: Device,
    *,
    groups: Sequence[int] = (1, 2),
    precisions: Sequence[Precision] | None = None,
    runs: int = 3,
    teraflops: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Count, or measure, one iteration of each kind of guidance on groups of views, with a prior of random weights.

    An iteration encodes the views, asks the UNet, and brings the gradient back through the encoder; that views are
    rendered is not part of it. Memory is counted as by :func:`~invert3d_ns.metrics.bench_prior.bench_prior`: weights
    (those of the text tower, in float32, too) and every tensor at the worst moment; on "cuda", what torch allocated.

    Args:
        size: of the prior.
        device: on "meta" nothing is computed and no time is taken.
        groups: numbers B of groups, of as many views F as the prior makes at once.
        precisions: of UNet and autoencoder; float32 and float16 if None, on "cpu" float32 alone.
        runs: the median of this many is the time.
        teraflops: 10^12 floating-point operations a second that a device is known to carry out; seconds that it would
            take are reckoned from it.
        progress: called with what is measured next.

    Returns:
        Rows with ``guidance``, ``precision``, ``groups``, ``UNet samples`` (views that the UNet is called for: two for
        each view of a call under guidance), ``GB`` (10^9 bytes at the peak), ``TFLOP`` (10^12 operations, as torch
        counts them: a multiply-add is two), ``seconds`` and ``reckoned seconds``, if any, and ``samples on average``,
        those of an iteration over a whole schedule, which for ISM are not those of this one.

    Raises:
        InputError: there is no such device, or no number of groups.
    """
    from invert3d_ns.guidance.configs import GUIDANCE_CONFIGS

    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device; take --device cpu, or meta, which counts memory without computing")
    if not groups:
        raise InputError("no groups of views are given; give --groups one number or more")
    rows: list[dict[str, Any]] = []
    for precision in precisions or (("fp32",) if device == "cpu" else ("fp32", "fp16")):
        with fake_tensors() if device == "meta" else nullcontext():
            prior = random_prior(size, "cuda" if device == "cuda" else "cpu", _DTYPES[precision])
            context = torch.randn(2, 1, 77, prior.info.token_dim, device=prior.device)
        views = prior.info.num_views
        conditions = Conditions(context[0], context[1], prior.info.guidance_scale, prior.info.guidance_rescale)
        for count in groups:
            with fake_tensors() if device == "meta" else nullcontext():
                images = torch.rand(count, views, 3, *(prior.info.image_size,) * 2, device=prior.device)
            for kind, config in {ENCODER: None, **GUIDANCE_CONFIGS}.items():
                if progress is not None:
                    progress(f"{kind}, {precision}, {count} x {views} views")
                guidance = None if config is None else config.setup(prior=prior, conditions=conditions)
                row: dict[str, Any] = {"guidance": kind, "precision": precision, "groups": count}
                row |= _measure(prior, guidance, images.requires_grad_(), runs if device != "meta" else 0)
                if config is not None:
                    row["samples on average"] = round(count * samples_a_step(config, prior.num_timesteps, views), 1)
                if teraflops is not None:
                    row["reckoned seconds"] = float(f"{row['TFLOP'] / teraflops:.3g}")
                rows.append(row)
        del prior, conditions, context, images, guidance
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    return rows


def figures_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put rows into flat numbers by guidance, precision and groups."""
    return {
        f"{row['guidance']}_{row['precision']}_{row['groups']}_{key}".replace(" ", "_"): row[key]
        for row in rows
        for key in ("GB", "TFLOP", "seconds")
        if key in row and row["guidance"] != ENCODER
    }


def _measure(
    prior: RandomPrior, guidance: Guidance | None, images: Float[Tensor, "B F 3 H W"], runs: int
) -> dict[str, Any]:
    count, views = images.shape[:2]
    cameras = camera_condition(torch.arange(views) * (360.0 / views), torch.tensor(0.0)).expand(count, -1, -1)
    samples: list[int] = []

    def iteration() -> None:
        images.grad = None
        samples.clear()
        if guidance is None:
            latents = prior.encode_images(images)
            latents.backward(torch.ones_like(latents))
        else:
            terms = guidance.loss(images, cameras, torch.Generator().manual_seed(0), PROGRESS)
            torch.stack(list(terms.values())).sum().backward()

    with prior.unet.register_forward_pre_hook(lambda unet, given: samples.append(len(given[0]))):
        if prior.device.type == "cuda":
            _, peak = measure_once(iteration, prior)
            with flop_counter() as flops:
                iteration()
        else:  # where memory is counted too, one run will do
            with flop_counter() as flops:
                _, peak = measure_once(iteration, prior)
        times = [milliseconds(iteration, prior.device) / 1e3 for _ in range(runs)]
    operations = flops.get_total_flops() / 1e12
    row = {"UNet samples": sum(samples), "GB": round(peak / 1e9, 3), "TFLOP": float(f"{operations:.4g}")}
    return row | ({"seconds": round(median(times), 4)} if times else {})


def flop_counter() -> Any:
    """Torch's counter, which leaves out what fused attention is called on a CPU, with that."""
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def forward(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
        return sdpa_backward_flop_count(grad, query, key, value)

    aten = torch.ops.aten
    fused = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return FlopCounterMode(display=False, custom_mapping=fused)
