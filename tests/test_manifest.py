"""A prior's folder knows its files: what is missing, cut off, exchanged or added is found and named."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from ldm_checkpoints import assert_one_line, write_checkpoint

from invert3d_ns.base.errors import InputError
from invert3d_ns.commands.prior import PriorCheck
from invert3d_ns.prior.checkpoints import load_prior, save_prior
from invert3d_ns.weights.manifest import check_hashes, read_manifest, sha256_of, write_manifest

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tiny_prior, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved prior. Read-only."""
    folder = tmp_path_factory.mktemp("manifest") / "prior"
    save_prior(tiny_prior, folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(saved, tmp_path / "prior")


def report(capsys: pytest.CaptureFixture[str], *names: Path | str) -> tuple[int, list[str]]:
    status = PriorCheck(tuple(str(name) for name in names)).run()
    return status, capsys.readouterr().out.splitlines()


def test_every_file_is_in_the_manifest(saved: Path) -> None:
    files = {file.relative_to(saved).as_posix() for file in saved.rglob("*") if file.is_file()}
    entries = read_manifest(saved)
    assert entries is not None and entries.keys() == files - {"manifest.json"}
    assert entries[WEIGHTS]["size"] == (saved / WEIGHTS).stat().st_size
    said = subprocess.run(["sha256sum", saved / WEIGHTS], capture_output=True, text=True, check=True).stdout
    assert entries[WEIGHTS]["sha256"] == said.split()[0]
    assert check_hashes(saved) == len(entries)


def test_manifest_of_an_unchanged_folder_is_the_same(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    assert write_manifest(folder).read_bytes() == before


def test_check_says_ok_in_one_line(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = report(capsys, saved)
    assert status == 0 and len(lines) == 1
    assert lines[0].startswith(f"OK {saved}: ") and "agree with their sha256" in lines[0]


def test_check_of_the_bundled_prior_and_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_checkpoint(tmp_path / "mvdream.pt", "sd1.5")
    status, lines = report(capsys, "bundled", checkpoint, tmp_path / "absent.pt")
    assert status == 1
    assert [line.split(":")[0] for line in lines] == ["OK bundled", f"OK {checkpoint}", f"FAILED {tmp_path}/absent.pt"]


def test_truncated_weights_are_found_at_every_load(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(InputError) as error:
        load_prior(folder, "cpu")
    assert_one_line(error, "truncated", WEIGHTS, "bytes instead of")


@pytest.mark.parametrize("name", [WEIGHTS, "prior.json", "tokenizer/vocab.json", "scheduler/scheduler_config.json"])
def test_exchanged_byte_is_found_by_check(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-2] ^= 1
    (folder / name).write_bytes(content)
    status, lines = report(capsys, folder)
    assert status == 1 and len(lines) == 1
    assert "wrong sha256" in lines[0] and name in lines[0]


def test_missing_and_added_files_are_found_by_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / WEIGHTS, folder / "unet" / "more.safetensors")
    assert "unet/more.safetensors is not in manifest.json" in report(capsys, folder)[1][0]
    (folder / "tokenizer" / "merges.txt").unlink()
    assert "tokenizer/merges.txt" in report(capsys, folder)[1][0]


def test_weights_that_are_not_the_fingerprints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / WEIGHTS)
    save_file(state | {"conv_in.bias": state["conv_in.bias"] + 1}, folder / WEIGHTS)
    write_manifest(folder)
    status, lines = report(capsys, folder)
    assert status == 1 and "fingerprint" in lines[0]


def test_description_edited_by_hand_still_loads(folder: Path) -> None:
    path = folder / "prior.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_word": "mug"}))
    assert load_prior(folder, "cpu").info.init_word == "mug"


def test_folder_from_before_there_were_manifests(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "manifest.json").unlink()
    assert check_hashes(folder) is None
    assert "no manifest" in report(capsys, folder)[1][0]


@pytest.mark.parametrize("content", ["", "{}", '{"files": {"a": 3}}', '{"files": []}'])
def test_damaged_manifest(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(InputError) as error:
        load_prior(folder, "cpu")
    assert_one_line(error, "manifest.json is damaged")


def test_sources_survive_a_second_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = write_checkpoint(tmp_path / "mvdream.safetensors", "sd1.5")
    prior = load_prior(checkpoint, "cpu")
    save_prior(prior, tmp_path / "again", dtype=torch.float32)
    sources = load_prior(tmp_path / "again", "cpu").info.sources
    assert sources == {checkpoint.name: {"sha256": sha256_of(checkpoint), "size": checkpoint.stat().st_size}}
