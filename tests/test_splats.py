from __future__ import annotations

import math

import pytest
import torch
from nerfstudio.engine.callbacks import TrainingCallbackAttributes
from nerfstudio.engine.optimizers import AdamOptimizerConfig, Optimizers
from synthetic import make_cloud

from invert3d_ns.scenes.cameras import OBJECT_RADIUS, orbit_cameras
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.posed_images import spread_orbit
from invert3d_ns.scenes.rendering import render_rgba
from invert3d_ns.scenes.splats import ObjectSplatModelConfig


def make_model(cloud=None, seed_points=None, metadata=None, **options):
    torch.manual_seed(0)
    metadata = {"splats": cloud, **(metadata or {})}
    return ObjectSplatModelConfig(**options).setup(
        scene_box=None, num_train_data=4, metadata=metadata, seed_points=seed_points
    )


@pytest.fixture(scope="module")
def cloud():
    return to_object_frame(make_cloud(300, 2))[0]


@pytest.fixture(scope="module")
def cameras():
    return orbit_cameras(*spread_orbit(4), 48)


def start(model, lr=0.01):
    groups = model.get_param_groups()
    optimizers = Optimizers({n: {"optimizer": AdamOptimizerConfig(lr=lr), "scheduler": None} for n in groups}, groups)
    return optimizers, model.get_training_callbacks(TrainingCallbackAttributes(optimizers, None, None, None))


def fit(model, cameras, truth, steps):
    optimizers, (before, after) = start(model, lr=0.03)
    losses = []
    for step in range(steps):
        model.train()
        before.run_callback(step)
        index = step % len(cameras)
        outputs = model(cameras[index : index + 1])
        loss = torch.stack(list(model.get_loss_dict(outputs, {"image": truth[index]}).values())).sum()
        optimizers.zero_grad_all()
        loss.backward()
        optimizers.optimizer_step_all()
        after.run_callback(step)
        losses.append(float(loss.detach()))
    return losses


def test_given_splats_are_shown_as_they_are_on_white(cloud, cameras):
    model = make_model(cloud).eval()
    rgba = render_rgba(cloud, cameras)
    expected = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    assert torch.allclose(model.render(cameras), expected, atol=1e-5)
    outputs = model.get_outputs_for_camera(cameras[1:2])
    assert torch.allclose(outputs["rgb"], expected[1], atol=1e-5)
    assert outputs["depth"].shape == outputs["accumulation"].shape == (48, 48, 1)
    hit = outputs["accumulation"] > 0.9
    assert ((outputs["depth"][hit] > 1.4) & (outputs["depth"][hit] < 3.5)).all()


def test_backgrounds(cloud, cameras):
    corner = (0, 0)
    model = make_model(cloud, metadata={"has_alpha": True})
    start(model)[1][0].run_callback(0)
    seen = {tuple(model(cameras[:1])["rgb"][corner].tolist()) for _ in range(3)}
    assert len(seen) == 3, "while fitting images with alpha, each step has its own background"
    model.freeze()
    assert torch.equal(model(cameras[:1])["rgb"][corner], torch.ones(3))
    model = make_model(cloud, metadata={"image_background": [0.1, 0.2, 0.3]}).eval()
    assert torch.allclose(model.get_outputs_for_camera(cameras[:1])["rgb"][corner], torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(model.render(cameras)[0][corner], torch.ones(3)), "the prior always sees white"


def test_the_viewers_background_stays_in_the_viewer(cloud, cameras):
    model = make_model(cloud).eval()
    before = model.get_outputs_for_camera(cameras[:1])["rgb"]
    model.set_background(torch.tensor([0.1, 0.1, 0.2]))
    assert torch.equal(model.get_outputs_for_camera(cameras[:1])["rgb"], before)


def test_pictures_with_alpha_have_no_background(cloud, cameras):
    model = make_model(cloud).eval()
    rgba = model.get_rgba_image(model.get_outputs_for_camera(cameras[2:3]))
    expected = render_rgba(cloud, cameras[2:3])[0]
    solid = expected[..., 3] > 0.05
    assert torch.allclose(rgba[solid], expected[solid], atol=1e-3)


def test_the_cloud_of_a_model_is_what_it_started_from(cloud):
    again = make_model(cloud).cloud()
    assert again.sh_degree == 2
    assert torch.equal(again.means, cloud.means) and torch.equal(again.features_rest, cloud.features_rest)
    assert make_model(make_cloud(30, 0)).cloud().sh_degree == 0


def test_gradients_reach_every_group_and_stop_when_frozen(cloud, cameras):
    model = make_model(cloud)
    model.render(cameras).square().mean().backward()
    for name, parameter in model.gauss_params.items():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    model.freeze("means", "quats")
    assert not model.frozen and not model.means.requires_grad and model.scales.requires_grad
    model.freeze()
    assert model.frozen and not model.render(cameras).requires_grad


def test_fitting_images_reduces_the_loss_and_adds_splats(cloud, cameras):
    truth = list(render_rgba(cloud, cameras))
    points = cloud.means[::4].clone(), torch.full((75, 3), 128, dtype=torch.uint8)
    model = make_model(
        seed_points=points,
        metadata={"has_alpha": True},
        warmup_length=8,
        refine_every=8,
        densify_grad_thresh=1e-4,
        num_downscales=0,
        max_splats=200,
    )
    losses = fit(model, cameras, truth, 48)
    assert sum(losses[-4:]) < 0.85 * sum(losses[:4])
    assert 75 < model.num_points < 400, "densified, and stopped soon after the limit"
    metrics, images = model.eval().get_image_metrics_and_images(
        model.get_outputs_for_camera(cameras[:1]), {"image": truth[0]}
    )
    assert metrics["psnr"] > 10 and "ssim" in metrics and images["img"].shape == (48, 96, 3)


def test_frozen_splats_do_not_change_in_training_steps(cloud, cameras):
    model = make_model(cloud, warmup_length=0, refine_every=1)
    optimizers, (before, after) = start(model)
    model.freeze()
    before.run_callback(0)
    model(cameras[:1])
    after.run_callback(0)
    optimizers.optimizer_step_all()
    assert model.num_points == len(cloud) and torch.equal(model.means.detach(), cloud.means)


def test_loading_other_splats_keeps_the_parameters_that_optimizers_hold(cloud, cameras):
    model, other = make_model(cloud), make_model(to_object_frame(make_cloud(120, 2, seed=1))[0])
    optimizers, _ = start(model, lr=0.1)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.means, other.means)
    model.render(cameras).square().mean().backward()
    optimizers.optimizer_step_all()
    assert not torch.equal(model.means, other.means)


def test_random_points_fill_the_object(cameras):
    model = make_model(num_random=500)
    distance = model.means.norm(dim=-1)
    assert model.num_points == 500 and distance.max() < OBJECT_RADIUS and distance.median() > 0.4
    assert math.isclose(float(model.opacities.detach().sigmoid().mean()), 0.1, rel_tol=1e-4)


def test_surroundings_are_left_out_of_views_for_the_prior(cloud, cameras):
    outside = make_cloud(50)
    outside.means += torch.tensor([1.2, 0.0, 0.0])
    both = make_cloud(0, 2)
    for name in ("means", "scales", "quats", "opacities", "features_dc"):
        setattr(both, name, torch.cat([getattr(cloud, name), getattr(outside, name)]))
    both.features_rest = torch.cat([cloud.features_rest, torch.zeros(50, 8, 3)])
    shown = make_model(both, metadata={"surroundings": True}).render(cameras)
    assert torch.allclose(shown, make_model(cloud).render(cameras), atol=1e-5)
    assert not torch.allclose(make_model(both).render(cameras), shown, atol=1e-2)


def test_no_weights_are_downloaded_unless_asked(cloud, cameras, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    batch = {"image": render_rgba(cloud, cameras[:1])[0]}
    for options in ({}, {"lpips": True}):
        model = make_model(cloud, **options).eval()
        metrics, _ = model.get_image_metrics_and_images(model.get_outputs_for_camera(cameras[:1]), batch)
        assert metrics.keys() == {"psnr", "ssim"}
