"""The weights that the package ships: what they promise, at sizes that tests can afford."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest
import torch

import invert3d_ns.prior
from invert3d_ns.metrics.held_out import photo_prompts
from invert3d_ns.metrics.inversion_objects import unseen_object
from invert3d_ns.metrics.inversion_quality import renderer
from invert3d_ns.metrics.judge import Judge
from invert3d_ns.metrics.prior_quality import evaluate_prior
from invert3d_ns.prior.checkpoints import load_prior
from invert3d_ns.prior.multiview import MultiViewPrior
from invert3d_ns.words.bank import build_bank
from invert3d_ns.words.cti import TOKEN, CameraTextInversion, fit_words
from invert3d_ns.world.data import world_views

FOLDER = Path(invert3d_ns.prior.__file__).parent / "bundled"


@pytest.fixture(scope="module")
def bundled() -> MultiViewPrior:
    return load_prior("bundled")


def test_shards_are_small_and_name_no_machine() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.rglob("*.safetensors")}
    assert max(sizes.values()) <= 16 * 2**20
    assert sum(sizes.values()) <= 40 * 10**6
    for path in FOLDER.rglob("*.json"):
        assert "_name_or_path" not in json.loads(path.read_text()), path


def test_it_is_trained_and_says_how(bundled: MultiViewPrior) -> None:
    assert bundled.info.prediction_type == "v_prediction"
    assert bundled.alphas_cumprod[-1] == 0
    assert bundled.info.training["steps"] >= 1000
    assert "train prior" in bundled.info.training["command"]


def test_it_obeys_words(bundled: MultiViewPrior) -> None:
    cases = photo_prompts(False, 8, seed=11)
    rows, _ = evaluate_prior(bundled, Judge.load(), cases, [3], steps=12)
    assert mean(row["class"] for row in rows) >= 0.7
    assert mean(row["color"] for row in rows) >= 0.7


def test_words_of_an_unseen_object_beat_the_word_they_started_from(bundled: MultiViewPrior) -> None:
    torch.manual_seed(0)
    bank = build_bank(renderer(unseen_object("duck")), bundled, groups=8, heldout_groups=2)
    inversion = CameraTextInversion(bundled, seed=0)
    initial = inversion.initial_words(8, bundled.info.init_word)
    words = fit_words(inversion, bank, initial, steps=60)
    assert inversion.heldout_loss(words, bank) < 0.95 * inversion.heldout_loss(bundled.info.init_word, bank)


def test_words_in_one_look_are_the_objects_own(bundled: MultiViewPrior, tmp_path: Path) -> None:
    """Held-out assemblies: the view encoder's words of one orbit denoise another better than another's, or none."""
    data = world_views(tmp_path, 8, seed=90, views=8, kind="assemblies", plain=True)
    latents, cameras = bundled.encode_images(data.images(slice(None))), data.cameras()
    words = bundled.encode_views(latents[:, ::2], cameras[:, ::2])
    noise = torch.randn(latents[:, 1::2].shape, generator=torch.Generator().manual_seed(1))

    def loss(context: torch.Tensor) -> float:
        t = torch.full((8,), 995)
        return float(bundled.prediction_loss(latents[:, 1::2], noise, t, context, cameras[:, 1::2]))

    own, other = (bundled.encode_prompt([TOKEN] * 8, {TOKEN: each}) for each in (words, words.roll(1, 0)))
    right, swapped, without = loss(own), loss(other), loss(bundled.encode_prompt([""] * 8))
    assert right < 0.75 * swapped and right < 0.85 * without, (right, swapped, without)
