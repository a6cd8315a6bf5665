"""`invert3d prior` and `invert3d views`, run as their command objects."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from ldm_checkpoints import write_checkpoint
from plain_mvdream import FIXTURE

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.pictures import to_pixels, write_grid
from invert3d_ns.cli import main, run_command
from invert3d_ns.commands.prior import Prior, PriorCheck, PriorConvert, PriorList
from invert3d_ns.commands.views import GenerateViews
from invert3d_ns.prior.checkpoints import PRIORS, load_prior, save_prior
from invert3d_ns.words.embedding import ObjectEmbedding
from invert3d_ns.words.views import view_groups


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    path = tmp_path / "golden.safetensors"
    path.write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    return path


def test_check_agrees(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Prior(PriorCheck((str(golden),))).run() == 0
    assert "max abs difference" in capsys.readouterr().out


def test_check_disagrees_with_exit_status_one(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_file

    from invert3d_ns.weights.tensors import read_safetensors

    tensors, metadata = read_safetensors(golden)
    tensors["output.sample"] += 1e-4
    save_file(tensors, golden, metadata)
    assert PriorCheck((str(golden),)).run() == 1
    assert "above 1e-05" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["output.sample", "state_dict.model.diffusion_model.camera_embed.0.weight"])
def test_check_of_another_file_names_what_is_missing(
    golden: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    from invert3d_ns.weights.tensors import read_safetensors

    tensors, metadata = read_safetensors(golden)
    del tensors[key]
    save_file(tensors, golden, metadata)
    assert PriorCheck((str(golden),)).run() == 1
    out = capsys.readouterr().out
    assert key.removeprefix("state_dict.") in out and out.startswith("FAILED") and out.count("\n") == 1


def test_list_shows_every_name(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert PriorList().run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(PRIORS)


def test_convert_writes_a_folder_that_loads(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "mvdream.pt", "sd1.5")
    assert PriorConvert(str(checkpoint), tmp_path / "prior").run() == 0
    assert load_prior(tmp_path / "prior", "cpu").info.name == "mvdream"


def test_options_of_convert_have_no_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_checkpoint(tmp_path / "mvdream.pt", "sd1.5")
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    arguments = ["prior", "convert", str(checkpoint), str(tmp_path / "prior"), "--shard-size", "100KB"]
    with pytest.raises(SystemExit) as exit:
        main([*arguments, "--sha256", sha256])
    assert exit.value.code == 0
    assert len(list((tmp_path / "prior" / "unet").glob("*.safetensors"))) > 1
    with pytest.raises(SystemExit) as exit:
        main([*arguments, "--sha256", "0" * 64])
    assert exit.value.code == 1 and "wrong sha256" in capsys.readouterr().err


def test_convert_onto_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    import resource

    checkpoint = write_checkpoint(tmp_path / "mvdream.pt", "sd1.5")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Enough for all but the text encoder, whose table of tokens is the biggest.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, limits[1]))
    try:
        with pytest.raises(InputError) as error:
            PriorConvert(str(checkpoint), tmp_path / "prior").run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot write" in str(error.value) and "free some space" in str(error.value)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_convert_does_not_overwrite_other_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists and is not a prior"):
        PriorConvert("bundled", tmp_path).run()
    with pytest.raises(InputError, match="unknown prior"):
        PriorConvert("nonsense", tmp_path / "new").run()
    for size in ("2", "0GB", "-1GB", "many"):
        with pytest.raises(InputError, match="--shard-size"):
            PriorConvert("bundled", tmp_path / "new", shard_size=size).run()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def inverted(tiny_v_prior, tmp_path: Path) -> tuple[Path, Path]:
    """An embedding and the folder of its prior."""
    save_prior(tiny_v_prior, tmp_path / "prior", dtype=torch.float32)
    vectors = 0.1 * torch.randn(4, 24, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "run" / "embedding.safetensors"
    ObjectEmbedding.for_prior(tiny_v_prior, vectors, init_word="object", steps=1).save(path)
    return path, tmp_path / "prior"


def test_views_writes_a_grid_and_a_video(inverted: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    import imageio_ffmpeg
    from PIL import Image

    path, prior = inverted
    views = GenerateViews(path, "a photo of <object>", count=6, steps=2, prior=str(prior))
    assert views.run() == 0
    folder = path.parent / "generated"
    assert sorted(p.name for p in folder.iterdir()) == ["views.mp4", "views.png"]
    with Image.open(folder / "views.png") as picture:
        assert picture.size == (4 * 192, 2 * 192)
        first = np.asarray(picture)
    frames, _ = imageio_ffmpeg.count_frames_and_secs(folder / "views.mp4")
    assert frames == 6
    assert str(folder / "views.png") in capsys.readouterr().out
    views.run()
    with Image.open(folder / "views.png") as picture:
        assert np.array_equal(np.asarray(picture), first)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompt": "a red cube"}, "<object>"),
        ({"prior": None}, "--prior"),
        ({"azimuths": ()}, "azimuth"),
        ({"elevation": 90.0}, "elevation"),
        ({"azimuths": (0.0, float("nan"))}, "--azimuths is nan"),
        ({"steps": 0}, "--steps"),
        ({"steps": 1001}, "give 1 to 1000"),
        ({"guidance_scale": 0.5}, "--guidance-scale is 0.5; give 1 to 50"),
        ({"seed": -1}, "--seed"),
        ({"joint_views": 0}, "--joint-views"),
        ({"count": -3}, "--count"),
        ({"prompt": "<object> " + "red " * 90}, "would be cut"),
    ],
)
def test_views_bad_input_writes_nothing(inverted: tuple[Path, Path], changes: dict, says: str) -> None:
    path, prior = inverted
    with pytest.raises(InputError) as error:
        run_command(GenerateViews(**{"embedding": path, "prior": str(prior), "steps": 1, **changes}))
    assert says in str(error.value) and "\n" not in str(error.value)
    assert list(path.parent.iterdir()) == [path]


def test_view_groups_go_all_the_way_round() -> None:
    assert view_groups(4, 4) == [[0, 1, 2, 3]]
    assert view_groups(8, 4) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert view_groups(1, 4) == [[0]]
    for count in range(1, 30):
        groups = view_groups(count, 4)
        assert sorted(index for group in groups for index in group) == list(range(count)) and max(map(len, groups)) <= 4


def test_grid_places_views_row_by_row(tmp_path: Path) -> None:
    from PIL import Image

    images = torch.stack([torch.full((3, 2, 2), i / 10) for i in range(5)])
    write_grid(tmp_path / "grid.png", images, columns=3, least=4)
    with Image.open(tmp_path / "grid.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (8, 12, 3)
    assert [pixels[y, x, 0] for y in (0, 4) for x in (0, 4, 8)] == [0, 26, 51, 76, 102, 255]
    assert to_pixels(images).shape == (5, 2, 2, 3)
