"""Runs as scenes: their splats, their names, and settings that are read without running anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.sources import find_words, own_prior, read_scene, scene_edits
from invert3d_ns.scenes.assets import SceneDataParserConfig, object_splats, scene_name
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.normalization import to_object_frame
from invert3d_ns.scenes.ply import read_splats, write_splats
from invert3d_ns.scenes.runs import CLASS, is_run, read_run, run_settings
from invert3d_ns.scenes.splats import ObjectSplatModelConfig

OWN = "invert3d_ns.runs.trainer.PhasedTrainerConfig"
FOREIGN = "nerfstudio.engine.trainer.TrainerConfig"


def make_run(folder: Path, cloud: SplatCloud, kind: str = OWN) -> Path:
    (folder / "nerfstudio_models").mkdir(parents=True)
    state = {f"_model.gauss_params.{name}": tensor for name, tensor in cloud.tensors().items()}
    torch.save({"step": 0, "pipeline": state}, folder / "nerfstudio_models" / "step-000000000.ckpt")
    (folder / "config.yml").write_text(
        f"!!python/object:{kind}\nexperiment_name: cat\nmachine: null\n"
        f"data: !!python/object/apply:pathlib.PosixPath\n- /\n- a\n- cat.ply\n"
        f"pipeline: !!python/object:{kind}\n  prior: some/prior\n"
    )
    return folder


def parse(path: Path, split: str = "train"):
    config = SceneDataParserConfig(data=path, image_size=32, num_train_views=3, num_eval_views=2)
    return config.setup().get_dataparser_outputs(split)


def test_the_splats_of_a_run_are_a_scene_as_they_are(tmp_path):
    cloud = to_object_frame(make_cloud(150, sh_degree=1))[0]
    run = make_run(tmp_path / "outputs" / "run", cloud)
    for path in (run, run / "config.yml"):
        outputs = parse(path)
        splats = outputs.metadata["splats"]
        for name in ("means", "scales", "opacities", "features_dc", "features_rest"):
            assert torch.equal(getattr(splats, name), getattr(cloud, name))
        assert len(outputs.cameras) == 3 and not outputs.metadata["surroundings"]
        assert outputs.image_filenames[0].parts[0] == "cat"
    assert len(parse(run, "test").cameras) == 2


def test_splats_of_another_method_are_brought_into_the_object_frame(tmp_path):
    cloud = make_cloud(150)
    splats = parse(make_run(tmp_path / "run", cloud, FOREIGN)).metadata["splats"]
    assert torch.allclose(splats.means, to_object_frame(cloud, "z")[0].means, atol=1e-5)


def test_what_surrounds_an_object_is_left_out_of_edits(tmp_path):
    cloud = to_object_frame(make_cloud(150, sh_degree=1))[0]
    assert object_splats(cloud) is None
    cloud.means[:30] += 3.0
    run = make_run(tmp_path / "run", cloud)
    assert parse(run).metadata["surroundings"]
    inside = read_scene(run)
    assert torch.equal(inside.means, cloud.means[30:]) and torch.equal(inside.features_dc, cloud.features_dc[30:])


def test_a_folder_that_holds_no_checkpoint_is_refused(tmp_path):
    run = make_run(tmp_path / "run", make_cloud(10))
    (run / "nerfstudio_models" / "step-000000000.ckpt").unlink()
    with pytest.raises(InputError, match="no checkpoint"):
        parse(run)


def test_settings_are_read_and_nothing_of_them_is_run(tmp_path):
    run = make_run(tmp_path / "run", make_cloud(10))
    settings = run_settings(run)
    assert settings[CLASS] == OWN and settings["pipeline"]["prior"] == "some/prior"
    assert settings["data"] == "/a/cat.ply"
    marker = tmp_path / "ran"
    (run / "config.yml").write_text(f"!!python/object/apply:os.mkdir\n- {marker}\n")
    assert run_settings(run) == {} and not marker.exists()
    (run / "config.yml").write_text("{")
    assert run_settings(run) == {}


def test_runs_are_named_after_what_their_scene_was_called(tmp_path):
    run = make_run(tmp_path / "2026-01-01", make_cloud(10))
    assert scene_name(run) == scene_name(run / "config.yml") == "cat"
    assert (scene_name(None), scene_name(Path("some/dog.ply"))) == ("demo", "dog")
    assert is_run(run) and not is_run(tmp_path) and not is_run(tmp_path / "nowhere")
    assert not is_run(tmp_path / ("a" * 300)), "which no folder can be called"


def test_settings_of_another_program_make_no_run(tmp_path):
    (tmp_path / "config.yml").write_text("theme: jekyll\n")
    write_splats(tmp_path / "cat.ply", to_object_frame(make_cloud(150))[0])
    assert not is_run(tmp_path) and not is_run(tmp_path / "config.yml")
    assert len(parse(tmp_path).cameras) == 3
    (tmp_path / "config.yml").write_text(f"!!python/object:{OWN}\nmethod_name: invert3d\n")  # before a checkpoint
    assert is_run(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "data: !!python/object/apply:pathlib.PosixPath [[1], 2]",
        "data: &a [*a]\nb: !!python/object/apply:pathlib.PosixPath [*a]",
        "a: " + "[" * 3000,
        "a: !!int ''",
        "a: !!timestamp x",
        "? [a]\n: b",
    ],
)
def test_foreign_settings_end_in_no_traceback(tmp_path, text):
    (tmp_path / "config.yml").write_text(f"{text}\n")
    assert isinstance(run_settings(tmp_path), dict)


def test_harmonics_that_no_file_holds_are_left_out(tmp_path, capsys):
    cloud = make_cloud(20, sh_degree=4)
    again = read_run(make_run(tmp_path / "run", cloud))
    assert torch.equal(again.features_rest, cloud.features_rest[:, :15]) and "above 3" in capsys.readouterr().err
    write_splats(tmp_path / "cat.ply", again)
    assert read_splats(tmp_path / "cat.ply").sh_degree == 3
    assert 4 not in ObjectSplatModelConfig.number_ranges["sh_degree"]


def test_words_edits_and_prior_of_a_run(tmp_path):
    from invert3d_ns.editing.edit import Edit, save_edits
    from invert3d_ns.words.embedding import ObjectEmbedding

    run = make_run(tmp_path / "run", make_cloud(10))
    with pytest.raises(InputError, match="learn its words"):
        find_words(run)
    words = ObjectEmbedding(torch.zeros(1, 4), prior="unheard-of")
    words.save(run / "embedding.safetensors")
    assert find_words(run) == find_words(run / "config.yml") == run / "embedding.safetensors"
    assert own_prior(run / "embedding.safetensors", words) == "some/prior"
    assert scene_edits(run) == scene_edits(None) == scene_edits(tmp_path / "cat.ply") == []
    save_edits([Edit(target="blue")], run / "edits.json", words)
    assert scene_edits(run / "config.yml", words) == [Edit(target="blue")]
    words.save(tmp_path / "alone.safetensors")
    with pytest.raises(InputError, match="--prior"):
        own_prior(tmp_path / "alone.safetensors", words)
