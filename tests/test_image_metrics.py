from __future__ import annotations

import pytest
import torch
from pytorch_msssim import SSIM

from invert3d_ns.base.metrics import psnr, ssim


@pytest.mark.parametrize("size", [(11, 40), (48, 33)])
def test_equals_the_library_in_value_and_gradient(size):
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, *size, generator=generator, requires_grad=True)
    b = (a.detach() + 0.2 * torch.randn(2, 3, *size, generator=generator)).clamp(0, 1)
    expected = SSIM(data_range=1.0, size_average=True, channel=3)(a, b)
    (expected_gradient,) = torch.autograd.grad(expected, a)
    value = ssim(a, b)
    (gradient,) = torch.autograd.grad(value, a)
    assert torch.allclose(value, expected, atol=1e-5)
    assert (gradient - expected_gradient).norm() < 1e-3 * expected_gradient.norm()
    assert torch.allclose(ssim(b, b), torch.tensor(1.0))


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="window"):
        ssim(torch.zeros(1, 3, 8, 20), torch.zeros(1, 3, 8, 20))


def test_psnr_is_the_mean_over_images_of_decibels():
    truth = torch.full((2, 3, 4, 4), 0.5)
    images = truth.clone()
    images[0] += 0.1
    images[1] += 0.01
    assert psnr(images, truth) == pytest.approx((20 + 40) / 2, abs=1e-3)
    assert psnr(truth, truth) == pytest.approx(100)
