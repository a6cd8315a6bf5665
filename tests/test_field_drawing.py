"""Light on fields, what keeps them from degenerating, and the memory of GPUs."""

from __future__ import annotations

import math

import pytest
import torch
from field_scenes import make_ball, make_field, show_analytic_normals

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.cameras import orbit_camera_to_world, pinhole_cameras
from invert3d_ns.scenes.field_drawing import Drawn, draw_rays, explain_out_of_memory
from invert3d_ns.scenes.field_regularizers import normal_smoothness, opacity_entropy, orientation_loss, sparsity
from invert3d_ns.scenes.occupancy import Occupancy
from invert3d_ns.scenes.ray_marching import camera_rays
from invert3d_ns.scenes.shading import AMBIENT, Lighting, Shading, random_lights, random_shading, shade

SIZE = 13


def _ball(shading: Shading, light: tuple[float, float, float]) -> Drawn:
    """Seen from the front."""
    rays = camera_rays(pinhole_cameras(orbit_camera_to_world(torch.tensor([0.0]), torch.tensor(0.0)), SIZE))
    field = make_field()
    show_analytic_normals(field)
    make_ball(field, 1e5)
    lighting = Lighting(shading, torch.tensor([light]).expand(len(rays), 3))
    weights = torch.tensor([1.0, 0.0])
    return draw_rays(
        field, Occupancy(2), rays, lambda *_: weights, count=128, lighting=lighting, normals=shading == "diffuse"
    )


def test_light_on_a_ball_comes_from_where_the_light_is() -> None:
    albedo, diffuse, white = (_ball(kind, (3.0, -3.0, 0.0)) for kind in ("albedo", "diffuse", "textureless"))
    assert albedo.normals is None and albedo.sample_normals is None
    assert diffuse.normals is not None and white.normals is None and white.sample_normals is not None
    middle = SIZE * (SIZE // 2) + SIZE // 2
    assert (white.color[middle] - (AMBIENT + (1 - AMBIENT) * math.sqrt(0.5))).abs().max() < 0.08
    assert (white.color.amax(-1) - white.color.amin(-1)).abs().max() < 1e-6
    assert white.color[middle + 1, 0] > white.color[middle, 0] > white.color[middle - 2, 0]
    torch.testing.assert_close(diffuse.color[middle], albedo.color[middle] * white.color[middle], atol=0.02, rtol=0)
    assert torch.equal(white.alpha, albedo.alpha)


@pytest.mark.parametrize("training", [True, False])
def test_few_points_are_looked_at_at_once(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    field, weights = make_field(), torch.tensor([1.0, 0.0])
    rays = camera_rays(pinhole_cameras(orbit_camera_to_world(torch.tensor([0.0]), torch.tensor(0.0)), SIZE))
    sizes, look = [], field.density_of
    with torch.set_grad_enabled(training):
        whole = draw_rays(field, Occupancy(2), rays, lambda *_: weights, count=20)
        monkeypatch.setattr("invert3d_ns.scenes.field_drawing.POINTS_AT_ONCE", 50)
        monkeypatch.setattr(field, "density_of", lambda *args: sizes.append(len(args[1])) or look(*args))
        pieces = draw_rays(field, Occupancy(2), rays, lambda *_: weights, count=20)
    torch.testing.assert_close(pieces.color, whole.color)
    assert max(sizes[:-1]) == 50 and len(sizes) > 10


def test_light_trains_the_shape() -> None:
    field = make_field()
    rays = camera_rays(pinhole_cameras(orbit_camera_to_world(torch.tensor([0.0]), torch.tensor(0.0)), 5))
    lighting = Lighting("textureless", torch.tensor([[3.0, -3.0, 0.0]]).expand(len(rays), 3))
    drawn = draw_rays(field, Occupancy(2), rays, lambda *_: torch.tensor([1.0, 0.0]), count=16, lighting=lighting)
    (drawn.color / drawn.alpha.detach().clamp_min(0.1)).sum().backward()
    assert field.albedo_head.out.bias.grad is None
    assert all(parameter.grad is not None for parameter in field.density_head.parameters())


def test_shades_are_lamberts() -> None:
    albedo = torch.tensor([[0.5, 1.0, 0.2]]).expand(3, 3)
    normals = torch.tensor([[0.0, 0, 1], [0, 0, 1], [0, 0, 1]])
    lights = torch.tensor([[0.0, 0, 5], [0, 0, -5], [5, 0, 5]])
    points = torch.zeros(3, 3)
    expected = torch.tensor([1.0, AMBIENT, AMBIENT + (1 - AMBIENT) * math.sqrt(0.5)])[:, None]
    torch.testing.assert_close(shade(albedo, points, normals, lights, "textureless"), expected.expand(3, 3))
    torch.testing.assert_close(shade(albedo, points, normals, lights, "diffuse"), expected * albedo)
    assert shade(albedo, points, normals, lights, "albedo") is albedo


def test_lights_are_near_cameras_and_repeat() -> None:
    cameras = orbit_camera_to_world(torch.linspace(0, 300, 500), torch.tensor(10.0))[:, :3, 3]
    lights = random_lights(cameras, torch.Generator().manual_seed(0))
    assert torch.equal(lights, random_lights(cameras, torch.Generator().manual_seed(0)))
    ratio = lights.norm(dim=-1) / cameras.norm(dim=-1)
    assert 0.8 <= ratio.min() < 0.85 and 1.45 < ratio.max() <= 1.5
    cosine = torch.nn.functional.cosine_similarity(lights, cameras)
    assert cosine.mean() > 0.4 and cosine.std() > 0.2
    still = random_lights(cameras, torch.Generator().manual_seed(0), spread=0.0)
    assert torch.nn.functional.cosine_similarity(still, cameras).min() > 0.999


def test_shadings_are_drawn_as_often_as_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [random_shading(generator) for _ in range(2000)]
    shares = {kind: drawn.count(kind) / len(drawn) for kind in ("albedo", "diffuse", "textureless")}
    assert abs(shares["albedo"] - 0.25) < 0.04 and abs(shares["diffuse"] - 0.375) < 0.04
    assert {random_shading(generator, lit=0.0) for _ in range(20)} == {"albedo"}
    assert {random_shading(generator, lit=1.0, textureless=0.0) for _ in range(20)} == {"diffuse"}


def test_normals_that_face_away_cost_and_no_others() -> None:
    directions = torch.tensor([[0.0, 1.0, 0.0]] * 3)
    normals = torch.tensor([[0.0, -1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.6, 0.8]], requires_grad=True)
    weights = torch.tensor([0.5, 0.5, 0.25], requires_grad=True)
    loss = orientation_loss(weights, normals, directions, 2)
    assert math.isclose(float(loss.detach()), (0.5 * 1 + 0.25 * 0.36) / 2, rel_tol=1e-6)
    loss.backward()
    assert weights.grad is None and normals.grad is not None
    assert normals.grad[0].abs().sum() == 0 and normals.grad[1, 1] > 0
    assert not orientation_loss(weights[:0], normals[:0], directions[:0], 0).detach()


def test_smooth_maps_and_decided_pixels_cost_nothing() -> None:
    flat = torch.ones(2, 3, 6, 6)
    steps = torch.arange(6.0).expand(2, 3, 6, 6)
    assert float(normal_smoothness(flat)) == 0
    assert float(normal_smoothness(steps)) == float(normal_smoothness(steps.mT)) == 1
    assert math.isclose(float(sparsity(torch.zeros(1, 1, 2, 2))), 0.1, rel_tol=1e-5)
    assert float(sparsity(torch.ones(1, 1, 2, 2))) > 1
    half = float(opacity_entropy(torch.full((1, 1, 2, 2), 0.5)))
    assert math.isclose(half, math.log(2), rel_tol=1e-5)
    assert float(opacity_entropy(torch.eye(4)[None, None])) < 0.01


@pytest.mark.parametrize(("training", "other"), [(True, "smaller or fewer views"), (False, "eval-num-rays-per-chunk")])
def test_a_full_gpu_names_the_flags_that_help(training, other) -> None:
    with (
        pytest.raises(InputError, match=rf"--pipeline.model.samples \(now 512\), or .*{other}"),
        explain_out_of_memory(training, 512),
    ):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(KeyError), explain_out_of_memory(training, 512):
        raise KeyError
