"""``ns-train invert3d-edit``: what is refused, in one line and with nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from edit_runs import BLUE, EDIT, REGION, edit, make_material
from runs import tiny_config, train

from invert3d_ns.base.errors import InputError
from invert3d_ns.editing.edit import Edit, save_edits
from invert3d_ns.editing.sources import check_same_object, read_scene
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


NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to edit; give --prompt"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": "a red cube", "pipeline__edit_options__weight": ("mug=2",)}, "'mug' has a weight"),
        ({"prompt": BLUE, f"{EDIT}amount": 6.0}, "amount is 6"),
        ({"prompt": BLUE, f"{EDIT}amount": NAN}, "amount is nan"),
        ({"prompt": BLUE, f"{EDIT}amount": 0.0}, "changes nothing"),
        ({"prompt": BLUE, f"{EDIT}strength": 2.0}, "strength is 2"),
        ({"prompt": BLUE, f"{EDIT}strength": NAN}, "strength is nan"),
        ({"prompt": BLUE, f"{EDIT}guidance_scale": 99.0}, "guidance-scale is 99"),
        ({"prompt": BLUE, f"{EDIT}guidance_scale": NAN}, "guidance-scale is nan"),
        ({"prompt": "<object> " + "red " * 90}, "would be cut"),
        ({"prompt": BLUE, f"{REGION}box": (5.0, 5.0, 5.0, 6.0, 6.0, 6.0)}, "holds no splats"),
        ({"prompt": BLUE, f"{REGION}box": (1.0, 0.0, 0.0, -1.0, 1.0, 1.0)}, "region is empty"),
        ({"prompt": BLUE, "pipeline__edit__fit_steps": 0}, "no steps"),
        ({"prompt": BLUE, "pipeline__edit__orbits": 0}, "orbits is 0"),
        ({"pipeline__edit_options__edits": Path("nowhere.json")}, "cannot be read"),
        ({"prompt": BLUE, "pipeline__embedding": Path("nowhere.safetensors")}, "does not exist"),
        ({"prompt": BLUE, "data": "ball.ply", "pipeline__init": "word"}, "no words to edit"),
        ({"prompt": BLUE, "data": None, "pipeline__init": "word"}, "no words to edit"),
        ({"prompt": BLUE, "data": "posed", "pipeline__embedding": "run"}, "--data holds images"),
        ({"prompt": BLUE, "data": "nowhere"}, "does not exist"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(material, run, tmp_path, options, message):
    options = dict(options)
    data = options.pop("data", run)
    data = material / data if isinstance(data, str) else data
    if options.get("pipeline__embedding") == "run":
        options["pipeline__embedding"] = run
    with pytest.raises(InputError, match=message) as caught:
        train(edit(data, tmp_path / "outputs", **options))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "outputs").exists()


def test_edits_of_a_newer_version_are_refused(run, tmp_path):
    save_edits([Edit(target="blue")], tmp_path / "edits.json")
    text = (tmp_path / "edits.json").read_text()
    (tmp_path / "edits.json").write_text(json.dumps(json.loads(text) | {"version": 7}))
    with pytest.raises(InputError, match=r"version 7.*update"):
        train(edit(run, tmp_path / "outputs", pipeline__edit_options__edits=tmp_path / "edits.json"))


def test_a_run_without_words_and_a_run_of_another_method_are_refused(material, run, tmp_path):
    unfinished = train(tiny_config(material / "ball.ply", material / "prior", tmp_path, max_num_iterations=1))
    again = f"the run is not finished; go on with it first: ns-train invert3d --load-config {unfinished}/config.yml"
    with pytest.raises(InputError, match=f"has no embedding.safetensors: {again}"):
        train(edit(unfinished, tmp_path / "outputs", prompt=BLUE))
    other = tmp_path / "nerfacto"
    (other / "nerfstudio_models").mkdir(parents=True)
    state = {"step": 0, "pipeline": {"_model.field.weight": torch.zeros(2)}}
    torch.save(state, other / "nerfstudio_models" / "step-000000000.ckpt")
    with pytest.raises(InputError, match="not a run of a splatting method"):
        train(edit(other, tmp_path / "outputs", prompt=BLUE))


def test_words_of_another_prior_are_refused(material, run, tiny_prior, tmp_path):
    vectors = torch.zeros(3, tiny_prior.info.token_dim)
    ObjectEmbedding.for_prior(tiny_prior, vectors, init_word="object", steps=1).save(tmp_path / "other.safetensors")
    options = {"pipeline__embedding": tmp_path / "other.safetensors", "pipeline__prior": str(material / "prior")}
    with pytest.raises(InputError, match="was made for prior"):
        train(edit(run, tmp_path / "outputs", prompt=BLUE, **options))


def test_words_that_explain_a_scene_worse_than_a_plain_word_are_refused(material, tiny_v_prior, tmp_path):
    """A prior of random weights is no judge of scenes, so the words are taken as its losses happen to order them."""
    cloud = read_scene(material / "ball.ply")
    refused, passed = [], []
    for seed in range(8):
        vectors = torch.randn(3, tiny_v_prior.info.token_dim, generator=torch.Generator().manual_seed(seed))
        words = ObjectEmbedding.for_prior(tiny_v_prior, vectors, init_word="object", steps=1)
        try:
            own, plain = check_same_object(tiny_v_prior, words, cloud)
            assert own <= plain
            passed.append(words)
        except InputError as error:
            assert "different scenes" in str(error)
            refused.append(words)
    assert refused and passed
    refused[0].save(tmp_path / "other.safetensors")
    options = {"pipeline__embedding": tmp_path / "other.safetensors", "pipeline__prior": str(material / "prior")}
    with pytest.raises(InputError, match="of different scenes"):
        train(edit(material / "ball.ply", tmp_path / "outputs", prompt=BLUE, **options))
    assert not (tmp_path / "outputs").exists()
