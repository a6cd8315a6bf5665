"""Benchmark of rasterization on a CPU, forward and backward: the compiled kernel beside its plain-torch twin."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from invert3d_ns.scenes.cameras import gsplat_viewmats, intrinsics, orbit_camera_to_world
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.ply import read_splats
from invert3d_ns.scenes.rasterization import SH_C0, kernel_available, rasterization


def synthetic_cloud(count: int, seed: int = 0) -> SplatCloud:
    """Make splats on a bumpy sphere of radius about 0.8, as small and translucent as so many trained ones are."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    direction = torch.nn.functional.normalize(normal(count, 3), dim=-1)
    bumps = 1 + 0.1 * torch.sin(7 * direction).sum(-1, keepdim=True)
    return SplatCloud(
        means=0.8 * direction * bumps + 0.02 * normal(count, 3),
        scales=torch.tensor(1.6 / count**0.5).log() + 0.7 * normal(count, 3),
        quats=torch.nn.functional.normalize(normal(count, 4), dim=-1),
        opacities=-0.8 + 2.0 * normal(count, 1),
        features_dc=(0.5 * torch.sin(5 * direction)) / SH_C0,
        features_rest=torch.zeros(count, 0, 3),
    )


def _timed(work: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each repeat: on the clock, and on all processors together."""
    wall, processor = [], []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        work()
        wall.append(1e3 * (time.perf_counter() - start[0]))
        processor.append(1e3 * (time.process_time() - start[1]))
    return wall, processor


def _measure(cloud: SplatCloud, size: int, backend: Any, repeats: int) -> dict[str, Any]:
    viewmats = gsplat_viewmats(orbit_camera_to_world(torch.tensor([30.0]), torch.tensor([10.0])))
    leaves = {
        "means": cloud.means,
        "quats": cloud.quats,
        "scales": cloud.scales.exp(),
        "opacities": cloud.opacities[:, 0].sigmoid(),
        "colors": cloud.base_colors.clamp_min(0.0),
    }
    arguments: dict[str, Any] = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}

    def draw() -> Tensor:
        image, _, _ = rasterization(
            **arguments,
            viewmats=viewmats,
            Ks=intrinsics(size)[None],
            width=size,
            height=size,
            packed=False,
            render_mode="RGB+ED",
            backend=backend,
        )
        return image

    def draw_without_gradients() -> None:
        with torch.no_grad():
            draw()

    def draw_and_differentiate() -> None:
        draw().square().sum().backward()

    if repeats > 1:
        draw_and_differentiate()
    forward, _ = _timed(draw_without_gradients, repeats)
    both, both_cpu = _timed(draw_and_differentiate, repeats)
    return {
        "forward_ms": round(median(forward), 2),
        "forward_backward_ms": round(median(both), 2),
        "forward_backward_best_ms": round(min(both), 2),
        "forward_backward_cpu_ms": round(min(both_cpu), 2),
    }


def bench_rasterization(quick: bool = False, ply: Path | None = None) -> list[dict[str, Any]]:
    """Time :func:`~invert3d_ns.scenes.rasterization.rasterization` end to end (projection included), RGB and depth.

    Args:
        quick: one small case.
        ply: splats to draw at 256² pixels as well.

    Returns:
        A row for each case and backend: ``case``, ``splats``, ``pixels``, ``backend``, ``forward_ms`` (without
        gradients) and ``forward_backward_ms``, medians in milliseconds; ``forward_backward_best_ms`` and
        ``forward_backward_cpu_ms``, minima on the clock and of processor time; and ``ratio``: how many times longer
        forward and backward take than with the kernel, by the medians (absent without a kernel).
    """
    cases = [("synthetic", synthetic_cloud(10_000), 64)]
    if not quick:
        cases += [("synthetic", synthetic_cloud(10_000), 256), ("synthetic", synthetic_cloud(50_000), 256)]
    if ply is not None:
        cases.append((ply.name, to_object_frame(read_splats(ply))[0], 256))
    rows: list[dict[str, Any]] = []
    for case, cloud, size in cases:
        row = {"case": case, "splats": len(cloud), "pixels": f"{size}x{size}"}
        kernel = {}
        if kernel_available():
            kernel = _measure(cloud, size, "kernel", 7 if quick else 25)
            rows.append({**row, "backend": "kernel", **kernel, "ratio": 1.0})
        twin = _measure(cloud, size, "torch", 1)
        if kernel:
            twin["ratio"] = round(twin["forward_backward_ms"] / kernel["forward_backward_ms"], 1)
        rows.append({**row, "backend": "torch", **twin})
    return rows
