"""The field as a nerfstudio model: pictures, views to train on, blends, checkpoints."""

from __future__ import annotations

import pytest
import torch
import tyro
from field_scenes import make_ball, make_cones, make_model
from nerfstudio.data.scene_box import OrientedBox
from pretend_cuda import CUDA, on_cuda, pretend_cuda

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes import spatial_features
from invert3d_ns.scenes.blending import SameEverywhere
from invert3d_ns.scenes.cameras import orbit_camera_to_world, orbit_cameras
from invert3d_ns.scenes.field_regularizers import orientation_loss
from invert3d_ns.scenes.hybrids import Anchor, Hybrid
from invert3d_ns.scenes.latent_field_model import LatentFieldModel, LatentFieldModelConfig
from invert3d_ns.scenes.shading import Lighting

SECOND = SameEverywhere((0.0, 1.0))
FRONT = orbit_camera_to_world(torch.tensor([0.0]), torch.tensor(0.0))


def _stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def poses() -> torch.Tensor:
    return orbit_camera_to_world(torch.tensor([0.0, 100.0, 200.0]), torch.tensor([15.0]))


@pytest.fixture
def cones() -> LatentFieldModel:
    model = make_model().eval()
    make_cones(model.field)
    model.after_step(0, _stream())
    return model


def _covered(alpha: torch.Tensor) -> tuple[float, float]:
    """Mean alpha of the left and right half of the first view."""
    alpha, half = alpha.detach(), alpha.shape[-1] // 2
    return float(alpha[0, 0, :, :half].mean()), float(alpha[0, 0, :, half:].mean())


def test_pictures_have_the_shapes_that_nerfstudio_shows(cones: LatentFieldModel) -> None:
    camera = orbit_cameras(torch.tensor([0.0]), torch.tensor([0.0]), 21)
    outputs = cones.get_outputs_for_camera(camera)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "rgb": (21, 21, 3),
        "accumulation": (21, 21, 1),
        "depth": (21, 21, 1),
        "background": (21, 21, 3),
    }
    alpha = outputs["accumulation"]
    assert (outputs["rgb"][alpha[..., 0] == 0] == 1).all() and 0.05 < alpha.mean() < 0.5
    assert 2.0 < outputs["depth"][10, 2] < 2.3  # the near side of the cone
    cones.config.background_color = "black"
    black = cones.get_outputs_for_camera(camera)
    torch.testing.assert_close(black["rgb"], outputs["rgb"] - (1 - alpha), atol=1e-6, rtol=0)
    assert torch.equal(black["background"], torch.zeros(21, 21, 3))
    rgba = cones.get_rgba_image(black)
    assert rgba.shape == (21, 21, 4) and torch.equal(rgba[..., 3:], alpha)
    torch.testing.assert_close(rgba[..., :3] * alpha, black["rgb"], atol=1e-6, rtol=0)


def test_pieces_have_no_seams(cones: LatentFieldModel) -> None:
    camera = orbit_cameras(torch.tensor([30.0]), torch.tensor([10.0]), 17)
    whole = cones.get_outputs_for_camera(camera)
    cones.config.eval_num_rays_per_chunk = 50
    torch.testing.assert_close(cones.get_outputs_for_camera(camera), whole)


def test_views_to_train_on_are_as_those_of_splats(cones: LatentFieldModel, poses: torch.Tensor) -> None:
    rgb, alpha, depth = cones.render_to_train(poses, 16, scale_factor=1.1, densify=True)
    assert (rgb.shape, alpha.shape, depth.shape) == ((3, 3, 16, 16), (3, 1, 16, 16), (3, 1, 16, 16))
    assert (depth[alpha == 0] == 0).all() and 1.5 < depth[alpha > 0.5].min() < depth.max() < 3.6
    cameras = orbit_cameras(torch.tensor([0.0, 100.0, 200.0]), torch.tensor([15.0] * 3), 16)
    torch.testing.assert_close(cones.render(cameras), rgb.movedim(1, -1), atol=2e-4, rtol=0)
    behind = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.2, 0.2, 0.2]])
    colored = cones.render_to_train(poses[:, :3], 16, background=behind)[0]
    torch.testing.assert_close(colored, rgb - (1 - alpha) + (1 - alpha) * behind[..., None, None])
    near = cones.render_to_train(poses, 16, fov_y=30.0)[1]
    assert near.mean() > 1.5 * alpha.mean()


def test_samples_move_at_random_by_the_generator_that_is_given(poses: torch.Tensor) -> None:
    model = make_model()

    def alpha(generator: torch.Generator | None = None) -> torch.Tensor:
        return model.render_to_train(poses, 8, generator=generator)[1]

    assert not torch.equal(alpha(), alpha())
    assert torch.equal(alpha(_stream(1)), alpha(_stream(1)))
    model.generator = _stream(1)
    drawn = alpha()
    assert torch.equal(drawn, alpha(_stream(1))) and not torch.equal(drawn, alpha())
    model.generator = None
    model.eval()
    assert torch.equal(alpha(), alpha())


def test_gradients_reach_the_whole_field(poses: torch.Tensor) -> None:
    model = make_model()
    model.blend = SameEverywhere((0.4, 0.6))
    rgb, alpha, depth = model.render_to_train(poses, 12, generator=_stream())
    (rgb.mean() + alpha.mean() + depth.mean()).backward()
    trained = [parameter for group in model.get_param_groups().values() for parameter in group]
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in trained)
    assert {id(p) for p in trained} == {id(p) for p in model.parameters()} - {id(model.device_indicator_param)}
    assert set(model.get_param_groups()) == {"features", "heads"}


def test_views_come_with_what_regularizers_read(poses: torch.Tensor) -> None:
    model = make_model()
    lighting = Lighting("diffuse", poses[:, :3, 3])
    views = model.draw_to_train(poses, 8, lighting=lighting, normals=True, generator=_stream())
    assert views.normals is not None and views.normals.shape == (3, 3, 8, 8)
    assert (views.normals.norm(dim=1, keepdim=True) <= views.alpha + 1e-5).all()
    # Of a blob seen from its light, the near half is lit, and more of it is seen.
    plain = model.draw_to_train(poses, 8, generator=_stream())
    lit, albedo = ((v.rgb - 1 + v.alpha)[:, :, 3:5, 3:5].sum() for v in (views, plain))
    assert 0.5 < lit / albedo < 0.9
    drawn = views.drawn
    assert drawn.sample_normals is not None
    assert len(views.directions) == len(drawn.weights) == len(drawn.samples)
    loss = orientation_loss(drawn.weights, drawn.sample_normals, views.directions, int((views.alpha > 0).sum()))
    loss.backward()
    slope = model.field.density_head.out.weight.grad
    assert slope is not None and bool(slope.abs().sum() > 0)
    assert plain.normals is None and plain.drawn.sample_normals is None


def test_each_blend_shows_its_object(cones: LatentFieldModel) -> None:
    left, right = _covered(cones.render_to_train(FRONT, 20)[1])
    assert left > 0.1 and right < 0.01
    with cones.at(SECOND):
        left, right = _covered(cones.render_to_train(FRONT, 20)[1])
    assert left < 0.01 and right > 0.1
    assert cones.blend.uniform().tolist() == [1, 0]  # type: ignore[union-attr]
    with pytest.raises(KeyError), cones.at(SECOND):
        raise KeyError
    assert cones.blend.uniform().tolist() == [1, 0]  # type: ignore[union-attr]
    with pytest.raises(InputError, match="a blend of 3 objects does not fit a scene of 2"):
        cones.blend = SameEverywhere((0.0, 1.0, 0.0))


def test_hybrids_show_each_object_in_its_place(cones: LatentFieldModel) -> None:
    ends = (Anchor((-0.02, 0.0, 0.0), (1.0, 0.0)), Anchor((0.02, 0.0, 0.0), (0.0, 1.0)))
    with cones.at(Hybrid(ends, "ramp")):
        left, right = _covered(cones.render_to_train(FRONT, 20)[1])
        color, alpha, _ = cones.renderer()(FRONT, 20)
        assert cones.density(torch.tensor([[-0.5, 0, 0], [0.5, 0, 0]])).min() > 50
    assert left > 0.1 and right > 0.1
    torch.testing.assert_close(_covered(alpha), (left, right), atol=1e-3, rtol=0)
    assert (color <= alpha + 1e-6).all()
    swapped = (Anchor((-0.02, 0.0, 0.0), (0.0, 1.0)), Anchor((0.02, 0.0, 0.0), (1.0, 0.0)))
    with cones.at(Hybrid(swapped, "ramp")):
        assert max(_covered(cones.render_to_train(FRONT, 20)[1])) < 0.01


def test_what_draws_meshes_keeps_its_blend(cones: LatentFieldModel) -> None:
    first = cones.renderer()
    cones.blend = SECOND
    color, alpha, depth = first(FRONT, 20)
    assert (color.shape, alpha.shape, depth.shape) == ((1, 3, 20, 20), (1, 1, 20, 20), (1, 1, 20, 20))
    assert not alpha.requires_grad and _covered(alpha)[0] > 0.1 > _covered(alpha)[1]
    assert cones.blend is SECOND
    assert (cones.density(torch.tensor([[-0.5, 0, 0], [0.5, 0, 0]])) > 50).tolist() == [False, True]


def test_a_crop_box_leaves_out_what_is_not_in_it() -> None:
    model = make_model().eval()
    make_ball(model.field)
    camera = orbit_cameras(torch.tensor([0.0]), torch.tensor([0.0]), 20)
    whole = model.get_outputs_for_camera(camera)["accumulation"]
    box = OrientedBox(R=torch.eye(3), T=torch.tensor([1.0, 0.0, 0.0]), S=torch.tensor([2.0, 4.0, 4.0]))
    cropped = model.get_outputs_for_camera(camera, obb_box=box)["accumulation"]
    torch.testing.assert_close(cropped[:, 11:], whole[:, 11:], atol=1e-3, rtol=0)
    assert (cropped[:, :9] == 0).all() and whole[10, 7] > 0.9


def test_pictures_are_compared_with_true_ones(cones: LatentFieldModel) -> None:
    outputs = cones.get_outputs_for_camera(orbit_cameras(torch.tensor([0.0]), torch.tensor([0.0]), 20))
    metrics, images = cones.get_image_metrics_and_images(outputs, {"image": outputs["rgb"]})
    assert metrics["psnr"] > 90 and abs(metrics["ssim"] - 1) < 1e-4 and images["img"].shape == (20, 40, 3)
    alpha = outputs["accumulation"]
    straight = torch.cat([(outputs["rgb"] - 1 + alpha) / alpha.clamp_min(1e-6), alpha], dim=-1)
    bytes_of = (straight * 255).round().to(torch.uint8)
    assert cones.get_loss_dict(outputs, {"image": bytes_of})["rgb_loss"] < 1e-4
    assert cones.get_loss_dict(outputs, {"image": torch.zeros(20, 20, 3)})["rgb_loss"] > 0.3


def test_checkpoints_bring_back_field_and_cells(cones: LatentFieldModel, tmp_path) -> None:
    torch.save(cones.state_dict(), tmp_path / "model.ckpt")
    state = torch.load(tmp_path / "model.ckpt", weights_only=True)
    other = make_model(seed=1, blob_density=400.0, blob_radius=2 / 7).eval()
    assert other.occupancy.share == 1
    other.load_state_dict(state)
    assert torch.equal(other.occupancy.binaries, cones.occupancy.binaries)
    torch.testing.assert_close(other.renderer()(FRONT, 12), cones.renderer()(FRONT, 12), rtol=0, atol=0)
    with pytest.raises(InputError, match=r"has 2 objects and the settings say 3; .*--pipeline.model.objects"):
        make_model(3).load_state_dict(state)


def test_checkpoints_say_which_features_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spatial_features, "HASH_LOG2_SIZE", 8)
    trained = make_model(encoding="hash").eval()
    shown = make_model(seed=1).eval()
    shown.load_state_dict(trained.state_dict())
    assert shown.field.kind == "hash"
    torch.testing.assert_close(shown.renderer()(FRONT, 8), trained.renderer()(FRONT, 8), rtol=0, atol=0)
    with pytest.raises(InputError, match="encoding 'hash' and the settings say 'planes'; leave"):
        make_model(encoding="planes").load_state_dict(trained.state_dict())
    renamed = {
        key.replace("encoding.hash_table", "encoding.tcnn_encoding.params"): v
        for key, v in trained.state_dict().items()
    }
    with pytest.raises(InputError, match="tiny-cuda-nn"):
        make_model(encoding="hash").load_state_dict(renamed)


def test_cells_follow_every_16th_step(cones: LatentFieldModel) -> None:
    before = cones.occupancy.binaries.clone()
    make_ball(cones.field)
    cones.after_step(7, _stream())
    assert torch.equal(cones.occupancy.binaries, before)
    cones.after_step(16, _stream())
    assert not torch.equal(cones.occupancy.binaries, before)


def test_settings_are_flags() -> None:
    config = tyro.cli(
        LatentFieldModelConfig, args=["--objects", "3", "--field.encoding", "planes", "--prompt", "a cat"]
    )
    assert (config.objects, config.field.encoding, config.prompt, config.samples) == (3, "planes", "a cat", None)
    model = config.setup(scene_box=None, num_train_data=1)
    assert model.objects == 3 and model.samples == 64 and model.collider is None
    assert LatentFieldModelConfig().prompt is None


def test_nothing_is_left_on_the_cpu_when_a_gpu_draws(poses: torch.Tensor) -> None:
    with pytest.MonkeyPatch.context() as patch, pretend_cuda():
        patch.setattr("invert3d_ns.scenes.occupancy._has_kernels", lambda: False)
        model = make_model(samples=12).to(CUDA)
        model.blend = SameEverywhere((0.5, 0.5))
        lighting = Lighting("diffuse", poses[:, :3, 3])
        views = model.draw_to_train(poses, 6, lighting=lighting, normals=True, generator=_stream())
        assert on_cuda(views.rgb) and on_cuda(views.depth)
        views.rgb.sum().backward()
        model.after_step(0, _stream())
        model.eval()
        ends = (Anchor((-0.5, 0.0, 0.0), (1.0, 0.0)), Anchor((0.5, 0.0, 0.0), (0.0, 1.0)))
        with model.at(Hybrid(ends)):
            outputs = model.get_outputs_for_camera(orbit_cameras(torch.tensor([0.0]), torch.tensor([0.0]), 6))
        assert on_cuda(outputs["rgb"]) and on_cuda(model.density(torch.zeros(3, 3)))
