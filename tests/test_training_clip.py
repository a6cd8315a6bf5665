"""How bundled CLIP towers are trained, at a size of seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.training import clip as training
from invert3d_ns.world.attributes import attribute_labels, attribute_prompts
from invert3d_ns.world.data import WorldViews, world_views
from invert3d_ns.world.vocabulary import STYLES

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> WorldViews:
    return world_views(tmp_path_factory.mktemp("data"), 12, seed=3, size=32, views=2, plain=True)


def test_a_batch_holds_every_wording_once_and_every_other_one_look_alikes(data: WorldViews) -> None:
    batches = training.CaptionBatches(data)
    for step in range(6):
        objects, chosen = batches.draw(step, 32, torch.Generator().manual_seed(step))
        assert len(set(chosen)) == len(chosen) == len(objects) > 1
        assert all(text in batches.texts[item] for item, text in zip(objects.tolist(), chosen, strict=True))
        if step % 2:
            assert all(text == data.descriptions[item] for item, text in zip(objects.tolist(), chosen, strict=True))


def test_look_alikes_share_their_key() -> None:
    keys = torch.tensor([7, 3, 7, 5, 3, 7])
    order, start, count = training._grouped(keys)
    assert count.tolist() == [3, 2, 3, 1, 2, 3]
    for item in range(6):
        group = order[start[item] : start[item] + count[item]]
        assert sorted(group.tolist()) == [i for i in range(6) if keys[i] == keys[item]]


def test_attributes_are_labeled_where_they_can_be_seen(data: WorldViews) -> None:
    prompts, labels = attribute_prompts(), attribute_labels(data)
    for key, (values, _) in labels.items():
        words = [list(prompts[key])[value] for value in values]
        assert len(words) == len(data)
        if key in ("class", "color"):
            assert all(word in text for word, text in zip(words, data.descriptions, strict=True))
    sketch = replace(data, styles=torch.full_like(data.styles, list(STYLES).index("pencil sketch")))
    assert labels["color"][1].all() and not attribute_labels(sketch)["color"][1].any()


def test_training_lowers_the_loss(data: WorldViews, tmp_path: Path) -> None:
    made = training.train_clip(tmp_path, data, 24, batch=12, lr=3e-3)
    fresh = training.build_clip(tmp_path / "fresh", training.CaptionBatches(data).texts).freeze()
    images = data.images(slice(None))
    ranks = [
        (t.encode_views(images) @ t.encode_text(data.descriptions).T).softmax(1).diag().mean() for t in (fresh, made)
    ]
    assert ranks[1] > ranks[0]
    # Nothing is left to train, and the result is the same.
    again = training.train_clip(tmp_path, data, 24, batch=12, lr=3e-3)
    torch.testing.assert_close(again.encode_text(["a red chair"]), made.encode_text(["a red chair"]))


def test_views_are_softened_each_by_itself_and_stay_in_range() -> None:
    views = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made = training.augment_crops(views, torch.Generator().manual_seed(1))
    assert made.shape == views.shape and made.min() >= 0 and made.max() <= 1
    torch.testing.assert_close(made, training.augment_crops(views, torch.Generator().manual_seed(1)))
    # White noise: what is blurred has lost its contrast, and about half of the views are.
    contrast = made.flatten(1).std(1)
    assert 0.25 < (contrast < 0.15).float().mean() < 0.75
    plain = torch.full((4, 3, 32, 32), 0.5)
    assert (training.augment_crops(plain, torch.Generator()) - plain).abs().mean() < 0.03


def test_views_are_moved_to_where_the_loss_is_greater_and_no_farther_than_allowed() -> None:
    views = 0.2 + 0.6 * torch.rand(3, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    goal = torch.rand(3, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def harm(seen: torch.Tensor) -> torch.Tensor:
        return -(seen - goal).square().flatten(2).sum(2).mean()

    worse = training.worsen(views, harm, torch.Generator().manual_seed(2))
    lengths = (worse - views).flatten(2).norm(dim=2)
    assert (lengths <= training.WORSE + 1e-4).all() and (lengths > 0.5 * training.WORSE).all()
    assert harm(worse) > harm(views)
    assert harm(worse) > harm(views + (worse - views).flip(0))


def test_towers_of_crops_are_trained_and_resumed_to_the_bit(
    data: WorldViews, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "WORSENED_FROM", 4)
    asked = []
    worsen = training.worsen
    monkeypatch.setattr(training, "worsen", lambda *given: asked.append(1) or worsen(*given))
    whole = training.train_clip(tmp_path / "whole", data, 8, batch=6, crops=True)
    assert len(asked) == 4
    plain = training.train_clip(tmp_path / "plain", data, 8, batch=6)
    again = training.train_clip(tmp_path / "whole", data, 8, batch=6, crops=True)
    texts = ["a red chair"]
    assert torch.equal(whole.encode_text(texts), again.encode_text(texts))
    assert not torch.equal(whole.encode_text(texts), plain.encode_text(texts))
    with pytest.raises(InputError, match="--crops"):
        training.train_clip(tmp_path / "plain", data, 12, batch=6, crops=True)
