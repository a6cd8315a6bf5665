"""What to do when the GPU's memory is full: the options that lower it, by how much, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.settings import PriorOptions, Work

SAVINGS: dict[str, dict[str, dict[Work, int]]] = {
    "precision": {"bf16": {"inversion": 45, "sampling": 45, "encoding": 45, "decoding": 45}},
    "vae_slicing": {"True": {"encoding": 9, "decoding": 11}},
    "vae_tiling": {"True": {"encoding": 9, "decoding": 11}},
    "offload": {
        "model": {"inversion": 10, "sampling": 26, "encoding": 85, "decoding": 82},
        "sequential": {"inversion": 12, "sampling": 95, "encoding": 87, "decoding": 86},
    },
    "gradient_checkpointing": {"True": {"inversion": 17}},
}
"""Memory that an option's value saves, per cent of all that a work needs without it, by the bytes of tensors:
`invert3d bench prior --size sd1.5 --device meta`."""

TOGETHER = 74
"""The same for a step of inversion with sequential offload and gradient checkpointing, which save little alone."""

_DOING = {"inversion": "a step of inversion", "sampling": "denoising", "encoding": "encoding", "decoding": "decoding"}


@contextmanager
def explain_out_of_memory(work: Work, options: PriorOptions | None = None) -> Iterator[None]:
    """Turn CUDA's out-of-memory error in this context into one line that names the options that help.

    Args:
        work: what is done here; options are named in the order of what they save in it.
        options: what is in use already and need not be named; none if None.

    Raises:
        InputError: the GPU's memory is full.
    """
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise InputError(out_of_memory_message(work, options or PriorOptions())) from error


def out_of_memory_message(work: Work, options: PriorOptions) -> str:
    """What :func:`explain_out_of_memory` says."""
    helps = []
    for name, values in SAVINGS.items():
        current = str(getattr(options, name))
        # "auto" is the half precision that the GPU has.
        already = 100 if current == "auto" else values.get(current, {}).get(work, 0)
        for value, savings in values.items():
            if savings.get(work, 0) > already:
                helps.append((savings[work], f"{name.replace('_', '-')} {value} ({savings[work]} % less)"))
    both = options.offload == "sequential" and options.gradient_checkpointing
    if work == "inversion" and not both:
        helps.append((TOGETHER, f"offload sequential and gradient-checkpointing True together ({TOGETHER} % less)"))
    start = f"the GPU has too little memory for {_DOING[work]}"
    if not helps:
        return f"{start}, and every option that lowers it is on; close other programs or take another GPU or prior"
    listed = ", ".join(text for _, text in sorted(helps, reverse=True))
    return (
        f"{start}; what lowers it, counted at full size: {listed}; give it as --pipeline.prior-options.NAME VALUE to "
        "ns-train, --prior-options.NAME VALUE to invert3d"
    )
