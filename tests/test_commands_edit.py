"""`invert3d edit`, run as its command object and from its command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.cli import main, run_command
from invert3d_ns.commands.edit import EditViews, describe_edit
from invert3d_ns.editing import sources
from invert3d_ns.editing.edit import Edit, Region, load_edits, save_edits
from invert3d_ns.editing.options import EditOptions
from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.words.embedding import ObjectEmbedding


@pytest.fixture
def material(tiny_v_prior, tmp_path: Path, monkeypatch) -> Path:
    """A folder with an embedding, its prior and a scene, which a prior of random weights cannot judge."""
    save_prior(tiny_v_prior, tmp_path / "prior", dtype=torch.float32)
    vectors = 0.1 * torch.randn(4, 24, generator=torch.Generator().manual_seed(0))
    ObjectEmbedding.for_prior(tiny_v_prior, vectors, init_word="object", steps=1).save(tmp_path / "words.safetensors")
    write_splats(tmp_path / "ball.ply", make_cloud(200))
    monkeypatch.setattr(sources, "check_same_object", lambda *given: (0.0, 1.0))
    return tmp_path


def command(material: Path, prompt: str | None = "blue instead of red", **changes) -> EditViews:
    chosen = {"steps": 2, **changes.pop("options", {})}
    more = {name: chosen.pop(name) for name in ("weight", "edits") if name in chosen}
    options = EditOptions(Edit(**chosen), **more)
    out = material / "out" / "grid.png"
    return EditViews(
        **{
            "embedding": material / "words.safetensors",
            "prompt": prompt,
            "options": options,
            "prior": str(material / "prior"),
            "out": out,
            **changes,
        }
    )


def test_views_alone_and_below_those_of_the_scene(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(material).run() == 0
    with Image.open(material / "out" / "grid.png") as picture:
        assert picture.size == (4 * 192, 192)
    assert "red -> blue" in capsys.readouterr().out
    assert command(material, scene=material / "ball.ply", count=6).run() == 0
    with Image.open(material / "out" / "grid.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[:2] == (4 * 192, 4 * 192), "six views: twice originals above edited ones"
    rows = pixels.reshape(4, 192, 4, 192, 3)
    assert (rows[0, :, :4] < 128).any() and (rows[2:, :, 2:] == 255).all()
    assert not np.array_equal(rows[0], rows[1])
    assert "the scene's own above" in capsys.readouterr().out


def test_edits_are_saved_and_carried_out_again(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, edits = material / "out" / "grid.png", material / "edits.json"
    options = {"weight": ("blue=2",), "seed": 3}
    assert command(material, options=options, save_edits=edits).run() == 0
    assert f"edits    {edits}" in capsys.readouterr().out
    (saved,) = load_edits(edits)
    assert (saved.target, dict(saved.weights), saved.seed) == ("blue", {"blue": 2.0}, 3)
    first = out.read_bytes()
    assert command(material, prompt=None, options={"edits": edits}).run() == 0
    assert out.read_bytes() == first
    assert command(material, options=options | {"seed": 4}).run() == 0
    assert out.read_bytes() != first


def test_the_command_line_reaches_the_edit(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["edit", str(material / "words.safetensors"), "--source", "red", "--target", "blue", "--amount", "2"]
    arguments += ["--weight", "blue=1.5", "--negative-prompt", "cube", "--steps", "2", "--sampler", "dpm++"]
    arguments += ["--prior", str(material / "prior"), "--save-edits", str(material / "edits.json")]
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0
    assert load_edits(material / "edits.json") == [
        Edit(
            source="red",
            target="blue",
            amount=2.0,
            weights={"blue": 1.5},
            negative_prompt="cube",
            steps=2,
            sampler="dpm++",
        )
    ]
    assert (material / "generated" / "edited.png").exists()


def test_the_help_names_what_an_edit_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["edit", "--help"])
    text = capsys.readouterr().out
    for flag in ("--prompt", "--source", "--target", "--weight", "--strength", "--scene", "--edits", "--save-edits"):
        assert flag in text
    assert "--options" not in text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompt": None}, "edit is empty"),
        ({"prompt": ""}, "prompt is empty"),
        ({"options": {"weight": ("cube=2",)}}, "'cube' has a weight"),
        ({"options": {"amount": float("nan")}}, "amount is nan"),
        ({"options": {"strength": 7.0}}, "strength is 7"),
        ({"options": {"guidance_scale": float("nan")}}, "guidance-scale is nan"),
        ({"embedding": Path("nowhere.safetensors")}, "does not exist"),
        ({"scene": Path("nowhere.ply")}, "nowhere.ply"),
        ({"scene": Path("picture.png")}, "does not exist; give a splat file"),
        ({"prior": None}, "--prior"),
        ({"count": 0}, "--count"),
        ({"azimuths": ()}, "azimuth"),
        ({"elevation": 90.0}, "elevation"),
        ({"out": Path("grid.jpg")}, ".png"),
        ({"options": {"edits": Path("nowhere.json")}}, "cannot be read"),
        ({"options": {"region": Region(relevance="red")}}, "give --scene"),
        ({"options": {"region": Region(box=(1.0, 0.0, 0.0, -1.0, 1.0, 1.0))}}, "region is empty"),
    ],
)
def test_bad_input_writes_nothing(material: Path, changes: dict, says: str) -> None:
    with pytest.raises(InputError) as error:
        run_command(command(material, **changes))
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not (material / "out").exists()


def test_a_part_of_a_scene_changes_in_views_and_the_rest_does_not(material: Path) -> None:
    """The upper half of a ball that is seen from the side."""
    region = Region(box=(-2.0, -2.0, 0.0, 2.0, 2.0, 2.0), box_holds="part")
    where = {"scene": material / "ball.ply", "elevation": 0.0}
    assert command(material, options={"region": region}, **where).run() == 0
    with Image.open(material / "out" / "grid.png") as picture:
        before, after = np.asarray(picture).reshape(2, 192, 4 * 192, 3).astype(int)
    changed = np.abs(after - before).max(axis=-1) > 8
    assert changed[:96].mean() > 0.05 and not changed[110:].any()


def test_edits_of_several_regions_are_not_shown_at_once(material: Path) -> None:
    boxes = [(-2.0, -2.0, low, 2.0, 2.0, low + 2.0) for low in (-2.0, 0.0)]
    save_edits([Edit(target="blue", region=Region(box=box)) for box in boxes], material / "edits.json")
    with pytest.raises(InputError, match=r"of several regions.*invert3d-edit"):
        command(material, prompt=None, options={"edits": material / "edits.json"}, scene=material / "ball.ply").run()


def test_words_of_another_scene_are_refused(material: Path, monkeypatch) -> None:
    def refuse(*given):
        raise InputError("the embedding and the splats are of different scenes")

    monkeypatch.setattr(sources, "check_same_object", refuse)
    with pytest.raises(InputError, match="different scenes"):
        command(material, scene=material / "ball.ply").run()


def test_an_edit_is_described_by_what_was_chosen() -> None:
    edit = Edit(prompt="<object> in van gogh style", weights={"van gogh": 2.0}, strength=0.7, seed=3)
    assert describe_edit(edit) == "in van gogh style, van gogh=2, strength 0.7, seed 3"
    assert describe_edit(Edit(source="red", target="blue")) == "red -> blue"
    region = Region((-1.0, -1.0, 0.0, 1.0, 1.0, 1.0), relevance="legs")
    assert describe_edit(Edit(target="blue", region=region)) == "blue, box -1 -1 0 1 1 1, relevance legs"
