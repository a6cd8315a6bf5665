"""Fields fitted to views of several blends."""

from __future__ import annotations

import pytest
import torch
from field_scenes import make_model, planes_of
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.metrics import psnr
from invert3d_ns.scenes.blending import SameEverywhere, vertex
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.scenes.field_fitting import fit_field
from invert3d_ns.scenes.latent_field_model import LatentFieldModel
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.rendering import render_splats

SIZE = 24
POSES = orbit_camera_to_world(torch.arange(8) * 45.0, torch.tensor([-15.0, 20.0, 45.0, 10.0]).repeat(2))
SEEN, UNSEEN = [0, 1, 2, 4, 5, 6], [3, 7]


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    """Two objects: an upright ellipsoid, and a green one that lies on its side."""
    cloud, lying = make_cloud(300), make_cloud(300)
    cloud.scales += 1.0
    lying.scales += 1.0
    cloud, lying = to_object_frame(cloud)[0], to_object_frame(lying)[0]
    lying.means, lying.features_dc = lying.means[:, [2, 1, 0]], torch.tensor([[-1.0, 1.0, -1.0]]).expand(300, 3)
    with torch.no_grad():
        return torch.stack([render_splats(each, POSES, SIZE)[0].clamp(0, 1) for each in (cloud, lying)])


def _drawn(model: LatentFieldModel, index: int, poses: torch.Tensor) -> torch.Tensor:
    with model.at(SameEverywhere.of(vertex(index, model.objects))):
        color, alpha, _ = model.renderer()(poses, SIZE)
    return (color + 1 - alpha).clamp(0, 1)


def test_each_vertex_shows_its_object_from_unseen_sides_too(truth: torch.Tensor) -> None:
    model, done = make_model(samples=32, plane_resolution=32, plane_features=8, hidden=64), []
    fit_field(
        model, truth[:, SEEN], POSES[SEEN], torch.eye(2), 120, progress=lambda step, steps: done.append((step, steps))
    )
    assert done[-1] == (120, 120) and len(done) == 120
    for index in range(2):
        drawn = _drawn(model, index, POSES)
        assert psnr(drawn[SEEN], truth[index, SEEN]) > 22
        assert psnr(drawn[UNSEEN], truth[index, UNSEEN]) > 18
        assert psnr(drawn, truth[1 - index]) < 15
    assert model.occupancy.share < 0.8
    assert all(parameter.grad is None for parameter in model.parameters())


def test_fits_repeat_by_seed_and_go_on_from_what_the_field_is(truth: torch.Tensor) -> None:
    states = []
    for seed in (0, 0, 1):
        model = make_model(samples=16)
        with torch.no_grad():
            fit_field(model, truth, POSES, torch.eye(2), 3, seed)
        states.append(model.state_dict())
    keys = [key for key in states[0] if key != "_extra_state"]
    assert all(torch.equal(states[0][key], states[1][key]) for key in keys)
    assert not torch.equal(states[0]["field.features.planes"], states[2]["field.features.planes"])
    further = make_model(samples=16)
    further.load_state_dict(states[0])
    fit_field(further, truth, POSES, torch.eye(2), 0)
    assert all(torch.equal(further.state_dict()[key], states[0][key]) for key in keys)


def test_one_source_at_one_vertex_and_cameras_of_each_blend(truth: torch.Tensor) -> None:
    model = make_model(3, samples=16)
    fit_field(model, truth[:1, :2], POSES[:2], torch.tensor([[0.0, 1.0, 0.0]]), 2)
    each = torch.stack([POSES, POSES.flip(0)])
    mirrored = torch.stack([truth[0], truth[1].flip(0)])
    same, own = make_model(samples=16), make_model(samples=16)
    fit_field(same, truth[:1], POSES, torch.eye(2)[:1], 2)
    fit_field(own, mirrored[:1], each[:1], torch.eye(2)[:1], 2)
    assert torch.equal(planes_of(same.field), planes_of(own.field))
    crossed = make_model(samples=16)
    fit_field(crossed, truth[:1], each[1:], torch.eye(2)[:1], 2)
    assert not torch.equal(planes_of(same.field), planes_of(crossed.field))


@pytest.mark.parametrize(
    ("views", "cameras", "weights", "message"),
    [
        ((2, 8, 3, 24, 20), (8,), (2, 2), "square views"),
        ((8, 3, 24, 24), (8,), (2, 2), "square views"),
        ((0, 8, 3, 24, 24), (8,), (0, 2), "square views"),
        ((2, 8, 3, 24, 24), (7,), (2, 2), "one camera for each view"),
        ((2, 8, 3, 24, 24), (3, 8), (2, 2), "one camera for each view"),
        ((2, 8, 3, 24, 24), (8,), (2, 3), "2 blends of 2 objects"),
        ((2, 8, 3, 24, 24), (8,), (1, 2), "2 blends of 2 objects"),
    ],
)
def test_what_does_not_fit_together_is_refused(views, cameras, weights, message) -> None:
    with pytest.raises(InputError, match=message):
        fit_field(make_model(), torch.ones(views), torch.eye(4).expand(*cameras, 4, 4), torch.ones(weights), 1)
