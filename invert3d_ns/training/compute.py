"""How networks compute while they train: in what the device is quick at."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def working_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 where the device computes in it; float32 on a CPU that would only imitate it.

    Imitated it is less exact and slower: on an EPYC without AVX-512 BF16 a step of the denoiser took more than ten
    times as long in bfloat16 as in float32 (1.6 s on one core, 32 views).
    """
    # Private to torch: where it is not, bfloat16 counts as imitated.
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    imitated = torch.device(device).type == "cpu" and not native()
    return torch.float32 if imitated else torch.bfloat16


def mixed_precision(device: torch.device | str) -> torch.autocast:
    """Run matrix products and convolutions in :func:`working_dtype` for as long as the context lasts."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=working_dtype(device) == torch.bfloat16)


def quick_attention(device: torch.device | str) -> AbstractContextManager[Any]:
    """Choose the attention of training: on a CPU the fused one's backward takes up to four times as long as the plain
    one's at lengths of these networks.
    """
    plain = torch.device(device).type == "cpu"
    return sdpa_kernel([SDPBackend.MATH] if plain else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
