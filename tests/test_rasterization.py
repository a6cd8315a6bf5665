"""Rasterization from any machine: projection, modes, backgrounds, packing, and which backend draws."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest
import torch
from rasterization_scenes import needs_kernel, orbit, to, world_scene

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.rasterization import _compiled, _dispatch, _projection, evaluate_harmonics, rasterization
from invert3d_ns.scenes.rasterization._projection import project


@needs_kernel
@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("render_mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
def test_every_mode_agrees_with_float64(render_mode, rasterize_mode):
    results = []
    for dtype in (torch.float32, torch.float64):
        scene, cameras = to(world_scene(), dtype), to(orbit(2, 40, 30), dtype)
        backgrounds = torch.tensor([[0.2, 0.5, 1.0], [1.0, 1.0, 1.0]], dtype=dtype, requires_grad=True)
        image, alphas, meta = rasterization(
            **scene,
            **cameras,
            backgrounds=backgrounds,
            render_mode=render_mode,
            rasterize_mode=rasterize_mode,
            packed=False,
        )
        weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
        (image * weights).sum().backward()
        leaves = {**scene, "viewmats": cameras["viewmats"], "backgrounds": backgrounds}
        gradients = {k: v.grad for k, v in leaves.items() if v.grad is not None}
        results.append(({"image": image, "alphas": alphas}, gradients))
        assert image.shape == (2, 30, 40, {"RGB": 3, "D": 1, "ED": 1}.get(render_mode, 4)) and image.dtype == dtype
        assert meta["radii"].shape == (2, 60)
    assert ("colors" in results[0][1]) == ("RGB" in render_mode)
    for actual, expected in zip(*results, strict=True):
        for name, reference in expected.items():
            assert (actual[name] - reference).norm() <= 1e-3 * reference.norm(), name


def test_background_is_seen_through_what_is_not_covered():
    backgrounds = torch.tensor([[0.2, 0.5, 1.0]])
    scene, cameras = world_scene(), orbit(1, 20, 20)
    image, alphas, _ = rasterization(**scene, **cameras, backgrounds=backgrounds)
    over_black, _, _ = rasterization(**scene, **cameras)
    torch.testing.assert_close(image, over_black + (1 - alphas) * backgrounds[0])
    assert 0 <= alphas.min() < 0.01 < 0.5 < alphas.max() <= 1


@pytest.mark.parametrize("antialiased", [False, True])
def test_projection_agrees_with_gsplat(antialiased):
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    scene, cameras = to(world_scene(count=300), torch.float64), to(orbit(3, 30, 20), torch.float64)
    scene["means"] = (3 * scene["means"]).detach().requires_grad_()  # some outside the image, some behind
    geometry = [scene[k] for k in ("means", "quats", "scales")]
    mine = project(*geometry, **cameras, near_plane=0.5, antialiased=antialiased)
    covars, _ = _quat_scale_to_covar_preci(scene["quats"], scene["scales"], compute_preci=False)
    assert covars is not None
    theirs = _fully_fused_projection(scene["means"], covars, **cameras, near_plane=0.5, calc_compensations=antialiased)
    assert torch.equal(mine.radii, theirs[0]) and 0 < (mine.radii > 0).sum() < mine.radii.numel()
    results = []
    for result in (mine, theirs):
        parts = [p[mine.radii > 0] for p in result[1:] if p is not None]
        generator = torch.Generator().manual_seed(0)
        loss = torch.stack([(p * torch.randn(p.shape, generator=generator)).sum() for p in parts]).sum()
        results.append((*parts, *torch.autograd.grad(loss, [*geometry, cameras["viewmats"]])))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_points_and_needles_keep_antialiased_gradients_finite():
    scene, cameras = world_scene(count=20), orbit(1, 16, 16)
    scene["scales"][:10] = 0.0
    scene["scales"][10:, 1:] = 0.0
    leaves = to(scene, torch.float32)
    image, *_ = rasterization(**leaves, **cameras, rasterize_mode="antialiased")
    image.sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves.values())


def test_radius_clip_and_planes_hide_gaussians():
    scene, cameras = world_scene(), orbit(1, 64, 64)
    everything = rasterization(**scene, **cameras, packed=False)[2]
    clip = int(everything["radii"].float().median())
    clipped = rasterization(**scene, **cameras, packed=False, radius_clip=clip)[2]["radii"]
    assert torch.equal(clipped > 0, everything["radii"] > clip)
    sliced = rasterization(**scene, **cameras, packed=False, near_plane=2.4, far_plane=2.6)[2]
    assert torch.equal(sliced["radii"] > 0, (everything["radii"] > 0) & ((everything["depths"] - 2.5).abs() < 0.1))


@pytest.mark.parametrize("backend", ["torch", pytest.param("kernel", marks=needs_kernel)])
def test_nothing_to_draw_and_gaussians_in_the_camera_plane(backend):
    scene, cameras = to(world_scene(count=12), torch.float32), orbit(1, 17, 9)
    position = cameras["viewmats"].inverse()[0, :3, 3]
    with torch.no_grad():
        scene["means"][:4] = position  # depth exactly 0
        scene["means"][4:8] = 3 * position  # behind
        scene["means"][8:] = 1e6  # in front or behind, far outside
    image, alphas, meta = rasterization(**scene, **cameras, backend=backend, render_mode="RGB+ED")
    assert not image.any() and not alphas.any() and len(meta["radii"]) == 0
    image.sum().backward()
    assert all(leaf.grad is None or not leaf.grad.any() for leaf in scene.values())

    nothing = {name: leaf[:0] for name, leaf in scene.items()}
    assert not rasterization(**nothing, **cameras, backend=backend, packed=False)[0].any()

    mixed = to(world_scene(count=12), torch.float32)
    with torch.no_grad():
        mixed["means"][:2] = position
    image, *_ = rasterization(**mixed, **cameras, backend=backend, absgrad=True, packed=False)
    image.sum().backward()
    assert image.any() and all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in mixed.values())


@pytest.mark.parametrize("of_each_camera", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_harmonics_are_evaluated_where_gaussians_are_visible(of_each_camera, packed, monkeypatch):
    scene, cameras = to(world_scene(count=80, sh_bases=4), torch.float64), to(orbit(3, 20, 14), torch.float64)
    scene["means"] = (2 * scene["means"]).detach().requires_grad_()
    if of_each_camera:
        g = torch.Generator().manual_seed(2)
        scene["colors"] = torch.rand(3, 80, 4, 3, generator=g, dtype=torch.float64).requires_grad_()
    counts = []

    def evaluate(degree, directions, coefficients):
        counts.append(directions.shape[:-1].numel())
        return evaluate_harmonics(degree, directions, coefficients)

    monkeypatch.setattr(_projection, "evaluate_harmonics", evaluate)
    image, _, meta = rasterization(**scene, **cameras, sh_degree=1, packed=packed)
    visible = int((meta["radii"] > 0).sum())
    assert counts == [visible] and 20 < visible < 220

    rotations, translations = cameras["viewmats"][:, :3].split([3, 1], dim=-1)
    positions = -(rotations.mT @ translations)[..., 0]
    colors = evaluate_harmonics(1, scene["means"] - positions[:, None], scene["colors"].expand(3, -1, -1, -1)) + 0.5
    expected, *_ = rasterization(**{**scene, "colors": colors.clamp_min(0)}, **cameras, packed=packed)
    torch.testing.assert_close(image, expected)
    leaves = [scene["means"], scene["colors"], cameras["viewmats"]]
    results = [torch.autograd.grad(picture.square().sum(), leaves) for picture in (image, expected)]
    for actual, reference in zip(*results, strict=True):
        torch.testing.assert_close(actual, reference)


@pytest.mark.parametrize("backend", ["torch", pytest.param("kernel", marks=needs_kernel)])
def test_packed_results_are_the_visible_rows(backend):
    scene, cameras = world_scene(count=80), orbit(3, 20, 14)
    scene["means"] = scene["means"] * 2
    runs = []
    for packed in (False, True):
        leaves = to(scene, torch.float32)
        image, _, meta = rasterization(**leaves, **cameras, packed=packed, absgrad=True, backend=backend)
        meta["means2d"].retain_grad()
        image.square().sum().backward()
        runs.append((image.detach(), leaves["means"].grad, meta))
    torch.testing.assert_close(runs[0][0], runs[1][0])
    torch.testing.assert_close(runs[0][1], runs[1][1])
    dense, packed = runs[0][2], runs[1][2]
    ids = packed["camera_ids"], packed["gaussian_ids"]
    assert 0 < len(ids[0]) < 240 and dense["gaussian_ids"] is None
    assert torch.equal(dense["radii"][ids], packed["radii"])
    torch.testing.assert_close(dense["means2d"].grad[ids], packed["means2d"].grad)
    torch.testing.assert_close(dense["means2d"].absgrad[ids], packed["means2d"].absgrad)
    assert (packed["means2d"].absgrad >= packed["means2d"].grad.abs() - 1e-5).all()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("absgrad", [False, True])
def test_default_strategy_densifies(packed, absgrad):
    from gsplat.strategy import DefaultStrategy

    scene, cameras = world_scene(count=50), orbit(2, 32, 32)
    target = rasterization(**world_scene(count=200, seed=9), **cameras)[0]
    params = torch.nn.ParameterDict(
        {
            "means": scene["means"],
            "quats": scene["quats"],
            "scales": scene["scales"].log(),
            "opacities": scene["opacities"].logit(),
            "colors": scene["colors"],
        }
    )
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([{"params": [p], "name": name}], lr=1e-3) for name, p in params.items()
    }
    strategy = DefaultStrategy(refine_start_iter=1, refine_every=3, absgrad=absgrad, grow_grad2d=1e-5)
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state()
    for step in range(1, 5):
        image, _, info = rasterization(
            means=params["means"],
            quats=params["quats"],
            scales=params["scales"].exp(),
            opacities=params["opacities"].sigmoid(),
            colors=params["colors"],
            **cameras,
            packed=packed,
            absgrad=absgrad,
        )
        strategy.step_pre_backward(params, optimizers, state, step, info)
        (image - target).abs().mean().backward()
        strategy.step_post_backward(params, optimizers, state, step, info, packed=packed)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
    assert len(params["means"]) > 50


def test_without_a_kernel_one_warning_and_the_same_picture(monkeypatch):
    scene, cameras = world_scene(), orbit(1, 16, 16)
    expected = rasterization(**scene, **cameras)[0]
    monkeypatch.setattr(_compiled, "library", lambda: None)
    monkeypatch.delenv(_dispatch.BACKEND_VARIABLE, raising=False)
    _dispatch._warn_of_fallback.cache_clear()
    with pytest.warns(RuntimeWarning, match="install a C compiler"):
        image = rasterization(**scene, **cameras)[0]
    torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rasterization(**scene, **cameras)
    with pytest.raises(InputError, match="not built"):
        rasterization(**scene, **cameras, backend="kernel")


@needs_kernel
def test_kernel_takes_float32_alone():
    scene, cameras = to(world_scene(), torch.float64), to(orbit(1, 16, 16), torch.float64)
    assert rasterization(**scene, **cameras)[0].dtype == torch.float64
    with pytest.raises(ValueError, match="float32"):
        rasterization(**scene, **cameras, backend="kernel")


@needs_kernel
def test_environment_variables(monkeypatch):
    scene, cameras = world_scene(), orbit(1, 16, 16)
    monkeypatch.setenv(_compiled.SIMD_VARIABLE, "avx9")
    with pytest.raises(InputError, match="baseline"):
        rasterization(**scene, **cameras)
    monkeypatch.setenv(_dispatch.BACKEND_VARIABLE, "torch")
    rasterization(**scene, **cameras)  # never asks the kernel
    monkeypatch.setenv(_dispatch.BACKEND_VARIABLE, "fast")
    with pytest.raises(InputError, match="kernel or torch"):
        rasterization(**scene, **cameras)


def test_wrong_arguments():
    scene, cameras = world_scene(), orbit(1, 16, 16)
    with pytest.raises(ValueError, match="scales"):
        rasterization(**{**scene, "scales": scene["scales"][:5]}, **cameras)
    with pytest.raises(ValueError, match="render_mode"):
        rasterization(**scene, **cameras, render_mode="XYZ")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sh_degree"):
        rasterization(**{**scene, "colors": torch.zeros(60, 4, 3)}, **cameras, sh_degree=2)
    with pytest.raises(NotImplementedError, match="CUDA"):
        rasterization(**scene, **cameras, camera_model="fisheye")


def test_gsplat_cuda_code_is_never_loaded_on_a_cpu():
    rasterization(**world_scene(sh_bases=4), **orbit(1, 16, 16), sh_degree=1)
    assert "gsplat.cuda._backend" not in sys.modules


def test_cuda_tensors_go_to_gsplat_by_name(monkeypatch):
    """A later gsplat inserts arguments; what is asked for must still arrive under its own name."""
    import inspect

    import gsplat.rendering

    arrived: dict[str, Any] = {}
    monkeypatch.setattr(gsplat.rendering, "rasterization", lambda **given: arrived.update(given))
    names = [name for name in inspect.signature(rasterization).parameters if name != "backend"]
    values: dict[str, Any] = {name: object() for name in names}
    rasterization(**values, backend="gsplat")
    assert arrived == values
