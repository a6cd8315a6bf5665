"""Collect versions and hardware, for the files that figures are written to."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

_PACKAGES = ("nerfstudio", "torch", "diffusers", "transformers", "gsplat", "numpy")


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Collect versions of this package and of those that figures depend on, and the machine's hardware.

    Args:
        device: where the figures were measured; "cuda..." adds the GPU's name.

    Returns:
        ``versions`` by package, and ``hardware``: device, processor, cores, torch_threads and, on CUDA, gpu.
    """
    import torch

    from invert3d_ns import __version__

    versions = {"invert3d_ns": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    hardware: dict[str, Any] = {
        "device": device,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    if device.startswith("cuda"):
        hardware["gpu"] = torch.cuda.get_device_name(device)
    return {"versions": versions, "hardware": hardware}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
