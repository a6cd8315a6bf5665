from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
import torch
from runs import QuietRun, tiny_config
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.scenes.cameras import ELEVATION_RANGE, camera_condition
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.scenes.rendering import render_rgba
from invert3d_ns.words.bank import (
    HELD_OUT_MARGIN,
    build_bank,
    check_size,
    check_visible,
    held_out_orbits,
    render_views,
    training_orbits,
)


@pytest.fixture(scope="module")
def render():
    cloud = to_object_frame(make_cloud(200))[0]

    def on_white(cameras):
        rgba = render_rgba(cloud, cameras)
        return rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]

    return on_white


def test_training_orbits_keep_away_from_held_out_ones():
    heldout = held_out_orbits(6)
    azimuths, elevations = training_orbits(500, heldout, seed=1)
    assert azimuths.shape == elevations.shape == (500, 4)
    turn = (azimuths[:, None, :, None] - heldout[0][None, :, None, :]).abs() % 360
    turn = torch.minimum(turn, 360 - turn).amin(dim=(-2, -1))
    tilt = (elevations[:, None, 0] - heldout[1][None, :, 0]).abs()
    assert (torch.maximum(turn, tilt) >= HELD_OUT_MARGIN - 1e-3).all()


def test_orbits_cover_the_sphere_band_and_are_evenly_spaced():
    azimuths, elevations = training_orbits(500, held_out_orbits(2), seed=0)
    assert torch.allclose(azimuths.diff(dim=1), torch.full((500, 3), 90.0), atol=1e-3)
    assert torch.equal(elevations, elevations[:, :1].expand(-1, 4))
    low, high = ELEVATION_RANGE
    assert low <= elevations.min() < low + 2 and high - 2 < elevations.max() <= high
    assert torch.histc(azimuths[:, 0], 8, -180, 180).min() > 30


def test_orbits_follow_the_seed_and_held_out_ones_do_not():
    heldout = held_out_orbits(2)
    assert torch.equal(training_orbits(9, heldout, seed=1)[0], training_orbits(9, heldout, seed=1)[0])
    assert not torch.equal(training_orbits(9, heldout, seed=1)[0], training_orbits(9, heldout, seed=2)[0])
    assert torch.equal(held_out_orbits(5)[0][:2], heldout[0][:2]) or len(heldout[0]) == 2


def test_views_are_averaged_from_finer_renders(render):
    azimuths, elevations = torch.tensor([[0.0, 90.0]]), torch.tensor([[10.0, 10.0]])
    views = render_views(render, azimuths, elevations, 16)
    fine = render_views(render, azimuths, elevations, 32, supersampling=1)
    assert views.shape == (1, 2, 3, 16, 16)
    pooled = torch.nn.functional.avg_pool2d(fine[0], 2)
    assert torch.allclose(views[0], pooled, atol=1e-5)
    assert views.min() >= 0 and views.max() <= 1


def test_a_bank_repeats_itself_and_separates_what_is_held_out(render, tiny_prior):
    done = []
    first = build_bank(
        render, tiny_prior, groups=3, heldout_groups=2, seed=1, progress=lambda *counts: done.append(counts)
    )
    again = build_bank(render, tiny_prior, groups=3, heldout_groups=2, seed=1)
    other = build_bank(render, tiny_prior, groups=3, heldout_groups=2, seed=2)
    size, latent = tiny_prior.info.image_size, tiny_prior.info.latent_size
    assert len(first) == 3
    assert first.latents.shape == (3, 4, tiny_prior.info.latent_channels, latent, latent)
    assert first.heldout_images.shape == (2, 4, 3, size, size)
    assert torch.equal(first.latents, again.latents) and torch.equal(first.cameras, again.cameras)
    assert not torch.equal(first.latents, other.latents)
    assert torch.equal(first.heldout_latents, other.heldout_latents)
    assert done == [(n, 5) for n in range(1, 6)]


def test_latents_belong_to_their_cameras(render, tiny_prior):
    bank = build_bank(render, tiny_prior, groups=1, heldout_groups=1)
    azimuths, elevations = held_out_orbits(1)
    assert torch.allclose(bank.heldout_cameras, camera_condition(azimuths, elevations))
    expected = tiny_prior.encode_images(render_views(render, azimuths, elevations, tiny_prior.info.image_size))
    assert torch.allclose(bank.heldout_latents, expected, atol=1e-5)


def test_another_resolution_changes_the_latents(render, tiny_prior):
    bank = build_bank(render, tiny_prior, groups=1, heldout_groups=1, size=2 * tiny_prior.info.image_size)
    assert bank.latents.shape[-1] == 2 * tiny_prior.info.latent_size


@pytest.mark.parametrize("size", [0, 8, 30, 33])
def test_a_resolution_that_does_not_fit_is_refused(tiny_prior, size):
    with pytest.raises(InputError, match="multiple of 16"):
        check_size(size, tiny_prior)


def test_a_scene_that_no_camera_sees_is_refused(tiny_prior):
    def nothing(cameras):
        return torch.ones(len(cameras), int(cameras.height[0]), int(cameras.width[0]), 3)

    with pytest.raises(InputError, match="the cameras see nothing"):
        build_bank(nothing, tiny_prior, groups=1, heldout_groups=1)


def test_one_visible_view_is_enough():
    images = torch.ones(2, 4, 3, 8, 8)
    images[1, 2, 0, 3, 3] = 0.2
    check_visible(images)


def test_a_scene_that_fills_every_view_to_the_border_is_no_object(tiny_prior, render):
    fog = torch.full((2, 4, 3, 16, 16), 0.7)
    with pytest.raises(InputError, match="fills every view to the border"):
        check_visible(fog)
    cut_off = torch.ones(2, 4, 3, 16, 16)
    cut_off[..., 3:] = 0.2  # reaches three of the four sides
    with pytest.raises(InputError, match="fills every view to the border"):
        check_visible(cut_off)
    fog[1, 2] = 1.0
    fog[1, 2, :, 2:14, 2:14] = 0.2  # one view that shows an object is enough
    check_visible(fog)

    def everywhere(cameras):
        return 0.5 * render(cameras)

    with pytest.raises(InputError, match="fills every view to the border"):
        build_bank(everywhere, tiny_prior, groups=1, heldout_groups=1)


def test_more_held_out_groups_than_the_band_has_room_for_end():
    from invert3d_ns.words.bank import MOST_HELD_OUT

    assert len(training_orbits(64, held_out_orbits(MOST_HELD_OUT))[0]) == 64
    with pytest.raises(InputError, match="leave too few orbits"):
        training_orbits(1, held_out_orbits(3000))


def test_viewers_may_look_at_the_scene_while_its_bank_is_made(tiny_v_prior, tmp_path):
    save_prior(tiny_v_prior, tmp_path / "prior", dtype=torch.float32)
    write_splats(tmp_path / "ball.ply", make_cloud(50))
    config = tiny_config(tmp_path / "ball.ply", tmp_path / "prior", tmp_path)
    config.pipeline.datamanager.data = config.data
    pipeline = config.pipeline.setup(device="cpu", test_mode="inference")
    (words,) = pipeline.prepare(seed=0)
    run, free, lock = QuietRun(), [], threading.Lock()
    run.lock = lock  # type: ignore[assignment]

    def look(done: int, total: int) -> None:
        free.append(lock.acquire(blocking=False))
        lock.release()

    run.progress = lambda title: nullcontext(look)  # type: ignore[method-assign]
    words.begin(run, None)  # type: ignore[arg-type]
    assert free == [True] * 5 and not lock.locked()
