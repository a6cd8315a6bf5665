"""The optimizer of the bundled models: what its updates are, and what it is given to update."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from invert3d_ns.training import muon
from invert3d_ns.training.muon import Muon, orthogonalize, split_parameters


@pytest.mark.parametrize("shape", [(24, 24), (16, 60), (60, 16)])
def test_orthogonalized_matrices_keep_directions_and_level_their_gains(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, s, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    spread = u @ torch.diag(torch.linspace(0.3, 3.0, len(s))) @ vh
    result = orthogonalize(spread)
    gains = torch.linalg.svdvals(result)
    assert gains.min() > 0.5 and gains.max() < 1.4
    # The same singular vectors: the polar factor of the input, up to the levelling.
    assert torch.nn.functional.cosine_similarity(result.flatten(), (u @ vh).flatten(), dim=0) > 0.97


def test_updates_have_the_size_that_is_promised() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.zeros(32, 16, 3, 3))
    kernel.grad = torch.randn_like(kernel)
    Muon([kernel], lr=0.1).step()
    rms = kernel.detach().square().mean().sqrt()
    assert rms == pytest.approx(0.1 * 0.2, rel=0.25)


def test_weight_decay_is_decoupled_and_missing_gradients_are_skipped() -> None:
    with_gradient, without = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    with_gradient.grad = torch.zeros(4, 4)
    Muon([with_gradient, without], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(with_gradient.detach(), torch.full((4, 4), 0.95))
    torch.testing.assert_close(without.detach(), torch.ones(4, 4))


def test_a_run_equals_plain_momentum_with_polar_factors() -> None:
    torch.manual_seed(0)
    start, target, inputs = torch.randn(6, 9), torch.randn(6, 9), torch.randn(40, 9)

    def gradient(weight: torch.Tensor) -> torch.Tensor:
        return (weight - target) @ inputs.T @ inputs / len(inputs)

    fast, plain, mean = nn.Parameter(start.clone()), start.clone(), torch.zeros_like(start)
    optimizer = Muon([fast], lr=0.05, momentum=0.9)
    for _ in range(40):
        fast.grad = gradient(fast.detach())
        optimizer.step()
        mean = 0.9 * mean + 0.1 * (step := gradient(plain))
        u, _, vh = torch.linalg.svd(0.9 * mean + 0.1 * step, full_matrices=False)
        plain = plain - 0.05 * 0.2 * 3.0 * (u @ vh)
    moved = (plain - start).norm()
    # Newton-Schulz levels gains to within a third, so paths agree roughly and ends closely.
    assert (fast.detach() - plain).norm() < 0.3 * moved
    assert (fast.detach() - target).norm() < 0.8 * (start - target).norm()


def test_updates_of_one_shape_at_once_are_those_of_each_alone() -> None:
    torch.manual_seed(0)
    shapes = [(12, 8), (12, 8), (8, 12), (4, 2, 3, 3), (4, 18), (12, 8)]
    together = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    alone = [nn.Parameter(parameter.detach().clone()) for parameter in together]
    idle = nn.Parameter(torch.ones(12, 8))
    one = Muon([*together, idle], lr=0.1, weight_decay=0.1)
    each = [Muon([parameter], lr=0.1, weight_decay=0.1) for parameter in alone]
    for _ in range(3):
        for first, second in zip(together, alone, strict=True):
            first.grad = torch.randn(first.shape)
            second.grad = first.grad.clone()
        one.step()
        for optimizer in each:
            optimizer.step()
    for first, second in zip(together, alone, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-2, atol=2e-4)
    assert torch.equal(idle.detach(), torch.ones(12, 8))


def test_parameters_are_split_by_what_they_are() -> None:
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(5, 8),
            "conv_in": nn.Conv2d(3, 8, 3),
            "hidden": nn.Conv2d(8, 8, 3),
            "frozen": nn.Linear(8, 8).requires_grad_(False),
            "norm": nn.GroupNorm(2, 8),
        }
    )
    hidden, rest = split_parameters(model)
    assert [p.shape for p in hidden] == [torch.Size([8, 8, 3, 3])]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(hidden) + len(rest) == len(trained) and {id(p) for p in hidden + rest} == {id(p) for p in trained}


@pytest.mark.parametrize("shape", [(3, 16, 64), (2, 8, 16), (1, 24, 216)])
def test_wide_matrices_by_their_gram_matrix_are_the_same(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * torch.logspace(0, -3, shape[1])[:, None]
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(muon._by_gram(x), muon._by_steps(x), atol=2e-4, rtol=0)
