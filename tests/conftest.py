"""Fixtures of all tests; environment that has to be set before torch is loaded."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch loads its OpenMP: on a busy machine, threads that spin while they wait make small operations 500x slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each worker

import pytest
from tiny_priors import make_tiny_prior


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of golden files that lies beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("the shared folder is not beside this checkout")
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_videos_of_runs():
    """Runs end without a video, which takes a second; tests of turntables ask for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("invert3d_ns.runs.turntable.MOST_SPLATS", 0)
        yield


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory):
    """A tiny random prior that predicts noise. Read-only: it is shared by the session."""
    return make_tiny_prior(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tiny_v_prior(tmp_path_factory: pytest.TempPathFactory):
    """A tiny random prior that predicts v, with zero terminal SNR. Read-only: it is shared by the session."""
    return make_tiny_prior(tmp_path_factory.mktemp("tokenizer"), "v_prediction", seed=1)


@pytest.fixture(scope="session")
def tiny_encoding_prior(tmp_path_factory: pytest.TempPathFactory):
    """As ``tiny_v_prior``, with a view encoder, rays and a ray reader. Read-only: it is shared by the session."""
    return make_tiny_prior(tmp_path_factory.mktemp("tokenizer"), "v_prediction", seed=2, encodes=True)


@pytest.fixture(scope="session")
def stored_prior(tmp_path_factory: pytest.TempPathFactory, tiny_encoding_prior) -> Path:
    """The folder of a stored ``tiny_encoding_prior``. Read-only: it is shared by the session."""
    import torch

    from invert3d_ns.prior.storage import save_prior

    folder = tmp_path_factory.mktemp("prior") / "prior"
    save_prior(tiny_encoding_prior, folder, dtype=torch.float32)
    return folder


@pytest.fixture(scope="session")
def posed_knob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight small posed images. Read-only: it is shared by the session."""
    from synthetic import make_cloud

    from invert3d_ns.scenes.normalization import to_object_frame
    from invert3d_ns.scenes.posed_images import write_posed_images

    folder = tmp_path_factory.mktemp("posed") / "posed"
    write_posed_images(to_object_frame(make_cloud(200))[0], folder, count=8, size=32)
    return folder


@pytest.fixture(scope="session")
def radiance_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of nerfacto, whose images are gone. Read-only: it is shared by the session."""
    import shutil

    from radiance_runs import make_radiance_run

    folder = tmp_path_factory.mktemp("radiance")
    run = make_radiance_run(folder)
    shutil.rmtree(folder / "images")
    return run


@pytest.fixture(scope="module")
def small_networks():
    """Tiny networks for every model that is trained here, and CLIP's attributes from the third step on."""
    from tiny_training import shrink

    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        yield
