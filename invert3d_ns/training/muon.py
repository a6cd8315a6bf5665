"""Muon: momentum whose update is made orthogonal, for the weight matrices and convolution kernels of a network.

Own optimizer, because ``torch.optim.Muon`` takes matrices only, no convolution kernels, and is missing from the older
versions of torch that this package supports. Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural
networks" (the quintic Newton-Schulz iteration and its coefficients); decoupled weight decay as in AdamW.

On the bundled autoencoder it reached in 60 s on one core what AdamW did not reach in 185 s (see the model card).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from invert3d_ns.training.compute import working_dtype

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x, x^3 and x^5 in the quintic iteration."""
ITERATIONS = 5
"""Newton-Schulz iterations of each update."""


def orthogonalize(matrices: Float[Tensor, "*B M N"]) -> Float[Tensor, "*B M N"]:
    """Approximate the closest semi-orthogonal matrices: singular values in about [0.7, 1.2].

    In bfloat16 precision, or float32 where bfloat16 is slower; see :func:`.compute.working_dtype`.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(working_dtype(matrices.device))
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    # Squares lose half the digits: bfloat16 has none to lose.
    short = x.dtype == torch.float32 and x.shape[-1] >= 2 * x.shape[-2]
    x = _by_gram(x) if short else _by_steps(x)
    return (x.mT if tall else x).to(matrices.dtype)


def _by_steps(x: Float[Tensor, "*B M N"]) -> Float[Tensor, "*B M N"]:
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def _by_gram(x: Float[Tensor, "*B M N"]) -> Float[Tensor, "*B M N"]:
    """The same for matrices much wider than high: every step is a polynomial of the Gram matrix, and all commute, so
    that the wide matrix is touched twice instead of ten times. On one core a step of the bundled denoiser's matrices
    took 0.6 instead of 0.9 s.
    """
    a, b, c = COEFFICIENTS
    gram = x @ x.mT
    one = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
    product = one
    for left in range(ITERATIONS, 0, -1):
        factor = a * one + b * gram + c * gram @ gram
        product = factor if product is one else factor @ product
        if left > 1:
            gram = factor @ (factor @ gram)
    return product @ x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum.

    Args:
        params: parameters of two or more dimensions; kernels are taken as matrices (outputs, the rest).
        lr: learning rate; an update's root mean square is about 0.2 ``lr``, see below.
        momentum: decay of the gradients' running mean.
        weight_decay: decoupled, times the learning rate.

    An update is scaled by 0.2 sqrt(max(M, N)) (Liu et al. 2025, "Muon is scalable for LLM training"): its root mean
    square is then about 0.2 ``lr``, as AdamW's is, so that both can share one learning rate.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient, those of one shape in one batch of products."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            ahead: dict[Hashable, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(gradient)
                mean = state["momentum"].lerp_(gradient, 1 - momentum)
                matrix = gradient.lerp(mean, momentum).flatten(1)
                ahead[matrix.shape, matrix.device, matrix.dtype].append((parameter, matrix))
            for alike in ahead.values():
                updates = orthogonalize(torch.stack([matrix for _, matrix in alike]))
                for (parameter, matrix), update in zip(alike, updates, strict=True):
                    parameter.mul_(1 - lr * group["weight_decay"])
                    parameter.add_(update.reshape(parameter.shape), alpha=-lr * 0.2 * max(matrix.shape) ** 0.5)


def split_parameters(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Split a model's parameters into those for Muon (hidden matrices and kernels) and those for AdamW (all else).

    Embeddings, the first and the last convolution, biases and norms go to AdamW: their rows are not a map between
    hidden spaces.
    """
    apart = {
        id(parameter)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) or name.rsplit(".", 1)[-1] in ("conv_in", "conv_out")
        for parameter in module.parameters()
    }
    hidden: list[Tensor] = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2 and id(p) not in apart]
    chosen = {id(p) for p in hidden}
    return hidden, [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
