"""What pulls views towards words: each term against its formula, values and gradients, with the bundled towers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from invert3d_ns.alignment.augmentation import apply_crops, draw_crops
from invert3d_ns.alignment.checkpoints import load_clip
from invert3d_ns.alignment.clip import ClipTowers
from invert3d_ns.alignment.content import content_of_towers
from invert3d_ns.alignment.style_losses import LARGE_CROPS, StyleLoss, StyleLossConfig
from invert3d_ns.alignment.style_words import StyleWords, encode_words, parse_weighted
from invert3d_ns.base.errors import InputError

WORDS = StyleWords({"a chair in van gogh style": 1.0}, "a photo of a chair")
NONE = StyleLossConfig(clip=0, augmented=0, directional=0, patch=0, crops=2)


@pytest.fixture(scope="module")
def towers() -> ClipTowers:
    return load_clip("bundled", "cpu")


@pytest.fixture
def views() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    before = functional.interpolate(torch.rand(2, 3, 6, 6, generator=generator), size=64, mode="bicubic").clamp(0, 1)
    return [(before + 0.1 * torch.rand(2, 3, 64, 64, generator=generator)).clamp(0, 1), before]


def _plain(name: str, config: StyleLossConfig, towers: ClipTowers, views, before, generator) -> torch.Tensor:
    """The formula of a term, crop by crop."""
    asked, source = encode_words(towers, WORDS)
    sides = {"augmented": (LARGE_CROPS, config.perspective / 2), "patch": (config.crop_side, config.perspective)}
    drawn = 1 if config.same_crops else len(views)
    crops = {k: draw_crops(config.crops * drawn, generator, side=s, perspective=p) for k, (s, p) in sides.items()}
    found = []
    for index in range(len(views)):
        for number in range(config.crops if name in sides else 1):
            pair = views[index : index + 1], before[index : index + 1]
            if name in sides:
                crop = crops[name][number + (0 if config.same_crops else index * config.crops)][None]
                pair = tuple(apply_crops(image, crop, 64) for image in pair)
            seen, was = map(towers.encode_image, pair)
            if name in ("clip", "augmented"):
                found.append(1 - (seen @ asked)[0])
            elif config.reach:
                goal = was + config.reach * (asked - source)
                found.append(1 - functional.cosine_similarity(seen, goal, dim=-1)[0])
            else:
                found.append(1 - functional.cosine_similarity(seen - was, (asked - source)[None], dim=-1)[0])
    return torch.stack(found).mean()


@pytest.mark.parametrize("same_crops", [True, False])
@pytest.mark.parametrize("reach", [0.0, 1.0])
@pytest.mark.parametrize("name", ["clip", "augmented", "directional", "patch"])
def test_a_term_is_its_formula(name: str, reach: float, same_crops: bool, towers: ClipTowers, views) -> None:
    config = replace(NONE, reach=reach, same_crops=same_crops, **{name: 2.0})
    seen, before = views[0].clone().requires_grad_(), views[1]
    terms = StyleLoss([towers], WORDS, config)(seen, before, torch.Generator().manual_seed(1))
    assert list(terms) == [name]
    plain = 2 * _plain(name, config, towers, seen, before, torch.Generator().manual_seed(1))
    torch.testing.assert_close(terms[name], plain, rtol=1e-4, atol=1e-5)
    (ours,), (theirs,) = (torch.autograd.grad(value, seen, retain_graph=True) for value in (terms[name], plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()) + 1e-7)
    assert theirs.abs().max() > 0


def test_terms_stand_side_by_side_and_towers_are_averaged(towers: ClipTowers, views) -> None:
    config = replace(NONE, clip=1.0, augmented=1.0, directional=1.0, patch=1.0)
    all_terms = StyleLoss([towers], WORDS, config)(views[0], views[1], torch.Generator().manual_seed(1))
    assert set(all_terms) == {"clip", "augmented", "directional", "patch"}
    for name, value in all_terms.items():
        alone = StyleLoss([towers], WORDS, replace(NONE, **{name: 1.0}))(
            views[0], views[1], torch.Generator().manual_seed(1)
        )
        torch.testing.assert_close(alone[name], value, rtol=1e-4, atol=1e-5)
    twice = StyleLoss([towers, towers], WORDS, config)(views[0], views[1], torch.Generator().manual_seed(1))
    for name, value in all_terms.items():
        torch.testing.assert_close(twice[name], value)


@pytest.mark.parametrize("reach", [0.0, 1.0])
def test_views_that_have_not_moved_have_a_gradient_that_is_a_number(reach: float, towers: ClipTowers, views) -> None:
    seen = views[1].clone().requires_grad_()
    terms = StyleLoss([towers], WORDS, replace(NONE, reach=reach, directional=1.0))(seen, views[1], torch.Generator())
    (gradient,) = torch.autograd.grad(terms["directional"], seen)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_other_words_are_followed(towers: ClipTowers, views) -> None:
    loss = StyleLoss([towers], WORDS, replace(NONE, clip=1.0))
    before = loss(views[0], views[1], torch.Generator())["clip"]
    loss.follow(StyleWords({"a chair at night": 1.0}, "a photo of a chair"))
    assert abs(float(loss(views[0], views[1], torch.Generator())["clip"] - before)) > 1e-3
    with pytest.raises(InputError, match="is what the scene is already"):
        loss.follow(StyleWords({"a photo of a chair": 1.0}, "a photo of a chair"))


def test_weighted_and_avoided_words_are_sums_of_vectors(towers: ClipTowers) -> None:
    one, two, source, far = (towers.encode_text([text])[0] for text in ("a chair at night", "a red chair", "a", "neon"))
    words = StyleWords({"a chair at night": 3.0, "a red chair": 1.0}, "a", {"neon": 0.5})
    asked, what = encode_words(towers, words)
    torch.testing.assert_close(what, source)
    torch.testing.assert_close(asked, functional.normalize(0.75 * one + 0.25 * two - 0.5 * (far - source), dim=0))


def test_weights_are_read_after_a_colon() -> None:
    assert parse_weighted(["van gogh:0.7", "at night"]) == {"van gogh": 0.7, "at night": 1.0}
    assert parse_weighted(["ratio 4:3 picture", "a: b"]) == {"ratio 4:3 picture": 1.0, "a: b": 1.0}
    assert parse_weighted(["neon:1", "neon:2"]) == {"neon": 3.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (StyleWords({}), "there is no prompt"),
        (StyleWords({" ": 1.0}), "a prompt is empty"),
        (StyleWords({"neon": 0.0}), "the weight of 'neon' is 0"),
        (StyleWords({"neon": float("nan")}), "the weight of 'neon' is nan"),
        (StyleWords({"neon": 1.0}, " "), "the words for what the scene is now are empty"),
        (StyleWords({"neon": 1.0}, negative={"": 1.0}), "a prompt is empty"),
    ],
)
def test_words_that_say_nothing_are_refused(words: StyleWords, message: str) -> None:
    with pytest.raises(InputError, match=message):
        words.check()


def test_settings_without_a_loss_are_refused() -> None:
    with pytest.raises(InputError, match="no loss is left"):
        NONE.check()
    with pytest.raises(InputError, match=r"crop-side goes from 0\.8 to 0\.4"):
        StyleLossConfig(crop_side=(0.8, 0.4)).check()


def test_content_is_nothing_of_the_same_views_and_grows(towers: ClipTowers, views) -> None:
    content = content_of_towers([towers])
    seen = views[0].clone().requires_grad_()
    assert float(content(views[1], views[1])) == 0
    near, far = content(seen, views[1]), content(1 - views[1], views[1])
    assert 0 < float(near.detach()) < float(far)
    (gradient,) = torch.autograd.grad(near, seen)
    assert gradient.abs().max() > 0
