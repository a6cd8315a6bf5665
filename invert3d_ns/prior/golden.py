"""Golden files: weights, inputs and the output of a network, to hold our conversion and attention against."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from invert3d_ns.base.errors import InputError

TOLERANCE = 1e-5
"""Largest absolute difference at which a golden file agrees, in float32."""
_WEIGHTS = "state_dict."
_TENSORS = ("input.sample", "input.timestep", "input.context", "input.camera", "output.sample")


def is_golden(path: Path) -> bool:
    """Whether a file is meant as a golden file: safetensors that hold an output of a network."""
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, "pt") as file:
            keys = set(file.keys())
    except (SafetensorError, OSError, ValueError):
        return False
    return not keys.isdisjoint(_TENSORS)


@torch.no_grad()
def golden_difference(path: Path | str) -> float:
    """Run a golden file through conversion and cross-view attention in float32; the largest absolute difference.

    A golden file is a safetensors file with LDM-named weights under ``state_dict.``, the inputs ``input.sample``
    (b*f c h w), ``input.timestep`` (b*f), ``input.context`` (b*f n d) and ``input.camera`` (b*f 16), and
    ``output.sample``. Its metadata gives ``num_frames`` and ``num_heads`` or ``num_head_channels``.

    Raises:
        InputError: the file is missing, damaged, or no golden file.
    """
    from invert3d_ns.prior.attention import install_cross_view_attention
    from invert3d_ns.prior.conversion import convert_unet
    from invert3d_ns.prior.unet import run_unet
    from invert3d_ns.weights.network_config import whole_number
    from invert3d_ns.weights.tensors import read_safetensors

    path = Path(path)
    tensors, metadata = read_safetensors(path)
    missing = [name for name in _TENSORS if name not in tensors] + [k for k in ("num_frames",) if k not in metadata]
    weights = {key.removeprefix(_WEIGHTS): value.float() for key, value in tensors.items() if key.startswith(_WEIGHTS)}
    if missing or not weights:
        raise InputError(
            f"{path} is not a golden file: {', '.join(missing) or 'weights under state_dict.'} missing; "
            "see `invert3d prior check --help`"
        )
    heads: dict[str, Any] = {
        name: whole_number(metadata, name, least=1, most=4096, default=1, path=path)
        for name in ("num_heads", "num_head_channels")
        if name in metadata
    }
    frames = whole_number(metadata, "num_frames", least=1, most=4096, default=1, path=path)
    sample, t, context, cameras, expected = (tensors[name] for name in _TENSORS)
    try:
        unet = convert_unet(weights, **heads).float().eval()
        install_cross_view_attention(unet)
        views = (len(sample) // frames, frames)
        output = run_unet(
            unet,
            sample.float().unflatten(0, views),
            t.unflatten(0, views),
            context.float().unflatten(0, views),
            cameras.float().unflatten(0, views),
        )
        difference = (output.flatten(0, 1) - expected.float()).abs().max().item()
    except InputError:
        raise
    except Exception as error:  # tensors of other shapes end in errors of all kinds
        detail = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is no golden file: its tensors do not fit ({detail}); write it again") from error
    if not math.isfinite(difference):
        raise InputError(f"{path} is no golden file: its output has numbers that are not finite; write it again")
    return difference
