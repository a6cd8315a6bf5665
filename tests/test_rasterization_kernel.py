"""Blending on a CPU: the compiled kernel against its twin in float64, and the twin against first principles."""

from __future__ import annotations

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from rasterization_scenes import NAMES, assert_agree, decided, flat_scene, needs_kernel, orbit, values_and_gradients

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.cameras import intrinsics
from invert3d_ns.scenes.rasterization import _compiled, _reference
from invert3d_ns.scenes.rasterization._projection import project

LEVELS = _compiled.available_levels()


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


@needs_kernel
@pytest.mark.parametrize("threads", [1, 3])
def test_tiles_a_few_at_a_time_give_the_same_gradients(threads, monkeypatch):
    scene = flat_scene(2, 300, 3, 70, 50)
    mask = torch.ones(2, 50, 70, 1)
    at_once = values_and_gradients(_compiled.composite, scene, mask, torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for budget in (1, 5_000):
            monkeypatch.setattr(_compiled, "BACKWARD_BYTES", budget)
            in_turn = values_and_gradients(_compiled.composite, scene, mask, torch.float32)
            assert all(torch.equal(at_once[name], in_turn[name]) for name in at_once)
    finally:
        torch.set_num_threads(before)


_GROWTH = """
import resource, sys, torch
from invert3d_ns.scenes.rasterization import _compiled

def grown(opacity, count, size):
    shape = 1, count
    arguments = [torch.full((*shape, 2), size / 2), torch.tensor([1e-6, 0.0, 1e-6]).expand(*shape, 3),
                 torch.rand(*shape, 3), torch.full(shape, opacity, requires_grad=True),
                 torch.full(shape, 4 * size, dtype=torch.int32), torch.rand(shape)]
    image, _ = _compiled.composite(*arguments, offsets=[0, count], width=size, height=size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image.sum().backward()
    assert arguments[3].grad.any()
    unit = 1 if sys.platform == "darwin" else 1024
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit

_compiled.BACKWARD_BYTES = 2_000_000
print(grown(0.005, 1200, 512), grown(0.5, 1500, 768))
"""


@needs_kernel
def test_memory_of_the_backward_pass_is_bounded():
    """Pairs of a tile and a splat: 1.2 million, all of them seen, and 3.5 million, of which pixels show a dozen each.

    What each gives takes 36 bytes, 44 MB and 124 MB in all.
    """
    done = subprocess.run([sys.executable, "-c", _GROWTH], check=True, capture_output=True, text=True)
    assert all(int(grown) < 12e6 for grown in done.stdout.split()), done.stdout


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


@pytest.mark.parametrize("found", [None, _compiled.INTERFACE + 1])
def test_a_kernel_of_another_version_is_not_called(found, monkeypatch):
    stale = SimpleNamespace() if found is None else SimpleNamespace(invert3d_interface=lambda: found)
    monkeypatch.setattr(_compiled.ctypes, "CDLL", lambda path: stale)
    with pytest.raises(InputError, match="kernel is of another version of invert3d-ns; reinstall"):
        _compiled.library.__wrapped__()
