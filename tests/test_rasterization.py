"""Rasterization on a CPU: the compiled kernel against its twin in float64, and the twin against first principles."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.cameras import gsplat_viewmats, intrinsics, orbit_camera_to_world
from invert3d_ns.scenes.rasterization import _compiled, _dispatch, _reference, kernel_available, rasterization
from invert3d_ns.scenes.rasterization._projection import evaluate_sh, project

LEVELS = _compiled.available_levels()
needs_kernel = pytest.mark.skipif(not kernel_available(), reason="the kernel was not built")
NAMES = ("means2d", "conics", "colors", "opacities")


def flat_scene(cameras: int, count: int, channels: int, width: int, height: int, seed: int = 0) -> dict[str, Tensor]:
    """Random projected Gaussians, float32: some off the image, invisible, opaque, faint, thin or equally deep."""
    g = torch.Generator().manual_seed(seed)
    shape = (cameras, count)
    size = torch.tensor([width, height])
    angle = torch.rand(shape, generator=g) * math.pi
    spread = torch.exp(torch.randn(*shape, 2, generator=g) + 0.7)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(*shape, 2, 2)
    covariance = rotation @ torch.diag_embed(spread**2) @ rotation.mT + 0.3 * torch.eye(2)
    inverse = covariance.inverse()
    opacities = torch.rand(shape, generator=g)
    opacities[:, ::7] = 1.0
    opacities[:, 3::9] = 0.003
    radii = torch.ceil(3 * torch.linalg.eigvalsh(covariance)[..., -1].sqrt()).int()
    radii[:, 5::11] = 0
    return {
        "means2d": (torch.rand(*shape, 2, generator=g) * 1.4 - 0.2) * size,
        "conics": torch.stack([inverse[..., 0, 0], inverse[..., 0, 1], inverse[..., 1, 1]], -1),
        "colors": torch.randn(*shape, channels, generator=g),
        "opacities": opacities,
        "radii": radii,
        "depths": torch.rand(shape, generator=g).mul(20).round().add(1),
    }


def decided(scene: dict[str, Tensor], width: int, height: int) -> Tensor:
    """Pixels [C, height, width, 1] where no threshold is so near that float32 might decide otherwise than float64."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    masks = []
    for camera in range(len(scene["depths"])):
        order = torch.argsort(scene["depths"][camera], stable=True)
        mean, conic, opacity, radius = (
            scene[k][camera][order].double() for k in ("means2d", "conics", "opacities", "radii")
        )
        dx, dy = mean[:, 0] - x[..., None], mean[:, 1] - y[..., None]
        raw = opacity * torch.exp(-0.5 * (conic[:, 0] * dx * dx + conic[:, 2] * dy * dy) - conic[:, 1] * dx * dy)
        alpha = raw.clamp_max(0.999) * (raw >= 1 / 255) * (radius > 0)
        passed = torch.cumprod(1 - alpha, -1)
        close = ((255 * raw - 1).abs() < 1e-4) | ((raw - 0.999).abs() < 1e-4) | ((1e4 * passed - 1).abs() < 1e-3)
        masks.append(~close.any(-1))
    return torch.stack(masks)[..., None]


def values_and_gradients(
    composite, scene: dict[str, Tensor], mask: Tensor, dtype: torch.dtype, **options
) -> dict[str, Any]:
    """Image, alphas, gradients of a random function of both on the pixels of ``mask``, and absgrad."""
    _, height, width, _ = mask.shape
    inputs: dict[str, Any] = {name: scene[name].detach().to(dtype).requires_grad_() for name in NAMES}
    cameras, count = scene["depths"].shape
    offsets = [camera * count for camera in range(cameras + 1)]
    image, alphas = composite(
        *inputs.values(), scene["radii"], scene["depths"].to(dtype), offsets, width, height, absgrad=True, **options
    )
    g = torch.Generator().manual_seed(1)
    loss = image * torch.randn(image.shape, generator=g) + alphas * torch.randn(alphas.shape, generator=g)
    (loss * mask).sum().backward()
    gradients = {name: leaf.grad for name, leaf in inputs.items()}
    return {
        "image": image.detach() * mask,
        "alphas": alphas.detach() * mask,
        **gradients,
        "absgrad": inputs["means2d"].absgrad,
    }


def assert_agree(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, reference in expected.items():
        error = (actual[name].double() - reference).abs().max().item()
        assert error <= 1e-4 * max(1.0, reference.abs().max().item()), name
        if name not in ("image", "alphas"):
            assert (actual[name].double() - reference).norm() <= 1e-4 * reference.norm(), name


@needs_kernel
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("cameras", "count", "channels", "width", "height"),
    [
        (1, 200, 3, 64, 48),
        (2, 90, 4, 33, 18),
        (3, 40, 1, 16, 16),
        (1, 60, 8, 37, 21),
        (1, 60, 2, 5, 50),
        (1, 9, 33, 1, 1),
    ],
)
def test_kernel_agrees_with_the_float64_twin(level, cameras, count, channels, width, height, monkeypatch):
    monkeypatch.setenv(_compiled.SIMD_VARIABLE, level)
    scene = flat_scene(cameras, count, channels, width, height)
    mask = decided(scene, width, height)
    assert mask.float().mean() > 0.9
    expected = values_and_gradients(_reference.composite, scene, mask, torch.float64)
    assert_agree(values_and_gradients(_compiled.composite, scene, mask, torch.float32), expected)


@needs_kernel
@pytest.mark.parametrize("tile_size", [8, 32])
def test_tile_size_decides_the_reach_of_a_gaussian(tile_size):
    scene = flat_scene(1, 80, 3, 50, 40, seed=3)
    mask = decided(scene, 50, 40)
    expected = values_and_gradients(_reference.composite, scene, mask, torch.float64, tile_size=tile_size)
    assert_agree(values_and_gradients(_compiled.composite, scene, mask, torch.float32, tile_size=tile_size), expected)
    with pytest.raises(ValueError, match="multiple of 4"):
        values_and_gradients(_compiled.composite, scene, mask, torch.float32, tile_size=10)


@needs_kernel
def test_kernel_does_not_depend_on_threads_or_on_gradients_being_asked_for():
    scene = flat_scene(2, 300, 3, 70, 50)
    mask = torch.ones(2, 50, 70, 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = values_and_gradients(_compiled.composite, scene, mask, torch.float32)
        torch.set_num_threads(3)
        together = values_and_gradients(_compiled.composite, scene, mask, torch.float32)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(alone[name], together[name]) for name in alone)
    arguments = [scene[name] for name in (*NAMES, "radii", "depths")]
    image, _ = _compiled.composite(*arguments, offsets=[0, 300, 600], width=70, height=50)
    assert torch.equal(image, alone["image"])


def test_twin_agrees_with_a_loop_over_pixels():
    width, height = 21, 18
    scene = flat_scene(1, 40, 2, width, height, seed=2)
    image, alphas = _reference.composite(
        *(scene[k].double() for k in (*NAMES, "radii", "depths")), offsets=[0, 40], width=width, height=height
    )
    mean, conic, color, opacity, radius, depth = (scene[k][0].double() for k in (*NAMES, "radii", "depths"))
    for row, column in [(0, 0), (9, 10), (17, 20), (15, 16), (3, 18)]:
        transmittance, expected = 1.0, torch.zeros(2).double()
        for i in torch.argsort(depth, stable=True).tolist():
            (dx, dy), (a, b, c) = (mean[i] - torch.tensor([column + 0.5, row + 0.5])).tolist(), conic[i].tolist()
            tiles = [(mean[i] - radius[i]).div(16).floor() * 16, (mean[i] + radius[i]).div(16).ceil() * 16]
            inside = all(tiles[0][k] <= p < tiles[1][k] for k, p in enumerate((column, row)))
            alpha = min(0.999, opacity[i].item() * math.exp(-(a * dx * dx + c * dy * dy) / 2 - b * dx * dy))
            if radius[i] == 0 or not inside or alpha < 1 / 255:
                continue
            if transmittance * (1 - alpha) <= 1e-4:
                break
            expected += transmittance * alpha * color[i]
            transmittance *= 1 - alpha
        torch.testing.assert_close(image[0, row, column], expected, rtol=1e-9, atol=1e-9)
        assert alphas[0, row, column].item() == pytest.approx(1 - transmittance, abs=1e-9)


def test_twin_passes_gradcheck():
    scene = flat_scene(1, 5, 2, 6, 5, seed=4)
    inputs = [scene[name].double().requires_grad_() for name in NAMES]
    inputs[3] = (0.2 + 0.6 * scene["opacities"].double()).requires_grad_()

    def draw(means2d, conics, colors, opacities):
        depths = scene["depths"].double()
        return _reference.composite(means2d, conics, colors, opacities, scene["radii"], depths, [0, 5], 6, 5)

    assert torch.autograd.gradcheck(draw, inputs)


def world_scene(count: int = 60, sh_bases: int | None = None, seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    return {
        "means": 0.5 * torch.randn(count, 3, generator=g),
        "quats": torch.randn(count, 4, generator=g),
        "scales": torch.exp(0.5 * torch.randn(count, 3, generator=g) - 2.5),
        "opacities": torch.rand(count, generator=g) * 0.9 + 0.05,
        "colors": 0.4 * torch.randn(count, sh_bases, 3, generator=g) if sh_bases else torch.rand(count, 3, generator=g),
    }


def orbit(cameras: int, width: int, height: int) -> dict[str, Any]:
    azimuths = torch.arange(cameras) * 70.0 + 10
    k = intrinsics(height)
    k[0, 2] = width / 2
    return {
        "viewmats": gsplat_viewmats(orbit_camera_to_world(azimuths, torch.full((cameras,), 15.0))),
        "Ks": k.expand(cameras, 3, 3),
        "width": width,
        "height": height,
    }


def to(tensors: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {k: v.detach().to(dtype).requires_grad_() if isinstance(v, Tensor) else v for k, v in tensors.items()}


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


def test_spherical_harmonics():
    means = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.1, -0.2]])
    cameras = orbit(2, 8, 8)["viewmats"]
    coefficients = torch.zeros(2, 4, 3)
    coefficients[:, 0] = torch.tensor([1.0, 0.0, -9.0])
    constant = evaluate_sh(0, means, coefficients, cameras)
    torch.testing.assert_close(constant, torch.tensor([0.5 + 0.28209479, 0.5, 0.0]).expand(2, 2, 3))
    coefficients[:, 2, 1] = 0.5  # the basis function of direction z
    directions = means - cameras.inverse()[:, None, :3, 3]
    expected = 0.5 + 0.5 * 0.48860251 * directions[..., 2] / directions.norm(dim=-1)
    torch.testing.assert_close(evaluate_sh(1, means, coefficients, cameras)[..., 1], expected)
    scene = {**world_scene(sh_bases=16), **orbit(1, 24, 24)}
    assert not torch.equal(rasterization(**scene, sh_degree=3)[0], rasterization(**scene, sh_degree=1)[0])


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


@needs_kernel
def test_kernel_ignores_gaussians_that_are_not_numbers():
    scene = flat_scene(1, 50, 3, 32, 32)
    arguments = [scene[name] for name in (*NAMES, "radii", "depths")]
    clean, _ = _compiled.composite(*(a[:, 3:] for a in arguments), offsets=[0, 47], width=32, height=32)
    scene["means2d"][0, 0, 1] = math.nan
    scene["conics"][0, 1, 0] = math.inf
    scene["opacities"][0, 2] = math.nan
    image, _ = _compiled.composite(*arguments, offsets=[0, 50], width=32, height=32)
    assert torch.equal(image, clean)


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


@needs_kernel
def test_trained_splats(shared_dir):
    """A window of a 256² view of a real asset: values within 1e-4, gradients within 1e-3 of float64."""
    from invert3d_ns.scenes.normalization import to_object_frame
    from invert3d_ns.scenes.ply import read_splats

    path = shared_dir / "data" / "cat.ply"
    if not path.exists():
        pytest.skip("no trained splats in the shared folder")
    cloud, _ = to_object_frame(read_splats(path))
    k = intrinsics(256)
    k[:2, 2] -= 112  # the 32 x 32 pixels in the middle
    projected = project(cloud.means, cloud.quats, cloud.scales.exp(), orbit(1, 8, 8)["viewmats"], k[None], 32, 32)
    seen = projected.radii[0] > 0
    scene = {
        "means2d": projected.means2d,
        "conics": projected.conics,
        "radii": projected.radii,
        "depths": projected.depths,
        "colors": torch.cat([cloud.features_dc[None] * 0.282 + 0.5, projected.depths[..., None]], dim=-1),
        "opacities": cloud.opacities[None, :, 0].sigmoid(),
    }
    scene = {name: tensor[:, seen] for name, tensor in scene.items()}
    assert seen.sum() > 500
    mask = decided(scene, 32, 32)
    assert mask.float().mean() > 0.9
    expected = values_and_gradients(_reference.composite, scene, mask, torch.float64)
    actual = values_and_gradients(_compiled.composite, scene, mask, torch.float32)
    for name, reference in expected.items():
        error = (actual[name] - reference).abs().max()
        assert error <= (1e-4 if name in ("image", "alphas") else 1e-3 * reference.abs().max()), name
        assert (actual[name] - reference).norm() <= 1e-3 * reference.norm(), name
