"""Fetching from a hub on this machine: whole, resumed, verified, mirrored, offline."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, FakeHub, serve_hub
from huggingface_hub import constants
from ldm_checkpoints import assert_one_line, assert_same_networks, write_checkpoint, write_community_folder

from invert3d_ns.base.errors import InputError
from invert3d_ns.commands.prior import PriorFetch, PriorList
from invert3d_ns.prior import checkpoints
from invert3d_ns.prior.checkpoints import PRIORS, is_available, load_prior, open_source
from invert3d_ns.prior.repository import PRIOR_REPOSITORY
from invert3d_ns.prior.storage import save_prior
from invert3d_ns.weights import download
from invert3d_ns.weights.download import fetch_weights
from invert3d_ns.weights.hub import HubReference, find_local, parse_reference, select_files

MVDREAM = HubReference("MVDream/MVDream", filename="sd-v1.5-4view.pt")
COMMUNITY = HubReference("ashawkey/mvdream-sd2.1-diffusers")


def fetch(reference: HubReference, **settings) -> Path:
    return fetch_weights(reference, PRIOR_REPOSITORY, **settings)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny stand-ins for the real repositories. Read-only."""
    root = tmp_path_factory.mktemp("hub")
    (root / "MVDream" / "MVDream").mkdir(parents=True)
    for style, name in (("sd1.5", "sd-v1.5-4view.pt"), ("sd2.1", "sd-v2.1-base-4view.pt")):
        write_checkpoint(root / "MVDream" / "MVDream" / name, style)
    write_community_folder(root / COMMUNITY.repository)
    return root


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of this test's own, and nothing of the user's settings."""
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "INVERT3D_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache" / "invert3d_ns" / "downloads"


@pytest.fixture
def hub(repositories: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve_hub(repositories) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("org/name", HubReference("org/name")),
        ("hf:org/name", HubReference("org/name")),
        ("hf:org/na.me-1@v1", HubReference("org/na.me-1", "v1")),
        ("org/name:sub/file.pt", HubReference("org/name", None, "sub/file.pt")),
        ("hf:org/name@refs/pr/3:a b.safetensors", HubReference("org/name", "refs/pr/3", "a b.safetensors")),
        ("weights/sd.pt", None),
        ("hf:org/sd.pt", HubReference("org/sd.pt")),
        ("./org/name", None),
        ("../name", None),
        ("hf:org/name:../../secret", None),
        ("/absolute/name", None),
        ("org/name/more", None),
        ("name", None),
    ],
)
def test_references(text: str, reference: HubReference | None) -> None:
    assert parse_reference(text) == reference
    if reference is not None:
        assert parse_reference(str(reference)) == reference
        assert "/" not in reference.folder_name


def test_file_is_fetched_recorded_and_not_asked_for_again(hub: FakeHub, alone: Path) -> None:
    path = fetch(MVDREAM)
    served = hub.root / "MVDream" / "MVDream" / "sd-v1.5-4view.pt"
    assert path.read_bytes() == served.read_bytes()
    record = json.loads((path.parent / "download.json").read_text())
    digest = hashlib.sha256(served.read_bytes()).hexdigest()
    assert record["commit"] == COMMIT
    assert record["files"] == {"sd-v1.5-4view.pt": {"sha256": digest, "size": served.stat().st_size}}
    assert hub.requests == [("sd-v1.5-4view.pt", None)]
    assert fetch(MVDREAM) == path and len(hub.requests) == 1


def test_repository_is_fetched_without_its_code_and_converted(hub: FakeHub, alone: Path) -> None:
    prior = load_prior("ashawkey/mvdream-sd2.1-diffusers", "cpu")
    assert_same_networks(prior, "sd2.1")
    assert prior.info.name == "hf:ashawkey/mvdream-sd2.1-diffusers"
    assert not list(alone.rglob("*.py"))
    weights = {f"{part}/diffusion_pytorch_model.safetensors" for part in ("unet", "vae")}
    configs = {f"{part}/config.json" for part in ("unet", "vae", "text_encoder")}
    assert {name for name, _ in hub.requests} == weights | configs | {"text_encoder/model.safetensors"}
    shutil.rmtree(alone)
    count = len(hub.requests)
    assert load_prior("hf:ashawkey/mvdream-sd2.1-diffusers", "cpu").info == prior.info
    assert len(hub.requests) == count


def test_half_downloaded_file_goes_on_where_it_ended(hub: FakeHub, alone: Path) -> None:
    served = (hub.root / "MVDream" / "MVDream" / "sd-v1.5-4view.pt").read_bytes()
    digest = hashlib.sha256(served).hexdigest()
    partial = alone / MVDREAM.folder_name / f"sd-v1.5-4view.pt.{digest[:16]}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(served[:1000])
    assert find_local(MVDREAM, PRIOR_REPOSITORY) is None
    assert fetch(MVDREAM).read_bytes() == served
    assert hub.requests == [("sd-v1.5-4view.pt", "bytes=1000-")]
    assert not partial.exists()


def test_half_downloaded_repository_fetches_only_what_is_missing(hub: FakeHub, alone: Path) -> None:
    folder = fetch(COMMUNITY)
    (folder / "download.json").unlink()
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "config.json").write_text("{")
    hub.requests.clear()
    fetch(COMMUNITY)
    assert {name for name, _ in hub.requests} == {"vae/diffusion_pytorch_model.safetensors", "unet/config.json"}
    assert json.loads((folder / "unet" / "config.json").read_text())["camera_dim"] == 16


def test_partial_file_of_other_content_is_not_kept(hub: FakeHub, alone: Path) -> None:
    served = (hub.root / "MVDream" / "MVDream" / "sd-v1.5-4view.pt").read_bytes()
    digest = hashlib.sha256(served).hexdigest()
    partial = alone / MVDREAM.folder_name / f"sd-v1.5-4view.pt.{digest[:16]}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 1000)
    with pytest.raises(InputError) as error:
        fetch(MVDREAM)
    assert_one_line(error, "wrong sha256", "the hub says")
    assert not partial.exists()
    assert fetch(MVDREAM).read_bytes() == served


@pytest.mark.parametrize(
    "name", ["../../x.json", "/tmp/absolute.json", "a/../../../x.json", "a\\..\\x.json", "c:/x.json"]
)
def test_a_listing_that_leads_out_of_its_folder_is_refused(hub: FakeHub, alone: Path, monkeypatch, name: str) -> None:
    listing = FakeHub.listing

    def hostile(self, repository: str) -> dict:
        found = listing(self, repository)
        found["siblings"] += [{"rfilename": name, "size": 2}, {"rfilename": "prior.json", "size": 2}]
        return found

    monkeypatch.setattr(FakeHub, "listing", hostile)
    with pytest.raises(InputError, match="outside its folder"):
        load_prior("ashawkey/mvdream-sd2.1-diffusers", "cpu")
    assert hub.requests == []


def test_wrong_hash_is_not_kept(hub: FakeHub, alone: Path) -> None:
    hub.lies["sd-v1.5-4view.pt"] = "0" * 64
    with pytest.raises(InputError) as error:
        fetch(MVDREAM)
    assert_one_line(error, "wrong sha256", "0" * 16, "download")
    assert not list(alone.rglob("sd-v1.5*"))


def test_file_that_changed_after_the_download_is_refused(hub: FakeHub) -> None:
    path = fetch(MVDREAM)
    write_checkpoint(path, "sd2.1")
    with pytest.raises(InputError) as error:
        load_prior("mvdream-sd1.5", "cpu")
    assert_one_line(error, "wrong sha256", str(path))


def test_a_converted_prior_that_changed_after_the_download_is_refused(hub: FakeHub, alone: Path, tiny_prior) -> None:
    save_prior(tiny_prior, hub.root / "org" / "converted")
    assert load_prior("org/converted", "cpu").info.fingerprint == tiny_prior.info.fingerprint
    (shard,) = alone.rglob("unet/*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    for load in (lambda: load_prior("org/converted", "cpu"), lambda: open_source("org/converted")):
        with pytest.raises(InputError, match="sha256"):
            load()


def test_asked_for_sha256(hub: FakeHub) -> None:
    digest = hashlib.sha256((hub.root / "MVDream" / "MVDream" / "sd-v1.5-4view.pt").read_bytes()).hexdigest()
    assert fetch(MVDREAM, sha256=digest.upper()).is_file()
    for reference, sha256, says in [
        (MVDREAM, "1" * 64, "1" * 16),
        (MVDREAM, "nonsense", "64 hexadecimal digits"),
        (COMMUNITY, "1" * 64, "single file"),
    ]:
        with pytest.raises(InputError) as error:
            fetch(reference, sha256=sha256)
        assert_one_line(error, says)


def test_file_in_the_hubs_own_cache_is_used_and_verified_by_its_name(
    repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = repositories / "MVDream" / "MVDream" / "sd-v1.5-4view.pt"
    root = tmp_path / "hub-cache" / "models--MVDream--MVDream"
    blob = root / "blobs" / hashlib.sha256(served.read_bytes()).hexdigest()
    pointer = root / "snapshots" / COMMIT / served.name
    for folder in (blob.parent, pointer.parent, root / "refs"):
        folder.mkdir(parents=True)
    shutil.copy(served, blob)
    pointer.symlink_to(blob)
    (root / "refs" / "main").write_text(COMMIT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert is_available("mvdream-sd1.5") and not is_available("mvdream-sd2.1")
    assert_same_networks(open_source("mvdream-sd1.5"), "sd1.5")
    write_checkpoint(blob.with_suffix(".pt"), "sd2.1").replace(blob)
    with pytest.raises(InputError) as error:
        load_prior("mvdream-sd1.5", "cpu")
    assert_one_line(error, "wrong sha256")


# Mirrors and offline


def test_mirror_gets_no_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.delenv("HF_ENDPOINT")
    fetch(HubReference(COMMUNITY.repository, filename="unet/config.json"), mirror=hub.url + "/")
    assert hub.tokens == {None}


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_folder_as_a_mirror_works_offline(repositories: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("INVERT3D_MIRROR", f"{scheme}{repositories}")
    assert fetch(MVDREAM) == repositories / "MVDream" / "MVDream" / "sd-v1.5-4view.pt"
    assert fetch(COMMUNITY) == repositories / COMMUNITY.repository


def test_mirror_without_the_files(repositories: Path, tmp_path: Path) -> None:
    for reference, mirror, says in [
        (HubReference("org/other"), repositories, "expected it whole at"),
        (HubReference("MVDream/MVDream", filename="other.pt"), repositories, "other.pt"),
        (MVDREAM, tmp_path / "absent", "neither a folder nor"),
    ]:
        with pytest.raises(InputError) as error:
            fetch(reference, mirror=str(mirror))
        assert_one_line(error, says)


def test_offline_without_files(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, alone: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = "hf download MVDream/MVDream sd-v1.5-4view.pt"
    with pytest.raises(InputError) as error:
        load_prior("mvdream-sd1.5", "cpu")
    assert_one_line(error, "HF_HUB_OFFLINE", command, "mvdream/sd-v1.5-4view.pt", "'bundled'", "not on this machine")
    partial = alone / MVDREAM.folder_name / "sd-v1.5-4view.pt.0.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"0" * 2_000_000)
    with pytest.raises(InputError) as error:
        load_prior("mvdream-sd1.5", "cpu")
    assert_one_line(error, "half-downloaded (2 MB are here)", command)
    assert hub.requests == []


def test_unreachable_hub_names_the_command_and_the_bundled_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_resolves", lambda endpoint: False)
    with pytest.raises(InputError) as error:
        load_prior("mvdream-sd1.5")
    assert_one_line(error, "hf download MVDream/MVDream sd-v1.5-4view.pt", "'bundled'", "does not resolve")


# What there is not


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("org/none", "no such repository"),
        ("hf:MVDream/MVDream@v9:sd-v1.5-4view.pt", "no such revision"),
        ("hf:MVDream/MVDream:sd.pt", "it has sd-v1.5-4view.pt, sd-v2.1-base-4view.pt"),
        ("MVDream/MVDream", "hf:MVDream/MVDream:sd-v1.5-4view.pt"),
    ],
)
def test_missing_on_the_hub(hub: FakeHub, name: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        load_prior(name, "cpu")
    assert_one_line(error, says)


def test_selected_files() -> None:
    names = ["README.md", "pipeline.py", "model_index.json", "image_encoder/model.safetensors"]
    names += [f"{part}/config.json" for part in ("unet", "vae", "text_encoder")] + ["unet/mv_unet.py"]
    names += [f"unet/a{half}.{kind}" for half in ("", ".fp16") for kind in ("bin", "safetensors")]

    def select(names: list[str]) -> list[str]:
        return select_files(names, HubReference("org/name"), PRIOR_REPOSITORY)

    assert select(names) == ["unet/config.json", "unet/a.fp16.safetensors"]
    assert select(["prior.json", "unet/a.safetensors", "x.py"]) == [
        "prior.json",
        "unet/a.safetensors",
    ]
    assert select(["a.safetensors", "README.md"]) == ["a.safetensors"]
    with pytest.raises(InputError, match="no weights of a prior"):
        select(["README.md"])


# Disks


def test_unwritable_cache_says_where_to_put_it(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError) as error:
        fetch(MVDREAM)
    assert_one_line(error, "XDG_CACHE_HOME", "cannot write")


def test_disk_that_is_too_small_is_known_beforehand(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(InputError) as error:
        fetch(MVDREAM)
    assert_one_line(error, "needs 0.0 GB", "XDG_CACHE_HOME")
    assert hub.requests == []


def test_disk_that_fills_keeps_what_was_downloaded(hub: FakeHub, alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import file_download

    real = file_download.http_get

    def full(url: str, file, **options) -> None:
        file.write(b"PK")
        file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    with pytest.raises(InputError) as error:
        fetch(MVDREAM)
    assert_one_line(error, "No space left", "free some space")
    monkeypatch.setattr(file_download, "http_get", real)
    fetch(MVDREAM)
    assert hub.requests == [("sd-v1.5-4view.pt", "bytes=2-")]


# Commands


def test_fetch_prints_where_and_list_says_offline(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert PriorFetch("mvdream-sd1.5").run() == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and Path(out.split(": ")[1].strip()).is_file()
    PriorList().run()
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["mvdream-sd1.5"][0] == "yes" and "known" in rows["mvdream-sd1.5"]
    assert rows["mvdream-sd2.1"][0] == "no" and "unknown" in rows["mvdream-sd2.1"]
    load_prior("mvdream-sd1.5", "cpu")
    PriorFetch("mvdream-sd1.5").run()
    assert str(checkpoints.cached_folder("mvdream-sd1.5")) in capsys.readouterr().out


def test_layouts_of_the_table_exist() -> None:
    from invert3d_ns.prior.layouts import LAYOUTS

    assert all(source.layout in LAYOUTS for source in PRIORS.values() if source.repository)
