"""What counts as a run's edits is in its checkpoint: killed runs, other words, and how ns-eval compares."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from edit_runs import BLUE, edit, make_material
from runs import EDIT_STEPS, STEPS, tiny_config, train

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit
from invert3d_ns.editing.sources import scene_edits
from invert3d_ns.scenes.runs import list_checkpoints, read_run, read_run_record
from invert3d_ns.words.embedding import ObjectEmbedding


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny_v_prior):
    """See :func:`make_material`. Read-only."""
    folder = tmp_path_factory.mktemp("material")
    make_material(folder, tiny_v_prior)
    return folder


@pytest.fixture(scope="module")
def run(material) -> Path:
    return material / "outputs" / "ball" / "invert3d" / "run"


@pytest.fixture(scope="module")
def edited(run, tmp_path_factory) -> Path:
    """The folder of an edited run. Read-only."""
    return train(edit(run, tmp_path_factory.mktemp("edited"), prompt=BLUE))


def test_a_run_that_was_killed_before_it_wrote_its_outputs_is_edited(run, edited, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(edited, copy)
    (copy / "edits.json").unlink()
    assert scene_edits(copy) == [Edit(source="red", target="blue", steps=2)] and scene_edits(run) == []
    assert read_run_record(copy).phase == "edit" and read_run_record(copy).finished


def test_a_run_in_the_middle_of_an_edit_is_no_scene_to_edit(material, tmp_path):
    options = {"prompt": BLUE, "max_num_iterations": STEPS + EDIT_STEPS - 1}
    stopped = train(tiny_config(material / "ball.ply", material / "prior", tmp_path / "o [1]", **options))
    with pytest.raises(InputError, match=r"in the middle of an edit.*ns-train invert3d --load-config '") as error:
        train(edit(stopped, tmp_path / "more", prompt="in van gogh style"))
    assert "\n" not in str(error.value) and not (tmp_path / "more").exists()


def test_edits_of_another_prior_are_refused(edited):
    words = ObjectEmbedding.load(edited / "embedding.safetensors")
    words.fingerprint, words.prior = "0" * 12, "another"
    with pytest.raises(InputError, match="were made with prior"):
        scene_edits(edited, words)


def test_copies_beside_a_checkpoint_are_none(edited, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(edited, copy)
    checkpoints = copy / "nerfstudio_models"
    (path,) = checkpoints.iterdir()
    (checkpoints / f"{path.stem} (1).ckpt").write_bytes(b"half")
    (checkpoints / "step-zz.ckpt").write_bytes(b"half")
    assert list(list_checkpoints(checkpoints).values()) == [path]
    assert torch.equal(read_run(copy).means, read_run(edited).means)


def test_other_words_of_the_same_prior_are_noticed_when_an_edit_goes_on(material, run, tmp_path, monkeypatch):
    from invert3d_ns.methods import invert3d as pipeline

    monkeypatch.setattr(pipeline.InversionPipeline, "check_words_describe_splats", lambda *_: None)
    words = ObjectEmbedding.load(run / "embedding.safetensors")
    words.save(tmp_path / "same.safetensors")
    words.vectors = words.vectors + 1
    words.save(tmp_path / "other.safetensors")
    common = {"prompt": BLUE, "pipeline__prior": str(material / "prior")}
    ball, first = material / "ball.ply", tmp_path / "first"
    embedding = run / "embedding.safetensors"
    stopped = train(edit(ball, first, **common, pipeline__embedding=embedding, max_num_iterations=2))
    for name, refused in (("same", False), ("other", True)):
        given = {"pipeline__embedding": tmp_path / f"{name}.safetensors", "load_dir": stopped / "nerfstudio_models"}
        again = edit(ball, tmp_path / name, **common, **given)
        if refused:
            with pytest.raises(InputError, match=r"--pipeline.embedding \(its words\) was \w{12} and is now \w{12}"):
                train(again)
        else:
            assert (train(again) / "edits.json").is_file()


def test_ns_eval_says_what_an_edited_run_is_compared_with(run, edited, tmp_path, monkeypatch, capfd):
    from nerfstudio.configs.method_configs import all_methods
    from nerfstudio.scripts.eval import ComputePSNR

    from invert3d_ns.configs import invert3d, invert3d_edit

    monkeypatch.setitem(all_methods, "invert3d", invert3d.config)
    monkeypatch.setitem(all_methods, "invert3d-edit", invert3d_edit.config)
    results = {}
    for name, folder in (("run", run), ("edited", edited)):
        ComputePSNR(folder / "config.yml", tmp_path / f"{name}.json").main()
        results[name] = json.loads((tmp_path / f"{name}.json").read_text())["results"]
    assert "compared_with" not in results["run"]
    assert results["edited"]["compared_with"] == "the scene as it was before its edits (red -> blue)"
    assert results["edited"]["psnr"] < results["run"]["psnr"]
    assert "compare it with the scene as it was before its edits (red -> blue)" in capfd.readouterr().out
