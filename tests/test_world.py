"""The procedural world: what is drawn, from where it is seen, and what its captions promise."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.cameras import FOV_Y, OBJECT_RADIUS, ORBIT_RADIUS, orbit_camera_to_world
from invert3d_ns.world import rendering
from invert3d_ns.world.captions import full_description, varied_caption
from invert3d_ns.world.data import CHUNK, world_views
from invert3d_ns.world.objects import WorldObject, held_out, sample_object
from invert3d_ns.world.primitives import Primitive, Shape, pack_primitives
from invert3d_ns.world.rendering import render_objects
from invert3d_ns.world.shapes import CLASSES, FRONTED, UNSEEN_CLASSES
from invert3d_ns.world.splats import splats_of
from invert3d_ns.world.vocabulary import COLORS, MATERIALS, PATTERNS, POSES, SIZES, STYLES, SYNONYMS

SPLIT_DIGEST = "c0e24c0b1b854086"
TRAINING_CAPTIONS_DIGEST, TRAINING_AZIMUTH = "8b0f3f21cfa4ab8c", -144.4215


def _object(primitives: list[Primitive], colors: dict[str, str]) -> WorldObject:
    rows = pack_primitives(Shape(primitives), {part: COLORS[c] for part, c in colors.items()})
    return WorldObject("thing", "red", "plain", None, None, rows)


def _cameras(*azimuths: float, elevation: float = 0.0) -> torch.Tensor:
    return orbit_camera_to_world(torch.tensor(azimuths), torch.tensor(elevation))[None]


def test_ball_covers_the_disc_that_geometry_predicts() -> None:
    ball = _object([Primitive("ellipsoid", (3, 2, 1), (5, 5, 5), "body")], {"body": "red"})
    views = render_objects([ball], _cameras(0.0, 120.0), size=128, samples=1)
    # A sphere of radius r at distance d fills the cone of half angle asin(r / d).
    tangent = np.tan(np.arcsin(OBJECT_RADIUS / ORBIT_RADIUS)) / np.tan(np.radians(FOV_Y) / 2)
    share = np.pi / 4 * tangent**2
    # The support points of `pack` enclose a sphere to a few per cent.
    np.testing.assert_allclose((views.alpha == 255).mean((2, 3)), share, rtol=0.08)
    assert views.depth[0, 0, 64, 64] == pytest.approx(ORBIT_RADIUS - OBJECT_RADIUS, abs=0.05)
    assert (views.rgb[views.alpha == 0] == 255).all()


def test_azimuths_see_the_sides_that_the_convention_names() -> None:
    sides = {"front": (0, -1, 0), "right": (1, 0, 0), "back": (0, 1, 0), "left": (-1, 0, 0)}
    paint = {"front": "red", "right": "green", "back": "blue", "left": "yellow"}
    plates = [Primitive("box", c, (0.2, 0.2, 0.2), name, rounding=0.01) for name, c in sides.items()]
    views = render_objects([_object(plates, paint)], _cameras(0.0, 90.0, 180.0, 270.0), size=32)
    center = views.rgb[0, :, 16, 16] / 255.0
    for seen, name in zip(center, sides, strict=True):
        hues = np.stack([np.array(COLORS[c]) / np.linalg.norm(COLORS[c]) for c in paint.values()])
        assert np.argmax(hues @ seen) == list(sides).index(name), (name, seen, COLORS[paint[name]])


def test_elevation_looks_down_on_the_top() -> None:
    stack = [
        Primitive("box", (0, 0, 1), (0.5, 0.5, 0.1), "top", rounding=0.01),
        Primitive("box", (0, 0, -1), (0.5, 0.5, 0.1), "bottom", rounding=0.01),
    ]
    item = _object(stack, {"top": "green", "bottom": "red"})
    above = render_objects([item], _cameras(0.0, elevation=30.0), size=64).parts[0, 0]
    rows = [np.argwhere(above == part)[:, 0].mean() for part in (0, 1)]
    assert rows[0] < rows[1]


@pytest.mark.parametrize("name", [*CLASSES, *UNSEEN_CLASSES])
def test_every_class_fits_its_view_and_shows_its_color(name: str) -> None:
    item = sample_object(np.random.default_rng(1), name=name, color="green", plain=True)
    views = render_objects([item], _cameras(0.0, 90.0, 200.0, elevation=20.0), size=48)
    border = np.concatenate([views.alpha[:, :, [0, -1]].ravel(), views.alpha[:, :, :, [0, -1]].ravel()])
    assert not border.any(), "touches the border"
    solid = views.rgb[views.alpha == 255].astype(float)
    assert len(solid) > 100
    assert solid.mean(0).argmax() == 1, "is not green"


def test_the_world_has_what_it_promises() -> None:
    assert len(CLASSES) >= 16 and len(COLORS) >= 12 and len(STYLES) >= 9 and len(MATERIALS) >= 3
    rng = np.random.default_rng(0)
    compound = [name for name, build in CLASSES.items() if len({p.part for p in build(rng).primitives}) > 1]
    assert len(compound) >= 8, compound
    assert set(FRONTED) <= set(CLASSES) and not set(UNSEEN_CLASSES) & set(CLASSES)


def test_descriptions_say_everything_and_captions_only_what_is_true() -> None:
    rng = np.random.default_rng(0)
    spoken = {word for group in (SIZES, POSES, MATERIALS, PATTERNS) for words in group.values() for word in words}
    full = short = 0
    for _ in range(400):
        item = sample_object(rng)
        text, caption = full_description(item), varied_caption(item, rng)
        assert item.color in text and item.name in text
        for group, value in (
            (MATERIALS, item.material),
            (PATTERNS, item.pattern),
            (SIZES, item.size),
            (POSES, item.pose),
        ):
            own = group[value]
            assert not own or own[0] in text
            wrong = {w for words in group.values() for w in words} - set(own)
            assert not [w for w in wrong if f" {w} " in f" {caption.replace(',', ' ')} "], (caption, text)
        assert item.second is None or (item.second != item.color and item.second in text)
        full += item.color in caption
        short += not any(word in caption for word in SYNONYMS.get(item.name, (item.name,)))
    assert full > 360 and 2 < short < 40
    assert {"small", "upside down", "metallic", "striped"} <= spoken


def test_one_object_is_captioned_in_many_ways() -> None:
    rng = np.random.default_rng(4)
    item = sample_object(rng, name="chair", color="red", pattern="striped", style="van gogh")
    assert len({varied_caption(item, rng) for _ in range(50)}) > 15


def test_training_never_draws_a_held_out_combination() -> None:
    rng = np.random.default_rng(0)
    combination = lambda o: (o.name, o.color, o.pattern, o.style)  # noqa: E731
    assert not any(held_out(*combination(sample_object(rng))) for _ in range(300))
    assert all(held_out(*combination(sample_object(rng, split="held-out"))) for _ in range(60))


def test_the_split_is_the_one_that_was_written_down() -> None:
    every = [(n, c, p, s) for n in CLASSES for c in COLORS for p in PATTERNS for s in STYLES]
    kept = [combination for combination in every if held_out(*combination)]
    assert 0.15 < len(kept) / len(every) < 0.23
    digest = hashlib.sha256("\n".join(map("/".join, kept)).encode()).hexdigest()
    assert digest[:16] == SPLIT_DIGEST, "the split changed: every figure in the model card rests on it"


def test_materials_poses_and_sizes_change_the_picture_as_named() -> None:
    def rows(**changes) -> np.ndarray:
        box = [Primitive("box", (0, 0, 1), (0.5, 0.5, 0.1), "top"), Primitive("cone", (0, 0, 0), (0.2, 0.2, 1), "leg")]
        return pack_primitives(Shape(box), {"top": COLORS["green"], "leg": COLORS["red"]}, **changes)

    def view(table: np.ndarray):
        return render_objects(
            [WorldObject("x", "red", "plain", None, None, table)], _cameras(0.0, elevation=10.0), size=64
        )

    plain, flipped = view(rows()), view(rows(turn=(180.0, 0.0, 0.0)))
    height = lambda v, part: np.argwhere(v.parts[0, 0] == part)[:, 0].mean()  # noqa: E731
    assert height(plain, 0) < height(plain, 1) and height(flipped, 0) > height(flipped, 1)
    shiny, metallic = view(rows(material=1)), view(rows(material=2))
    assert shiny.rgb[plain.alpha == 255].astype(int).sum() > plain.rgb[plain.alpha == 255].astype(int).sum()
    assert np.abs(metallic.rgb.astype(int) - shiny.rgb).max() > 30
    assert (view(rows(radius=0.6)).alpha > 0).sum() < 0.6 * (plain.alpha > 0).sum()


@pytest.mark.parametrize("frequency", np.linspace(2.1, 2.8, 8))
def test_spots_show_on_every_face(frequency: float) -> None:
    rows = pack_primitives(
        Shape([Primitive("box", (0, 0, 0), (1, 1, 1), rounding=0.02)]),
        {"body": COLORS["red"]},
        second_color=COLORS["white"],
        pattern=list(PATTERNS).index("spotted"),
        pattern_parts=("body",),
        frequency=frequency,
    )
    views = render_objects(
        [WorldObject("x", "red", "spotted", "white", None, rows)], _cameras(0, 90, 180, 270, elevation=60.0)
    )
    seen = views.alpha[0] == 255
    white = views.rgb[0].min(-1) > 100
    # From 60 degrees above, the upper half of what is seen is the top, the lower the side that is looked at.
    for view, inside in zip(white, seen, strict=True):
        rows_ = np.flatnonzero(inside.any(1))
        top, side = rows_[: len(rows_) // 2], rows_[-len(rows_) // 5 :]
        assert 0.1 < view[top][inside[top]].mean() < 0.5
        assert 0.05 < view[side][inside[side]].mean() < 0.6


def test_sets_repeat_by_seed_and_are_read_back(tmp_path) -> None:
    first = world_views(tmp_path / "a", 3, seed=5, size=16)
    again = world_views(tmp_path / "b", 3, seed=5, size=16)
    other = world_views(tmp_path / "b", 3, seed=6, size=16)
    read = world_views(tmp_path / "a", 3, seed=5, size=16)
    np.testing.assert_array_equal(first.rgb, again.rgb)
    np.testing.assert_array_equal(first.rgb, read.rgb)
    assert first.captions == again.captions == read.captions
    assert first.descriptions == read.descriptions
    np.testing.assert_array_equal(first.alpha, read.alpha)
    assert (first.rgb[first.alpha == 0] == 255).all()
    assert not np.array_equal(first.rgb, other.rgb)
    assert first.cameras().shape == (3, 4, 16)


def test_processes_render_what_one_renders(tmp_path, monkeypatch) -> None:
    count = CHUNK + 1
    alone = world_views(tmp_path / "a", count, seed=5, size=8, views=1, photos=True)
    monkeypatch.setattr("invert3d_ns.world.data.MANY", 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    rendered_here = Mock()
    monkeypatch.setattr("invert3d_ns.world.data._Chunks.render", rendered_here)
    beside = world_views(tmp_path / "b", count, seed=5, size=8, views=1, photos=True)
    assert not rendered_here.called and beside.fingerprint() == alone.fingerprint()
    assert beside.photos is not None and alone.photos is not None
    assert np.array_equal(beside.rgb, alone.rgb) and np.array_equal(beside.photos, alone.photos)


def test_what_the_shipped_weights_saw_stays_what_it_was(tmp_path) -> None:
    """Objects, captions and orbits of the first chunk of the prior's training set: their streams may not change."""
    data = world_views(tmp_path, CHUNK, seed=1, size=8, views=8)
    digest = hashlib.sha256(json.dumps([data.captions, data.descriptions]).encode()).hexdigest()
    assert digest[:16] == TRAINING_CAPTIONS_DIGEST
    assert data.azimuths[0, 0].item() == pytest.approx(TRAINING_AZIMUTH, abs=1e-3)


def test_splats_of_an_object_look_like_it() -> None:
    from invert3d_ns.metrics.inversion_quality import renderer
    from invert3d_ns.words.bank import render_views

    item = sample_object(np.random.default_rng(2), name="duck", color="yellow", plain=True)
    azimuths, elevations = torch.tensor([20.0, 130.0]), torch.tensor([10.0, -10.0])
    truth = render_objects([item], orbit_camera_to_world(azimuths, elevations)[None], size=64).rgb[0] / 255.0
    drawn = render_views(renderer(splats_of(item)), azimuths, elevations, 64).permute(0, 2, 3, 1).numpy()
    assert -10 * np.log10(((truth - drawn) ** 2).mean()) > 20


@pytest.mark.parametrize("found", [None, rendering.INTERFACE + 1])
def test_a_renderer_of_another_version_is_not_called(found, monkeypatch) -> None:
    stale = SimpleNamespace() if found is None else SimpleNamespace(sdf_interface=lambda: found)
    monkeypatch.setattr(rendering.ctypes, "CDLL", lambda path: stale)
    with pytest.raises(InputError, match="renderer of the training world is of another version"):
        rendering._library()
