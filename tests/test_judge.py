"""The judge: what it says of true renders, what it refuses to judge, and that it is of this world."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from invert3d_ns.base.errors import InputError
from invert3d_ns.cli import main
from invert3d_ns.metrics.held_out import held_out_prompts
from invert3d_ns.metrics.judge import BINS, KINDS, WEIGHTS, Judge, Judgment, mean_shares, world_names
from invert3d_ns.metrics.prior_quality import aspect_means, grade_true_renders
from invert3d_ns.training.judge import azimuth_targets, degrade_views, judge_accuracy, judge_losses, train_judge
from invert3d_ns.training.judge_data import VIEWS, judged_views
from invert3d_ns.world.data import sample_orbits
from invert3d_ns.world.shapes import FRONTED


def _judgment(styles: list[str], azimuths: list[float], **others: list[int]) -> Judgment:
    names = world_names()["styles"]
    index = {kind: torch.tensor(others.get(kind, [0] * len(styles))) for kind in KINDS}
    index["styles"] = torch.tensor([names.index(style) for style in styles])
    return Judgment(**index, azimuths=torch.tensor(azimuths))


def test_what_is_right_and_what_cannot_be_judged() -> None:
    truth = _judgment(["photo", "sepia", "photo"], [170.0, math.nan, 0.0], classes=[1, 2, 3], colors=[4, 5, 6])
    said = _judgment(["photo", "sepia", "neon"], [-165.0, 3.0, 31.0], classes=[1, 0, 3], colors=[4, 0, 0])
    right = {key: values.tolist() for key, values in said.right(truth).items()}
    assert right["class"] == [1, 0, 1] and right["style"] == [1, 1, 0] and right["pattern"] == [1, 1, 1]
    # A sepia print has no colors; 170 and -165 degrees are 25 apart.
    assert right["color"][0] == 1 and math.isnan(right["color"][1]) and right["color"][2] == 0
    assert right["azimuth"][0] == 1 and math.isnan(right["azimuth"][1]) and right["azimuth"][2] == 0
    assert mean_shares(said.right(truth)) == pytest.approx(
        {"class": 2 / 3, "color": 0.5, "pattern": 1, "style": 2 / 3, "azimuth": 0.5}
    )


def test_training_views_say_what_they_show_and_rendering_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data = judged_views(tmp_path, 60, seed=5)
    truth, names = data.truth, world_names()
    assert data.rgb.shape == (60 * VIEWS, 64, 64, 3) and len(data) == len(truth.classes) == 60 * VIEWS
    # Every style and pattern equally often, unlike in the training of priors, where most objects are plain photos.
    for kind, share_ in (("styles", 0.25), ("patterns", 0.45)):
        counts = torch.bincount(getattr(truth, kind), minlength=len(names[kind]))
        assert counts.min() > 0 and counts.max() < share_ * len(data)
    # Azimuths are those of the cameras, and only of upright objects with a front.
    told = ~truth.azimuths.isnan().view(60, VIEWS)
    assert (told == told[:, :1]).all() and 0 < told.sum() < told.numel()
    assert all(names["classes"][k] in FRONTED for k in truth.classes.view(60, VIEWS)[told].tolist())
    azimuths, _ = sample_orbits(60, VIEWS, 5 * 1_000_003)
    off = torch.deg2rad(truth.azimuths.view(60, VIEWS) - azimuths)[told]
    torch.testing.assert_close(off.cos(), torch.ones_like(off))
    path = next(tmp_path.rglob("*.npz"))
    written = path.stat().st_mtime_ns
    again = judged_views(tmp_path, 60, seed=5)
    assert np.array_equal(again.rgb, data.rgb) and path.stat().st_mtime_ns == written


def test_azimuths_are_read_back_from_their_own_targets() -> None:
    azimuths = torch.tensor([-180.0, -172.0, -7.0, 0.0, 4.0, 90.0, 171.0])
    targets = azimuth_targets(torch.cat([azimuths, torch.tensor([math.nan])]))
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    torch.testing.assert_close(targets[-1], torch.full((BINS,), 1 / BINS))
    judge = Judge().eval()
    head = judge.heads["azimuths"]
    assert isinstance(head, torch.nn.Linear)
    torch.nn.init.zeros_(head.weight)
    for azimuth, target in zip(azimuths, targets, strict=False):
        head.bias.data.copy_(target.log())
        said = judge.judge(torch.rand(1, 3, 64, 64)).azimuths
        assert abs((said - azimuth + 180) % 360 - 180) < 4


def test_colors_that_a_style_hides_and_azimuths_that_nobody_sees_teach_nothing() -> None:
    logits = {kind: torch.zeros(2, len(names), requires_grad=True) for kind, names in world_names().items()}
    logits["azimuths"] = torch.zeros(2, BINS, requires_grad=True)
    truth = _judgment(["photo", "blueprint"], [30.0, math.nan])
    judge_losses(logits, {kind: getattr(truth, kind) for kind in logits})["loss"].backward()
    for kind, values in logits.items():
        assert values.grad is not None and values.grad[0].abs().max() > 0
        assert (values.grad[1].abs().max() > 0) == (kind not in ("colors", "azimuths"))


def test_degraded_views_are_views_still() -> None:
    images = torch.ones(8, 3, 64, 64)
    images[:, :, 20:44, 20:44] = torch.rand(8, 3, 1, 1)
    worse = degrade_views(images, torch.Generator().manual_seed(0))
    assert worse.shape == images.shape and worse.min() >= 0 and worse.max() <= 1
    # Of every two views one may have its middle hidden.
    centers = (slice(1, None, 2), slice(None), slice(28, 36), slice(28, 36))
    torch.testing.assert_close(worse[centers].mean((2, 3)), images[centers].mean((2, 3)), atol=0.1, rtol=0)
    assert not torch.equal(worse[:, :, 16:48, 16:48], images[:, :, 16:48, 16:48])
    torch.testing.assert_close(worse, degrade_views(images, torch.Generator().manual_seed(0)), rtol=0, atol=0)


def test_views_of_any_size_are_judged_and_batches_do_not_matter() -> None:
    judge = Judge.load()
    images = torch.rand(5, 3, 64, 64)
    whole, parts = judge.judge(images), judge.judge(images, batch=2)
    large = judge.judge(images.repeat_interleave(4, 2).repeat_interleave(4, 3))
    for key in (*KINDS, "azimuths"):
        torch.testing.assert_close(getattr(whole, key), getattr(parts, key))
        torch.testing.assert_close(getattr(whole, key), getattr(large, key))


def test_the_shipped_judge_is_right_about_true_renders() -> None:
    assert WEIGHTS.stat().st_size <= 3 * 2**20
    means = {
        key: values[0]
        for key, values in aspect_means(grade_true_renders(Judge.load(), held_out_prompts(60), [0])).items()
    }
    least = {"class": 0.97, "color": 0.85, "pattern": 0.82, "style": 0.95, "azimuth": 0.74}
    assert all(means[key] >= least[key] for key in least), means


def test_the_judge_can_be_trained_again_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    data = judged_views(tmp_path, 8, seed=3)
    first = train_judge(tmp_path, data, 2, batch=8)
    first.save(tmp_path / "judge.safetensors")
    loaded = Judge.load(tmp_path / "judge.safetensors")
    assert loaded.names == world_names() and not loaded.training
    for key, value in first.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key].float(), value.float(), rtol=1e-3, atol=1e-3)
    assert judge_accuracy(loaded, data).keys() == {"class", "color", "pattern", "style", "azimuth"}
    again = train_judge(tmp_path, data, 2, batch=8)
    # All steps were done: nothing moves.
    for key, value in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)


def test_a_finished_judge_is_trained_on(tmp_path: Path) -> None:
    data = judged_views(tmp_path, 8, seed=3)
    further = train_judge(tmp_path / "further", data, 1, batch=8, start=WEIGHTS)
    shipped = Judge.load()
    afresh = train_judge(tmp_path / "afresh", data, 1, batch=8)
    distance = lambda judge: (judge.hidden[1].weight - shipped.hidden[1].weight).norm()  # noqa: E731
    assert 0 < distance(further) < 0.1 * distance(afresh)


def test_the_command_trains_a_judge(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "judge", "--out", str(tmp_path), "--objects", "8", "--judge-steps", "2"])
    assert not stopped.value.code
    assert Judge.load(tmp_path / "judge" / "judge.safetensors").judge(torch.rand(2, 3, 32, 32)).classes.shape == (2,)


def test_a_judge_of_another_world_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing"):
        Judge.load(tmp_path / "nowhere.safetensors")
    names = {kind: list(words) for kind, words in world_names().items()}
    names["styles"] = [*names["styles"][:-1], "mosaic"]
    Judge(names).save(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="of another world, with other styles;"):
        Judge.load(tmp_path / "other.safetensors")
    state = load_file(WEIGHTS)
    save_file(state, tmp_path / "silent.safetensors", {"classes": json.dumps(world_names()["classes"])})
    with pytest.raises(InputError, match="other colors and patterns and styles"):
        Judge.load(tmp_path / "silent.safetensors")
    metadata = {kind: json.dumps(words) for kind, words in world_names().items()} | {"widths": "[8, 8, 8, 8]"}
    save_file(state, tmp_path / "wide.safetensors", metadata)
    with pytest.raises(InputError, match="another architecture"):
        Judge.load(tmp_path / "wide.safetensors")
    for widths in ("[8, -8, 8, 8]", "[]", "3", "[8, 8, 8, 1000000]", '["a", 1, 2, 3]'):
        save_file(state, tmp_path / "odd.safetensors", metadata | {"widths": widths})
        with pytest.raises(InputError, match="another architecture"):
            Judge.load(tmp_path / "odd.safetensors")
    del metadata["widths"]
    save_file(state, tmp_path / "odd.safetensors", metadata)
    with pytest.raises(InputError, match="another architecture"):
        Judge.load(tmp_path / "odd.safetensors")
    save_file(state, tmp_path / "odd.safetensors", metadata | {"widths": "[8,"})
    with pytest.raises(InputError, match="damaged"):
        Judge.load(tmp_path / "odd.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(WEIGHTS.read_bytes()[:5000])
    with pytest.raises(InputError, match="damaged"):
        Judge.load(damaged)
