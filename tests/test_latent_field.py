"""The field over points and weights: identities, normals, encodings, and numbers that are refused."""

from __future__ import annotations

import pytest
import torch
from field_scenes import make_ball, make_cones, make_field, small_config

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import check_numbers
from invert3d_ns.scenes import spatial_features
from invert3d_ns.scenes.latent_field import LatentField
from invert3d_ns.scenes.latent_field_model import LatentFieldModelConfig


@pytest.fixture
def points() -> torch.Tensor:
    return torch.rand(50, 3, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8


@pytest.fixture
def small_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spatial_features, "HASH_LOG2_SIZE", 8)


def test_one_object_ignores_its_weight(points: torch.Tensor) -> None:
    field = make_field(1)
    torch.testing.assert_close(field(points, torch.ones(1)), field(points, torch.zeros(50, 1)), rtol=0, atol=0)
    assert "density_head.weights.weight" not in field.state_dict()


def test_weights_of_each_point_are_those_of_all_where_they_are_equal(points: torch.Tensor) -> None:
    field, weights = make_field(3), torch.tensor([0.2, 0.5, 0.3])
    torch.testing.assert_close(field(points, weights), field(points, weights.expand(50, -1)))
    mixed = torch.eye(3)[torch.arange(50) % 3]
    for index in range(3):
        alone = field(points[index::3], torch.eye(3)[index])
        torch.testing.assert_close(tuple(part[index::3] for part in field(points, mixed)), alone)
    assert not torch.allclose(field(points, weights)[0], field(points, torch.eye(3)[0])[0])


def test_density_begins_as_a_blob_and_colors_lie_between_0_and_1() -> None:
    field = make_field()
    places = torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [0.9, 0, 0]])
    density, albedo = field(places, torch.tensor([0.5, 0.5]))
    assert 8 < density[0] < 12 and 2 < density[1] < 6 and 0 < density[2] < 0.01
    assert ((albedo > 0) & (albedo < 1)).all()
    torch.testing.assert_close(density, field.density(places, torch.tensor([0.5, 0.5])))


def test_features_are_interpolated_and_go_on_outside_of_the_cube() -> None:
    features = make_field().features
    assert isinstance(features, spatial_features.PlaneFeatures)
    with torch.no_grad():
        features.planes[:] = 0
        features.planes[2, 1] = torch.linspace(-1, 1, 16)[:, None]  # z, of the plane yz
        features.planes[1, 3] = torch.linspace(-1, 1, 16)[:, None]  # z, of the plane xz
        features.planes[1, 2] = torch.linspace(-1, 1, 16)[None]  # x
        features.grid[0, 2] = torch.linspace(-1, 1, 8)[None, :, None]  # y
    found = features(torch.tensor([[0.3, -0.2, 0.7], [0.1, 5.0, -3.0]]))
    assert found.shape == (2, features.size) == (2, 16)
    torch.testing.assert_close(found[:, 2 * 4 + 1], torch.tensor([0.7, -1.0]))
    torch.testing.assert_close(found[:, 4 + 3], torch.tensor([0.7, -1.0]))
    torch.testing.assert_close(found[:, 4 + 2], torch.tensor([0.3, 0.1]))
    torch.testing.assert_close(found[:, 3 * 4 + 2], torch.tensor([-0.2, 1.0]))


@pytest.mark.parametrize("kind", ["differences", "analytic"])
def test_normals_of_a_ball_point_outwards(kind, points: torch.Tensor) -> None:
    field = make_field()
    make_ball(field, 10.0)
    weights = torch.tensor([0.5, 0.5])
    expected = torch.nn.functional.normalize(points, dim=-1)
    for given in (weights, weights.expand(50, -1)):
        cosine = (field.normals(points, given, kind) * expected).sum(-1)
        assert cosine.min() > 0.98


def test_normals_by_autograd_and_by_differences_agree(points: torch.Tensor) -> None:
    field = make_field(normal_spacing=1e-3).double()
    weights = torch.eye(2, dtype=torch.float64)[torch.arange(50) % 2]
    analytic, differences = (field.normals(points.double(), weights, kind) for kind in ("analytic", "differences"))
    # Features are linear between texels: only points beside an edge of these may differ.
    assert ((analytic * differences).sum(-1) > 0.999).float().mean() > 0.9
    assert (analytic.norm(dim=-1) - 1).abs().max() < 1e-6
    with torch.no_grad():
        assert not field.normals(points.double(), weights, "analytic").requires_grad


@pytest.mark.parametrize("encoding", ["planes", "hash"])
@pytest.mark.parametrize("kind", ["differences", "analytic"])
def test_gradients_reach_every_parameter(encoding, kind, points: torch.Tensor, small_hash: None) -> None:
    if (encoding, kind) == ("planes", "analytic"):
        try:
            spatial_features.check_twice_differentiable()
        except InputError as error:
            pytest.skip(str(error))
    field = make_field(encoding=encoding, normals=kind)
    weights = torch.tensor([0.3, 0.7])
    density, albedo = field(points, weights)
    (density.mean() + albedo.sum()).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in field.parameters())
    field.zero_grad()
    field.normals(points, weights)[:, 0].sum().backward()
    reached = [*field.features.parameters(), *field.density_head.parameters()]
    # The last bias only lifts the density, which leaves its slope almost as it is.
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in reached[:-1])


def test_encodings_follow_the_device_unless_they_are_asked_for(small_hash: None) -> None:
    assert LatentField(small_config(), 2).kind == "planes"
    assert LatentField(small_config(), 2, on_gpu=True).kind == "hash"
    assert LatentField(small_config(encoding="planes"), 2, on_gpu=True).kind == "planes"
    assert LatentField(small_config(), 2, on_gpu=True, kind="planes").kind == "planes"
    features = LatentField(small_config(encoding="hash"), 2).features
    assert isinstance(features, spatial_features.HashFeatures)
    resolutions = features.encoding.scalings
    assert resolutions[0] == 16 and abs(float(resolutions[5] / resolutions[4]) - 1.4473) < 0.02
    outside = features(torch.tensor([[3.0, 0.2, -0.1], [1.0, 0.2, -0.1]]))
    torch.testing.assert_close(outside[0], outside[1])


def test_a_torch_that_cannot_differentiate_twice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, table, places):
            ctx.save_for_backward(places)
            return table.sum() * places.sum() + torch.zeros(1, 1, 1, places.shape[-2])

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, slope):
            (places,) = ctx.saved_tensors
            return None, torch.ones_like(places) * slope.sum()

    monkeypatch.setattr(
        spatial_features.functional, "grid_sample", lambda table, places, **_: Once.apply(table, places)
    )
    make_field(normals="differences")
    with pytest.raises(InputError, match="normals by differences"):
        make_field(normals="analytic")


def test_cones_are_what_other_tests_take_them_for() -> None:
    field = make_field()
    make_cones(field)
    places = torch.tensor([[-0.5, 0, 0], [0.5, 0, 0], [0, 0, 0.5]])
    found = torch.stack([field.density(places, u) for u in (*torch.eye(2), torch.tensor([0.5, 0.5]))])
    assert ((found > 50) == torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0]]).bool()).all()
    assert ((found < 1e-3) == (found < 50)).all()


@pytest.mark.parametrize(
    ("name", "value", "flag"),
    [
        ("plane_resolution", 1, "plane-resolution is 1; give 2 to 4096"),
        ("plane_features", 0, "plane-features"),
        ("grid_resolution", 1000, "grid-resolution"),
        ("grid_features", 0, "grid-features"),
        ("hidden", 0, "hidden"),
        ("blob_density", float("nan"), "blob-density"),
        ("blob_radius", 0.0, "blob-radius"),
        ("normal_spacing", -1.0, "normal-spacing"),
    ],
)
def test_numbers_of_fields_are_refused_by_name(name, value, flag) -> None:
    config = LatentFieldModelConfig(field=small_config(**{name: value}))
    with pytest.raises(InputError, match=f"--pipeline.model.field.{flag}"):
        check_numbers(config, "--pipeline.model.")
    check_numbers(LatentFieldModelConfig(), "--pipeline.model.")


@pytest.mark.parametrize(("name", "value"), [("objects", 0), ("samples", 3), ("eval_num_rays_per_chunk", 0)])
def test_numbers_of_models_are_refused_by_name(name, value) -> None:
    with pytest.raises(InputError, match=f"--pipeline.model.{name.replace('_', '-')} is {value}"):
        check_numbers(LatentFieldModelConfig(**{name: value}), "--pipeline.model.")
