"""Data sets on disk: arrays that are files, full disks, and files that were lost."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from invert3d_ns.base.errors import InputError
from invert3d_ns.world.data import world_views
from invert3d_ns.world.stores import open_store


def test_a_store_is_kept_and_one_of_another_shape_type_or_length_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.npy"
    store, fresh = open_store(path, np.float16, (3, 4))
    assert fresh and not store.any()
    store[1] = 7
    store.flush()
    again, fresh = open_store(path, np.float16, (3, 4))
    assert not fresh and (again[1] == 7).all()
    for kind, shape in ((np.float16, (4, 3)), (np.float32, (4, 3))):
        other, fresh = open_store(path, kind, shape)
        assert fresh and other.shape == shape and not other.any()
    path.write_bytes(path.read_bytes()[:-1])
    assert open_store(path, np.float32, (4, 3))[1]
    path.write_text("no array")
    assert open_store(path, np.float32, (4, 3))[1]


def test_the_space_of_a_store_is_taken_at_once(tmp_path: Path) -> None:
    store, _ = open_store(tmp_path / "a.npy", np.uint8, (1 << 20,))
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= store.nbytes


def test_a_store_for_which_there_is_no_space_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))  # stands for a full disk
    try:
        with pytest.raises(InputError, match=r"cannot write .*a\.npy.*free some space"):
            open_store(tmp_path / "a.npy", np.uint8, (1 << 20,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_while_rendering_is_said_and_rendering_goes_on_later(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, limits[1]))
    try:
        with pytest.raises(InputError, match="cannot write"):
            world_views(tmp_path, 3, seed=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(world_views(tmp_path, 3, seed=3)) == 3


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_views_that_were_lost_are_named(damage: str, tmp_path: Path) -> None:
    data = world_views(tmp_path, 2, seed=3, size=16)
    assert data.fingerprint() == world_views(tmp_path, 2, seed=3, size=16).fingerprint()
    assert data.fingerprint() != world_views(tmp_path, 2, seed=4, size=16).fingerprint()
    path = next(tmp_path.glob("*-3-*.alpha.npy"))
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"alpha\.npy is missing or damaged; delete .*\.json to render") as caught:
        world_views(tmp_path, 2, seed=3, size=16)
    assert "\n" not in str(caught.value)
