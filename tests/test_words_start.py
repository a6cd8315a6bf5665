"""Where words start from: one look by the view encoder, or a word; with steps, and without any."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import tiny_config, train
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.methods.inversion_settings import InversionSettings, choose_start
from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.words.bank import build_bank
from invert3d_ns.words.cti import CameraTextInversion
from invert3d_ns.words.embedding import ObjectEmbedding


@pytest.fixture(scope="module")
def material(tmp_path_factory, tiny_v_prior, tiny_encoding_prior) -> Path:
    folder = tmp_path_factory.mktemp("material")
    save_prior(tiny_encoding_prior, folder / "encoding", dtype=torch.float32)
    save_prior(tiny_v_prior, folder / "plain", dtype=torch.float32)
    write_splats(folder / "ball.ply", make_cloud(200))
    return folder


def _train(material: Path, out: Path, prior: str = "encoding", **options) -> tuple[Path, ObjectEmbedding, dict]:
    options = {"pipeline__vectors": None, **options}
    folder = train(tiny_config(material / "ball.ply", material / prior, out, **options))
    return (
        folder,
        ObjectEmbedding.load(folder / "embedding.safetensors"),
        json.loads((folder / "metrics.json").read_text()),
    )


def test_no_steps_are_the_encoders_words(material: Path, tmp_path: Path, tiny_encoding_prior) -> None:
    _, embedding, figures = _train(material, tmp_path, pipeline__steps=0)
    assert embedding.vectors.shape == (8, 24) and embedding.steps == 0
    assert figures["settings"]["init"] == "encoder" and figures["settings"]["vectors"] == 8
    assert figures["steps"]["words"] == 0
    loss = figures["heldout_loss"]
    assert loss["embedding"] != pytest.approx(loss["init_word"], rel=1e-6)


def test_words_start_there_and_go_on(material: Path, tmp_path: Path) -> None:
    _, start, _ = _train(material, tmp_path / "a", pipeline__steps=0)
    _, after, figures = _train(material, tmp_path / "b", pipeline__steps=2, pipeline__lr=1e-3)
    moved = float((after.vectors - start.vectors).abs().max())
    assert 0 < moved <= 2.1e-3 and figures["steps"]["words"] == 2


def test_a_word_is_still_a_start(material: Path, tmp_path: Path, tiny_encoding_prior) -> None:
    options = {"pipeline__init": "word", "pipeline__steps": 0, "pipeline__init_jitter": 0.0, "pipeline__splat_steps": 1}
    _, embedding, figures = _train(material, tmp_path, pipeline__vectors=3, **options)
    torch.testing.assert_close(embedding.vectors, tiny_encoding_prior.word_vectors("object").expand(3, -1))
    assert figures["settings"]["init"] == "word"


def test_an_edit_needs_no_inversion_where_words_come_in_one_look(material: Path, tmp_path: Path) -> None:
    folder, embedding, figures = _train(material, tmp_path, pipeline__steps=0, prompt="blue")
    assert embedding.vectors.shape == (8, 24)
    assert (folder / "edits.json").is_file() and "edit" in json.dumps(figures)


def test_the_number_of_steps_is_the_priors(material: Path, tmp_path: Path) -> None:
    info = json.loads((material / "encoding" / "prior.json").read_text())
    (material / "encoding" / "prior.json").write_text(json.dumps({**info, "inversion_steps": 3}))
    manifest = material / "encoding" / "manifest.json"
    kept = manifest.read_text() if manifest.is_file() else None
    try:
        if kept is not None:
            manifest.unlink()
        _, embedding, _ = _train(material, tmp_path, pipeline__steps=None)
        assert embedding.steps == 3
    finally:
        (material / "encoding" / "prior.json").write_text(json.dumps(info))
        if kept is not None:
            manifest.write_text(kept)


def test_mean_words_of_several_orbits(tiny_encoding_prior) -> None:
    from invert3d_ns.metrics.inversion_quality import renderer
    from invert3d_ns.scenes.normalization import to_object_frame

    bank = build_bank(renderer(to_object_frame(make_cloud(100))[0]), tiny_encoding_prior, groups=3, heldout_groups=1)
    inversion = CameraTextInversion(tiny_encoding_prior)
    each = tiny_encoding_prior.encode_views(bank.latents, bank.cameras)
    torch.testing.assert_close(inversion.encoded_words(bank), each.mean(0))
    torch.testing.assert_close(inversion.encoded_words(bank, 1), each[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, (True, 8)),
        ({"vectors": 8}, (True, 8)),
        ({"vectors": 5}, (False, 5)),
        ({"init": "word"}, (False, 32)),
        ({"init_word": "cat"}, (False, 32)),
        ({"resolution": 64}, (False, 32)),
        ({"init": "encoder"}, (True, 8)),
    ],
)
def test_what_a_prior_with_an_encoder_starts_from(tiny_encoding_prior, settings: dict, found: tuple) -> None:
    assert choose_start(tiny_encoding_prior, InversionSettings(**settings)) == found


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "encoder", "vectors": 5}, "the view encoder says 8 words of views of 32 pixels; leave"),
        ({"init": "encoder", "resolution": 64}, "leave --pipeline.vectors and --pipeline.resolution out"),
        ({"init": "encoder", "init_word": "cat"}, "--pipeline.init-word is given"),
    ],
)
def test_what_an_encoder_cannot_do_is_refused(tiny_encoding_prior, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_start(tiny_encoding_prior, InversionSettings(**settings))


def test_an_encoder_that_is_not_there_is_refused(tiny_v_prior, material: Path, tmp_path: Path) -> None:
    assert choose_start(tiny_v_prior, InversionSettings()) == (False, 32)
    with pytest.raises(InputError, match=r"has no view encoder; leave --pipeline\.init out"):
        choose_start(tiny_v_prior, InversionSettings(init="encoder"))
    with pytest.raises(InputError, match="there are no words to edit"):
        _train(material, tmp_path, "plain", pipeline__steps=0, pipeline__vectors=3, prompt="blue")


@pytest.mark.parametrize(
    ("overlap", "words", "rough"), [(0.9, 22.0, False), (0.6, 22.0, True), (0.9, 9.0, True), (0.75, 16.0, False)]
)
def test_words_that_came_not_far_are_said_to_be_rough(overlap: float, words: float, rough: bool, capsys) -> None:
    from invert3d_ns.methods.words_report import WordsOutputs, announce

    loss = {"embedding": 0.3, "init_word": 0.4}
    quality = {"embedding": words, "init_word": 11.0, "autoencoder": 30.0}
    figures = {"heldout_loss": loss, "psnr": quality, "silhouette_iou": overlap}
    outputs = WordsOutputs(
        Path("e"), Path("v"), Path("m"), figures, np.zeros((1, 1, 3), np.uint8), ("blue", "red"), "cat"
    )
    announce(outputs)
    said = " ".join(capsys.readouterr().out.split())
    assert ("A rough likeness" in said) == rough
    assert (f"reach {words:.1f} dB, where the prior's autoencoder alone reaches 30.0" in said) == rough
    assert "It looks like a cat" in said
