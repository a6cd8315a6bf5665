"""Words from photographs without cameras: draws, searches, settings, and the command around them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PIL

from invert3d_ns.base.errors import InputError
from invert3d_ns.cli import run_command
from invert3d_ns.commands.image import InvertImages
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world
from invert3d_ns.words.cti import DRAFT_WEIGHT, DRAFTED_GROUPS
from invert3d_ns.words.embedding import ObjectEmbedding
from invert3d_ns.words.photographs.imagined import imagine_bank, imagine_views, orbit_from
from invert3d_ns.words.photographs.inversion import ImageInversion, camera_grid, invert_images
from invert3d_ns.words.settings import ImageSettings
from invert3d_ns.world.objects import sample_object
from invert3d_ns.world.rendering import render_objects

QUICK = ImageSettings(
    init_word="object", vectors=3, steps=6, batch=2, searches=2, orbits=1, method="direct", extents=(0.7,)
)


@pytest.fixture
def photographs() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def drawn_angles(inversion: ImageInversion, steps: int, groups: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Photographs' latents and azimuths, elevations [n 2] in degrees of all cameras of ``steps`` steps."""
    bank = inversion.bank()
    draws = [inversion.draw_batch(bank, step, groups) for step in range(steps)]
    cameras = torch.cat([d[1] for d in draws])[:, 0].reshape(-1, 4, 4)
    x, y, z = cameras[:, 0, 3], cameras[:, 1, 3], cameras[:, 2, 3]
    return torch.cat([d[0] for d in draws]), torch.rad2deg(torch.stack([torch.atan2(x, -y), torch.asin(z)], 1))


def test_the_embedding_belongs_to_the_prior_and_repeats(tiny_v_prior, photographs) -> None:
    embedding, inversion = invert_images(tiny_v_prior, photographs, QUICK, seed=3)
    embedding.check_prior(tiny_v_prior)
    assert embedding.vectors.shape == (3, 24) and embedding.steps == 6 and embedding.init_word == "object"
    assert inversion.cameras.shape == (2, 2)
    again, _ = invert_images(tiny_v_prior, photographs, QUICK, seed=3)
    other, _ = invert_images(tiny_v_prior, photographs, QUICK, seed=4)
    assert torch.equal(again.vectors, embedding.vectors) and not torch.equal(other.vectors, embedding.vectors)


def test_words_learn_the_photograph(tiny_v_prior, photographs) -> None:
    """Over steps, the loss on the same draws falls; single views, F = 1, are what is denoised."""
    settings = replace(QUICK, steps=150, method="direct-anywhere", learning_rate=2e-2)
    embedding, inversion = invert_images(tiny_v_prior, photographs[:1], settings)
    bank = inversion.bank()
    assert inversion.draw_batch(bank, 0, 2)[0].shape == (2, 1, 4, 4, 4)

    def mean_loss(words: torch.Tensor) -> float:
        with torch.no_grad():
            return sum(inversion.loss(words, bank, step, 4)["denoising"].item() for step in range(8)) / 8

    assert mean_loss(embedding.vectors) < mean_loss(inversion.initial_words(3, "object"))


def test_every_photograph_takes_its_turn(tiny_v_prior, photographs) -> None:
    inversion = ImageInversion(tiny_v_prior, photographs, QUICK)
    latents, _ = drawn_angles(inversion, steps=3, groups=1)
    assert [bool(torch.equal(x, inversion.latents[0])) for x in latents] == [True, False, True]


def test_drafts_are_of_cameras_from_the_distribution(tiny_encoding_prior, photographs) -> None:
    """Not of the likeliest ones, which a bank that is made before any search holds."""
    inversion = ImageInversion(tiny_encoding_prior, photographs, QUICK)
    bank = inversion.bank()
    latents, cameras = inversion.drafted_views(bank, 4)
    assert latents.shape == (DRAFTED_GROUPS, 1, 4, 4, 4)
    assert len(cameras.flatten(0, 1).unique(dim=0)) == DRAFTED_GROUPS
    assert torch.equal(latents[::2], inversion.latents[:1].expand(DRAFTED_GROUPS // 2, -1, -1, -1, -1))
    words = inversion.initial_words(3, "object", jitter=0.3)
    draft = tiny_encoding_prior.draft(inversion.context(words), cameras.flatten(0, 1)[None])[0]
    torch.testing.assert_close(
        inversion.loss(words, bank, 4)["draft"], DRAFT_WEIGHT * (draft - latents[:, 0]).square().mean()
    )
    settings = replace(QUICK, method="direct")
    assert invert_images(tiny_encoding_prior, photographs, settings)[0].vectors.shape == (3, 24)


def test_cameras_come_from_their_distribution(tiny_v_prior, photographs) -> None:
    inversion = ImageInversion(tiny_v_prior, photographs[:1], QUICK)
    _, anywhere = drawn_angles(inversion, steps=100)
    assert anywhere[:, 0].min() < -150 and anywhere[:, 0].max() > 150 and anywhere[:, 0].abs().min() < 20
    chosen = 5
    inversion.weights = torch.nn.functional.one_hot(torch.tensor([chosen]), len(inversion.grid)).float()
    azimuth, elevation = inversion.grid[chosen].tolist()
    _, near = drawn_angles(inversion, steps=50)
    off = (near[:, 0] - azimuth + 180) % 360 - 180
    spacing = 360 / len({a for a, _ in camera_grid().tolist()})
    assert off.abs().max() <= spacing / 2 + 1e-3 and off.std() > spacing / 6  # all over its cell, and only there
    assert (near[:, 1] - elevation).abs().max() <= 15 + 1e-3
    assert torch.allclose(inversion.cameras, torch.tensor([[(azimuth + 180) % 360 - 180, elevation]]))


def test_given_cameras_are_kept(tiny_v_prior, photographs) -> None:
    settings = replace(QUICK, azimuths=(30.0, -100.0), elevations=(5.0, 20.0))
    inversion = ImageInversion(tiny_v_prior, photographs, settings)
    _, angles = drawn_angles(inversion, steps=1, groups=2)
    assert torch.allclose(angles, torch.tensor([[30.0, 5.0], [-100.0, 20.0]]), atol=1e-2)
    before = inversion.weights.clone()
    inversion.loss(inversion.initial_words(3, "object"), inversion.bank(), 0, 2)
    assert torch.equal(inversion.weights, before)  # nothing was searched


def test_one_given_angle_restricts_the_search(tiny_v_prior, photographs) -> None:
    inversion = ImageInversion(tiny_v_prior, photographs[:1], replace(QUICK, azimuths=(91.0,)))
    inversion.search_cameras(inversion.context(inversion.initial_words(3, "object")), 2.0)
    possible = inversion.grid[inversion.weights[0] > 0]
    assert possible[:, 0].unique().tolist() == [90.0] and len(possible) > 1
    assert inversion.weights.sum().item() == pytest.approx(1)


class Oracle:
    """A prior's loss that is least from one camera, whatever the photograph, with some noise."""

    def __init__(self, prior, azimuth: float, elevation: float) -> None:
        self.info, self.device, self.num_timesteps = prior.info, prior.device, prior.num_timesteps
        self.truth = camera_condition(torch.tensor(azimuth), torch.tensor(elevation))
        self.prior = prior

    def __getattr__(self, name: str):
        return getattr(self.prior, name)

    def prediction_loss(self, latents, noise, t, context, cameras, *, reduction="mean"):
        distance = (cameras - self.truth).square().mean(-1)
        wobble = 0.02 * torch.rand(distance.shape, generator=torch.Generator().manual_seed(int(t[0])))
        return 5.0 + distance + wobble


def test_the_search_finds_the_camera_that_is_best(tiny_v_prior, photographs) -> None:
    target = camera_grid()[9]
    inversion = ImageInversion(Oracle(tiny_v_prior, *target.tolist()), photographs[:1], QUICK)  # type: ignore[arg-type]
    inversion.search_cameras(torch.zeros(1, 77, 24), sharpness=2.0)
    soft = inversion.weights.clone()
    assert torch.equal(inversion.grid[soft.argmax()], target)
    inversion.search_cameras(torch.zeros(1, 77, 24), sharpness=6.0)
    assert inversion.weights.max() > soft.max()


def test_the_search_finds_the_extent_at_which_a_camera_stands_out(tiny_v_prior) -> None:
    class Sized(Oracle):
        """Cameras matter only at one extent: the first latent tells how large the object is."""

        def encode_images(self, images):
            return (1 - images).mean((1, 2, 3))[:, None, None, None].expand(-1, 4, 4, 4)

        def prediction_loss(self, latents, noise, t, context, cameras, *, reduction="mean"):
            fits = (latents[:, 0, 0, 0, :1] - 0.36).abs() < 0.03  # a black square that spans 0.6 of the frame
            return latents[:, 0, 0, 0, :1] * (5.0 + fits * (cameras - self.truth).square().mean(-1))

    settings = replace(QUICK, extents=(0.4, 0.6, 0.8))
    oracle = Sized(tiny_v_prior, *camera_grid()[3].tolist())
    inversion = ImageInversion(oracle, torch.zeros(2, 3, 64, 64), settings)  # type: ignore[arg-type]
    inversion.search_cameras(torch.zeros(1, 77, 24), sharpness=4.0)
    assert [framing[0] for framing in inversion.framings] == [0.6, 0.6] and inversion.views.shape == (2, 3, 32, 32)
    assert torch.equal(inversion.grid[inversion.weights.argmax(1)], camera_grid()[3].expand(2, 2))


def test_the_first_search_asks_for_the_init_word(tiny_v_prior, photographs, monkeypatch) -> None:
    asked: list[str] = []
    encode = tiny_v_prior.encode_prompt
    monkeypatch.setattr(
        type(tiny_v_prior), "encode_prompt", lambda self, p, words=None: (asked.append(p), encode(p, words))[1]
    )
    invert_images(tiny_v_prior, photographs[:1], replace(QUICK, init_word="mug"))
    assert asked[0] == "a mug" and set(asked[1:]) == {"<object>"}


def test_imagined_orbits_start_at_the_photograph() -> None:
    azimuths, elevations = orbit_from((30.0, 10.0), 25.0)
    assert azimuths.tolist() == [30, 75, 120, 165, 210, 255, 300, 345]
    assert elevations.tolist() == [10, 25] * 4


def test_the_photograph_stays_while_other_sides_are_imagined(tiny_v_prior, photographs) -> None:
    with torch.no_grad():
        latents = tiny_v_prior.encode_images(photographs)
    context = tiny_v_prior.encode_prompt("a red mug")
    cameras = camera_condition(*orbit_from((0.0, 0.0), 20.0))
    views = imagine_views(tiny_v_prior, context, latents[0], cameras, steps=3, seed=1)
    assert torch.equal(views[0], latents[0]) and not torch.allclose(views[1], latents[0])
    other = imagine_views(tiny_v_prior, context, latents[1], cameras, steps=3, seed=1)
    assert not torch.allclose(views[1:], other[1:], atol=1e-4)  # what is known changes what is imagined
    bank = imagine_bank(tiny_v_prior, context, latents, torch.tensor([[0.0, 0.0], [90.0, 10.0]]), orbits=3)
    assert bank.latents.shape == (6, 4, 4, 4, 4) and bank.cameras.shape == (6, 4, 16)
    assert torch.equal(bank.latents[0, 0], latents[0]) and torch.equal(bank.latents[2, 0], latents[1])
    assert not torch.equal(bank.latents[4, 1], bank.latents[0, 1])


def test_imagined_inversion_starts_from_plain_words(tiny_v_prior, photographs) -> None:
    settings = replace(QUICK, method="imagined", init_word="mug", learning_rate=1e-9)
    stages: list[str] = []
    embedding, inversion = invert_images(
        tiny_v_prior, photographs, settings, progress=lambda what, done, total: stages.append(what)
    )
    plain = tiny_v_prior.word_vectors("a mug")
    assert inversion.text == embedding.init_word == "mug"
    assert torch.allclose(embedding.vectors, plain.repeat(2, 1)[:3], atol=1e-6)
    assert list(dict.fromkeys(stages)) == ["finding cameras", "imagining other sides", "finding words"]


def test_the_view_encoder_says_the_words_in_one_look(tiny_encoding_prior, photographs) -> None:
    settings = ImageSettings(init_word="object", extents=(0.7,))
    embedding, inversion = invert_images(tiny_encoding_prior, photographs, settings, seed=3)
    assert embedding.vectors.shape == (8, 24) and embedding.steps == 0
    cameras = camera_condition(*inversion.cameras.T)[None]
    expected = tiny_encoding_prior.encode_views(inversion.latents[None, :, 0], cameras)[0]
    torch.testing.assert_close(embedding.vectors, expected, atol=1e-5, rtol=0)
    further, _ = invert_images(tiny_encoding_prior, photographs, replace(settings, steps=2), seed=3)
    assert further.steps == 2 and float((further.vectors - embedding.vectors).abs().max()) > 1e-4


def test_clip_names_what_the_photographs_show(tiny_encoding_prior) -> None:
    item = sample_object(np.random.default_rng(8), name="chair", color="red", style="photo", plain=True)
    rgb = render_objects([item], orbit_camera_to_world(torch.tensor([[35.0]]), torch.tensor([[15.0]])), 256).rgb[0, 0]
    view = torch.from_numpy(rgb.copy()).permute(2, 0, 1).float() / 255
    rows, columns = (1 - view).amax(0).gt(0.05).nonzero(as_tuple=True)
    view = view[None, :, rows.min() : rows.max(), columns.min() : columns.max()]
    square = torch.nn.functional.interpolate(view, (128, 128))
    embedding, inversion = invert_images(tiny_encoding_prior, square, ImageSettings(extents=(0.7,)))
    assert "chair" in inversion.text and "red" in inversion.text
    assert embedding.description == inversion.text
    unnamed, _ = invert_images(tiny_encoding_prior, square, ImageSettings(extents=(0.7,), clip="none"))
    assert unnamed.description == "" and unnamed.init_word == "object"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": 0}, "--vectors"),
        ({"steps": 0}, "--steps"),
        ({"method": "encoder"}, "--method encoder has a number of words of its own"),
        ({"method": "encoder", "vectors": None}, "has no view encoder"),
        ({"batch": -1}, "--batch"),
        ({"searches": 0}, "--searches"),
        ({"orbits": 0}, "--orbits"),
        ({"azimuths": (1.0,)}, "1 --azimuths for 2 photographs"),
        ({"elevations": (0.0, 90.0)}, "--elevations"),
        ({"azimuths": (math.nan, 0.0)}, "--azimuths"),
        ({"vectors": 99}, "context"),
        ({"extents": ()}, "--extents"),
        ({"extents": (0.5, 2.0)}, "--extents"),
    ],
)
def test_bad_settings_by_name(tiny_v_prior, photographs, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        invert_images(tiny_v_prior, photographs, replace(QUICK, **change))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, ...]:
    """Two pictures of different sizes, one cut out, one before gray."""
    first = np.zeros((90, 120, 4), np.uint8)
    first[20:70, 30:90] = (200, 20, 20, 255)
    second = np.full((200, 70, 3), 150, np.uint8)
    second[60:120, 10:50] = (200, 20, 20)
    paths = (tmp_path / "first.png", tmp_path / "second.png")
    for path, pixels in zip(paths, (first, second), strict=True):
        PIL.fromarray(pixels).save(path)
    return paths


@pytest.fixture
def command(tiny_v_prior, monkeypatch, tmp_path: Path, files) -> InvertImages:
    monkeypatch.setattr("invert3d_ns.prior.checkpoints.load_prior", lambda name, options: tiny_v_prior)
    return InvertImages(files, out=tmp_path / "out", settings=QUICK)


def test_command_writes_words_picture_and_figures(command: InvertImages, tiny_v_prior, capsys) -> None:
    assert command.run() == 0
    embedding = ObjectEmbedding.load(command.out / "embedding.safetensors")
    embedding.check_prior(tiny_v_prior)
    with PIL.open(command.out / "views.png") as picture:
        assert picture.width // 4 == picture.height // 3  # photographs, the same from the words, an orbit
    figures = json.loads((command.out / "metrics.json").read_text())
    assert [Path(c["photograph"]).name for c in figures["cameras"]] == ["first.png", "second.png"]
    assert figures["settings"]["steps"] == 6 and figures["seconds"]["total"] > 0
    said = capsys.readouterr().out
    assert str(command.out / "embedding.safetensors") in said and "invert3d views" in said


def test_command_fits_splats(command: InvertImages, monkeypatch) -> None:
    from synthetic import make_cloud

    class Editor:
        total_steps, done = 2, 0

        @classmethod
        def from_words(cls, *args, **kwargs):
            kwargs["progress"](1, 1)
            return cls()

        def step(self):
            self.done += 1

        def cloud(self):
            return make_cloud(50)

    monkeypatch.setattr("invert3d_ns.editing.scene_editor.SceneEditor", Editor)
    command.splats = True
    command.run()
    from invert3d_ns.scenes.ply import read_splats

    assert len(read_splats(command.out / "splats.ply")) == 50


def test_bad_pictures_are_found_before_the_prior_is_loaded(command: InvertImages, monkeypatch, tmp_path: Path) -> None:
    def load(name, options):
        raise AssertionError("the prior was loaded")

    monkeypatch.setattr("invert3d_ns.prior.checkpoints.load_prior", load)
    command.photographs = (*command.photographs, tmp_path / "absent.png")
    with pytest.raises(InputError, match=r"absent\.png is missing"):
        command.run()
    command.settings = replace(QUICK, learning_rate=0.0)
    with pytest.raises(InputError, match=r"--learning-rate is 0; give more than 0"):
        run_command(command)
    command.settings, command.seed = QUICK, -1
    with pytest.raises(InputError, match="--seed is -1"):
        run_command(command)
    command.photographs = ()
    with pytest.raises(InputError, match="no photograph"):
        command.run()
    assert not command.out.exists()
