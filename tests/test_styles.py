"""Styles of the procedural world: what each keeps of an object, and what tells them apart."""

from __future__ import annotations

import colorsys
import dataclasses
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.world.objects import WorldObject, sample_object
from invert3d_ns.world.rendering import Renders, render_objects
from invert3d_ns.world.styles import apply_styles, style_coverage
from invert3d_ns.world.vocabulary import COLORLESS, COLORS, STYLES

COLOR, PATTERN = slice(18, 21), 24
"""Columns of a primitive's row."""


def _object(name: str, color: str, pattern: str = "plain", seed: int = 0) -> WorldObject:
    rng = np.random.default_rng(seed)
    return sample_object(rng, name=name, color=color, pattern=pattern, style="photo", plain=True, split="any")


def _changed(item: WorldObject, columns: slice | int, value: object) -> WorldObject:
    rows = item.primitives.copy()
    rows[:, columns] = value
    return dataclasses.replace(item, primitives=rows)


def _renders(objects: list[WorldObject], size: int = 64, views: int = 2) -> Renders:
    azimuths = torch.linspace(30, 30 + 360, views + 1)[:-1].expand(len(objects), -1)
    return render_objects(objects, orbit_camera_to_world(azimuths, torch.full_like(azimuths, 15.0)), size, threads=1)


def _part(renders: Renders, index: int) -> Renders:
    fields = [f.name for f in dataclasses.fields(Renders)]
    return Renders(**{name: getattr(renders, name)[index : index + 1] for name in fields})


def _mean_color(rgb: np.ndarray, renders: Renders) -> np.ndarray:
    """Of each object, over its fully covered pixels: (O, 3)."""
    inside = (renders.alpha == 255)[..., None]
    return (rgb * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3))


@pytest.fixture(scope="module")
def scene() -> Renders:
    return _renders([_object("car", "red"), _object("mug", "yellow", "striped"), _object("chair", "white")])


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("style", STYLES)
def test_background_stays_white(style: str, size: int) -> None:
    renders = _renders([_object("mug", "green", "spotted"), _object("chair", "black")], size)
    rgb = apply_styles(renders, [style] * 2, [1, 2])
    assert rgb.shape == renders.rgb.shape and rgb.dtype == np.uint8
    covered = style_coverage(renders.alpha, [style] * 2)
    assert (rgb[covered == 0] == 255).all()
    assert (rgb[covered == 255] < 250).any(-1).mean() > 0.5
    if style == "pixel art":  # its blocks may stick out of the silhouette, but not by more than themselves
        rendered = F.max_pool2d(torch.from_numpy(renders.alpha > 0).float(), 2 * (size // 16) - 1, 1, size // 16 - 1)
        assert not (covered[rendered.numpy() == 0]).any() and set(np.unique(covered)) == {0, 255}
    else:
        np.testing.assert_array_equal(covered, renders.alpha)


@pytest.mark.parametrize("style", STYLES)
def test_objects_are_drawn_alike_whatever_the_others_are(style: str, scene: Renders) -> None:
    together = apply_styles(scene, [style] * 3, [5, 6, 7])
    np.testing.assert_array_equal(together, apply_styles(scene, [style] * 3, [5, 6, 7]))
    mixed = apply_styles(scene, ["photo", style, "toon"], [0, 6, 0])
    np.testing.assert_array_equal(mixed[1], together[1])
    for index, seed in enumerate([5, 6, 7]):
        np.testing.assert_array_equal(apply_styles(_part(scene, index), [style], [seed])[0], together[index])


@pytest.mark.parametrize("style", ["pencil sketch", "watercolor", "van gogh"])
def test_textures_follow_the_seed(style: str, scene: Renders) -> None:
    first, second = (apply_styles(scene, [style] * 3, [seed] * 3) for seed in (1, 2))
    assert (first != second).any(-1)[scene.alpha == 255].mean() > 0.1


def test_photo_is_the_render_itself(scene: Renders) -> None:
    before = scene.rgb.copy()
    rgb = apply_styles(scene, ["photo"] * 3, [0, 1, 2])
    np.testing.assert_array_equal(rgb, scene.rgb)
    apply_styles(scene, ["neon"] * 3, [0, 1, 2])
    np.testing.assert_array_equal(scene.rgb, before)


@pytest.mark.parametrize("style", STYLES)
def test_only_colorless_styles_hide_hues(style: str) -> None:
    ball = _object("ball", "red")
    renders = _renders([ball, _changed(ball, COLOR, COLORS["blue"])])
    red, blue = _mean_color(apply_styles(renders, [style] * 2, [3, 3]), renders) / 255
    if style not in COLORLESS:
        assert red[0] > red[2] + 0.05 and blue[2] > blue[0] + 0.05
        return
    hues = [colorsys.rgb_to_hsv(*color) for color in (red, blue)]
    assert max(s for _, s, _ in hues) < 0.02 or abs(hues[0][0] - hues[1][0]) < 0.03


@pytest.mark.parametrize(("name", "color"), [("ball", "red"), ("car", "blue"), ("mug", "yellow")])
def test_any_two_styles_differ(name: str, color: str) -> None:
    renders = _renders([_object(name, color)])
    drawn = {style: apply_styles(renders, [style], [4])[0].astype(float) for style in STYLES}
    inside = renders.alpha[0] == 255
    for one, other in combinations(STYLES, 2):
        difference = np.abs(drawn[one] - drawn[other])[inside].mean()
        assert difference > 12, (one, other, difference)


def test_neon_tells_paints_of_one_hue_apart() -> None:
    objects = [_object("chair", color) for color in ("orange", "brown", "white", "gray", "black")]
    renders = _renders(objects)
    drawn = apply_styles(renders, ["neon"] * 5, [3] * 5)
    solid = renders.alpha == 255
    orange, brown, white, gray, black = (np.percentile(v[s].max(-1), 90) for v, s in zip(drawn, solid, strict=True))
    assert orange > 1.3 * brown and white > 1.3 * gray > 1.5 * black


@pytest.mark.parametrize("pattern", ["striped", "checkered"])
@pytest.mark.parametrize("style", STYLES)
def test_patterns_stay_visible(style: str, pattern: str) -> None:
    for name, color in (("bottle", "pink"), ("ball", "blue"), ("house", "brown")):
        item = _object(name, color, pattern)
        renders = _renders([item, _changed(item, PATTERN, 0)])
        printed, plain = apply_styles(renders, [style] * 2, [8, 8]).astype(float)
        seen = np.abs(printed - plain).max(-1)[renders.alpha[0] == 255] > 20
        assert seen.mean() > 0.06, (name, seen.mean())


def test_wordings_take_one_noun_phrase_and_name_one_style() -> None:
    every = [wording for wordings in STYLES.values() for wording in wordings]
    assert len(set(every)) == len(every)
    for name, wordings in STYLES.items():
        assert len(wordings) >= 3, name
        assert all(wording.count("{}") == 1 for wording in wordings), name
        # What stands in for {} has an article of its own.
        assert not any(wording.split("{}")[0].endswith(("a ", "an ", "the ")) for wording in wordings), name
    assert set(COLORLESS) < set(STYLES) and next(iter(STYLES)) == "photo"


def test_unknown_style_names_those_that_there_are(scene: Renders) -> None:
    with pytest.raises(InputError, match=r"unknown style 'cubism'.*photo.*van gogh") as error:
        apply_styles(scene, ["photo", "cubism", "toon"], [0, 1, 2])
    assert "\n" not in str(error.value)
