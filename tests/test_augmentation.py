"""Crops and tilts of views: where they look, against slicing and torchvision, and that gradients get through."""

from __future__ import annotations

import pytest
import torch

from invert3d_ns.alignment.augmentation import apply_crops, draw_crops, homographies


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _square(side: float, x: float, y: float) -> torch.Tensor:
    return torch.tensor([[[side, 0.0, x], [0.0, side, y], [0.0, 0.0, 1.0]]])


def test_the_whole_view_is_the_view() -> None:
    images = torch.rand(2, 3, 16, 16, generator=_generator())
    torch.testing.assert_close(apply_crops(images, torch.eye(3).expand(2, 3, 3), 16, samples=1), images)


@pytest.mark.parametrize(("x", "y"), [(-0.5, -0.5), (0.5, -0.5), (-0.5, 0.5)])
def test_a_quarter_is_what_slicing_gives_with_its_gradient(x: float, y: float) -> None:
    images = torch.rand(1, 3, 16, 16, generator=_generator()).requires_grad_()
    rows, columns = slice(int(8 * (y + 0.5)), int(8 * (y + 0.5)) + 8), slice(int(8 * (x + 0.5)), int(8 * (x + 0.5)) + 8)
    factors = torch.rand(1, 3, 8, 8, generator=_generator(1))
    cropped = apply_crops(images, _square(0.5, x, y), 8, samples=1)
    torch.testing.assert_close(cropped, images[..., rows, columns])
    (found,) = torch.autograd.grad((cropped * factors).sum(), images)
    (plain,) = torch.autograd.grad((images[..., rows, columns] * factors).sum(), images)
    torch.testing.assert_close(found, plain)


def test_samples_are_averaged_and_each_picture_has_its_own_crop() -> None:
    images = torch.rand(2, 1, 16, 16, generator=_generator())
    crops = torch.cat([_square(1.0, 0.0, 0.0), _square(0.5, -0.5, -0.5)])
    found = apply_crops(images, crops, 8, samples=2)
    torch.testing.assert_close(found[:1], torch.nn.functional.avg_pool2d(images[:1], 2))
    fine = apply_crops(images[1:], crops[1:], 16, samples=1)
    torch.testing.assert_close(found[1:], torch.nn.functional.avg_pool2d(fine, 2))


def test_homographies_take_corners_where_they_shall() -> None:
    source = torch.tensor([[[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]])
    target = torch.tensor([[[-0.9, -0.7], [0.6, -1.0], [1.0, 0.8], [-0.5, 0.9]]])
    mapped = torch.cat([source, torch.ones(1, 4, 1)], -1) @ homographies(source, target).mT
    torch.testing.assert_close(mapped[..., :2] / mapped[..., 2:], target)


def test_a_tilt_is_that_of_torchvision() -> None:
    from torchvision.transforms.v2 import functional

    y, x = torch.meshgrid(torch.linspace(0, 3, 65), torch.linspace(0, 4, 65), indexing="ij")
    image = torch.stack([x.sin(), y.cos(), (x * y).sin()])[None] / 2 + 0.5
    ends = [[4, 8], [58, 2], [62, 60], [6, 52]]
    corners = torch.tensor([ends], dtype=torch.float32) / 32 - 1
    square = torch.tensor([[[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]])
    ours = apply_crops(image, homographies(square, corners), 65, samples=1)
    # torchvision moves corners of the picture to the ends; here the ends are what the corners show.
    theirs = functional.perspective(image, ends, [[0, 0], [64, 0], [64, 64], [0, 64]])
    assert (ours - theirs)[..., 2:-2, 2:-2].abs().max() < 0.03


@pytest.mark.parametrize("side", [(0.35, 0.6), (0.7, 1.0), (1.0, 1.2)])
def test_crops_stay_in_their_views_and_have_their_sides(side: tuple[float, float]) -> None:
    crops = draw_crops(200, _generator(), side=side, perspective=0.0)
    half = crops[:, 0, 0]
    assert side[0] <= half.min() and half.max() <= side[1] and half.std() > 0.01
    reach = crops[:, :2, 2].abs() + half[:, None]
    assert (reach <= torch.maximum(half, torch.ones(()))[:, None] + 1e-6).all()
    corners = torch.tensor([[-1.0, -1.0, 1.0], [1.0, 1.0, 1.0], [-1.0, 1.0, 1.0], [1.0, -1.0, 1.0]])
    tilted = corners @ draw_crops(200, _generator(), side=side, perspective=0.5).mT
    places = tilted[..., :2] / tilted[..., 2:]
    assert places.abs().max() <= max(side[1], 1.0) + 1e-5
    straight = corners @ crops.mT
    assert (places - straight[..., :2]).abs().max() > 0.1


def test_crops_are_of_their_generator() -> None:
    one, same, other = (draw_crops(4, _generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    state = torch.get_rng_state()
    draw_crops(4, _generator())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("wrong", [{"side": (0.0, 0.5)}, {"side": (0.6, 0.5)}, {"perspective": 1.0}])
def test_crops_that_are_none_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="no crops"):
        draw_crops(2, _generator(), **wrong)
