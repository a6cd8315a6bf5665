"""How many denoising steps are taken where nobody says: the prior's own number, wherever it is asked for views."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from runs import tiny_config

from invert3d_ns.base.errors import InputError
from invert3d_ns.commands.image import InvertImages
from invert3d_ns.commands.views import GenerateViews
from invert3d_ns.editing.edit import Edit, load_edits, parse_edit, save_edits
from invert3d_ns.editing.views import edited_views
from invert3d_ns.prior.checkpoints import BUNDLED_FOLDER
from invert3d_ns.prior.info import PriorInfo
from invert3d_ns.prior.sampling import ddim_invert, default_steps, denoise, start_noise
from invert3d_ns.prior.storage import read_info, save_prior
from invert3d_ns.scenes.cameras import camera_condition
from invert3d_ns.words.embedding import ObjectEmbedding
from invert3d_ns.words.views import generate_views

CAMERAS = camera_condition(torch.arange(4) * 90.0, torch.tensor(10.0))[None]


@pytest.fixture
def prior(tiny_v_prior):
    """The tiny prior with a number of steps that nothing else has."""
    before = tiny_v_prior.info
    tiny_v_prior.info = replace(before, sampling_steps=5)
    yield tiny_v_prior
    tiny_v_prior.info = before


@pytest.fixture
def taken(prior, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The timesteps of every prediction."""
    seen: list[int] = []
    predict_each = type(prior).predict_each

    def count(self, noisy, t, *arguments, **more):
        seen.append(int(t[0]))
        return predict_each(self, noisy, t, *arguments, **more)

    monkeypatch.setattr(type(prior), "predict_each", count)
    return seen


def words(prior) -> ObjectEmbedding:
    return ObjectEmbedding.for_prior(prior, prior.word_vectors("cube"), init_word="cube", steps=1)


def test_each_prior_has_its_own() -> None:
    assert read_info(BUNDLED_FOLDER).sampling_steps == 8
    assert {entry.name: entry.default for entry in fields(PriorInfo)}["sampling_steps"] == 30


@pytest.mark.parametrize(
    ("own", "strength", "expected"),
    [(8, 1.0, 8), (8, 0.5, 8), (8, 0.4, 10), (8, 0.1, 40), (8, 1e-4, 1000), (2, 0.5, 4), (1, 1.0, 1), (30, 0.1, 40)],
)
def test_a_small_share_of_the_diffusion_still_takes_some(prior, own: int, strength: float, expected: int) -> None:
    prior.info = replace(prior.info, sampling_steps=own)
    assert default_steps(prior, strength) == expected


def test_views_take_as_many(prior, taken) -> None:
    views = prior.sample("a cube", CAMERAS, guidance_scale=1.0)
    assert len(taken) == 5 and torch.equal(views, prior.sample("a cube", CAMERAS, guidance_scale=1.0, steps=5))
    seen = []
    generate_views(prior, words(prior), [0.0, 90.0], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(index + 1, 5) for index in range(5)]
    denoised = []
    denoise(prior, start_noise(prior, 4, [0]), lambda x, t: denoised.append(t) or torch.zeros_like(x))
    assert len(denoised) == 5
    assert len(ddim_invert(prior, start_noise(prior, 4, [0]), lambda x, t: torch.zeros_like(x))) == 5


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"structure": "flow"}, 5),
        ({"structure": "sdedit"}, 4),  # 0.8 of 5
        ({"structure": "sdedit", "strength": 0.5}, 4),  # of 8, so that four are left
        ({"structure": "sdedit", "strength": 0.1}, 4),
        ({"structure": "sdedit", "strength": 0.5, "steps": 5}, 2),  # as was asked for
        ({"structure": "ddim"}, 5),
        ({"structure": "flow", "steps": 3}, 3),
    ],
)
def test_edits_take_as_many(prior, settings: dict, expected: int) -> None:
    originals = torch.rand(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = []
    edited_views(
        prior,
        words(prior),
        [parse_edit("a red <object>", **settings)],
        CAMERAS,
        originals=originals,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(index + 1, expected) for index in range(expected)]


def test_what_was_not_given_stays_so_in_files(tmp_path: Path) -> None:
    save_edits([parse_edit("blue"), parse_edit("blue", steps=20)], tmp_path / "edits.json")
    assert [edit.steps for edit in load_edits(tmp_path / "edits.json")] == [None, 20]
    for steps in (0, 1001, 2.5):
        with pytest.raises(InputError, match="steps"):
            Edit(target="blue", steps=steps).check()  # type: ignore[arg-type]


def test_no_flag_has_a_number_of_its_own() -> None:
    from invert3d_ns.commands.evaluate import EvaluateEdit, EvaluateInversion, EvaluatePrior

    assert GenerateViews.steps is None and Edit.steps is None and not hasattr(InvertImages, "steps")
    assert {kind.sampling_steps for kind in (EvaluateEdit, EvaluateInversion, EvaluatePrior)} == {None}
    assert tiny_config(Path(), Path(), Path(), pipeline__sampling_steps=None).pipeline.sampling_steps is None


def test_views_of_a_command_are_those_of_the_priors_number(prior, tmp_path: Path) -> None:
    save_prior(prior, tmp_path / "prior", dtype=torch.float32)
    words(prior).save(tmp_path / "embedding.safetensors")
    for name, steps in (("own", None), ("given", 5), ("other", 6)):
        GenerateViews(
            tmp_path / "embedding.safetensors", steps=steps, prior=str(tmp_path / "prior"), count=2, out=tmp_path / name
        ).run()
    own, given, other = ((tmp_path / name / "views.png").read_bytes() for name in ("own", "given", "other"))
    assert own == given != other


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_numbers_that_cannot_be_taken(prior, steps: int) -> None:
    with pytest.raises(InputError, match="give 1 to 1000"):
        prior.sample("a cube", CAMERAS, steps=steps)


def test_the_evaluation_compares_numbers_of_steps(prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from invert3d_ns.metrics import prior_table

    asked = []

    def evaluate(prior, judge, cases, seeds, *, steps, **_):
        asked.append(steps)
        return [{}], torch.zeros(1, 4, 3, 32, 32)

    monkeypatch.setattr(prior_table, "evaluate_prior", evaluate)
    monkeypatch.setattr(prior_table, "grade_true_renders", lambda judge, cases, seeds: [{}])
    monkeypatch.setattr(prior_table, "attribute_table", lambda graded, truth: [])
    monkeypatch.setattr(prior_table, "table_row", lambda label, graded: {"views": label})
    monkeypatch.setattr(prior_table, "aspect_means", lambda graded: {})
    plan = prior_table.PriorPlan(seeds=(0,), prompts=1, consistency_objects=0, compared_steps=(4, 20))
    rows, _ = prior_table.measure_prior(prior, None, tmp_path, plan)  # type: ignore[arg-type]
    assert asked == [None, None, 4, 20]
    assert [row["views"] for row in rows[-2:]] == [f"held-out combinations, {n} steps (1)" for n in (4, 20)]
    assert (tmp_path / "held_out_4_steps.png").is_file()
