"""Benchmark of priors of full size: time, memory and what each option saves, measured with random weights."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from statistics import median
from typing import Any, Literal

import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.metrics.random_prior import RandomPrior, Size, random_prior
from invert3d_ns.metrics.tensor_memory import TensorMemory, fake_tensors, tensor_bytes
from invert3d_ns.metrics.timing import milliseconds
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.prior.memory import apply_prior_options, prior_networks
from invert3d_ns.prior.offload import Offload
from invert3d_ns.prior.settings import PriorOptions, Work
from invert3d_ns.scenes.cameras import camera_condition

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fp32": {"precision": "fp32"},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "plain-attention": {"attention": "plain"},
    "sliced-attention": {"attention": "sliced"},
    "vae-slicing": {"vae_slicing": True},
    "vae-tiling": {"vae_tiling": True},
    "offload-model": {"offload": "model"},
    "offload-sequential": {"offload": "sequential"},
    "gradient-checkpointing": {"gradient_checkpointing": True},
    "checkpointing-and-offload-sequential": {"gradient_checkpointing": True, "offload": "sequential"},
    "compile": {"compile": True},
}
"""Options by the name of their row."""

_ONLY: dict[str, tuple[Work, ...]] = {
    "plain-attention": ("inversion", "sampling"),
    "sliced-attention": ("inversion", "sampling"),
    "vae-slicing": ("encoding", "decoding"),
    "vae-tiling": ("encoding", "decoding"),
    "gradient-checkpointing": ("inversion",),
    "checkpointing-and-offload-sequential": ("inversion",),
    "compile": ("inversion", "sampling"),
}

WHAT: dict[Work, str] = {
    "inversion": "inversion step",
    "sampling": "guided denoising step",
    "encoding": "encode 4 views",
    "decoding": "decode 4 views",
}
"""What is measured, in the words of the table."""

Device = Literal["cuda", "cpu", "meta"]


def bench_prior(
    size: Size,
    device: Device,
    variants: Sequence[str] | None = None,
    *,
    runs: int = 5,
    vectors: int = 32,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure time and peak memory of an inversion step, a guided denoising step, and encoding and decoding four views.

    - inversion step: noise the latents of 4 views, encode the words, predict, go backward to the words.
    - guided denoising step: the UNet once, on 2 x 4 views.

    "plain" is bf16, on the CPU fp32. Memory is, on CUDA, the most that torch had allocated. On the CPU it is what a GPU
    would have to hold: the bytes of the weights that are not offloaded, plus the peak of :class:`TensorMemory`. So it
    is on "meta", where tensors have no content, nothing is computed and no time is taken: full size needs no memory.

    Args:
        variants: names in :data:`VARIANTS`; "plain" is always measured. All if None, but what is plain there, and,
            without CUDA, "compile".
        runs: the median of this many is the time, after one more that the memory is taken from. 0: that one's time.
        vectors: number N of pseudo-word vectors.
        progress: called with each variant before it is measured.

    Returns:
        Rows with ``options``, ``what``, ``ms``, ``MB`` (10^6 bytes), and ``time`` and ``memory`` over the plain row's.

    Raises:
        InputError: there is no such variant, or no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device; take --device cpu, or meta, which counts memory without computing")
    same = "fp32" if device == "cpu" else "bf16"
    names = list(VARIANTS) if variants is None else list(dict.fromkeys(["plain", *variants]))
    for name in names:
        if name not in VARIANTS:
            raise InputError(f"there are no options called {name!r}; choose among {', '.join(VARIANTS)}")
    if variants is None:
        names = [name for name in names if name != same and (device == "cuda" or name != "compile")]
    rows: list[dict[str, Any]] = []
    for name in names:
        if progress is not None:
            progress(name)
        options = PriorOptions(**VARIANTS[name])
        for work, (seconds, peak) in _measure(size, device, options, name, runs, vectors).items():
            row: dict[str, Any] = {"options": name, "what": WHAT[work]}
            if seconds is not None:
                row["ms"] = round(1e3 * seconds, 1)
            row["MB"] = round(peak / 1e6, 1)
            plain = next((other for other in rows if other["what"] == row["what"]), row)
            if seconds is not None:
                row["time"] = round(row["ms"] / plain["ms"], 2)
            row["memory"] = round(row["MB"] / plain["MB"], 2)
            rows.append(row)
    return rows


def figures_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put rows into flat numbers: the plain rows' times and memory, and the share that each other row saves."""
    figures: dict[str, Any] = {}
    for row in rows:
        what = row["what"].replace(" ", "_")
        if row["options"] == "plain":
            figures |= {f"{what}_{unit}": row[unit] for unit in ("ms", "MB") if unit in row}
        else:
            figures[f"{what}_{row['options'].replace('-', '_')}_saves"] = round(1 - row["memory"], 2)
    return figures


def _measure(
    size: Size, device: Device, options: PriorOptions, name: str, runs: int, vectors: int
) -> dict[Work, tuple[float | None, int]]:
    """Median seconds and peak bytes of each work that the options bear on."""
    precision = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = precision.get(options.precision, torch.float32 if device == "cpu" else torch.bfloat16)
    results: dict[Work, tuple[float | None, int]] = {}
    with fake_tensors() if device == "meta" else nullcontext():
        real = "cuda" if device == "cuda" else "cpu"
        # What is offloaded starts in main memory, as it does when a prior is loaded.
        prior = random_prior(size, "cpu" if options.offload != "none" else real, dtype)
        apply_prior_options(prior, options, real)
        if options.offload != "none" and real == "cpu":
            prior.offload = Offload(prior_networks(prior), torch.device("cpu"), options.offload)
        for work, run in _work(prior, vectors).items():
            if work not in _ONLY.get(name, tuple(WHAT)):
                continue
            seconds, peak = measure_once(run, prior)
            if runs and device != "meta":
                seconds = median(milliseconds(run, prior.device) for _ in range(runs)) / 1e3
            results[work] = (None if device == "meta" else seconds, peak)
    del prior, run
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return results


def _work(prior: RandomPrior, vectors: int) -> dict[Work, Callable[[], Any]]:
    info, device = prior.info, prior.device
    views = info.num_views
    latents = torch.randn(1, views, info.latent_channels, info.latent_size, info.latent_size, device=device)
    images = torch.rand(views, 3, info.image_size, info.image_size, device=device)
    cameras = camera_condition(torch.arange(views) * (360.0 / views), torch.tensor(0.0))[None].to(device)
    t = torch.full((1,), prior.num_timesteps // 2, device=device)
    words = torch.randn(vectors, info.token_dim, device=device).mul_(0.02).requires_grad_()
    with torch.no_grad():
        context = prior.encode_prompt("<object>", {"<object>": words})

    def inversion() -> None:
        step_context = prior.encode_prompt("<object>", {"<object>": words})
        prior.prediction_loss(latents, torch.randn_like(latents), t, step_context, cameras).backward()
        words.grad = None

    @torch.no_grad()
    def sampling() -> None:
        Conditions(context, context, info.guidance_scale).predict(prior, latents, t, cameras)

    @torch.no_grad()
    def encoding() -> None:
        prior.encode_images(images)

    @torch.no_grad()
    def decoding() -> None:
        prior.decode_latents(latents[0])

    return {"inversion": inversion, "sampling": sampling, "encoding": encoding, "decoding": decoding}


def measure_once(run: Callable[[], Any], prior: RandomPrior) -> tuple[float, int]:
    """Seconds and peak bytes of one run, weights that are not offloaded included; see :func:`bench_prior`."""
    if prior.device.type == "cuda":
        run()  # libraries choose kernels in the first run, and need memory to try them
        torch.cuda.reset_peak_memory_stats(prior.device)
        seconds = milliseconds(run, prior.device) / 1e3
        return seconds, torch.cuda.max_memory_allocated(prior.device)
    if prior.offload is not None:
        # The network that the run before has left on the device.
        mode = prior.options.offload
        prior.offload.remove()
        prior.offload = Offload(prior_networks(prior), prior.device, "model" if mode == "model" else "sequential")
    weights = [*prior.parameters(), *prior.buffers()]
    with TensorMemory(weights) as memory:
        seconds = milliseconds(run, prior.device) / 1e3
    return seconds, memory.peak + (0 if prior.offload is not None else tensor_bytes(weights))
