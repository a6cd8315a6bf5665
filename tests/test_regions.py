"""Regions of a scene: boxes, masks of splats, and what they cover in views."""

from __future__ import annotations

import math

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.regions import coverage_masks, inside_box, to_frame
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.scenes.cloud import TENSORS, SplatCloud
from invert3d_ns.scenes.normalization import transform_splats
from invert3d_ns.scenes.silhouettes import alpha_from_background


def wall(y: float, half: float, step: float = 0.02) -> SplatCloud:
    """A square of opaque splats that faces azimuth 0, at depth ``y``."""
    line = torch.arange(-half, half + step / 2, step)
    x, z = torch.meshgrid(line, line, indexing="ij")
    means = torch.stack([x.flatten(), torch.full((x.numel(),), y), z.flatten()], dim=-1)
    count = len(means)
    return SplatCloud(
        means,
        torch.full((count, 3), math.log(step)),
        torch.tensor([1.0, 0, 0, 0]).expand(count, 4).contiguous(),
        torch.full((count, 1), 6.0),
        torch.zeros(count, 3),
        torch.zeros(count, 0, 3),
    )


def joined(*clouds: SplatCloud) -> SplatCloud:
    return SplatCloud(*(torch.cat([getattr(c, f) for c in clouds]) for f in TENSORS))  # type: ignore[arg-type]


FRONT = orbit_camera_to_world(torch.tensor([0.0]), torch.tensor(0.0))


def test_a_box_takes_the_splats_in_it() -> None:
    cloud = wall(0.0, 0.4)
    inside = inside_box(cloud, (0.0, -1.0, 0.0, 1.0, 1.0, 1.0))
    assert torch.equal(inside, (cloud.means[:, 0] >= 0) & (cloud.means[:, 2] >= 0))
    assert 0 < inside.sum() < len(cloud)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0.0, 0.0, 0.0, 1.0, 1.0), "5 numbers"),
        ((0.0, 0.0, 0.0, 1.0, float("nan"), 1.0), "NaN"),
        ((0.0, 0.0, -float("inf"), 1.0, 1.0, 1.0), "NaN or infinite"),
        ((0.0, 1.0, 0.0, 1.0, -1.0, 1.0), "ymin 1 is not below ymax -1"),
        ((5.0, 5.0, 5.0, 6.0, 6.0, 6.0), "holds no splats; those of the scene lie within -0.40"),
    ],
)
def test_boxes_that_are_none_are_refused(box, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        inside_box(wall(0.0, 0.4), box)
    assert "\n" not in str(caught.value)


def test_a_box_of_invisible_splats_holds_none() -> None:
    cloud = wall(0.0, 0.4)
    cloud.opacities[:] = -9.0
    with pytest.raises(InputError, match="holds no splats"):
        inside_box(cloud, (-1, -1, -1, 1, 1, 1))


def test_an_object_far_away_comes_to_the_object_frame() -> None:
    cloud = wall(0.0, 0.1)
    cloud.means = cloud.means * 0.5 + torch.tensor([3.0, -2.0, 1.0])
    cloud.scales = cloud.scales - 2  # so that its extent is that of its centers
    here = transform_splats(cloud, to_frame(cloud)).means
    assert here.mean(dim=0).abs().max() < 0.02
    assert 0.85 < here.norm(dim=-1).max() < 0.95
    assert here[0, 0] < here[-1, 0] and here[0, 2] < here[-1, 2], "it is not turned"


def test_coverage_is_what_can_be_seen_of_the_region() -> None:
    """A small wall before and another behind a large one: only the one in front is covered, and a pixel around it."""
    front, middle, back = wall(-0.5, 0.2), wall(0.0, 0.3), wall(0.5, 0.2)
    cloud = joined(front, middle, back)
    rows = [torch.zeros(len(cloud), dtype=torch.bool) for _ in range(2)]
    rows[0][: len(front)] = True
    rows[1][-len(back) :] = True
    seen, hidden = (coverage_masks(cloud, r, FRONT, 64, dilation=0) for r in rows)
    alone = coverage_masks(front, torch.ones(len(front), dtype=torch.bool), FRONT, 64, dilation=0)
    assert torch.equal(seen, alone) and set(seen.unique().tolist()) == {0.0, 1.0}
    assert not hidden.any()
    width = 0.4 / 2.0 * 64 / (2 * math.tan(math.radians(49.1 / 2)))
    assert width <= seen[0, 0, 32].sum() <= width + 5, "the wall and what its splats spill"
    grown = coverage_masks(cloud, rows[0], FRONT, 64, dilation=1)
    assert grown[0, 0, 32].sum() == seen[0, 0, 32].sum() + 2 and (grown >= seen).all()
    assert alpha_from_background(1 - grown[0].expand(3, -1, -1).permute(1, 2, 0), torch.ones(3)).sum() == grown.sum()
