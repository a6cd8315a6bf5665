"""DIFT distance and silhouettes: against loops, on cases whose answer is known, and on what the bundled prior sees."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from invert3d_ns.base.errors import InputError
from invert3d_ns.metrics.correspondence import correspondence_distance, match_places, silhouette_iou
from invert3d_ns.metrics.feature_evidence import PLACE_ALONE, compare_with_variants, tabulate_layers, turn_object
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.world.rendering import render_objects
from invert3d_ns.world.splats import demo_object

FULL = torch.ones(1, 1, 8, 8)


def distinct(size: int = 8, views: int = 1) -> Tensor:
    """Features in which every place is unlike every other."""
    return torch.eye(size * size).reshape(1, size * size, size, size).expand(views, -1, -1, -1)


def random_case(seed: int, views: int = 2, size: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, views, 5, size, size, generator=generator)
    masks = (torch.rand(2, views, 1, size, size, generator=generator) > 0.4).float()
    return a, b, masks[0], masks[1]


def plain_distance(a: Tensor, b: Tensor, mask_a: Tensor, mask_b: Tensor) -> float:
    """The definition, place by place; features and masks have the grid's size."""
    size, views = a.shape[-1], []
    for view in range(len(a)):
        sides = []
        for ours, theirs, mine, yours in ((a, b, mask_a, mask_b), (b, a, mask_b, mask_a)):
            distances = []
            for p in torch.nonzero(mine[view, 0] >= 0.5).tolist():
                found, likeness = None, -2.0
                for q in torch.nonzero(yours[view, 0] >= 0.5).tolist():
                    x, y = ours[view, :, p[0], p[1]].double(), theirs[view, :, q[0], q[1]].double()
                    cosine = float(x @ y / (x.norm() * y.norm()))
                    if cosine > likeness:
                        found, likeness = q, cosine
                assert found is not None
                distances.append(math.dist(p, found) / size)
            sides.append(sum(distances) / len(distances))
        views.append(sum(sides) / 2)
    return sum(views) / len(views)


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_is_its_definition(seed: int) -> None:
    case = random_case(seed)
    assert correspondence_distance(*case, grid=6) == pytest.approx(plain_distance(*case), rel=1e-4)
    a, b, mask_a, mask_b = case
    assert correspondence_distance(b, a, mask_b, mask_a, grid=6) == pytest.approx(
        correspondence_distance(*case, grid=6)
    )


def test_an_object_and_itself_are_at_distance_zero() -> None:
    a, _, mask, _ = random_case(0)
    assert correspondence_distance(a, a, mask, mask, grid=6) == 0
    # Interpolated to a finer grid, places at the border look the same: each is its own neighbor all the same.
    assert correspondence_distance(a, a, torch.ones_like(mask), torch.ones_like(mask), grid=24) == 0
    assert correspondence_distance(torch.ones_like(a), torch.ones_like(a), mask, mask, grid=6) == 0


def test_what_moved_is_as_far_as_it_moved() -> None:
    features, mask = distinct(), torch.zeros(1, 1, 8, 8)
    mask[..., 2:5, 1:4] = 1
    moved, moved_mask = features.roll((1, 3), (2, 3)), mask.roll((1, 3), (2, 3))
    expected = math.hypot(1 / 8, 3 / 8)
    assert correspondence_distance(features, moved, mask, moved_mask, grid=8) == pytest.approx(expected)
    matches = match_places(features, moved, mask, moved_mask, grid=8)[0]
    assert matches is not None and len(matches.places_a) == 9
    offset = matches.places_b[matches.a_to_b] - matches.places_a
    torch.testing.assert_close(offset, torch.tensor([3 / 8, 1 / 8]).expand(9, 2))
    # Magnitudes of features mean nothing, and neither does what is not the object's.
    assert correspondence_distance(5 * features, moved, mask, moved_mask, grid=8) == pytest.approx(expected)
    noisy = torch.where(moved_mask.bool(), moved, features)
    assert correspondence_distance(features, noisy, mask, moved_mask, grid=8) == pytest.approx(expected)


def test_mirrored_features_are_as_far_as_the_mirror_says() -> None:
    features = distinct()
    across = torch.tensor([7, 5, 3, 1, 1, 3, 5, 7]).float().mean() / 8
    assert correspondence_distance(features, features.flip(-1), FULL, FULL, grid=8) == pytest.approx(float(across))


def test_coarse_features_are_interpolated_and_masks_averaged() -> None:
    a, b, _, _ = random_case(4, size=4)
    masks = torch.zeros(2, 2, 1, 32, 32)
    masks[0, :, :, 4:20, 6:26], masks[1, :, :, 10:30, 3:23] = 1, 1
    finer = [functional.interpolate(x, (16, 16), mode="bilinear", align_corners=False) for x in (a, b)]
    smaller = [functional.avg_pool2d(mask, 2) for mask in masks]
    expected = plain_distance(*finer, *smaller)
    assert correspondence_distance(a, b, *masks, grid=16) == pytest.approx(expected, rel=1e-4)


def test_views_without_an_object_say_nothing() -> None:
    a, b, mask_a, mask_b = random_case(1)
    second = correspondence_distance(a[1:], b[1:], mask_a[1:], mask_b[1:], grid=6)
    mask_b = mask_b.clone()
    mask_b[0] = 0
    assert correspondence_distance(a, b, mask_a, mask_b, grid=6) == pytest.approx(second)
    assert match_places(a, b, mask_a, mask_b, grid=6)[0] is None
    assert math.isnan(correspondence_distance(a, b, mask_a, 0 * mask_b, grid=6))
    assert silhouette_iou(mask_a, 0 * mask_b) == 0, "which silhouettes tell"


def test_what_does_not_belong_together_is_refused() -> None:
    a, b, mask_a, mask_b = random_case(1)
    with pytest.raises(InputError, match=r"\(2, 5, 6, 6\) and \(2, 4, 6, 6\)"):
        correspondence_distance(a, b[:, :4], mask_a, mask_b)
    with pytest.raises(InputError, match="not finite"):
        correspondence_distance(a, b / 0, mask_a, mask_b)
    with pytest.raises(InputError, match=r"masks of shape \(2, 6, 6\)"):
        correspondence_distance(a, b, mask_a[:, 0], mask_b)
    with pytest.raises(InputError, match="do not belong to 2 views"):
        correspondence_distance(a, b, mask_a, mask_b[:1])
    with pytest.raises(InputError, match="grid has 0"):
        correspondence_distance(a, b, mask_a, mask_b, grid=0)
    with pytest.raises(InputError, match="6x6 and 3x3"):
        silhouette_iou(mask_a, mask_b[..., :3, :3])


def test_silhouettes_overlap_as_far_as_they_do() -> None:
    a, b = torch.zeros(2, 3, 1, 8, 8)
    a[:2, :, :, :4], b[0, :, :, :4], b[1, :, :, 2:6] = 1, 1, 1
    for hard in (False, True):
        assert silhouette_iou(a, b, hard=hard) == pytest.approx((1 + 1 / 3) / 2), "the third view shows neither"
        assert math.isnan(silhouette_iou(0 * a, 0 * b, hard=hard))
    soft = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert silhouette_iou(soft, soft) == pytest.approx(1)
    assert silhouette_iou(torch.full((1, 1, 2, 2), 0.2), torch.full((1, 1, 2, 2), 0.8)) == pytest.approx(0.25)
    assert silhouette_iou(torch.full((1, 1, 2, 2), 0.6), torch.full((1, 1, 2, 2), 0.8), hard=True) == 1


def test_turned_objects_look_as_from_another_side() -> None:
    item = demo_object()
    turned = turn_object(item, (0.0, 0.0, 90.0))
    poses = orbit_camera_to_world(torch.tensor([[20.0], [110.0]]), torch.tensor([[10.0], [10.0]]))
    renders = render_objects([item, turned], poses, 64)
    assert (abs(renders.alpha[0].astype(int) - renders.alpha[1]) > 64).mean() < 0.002
    assert (renders.parts[0] != renders.parts[1]).mean() < 0.01


def test_the_bundled_prior_finds_what_corresponds() -> None:
    from invert3d_ns.prior.checkpoints import load_prior

    prior, seen = load_prior("bundled", "cpu"), []
    rows, figures = tabulate_layers(
        prior, ["up_blocks.1.resnets.0"], [0.4], names=["chair"], ensemble=1, progress=lambda *n: seen.append(n)
    )
    chosen = {key.split(", ", 2)[2]: value for key, value in figures.items() if key.startswith("up_blocks")}
    alone = {key.split(", ", 2)[2]: value for key, value in figures.items() if key.startswith(PLACE_ALONE)}
    assert [row["layer"] for row in rows] == [PLACE_ALONE, "up_blocks.1.resnets.0"] and seen[-1] == (6, 6)
    assert alone["recolored"] == 0 and alone["shifted"] > 0.08
    assert chosen["recolored"] < 0.08 and chosen["shifted"] < 0.5 * alone["shifted"]
    assert chosen["turned"] > 1.2 * chosen["alike"]
    assert chosen["parts, upside down"] > alone["parts, upside down"]


def test_what_is_compared_is_what_it_says() -> None:
    one = compare_with_variants("car", 64, 0)
    assert set(one.views) == {"", "recolored", "shifted", "alike", "turned", "upside down"}
    assert torch.equal(one.masks["recolored"], one.masks[""])
    assert (one.views["recolored"] - one.views[""]).abs().amax() > 0.3
    assert torch.equal(one.views["shifted"][..., 8:], one.views[""][..., :-8])
    assert silhouette_iou(one.masks[""], one.masks["alike"]) > silhouette_iou(one.masks[""], one.masks["turned"])
