"""The procedural world: what is drawn, from where it is seen, and what its captions promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from invert3d_ns.prior.training.data import world_views
from invert3d_ns.prior.training.shapes import CLASSES, UNSEEN_CLASSES, Primitive, Shape, pack
from invert3d_ns.prior.training.splats import splats_of
from invert3d_ns.prior.training.world import COLOURS, SYNONYMS, WorldObject, held_out, render, sample_object
from invert3d_ns.scenes.cameras import FOV_Y, OBJECT_RADIUS, ORBIT_RADIUS, orbit_camera_to_world


def _object(primitives: list[Primitive], colours: dict[str, str]) -> WorldObject:
    rows = pack(Shape(primitives), {part: COLOURS[c] for part, c in colours.items()})
    return WorldObject("thing", "red", "plain", None, None, rows)


def _cameras(*azimuths: float, elevation: float = 0.0) -> torch.Tensor:
    return orbit_camera_to_world(torch.tensor(azimuths), torch.tensor(elevation))[None]


def test_ball_covers_the_disc_that_geometry_predicts() -> None:
    ball = _object([Primitive("ellipsoid", (3, 2, 1), (5, 5, 5), "body")], {"body": "red"})
    views = render([ball], _cameras(0.0, 120.0), size=128, samples=1)
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
    views = render([_object(plates, paint)], _cameras(0.0, 90.0, 180.0, 270.0), size=32)
    centre = views.rgb[0, :, 16, 16] / 255.0
    for seen, name in zip(centre, sides, strict=True):
        hues = np.stack([np.array(COLOURS[c]) / np.linalg.norm(COLOURS[c]) for c in paint.values()])
        assert np.argmax(hues @ seen) == list(sides).index(name), (name, seen, COLOURS[paint[name]])


def test_elevation_looks_down_on_the_top() -> None:
    stack = [
        Primitive("box", (0, 0, 1), (0.5, 0.5, 0.1), "top", rounding=0.01),
        Primitive("box", (0, 0, -1), (0.5, 0.5, 0.1), "bottom", rounding=0.01),
    ]
    item = _object(stack, {"top": "green", "bottom": "red"})
    above = render([item], _cameras(0.0, elevation=30.0), size=64).parts[0, 0]
    rows = [np.argwhere(above == part)[:, 0].mean() for part in (0, 1)]
    assert rows[0] < rows[1]


@pytest.mark.parametrize("name", [*CLASSES, *UNSEEN_CLASSES])
def test_every_class_fits_its_view_and_shows_its_colour(name: str) -> None:
    item = sample_object(np.random.default_rng(1), name=name, colour="green", plain=True)
    views = render([item], _cameras(0.0, 90.0, 200.0, elevation=20.0), size=48)
    border = np.concatenate([views.alpha[:, :, [0, -1]].ravel(), views.alpha[:, :, :, [0, -1]].ravel()])
    assert not border.any(), "touches the border"
    solid = views.rgb[views.alpha == 255].astype(float)
    assert len(solid) > 100
    assert solid.mean(0).argmax() == 1, "is not green"


def test_captions_name_class_and_colour_and_never_a_held_out_pair() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        item = sample_object(rng)
        caption = item.caption(rng)
        assert item.colour in caption
        assert any(word in caption for word in SYNONYMS.get(item.name, (item.name,)))
        assert not held_out(item.name, item.colour)
        if item.second:
            assert item.second != item.colour
    assert all(held_out(o.name, o.colour) for o in (sample_object(rng, split="held-out") for _ in range(20)))


def test_sets_repeat_by_seed_and_are_read_back(tmp_path) -> None:
    first = world_views(tmp_path / "a", 3, seed=5, size=16)
    again = world_views(tmp_path / "b", 3, seed=5, size=16)
    other = world_views(tmp_path / "b", 3, seed=6, size=16)
    read = world_views(tmp_path / "a", 3, seed=5, size=16)
    np.testing.assert_array_equal(first.rgb, again.rgb)
    np.testing.assert_array_equal(first.rgb, read.rgb)
    assert first.captions == again.captions == read.captions
    assert not np.array_equal(first.rgb, other.rgb)
    assert first.cameras().shape == (3, 4, 16)


def test_splats_of_an_object_look_like_it() -> None:
    from invert3d_ns.inversion.bank import render_views
    from invert3d_ns.metrics.inversion_quality import renderer

    item = sample_object(np.random.default_rng(2), name="duck", colour="yellow", plain=True)
    azimuths, elevations = torch.tensor([20.0, 130.0]), torch.tensor([10.0, -10.0])
    truth = render([item], orbit_camera_to_world(azimuths, elevations)[None], size=64).rgb[0] / 255.0
    drawn = render_views(renderer(splats_of(item)), azimuths, elevations, 64).permute(0, 2, 3, 1).numpy()
    assert -10 * np.log10(((truth - drawn) ** 2).mean()) > 20
