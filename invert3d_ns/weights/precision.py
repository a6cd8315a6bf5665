"""In which precision weights compute where nobody says: one rule for priors and CLIP towers."""

from __future__ import annotations

import torch


def automatic_dtype(name: str, device: str | torch.device) -> torch.dtype:
    """The precision of networks that are to compute on ``device``, wherever they are loaded first.

    float32 on a CPU and for what is bundled, which is small; else bfloat16, whose range keeps small gradients from
    vanishing, or float16 on GPUs without it.

    Args:
        name: of the prior or the towers.
        device: where they shall compute.
    """
    if torch.device(device).type != "cuda" or name.startswith("bundled"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
