"""Whole runs on a pretended GPU: fitted, inverted, edited, stopped and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from edit_runs import edit, make_material
from pretend_cuda import pretend_cuda
from runs import EDIT_STEPS, SPLAT_STEPS, STEPS, go_on, tiny_config, train

from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.scenes.runs import read_run
from invert3d_ns.words.embedding import ObjectEmbedding


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny_v_prior):
    folder = tmp_path_factory.mktemp("material")
    make_material(folder, tiny_v_prior)
    return folder


def on_gpu(data: Path, prior: Path, out: Path, **options):
    options = {"machine__device_type": "cuda", "pipeline__prior_options__precision": "fp32", **options}
    return tiny_config(data, prior, out, **options)


def test_posed_images_become_splats_words_and_an_edit(material, tmp_path):
    total = SPLAT_STEPS + STEPS + EDIT_STEPS
    with pretend_cuda():
        config = on_gpu(material / "posed", material / "prior", tmp_path, prompt="in van gogh style")
        config.max_num_iterations = SPLAT_STEPS - 2
        folder = train(config)
        config.max_num_iterations = total
        for limit in (SPLAT_STEPS + 2, total - 2, total):
            config.load_dir, config.max_num_iterations = folder / "nerfstudio_models", limit
            assert train(config) == folder
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["edit"]["splats"] == len(read_run(folder)) > 0


def test_a_file_of_splats(material, tmp_path):
    with pretend_cuda():
        folder = train(on_gpu(material / "ball.ply", material / "prior", tmp_path, max_num_iterations=STEPS - 2))
        go_on(folder)
        options = {"machine__device_type": "cuda", "pipeline__prior_options__precision": "fp32"}
        edited = train(edit(folder, tmp_path, prompt="blue instead of red", **options))
    before, after = read_run(folder), read_run(edited)
    assert torch.equal(before.means, after.means) and not torch.equal(before.features_dc, after.features_dc)


def test_words_in_one_look(material, tiny_encoding_prior, tmp_path: Path) -> None:
    save_prior(tiny_encoding_prior, tmp_path / "encoding", dtype=torch.float32)
    options = {"pipeline__vectors": None, "pipeline__steps": 2}
    with pretend_cuda():
        folder = train(on_gpu(material / "ball.ply", tmp_path / "encoding", tmp_path / "out", **options))
    assert ObjectEmbedding.load(folder / "embedding.safetensors").vectors.shape == (8, 24)
