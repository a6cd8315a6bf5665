"""Public paths on a pretended GPU: scenes, words, edits, figures. Each fails where it mixes devices, as on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pretend_cuda import CUDA, on_cuda, pretend_cuda
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit, Region
from invert3d_ns.editing.edit_sequence import EditSequence
from invert3d_ns.editing.framing import FramedScene
from invert3d_ns.editing.scene_edit_config import SceneEditConfig
from invert3d_ns.editing.scene_editor import SceneEditor
from invert3d_ns.editing.sources import check_same_object
from invert3d_ns.editing.views import edited_views
from invert3d_ns.guidance.sds import ScoreDistillationConfig
from invert3d_ns.prior.conditions import Conditions
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world, orbit_cameras
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.fitting import fit_splats, lift_to_splats
from invert3d_ns.scenes.normalization import from_object_frame, rotation_about_z, to_object_frame, transform_splats
from invert3d_ns.scenes.rendering import render_channels, render_orbit, render_rgba, render_splats
from invert3d_ns.scenes.splats import ObjectSplatModelConfig
from invert3d_ns.words.bank import build_bank
from invert3d_ns.words.cti import CameraTextInversion
from invert3d_ns.words.embedding import ObjectEmbedding
from invert3d_ns.words.settings import ImageSettings, Objective
from invert3d_ns.words.views import generate_views

AZIMUTHS, ELEVATIONS = torch.arange(4) * 90.0, torch.full((4,), 15.0)
TOP = (-1.0, -1.0, 0.0, 1.0, 1.0, 1.0)
BLUE = Edit(source="red", target="blue", steps=2)
QUICK = SceneEditConfig(orbits=1, fit_steps=2, supersampling=1)


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    with pretend_cuda():
        yield


@pytest.fixture(scope="module")
def gpu_prior(tiny_v_prior):
    prior = copy.deepcopy(tiny_v_prior)
    with pretend_cuda():
        return prior.to(CUDA)


def scene(sh_degree: int = 1, device: str = "cuda") -> SplatCloud:
    cloud = to_object_frame(make_cloud(120, sh_degree))[0]
    cloud.scales += 0.3
    return cloud.to(device)


def poses() -> torch.Tensor:
    return orbit_camera_to_world(AZIMUTHS, ELEVATIONS)


def words(prior) -> ObjectEmbedding:
    vectors = prior.word_vectors("object").repeat(3, 1)[:3]
    return ObjectEmbedding.for_prior(prior, vectors, init_word="object", steps=1)


def assert_all_on(device: str, *tensors: torch.Tensor) -> None:
    assert [tensor.device.type for tensor in tensors] == [device] * len(tensors)


def test_devices_that_are_mixed_are_found():
    there, here = torch.rand(3, device="cuda"), torch.rand(3)
    assert (there * 2 + torch.tensor(1.0)).device == CUDA and there.cpu().device.type == here.device.type == "cpu"
    for mix in (lambda: there + here, lambda: torch.stack([there, here]), lambda: here[there > 0], there.numpy):
        with pytest.raises((RuntimeError, TypeError), match="device"):
            mix()
    assert on_cuda(there[here > 0])
    layer = torch.nn.Linear(3, 1).to("cuda")
    layer(there).sum().backward()
    assert on_cuda(layer.weight) and layer.weight.grad is not None and layer.weight.grad.device == CUDA
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())


@pytest.mark.parametrize("degree", [0, 1])
def test_splats_are_drawn_where_they_are(degree):
    cloud = scene(degree)
    cameras = orbit_cameras(AZIMUTHS, ELEVATIONS, 24)
    results = [
        *render_splats(cloud, poses(), 24, supersampling=2),
        *render_splats(cloud, cameras, background=torch.tensor([1.0, 0.5, 0.0], device="cuda")),
        *render_channels(cloud, cloud.means[:, 2:], poses().to("cuda"), 24, background=0.5),
        render_orbit(cloud, AZIMUTHS, ELEVATIONS, 24),
        render_rgba(cloud, cameras),
        *lift_to_splats(cloud, torch.rand(4, 2, 24, 24), poses()),
    ]
    assert_all_on("cuda", *results)
    on_cpu = render_orbit(cloud.to("cpu"), AZIMUTHS, ELEVATIONS, 24)
    assert on_cpu.device.type == "cpu"
    torch.testing.assert_close(results[6].cpu(), on_cpu)


def test_splats_are_brought_into_frames_where_they_are():
    cloud = scene()
    turned = transform_splats(cloud, rotation_about_z(30))
    again, transform = to_object_frame(from_object_frame(turned, "y"), "y")
    assert_all_on("cuda", *turned.tensors().values(), *again.tensors().values())
    torch.testing.assert_close(transform.cpu()[:3, :3].det(), torch.tensor(1.0), atol=0.2, rtol=0)
    moved = transform_splats(cloud, rotation_about_z(30).to("cuda"))
    torch.testing.assert_close(moved.means.cpu(), turned.means.cpu())


def test_splats_are_fitted_where_the_views_are():
    views = render_orbit(scene(0), AZIMUTHS, ELEVATIONS, 24)
    fitted = fit_splats(views, poses(), count=40, steps=2)
    assert_all_on("cuda", *fitted.tensors().values())


def test_splats_are_written_from_the_gpu(tmp_path):
    from invert3d_ns.runs.turntable import write_turn
    from invert3d_ns.scenes.ply import read_splats, write_splats
    from invert3d_ns.scenes.posed_images import write_posed_images

    write_splats(tmp_path / "a.ply", scene(), up="z")
    assert len(read_splats(tmp_path / "a.ply")) == 120
    write_posed_images(scene(), tmp_path / "posed", count=2, size=16)
    write_turn(tmp_path, scene())
    assert (tmp_path / "turntable.mp4").stat().st_size > 1000 and (tmp_path / "camera_path.json").is_file()


@pytest.mark.parametrize("per_view", [False, True])
def test_words_are_learned_where_the_prior_is(gpu_prior, per_view, tmp_path):
    cloud = scene(device="cuda")

    def render(cameras):
        return render_splats(cloud, cameras)[0].permute(0, 2, 3, 1).clamp(0, 1)

    bank = build_bank(render, gpu_prior, groups=2, heldout_groups=1)
    assert_all_on("cuda", *vars(bank).values())
    inversion = CameraTextInversion(gpu_prior, Objective(per_view, norm_penalty=0.1))
    vectors = inversion.initial_words(3, "object", 0.1).requires_grad_()
    optimizer = torch.optim.AdamW([vectors])
    loss = sum(inversion.loss(vectors, bank, step=0).values())
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    optimizer.step()
    assert vectors.device == CUDA and inversion.heldout_loss(vectors, bank, groups=1) > 0
    embedding = ObjectEmbedding.for_prior(gpu_prior, vectors.detach(), init_word="object", steps=1)
    embedding.save(tmp_path / "a.safetensors")
    views = generate_views(gpu_prior, ObjectEmbedding.load(tmp_path / "a.safetensors"), [0.0, 90.0], steps=2)
    assert views.shape == (2, 3, 32, 32)


def test_words_of_photographs(gpu_prior):
    from invert3d_ns.words.photographs.inversion import invert_images

    settings = ImageSettings(vectors=3, steps=2, batch=2, searches=1, orbits=1, extents=(0.6, 0.8))
    for method in ("direct", "imagined"):
        photographs = torch.rand(2, 3, 32, 32)
        embedding, inversion = invert_images(gpu_prior, photographs, replace(settings, method=method))
        assert embedding.vectors.shape == (3, 24) and inversion.views.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("given", ["cuda", "cpu"])
@pytest.mark.parametrize("edit", [BLUE, replace(BLUE, structure="ddim"), Edit(target="in van gogh style", steps=2)])
def test_views_are_edited_wherever_they_come_from(gpu_prior, edit, given):
    cameras = camera_condition(AZIMUTHS, ELEVATIONS)[None]
    originals = render_orbit(scene(device=given), AZIMUTHS, ELEVATIONS, 32)[None]
    masks = (originals.mean(2, keepdim=True) < 0.9).float()
    for given_masks in (None, masks):
        views = edited_views(gpu_prior, words(gpu_prior), [edit], cameras, originals=originals, masks=given_masks)
        assert views.shape == originals.shape and views.isfinite().all()


@pytest.mark.parametrize("change", ["colors", "geometry"])
@pytest.mark.parametrize("region", [Region(), Region(TOP, "part"), Region(TOP, "object"), Region(relevance="red")])
def test_splats_follow_edits_where_they_are_drawn(gpu_prior, region, change, monkeypatch):
    config = replace(QUICK, refine_steps=1, views=4, latent_weight=0.1)
    edits = [replace(BLUE, change=change, region=region)]
    cloud = scene(device="cpu")
    editor = SceneEditor(cloud, gpu_prior, words(gpu_prior), edits, config, device="cuda")
    editor.prepare()
    editor.step()
    assert editor.renders().device == editor.edited.device == editor.originals.device == CUDA
    state = copy.deepcopy(editor.state_dict())
    again = SceneEditor(cloud, gpu_prior, words(gpu_prior), edits, config, device="cuda")
    again.load_state_dict({**state, "tensors": {name: value.cpu() for name, value in state["tensors"].items()}})
    for each in (editor, again):
        with monkeypatch.context() as patch:
            patch.setattr(SplatCloud, "to", lambda *_: pytest.fail("a step copies the splats"))
            patch.setattr(torch.Tensor, "cpu", lambda *_: pytest.fail("a step copies to the CPU"))
            while each.done < each.total_steps:
                each.step()
    assert_all_on("cpu", *editor.cloud().tensors().values())
    for name, tensor in again.cloud().tensors().items():
        torch.testing.assert_close(tensor, getattr(editor.cloud(), name))


def test_edits_of_several_regions_and_from_words_alone(gpu_prior):
    edits = [BLUE, replace(BLUE, target="mug", region=Region(TOP, "part"))]
    sequence = EditSequence(scene(device="cpu"), gpu_prior, words(gpu_prior), edits, QUICK, device="cuda")
    while sequence.done < sequence.total_steps:
        sequence.step()
    assert sequence.cloud().device.type == "cpu"
    made = SceneEditor.from_words(gpu_prior, words(gpu_prior), [BLUE], QUICK, device="cuda", count=40, start_steps=1)
    made.step()
    assert len(made.cloud()) == 40


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_box_is_looked_into_and_words_are_checked(gpu_prior, device):
    framed = FramedScene(scene(device=device), Region(TOP, "auto"), gpu_prior, words(gpu_prior), device="cuda")
    angles = AZIMUTHS[None], ELEVATIONS[None]
    originals = framed.locate(orbit_camera_to_world(*angles), camera_condition(*angles))
    assert originals.device == CUDA and framed.selected.device.type == "cpu"
    with suppress(InputError):  # these words are as good as the plain word
        own, plain = check_same_object(gpu_prior, words(gpu_prior), scene(device=device))
        assert own <= plain


def test_guidance_reaches_the_views(gpu_prior):
    with torch.no_grad():
        conditions = Conditions.of_prompt(gpu_prior, "a red cube", guidance_scale=3.0)
    distillation = ScoreDistillationConfig().setup(prior=gpu_prior, conditions=conditions)
    images = torch.rand(1, 4, 3, 32, 32, device="cuda", requires_grad=True)
    losses = distillation.loss(images, camera_condition(AZIMUTHS, ELEVATIONS)[None], torch.Generator().manual_seed(0))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert images.grad is not None and images.grad.device == CUDA and images.grad.any()


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_pictures_and_figures(gpu_prior, device):
    from invert3d_ns.base.metrics import psnr, ssim
    from invert3d_ns.base.pictures import to_pixels
    from invert3d_ns.editing.view_sets import explained_share, silhouettes, target_views
    from invert3d_ns.live.pictures import before_and_after, render_sides
    from invert3d_ns.metrics.edit_grading import silhouette_overlap

    sides, cameras = render_sides(scene(device=device), 32)
    assert before_and_after(sides, sides, 32).shape == (160, 128, 3) and to_pixels(sides[0]).shape == (4, 32, 32, 3)
    assert psnr(sides[0], sides[0]) == 100 and float(ssim(sides[0], sides[0])) == pytest.approx(1, abs=1e-5)
    assert silhouettes(sides[0]).device.type == "cpu" and silhouette_overlap(sides[0], sides[0]).min() == 1
    assert explained_share(gpu_prior, words(gpu_prior), sides[0], cameras[0]) > 0
    assert target_views(gpu_prior, sides, sides.clone()).device.type == device


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_an_independent_judge_and_clip(device):
    from invert3d_ns.alignment.checkpoints import load_clip
    from invert3d_ns.metrics.judge import Judge

    views = render_orbit(scene(0, device), AZIMUTHS, ELEVATIONS, 32)
    towers = load_clip("bundled", "cpu").to(CUDA)
    scores = towers.classify(towers.encode_views(views[None].to(CUDA)), [["a red ball"], ["a cat"]])
    assert scores.shape == (1, 2) and scores.device == CUDA
    judgment = Judge.load().to(CUDA).judge(views)
    assert all(len(values) == 4 for values in vars(judgment).values() if isinstance(values, torch.Tensor))


def test_a_model_densifies_and_goes_on(tmp_path):
    """From checkpoints, whose tensors are on the CPU."""
    cameras = orbit_cameras(AZIMUTHS[:1], ELEVATIONS[:1], 24).to("cuda")
    config = ObjectSplatModelConfig(num_random=60, refine_every=1, warmup_length=0, stop_split_at=50, sh_degree=1)
    config.num_downscales, config.densify_grad_thresh = 0, 1e-6
    states = []
    for resumed in (False, True):
        model = config.setup(scene_box=None, num_train_data=1, metadata={"has_alpha": True}, device=CUDA)
        model = model.to(CUDA)
        if resumed:
            model.load_state_dict(states[0])
            model.restore_densification(states[1])
        model.train()
        model.optimizers = {
            name: torch.optim.Adam([{"params": [parameter], "name": name}], lr=1e-3)
            for name, parameter in model.gauss_params.items()
        }
        for step in range(3):
            model.step = step
            outputs = model.get_outputs(cameras)
            (outputs["rgb"] - torch.rand(24, 24, 3).to(CUDA)).abs().mean().backward()
            for optimizer in model.optimizers.values():
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            model.step_post_backward(step)
        assert len(model.means) != 60 and model.means.device == CUDA
        states = [
            {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in each.items()}
            for each in (model.state_dict(), model.strategy_state)
        ]
        model.eval()
        assert model.render(orbit_cameras(AZIMUTHS, ELEVATIONS, 16)).device == CUDA
        assert model.cloud().device.type == "cpu" and model.get_outputs(cameras)["depth"].device == CUDA


def test_a_live_scene_takes_snapshots_from_the_cpu():
    from invert3d_ns.live.editable_scene import SplatScene

    cloud = scene()

    class Host(SplatScene):
        model: Any = SimpleNamespace(
            metadata={"surroundings": True},
            means=cloud.means,
            gauss_params={name: torch.nn.Parameter(tensor.clone()) for name, tensor in cloud.tensors().items()},
            cloud=lambda: cloud.to("cpu"),
        )

    host = Host()
    host.begin_hosting()
    before = host.snapshot()
    changed = replace(before, features_dc=before.features_dc + 1)
    for given in (changed, changed.to("cuda")):
        host.restore(given)
        assert torch.equal(host.model.gauss_params["features_dc"].detach().cpu(), changed.features_dc)
        host.restore(before)
        assert torch.equal(host.model.gauss_params["features_dc"].detach().cpu(), before.features_dc)
