"""What a hostile hub, mirror or config may not do: write elsewhere, exchange files, read traffic, run code."""

from __future__ import annotations

import ast
import hashlib
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, FakeHub, serve_hub
from huggingface_hub import constants
from ldm_checkpoints import assert_one_line, write_checkpoint, write_community_folder

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.checkpoints import load_prior, open_source
from invert3d_ns.prior.repository import PRIOR_REPOSITORY
from invert3d_ns.weights.download import fetch_weights
from invert3d_ns.weights.hub import HubReference, download_folder, parse_reference, recorded_hashes, require_inside
from invert3d_ns.weights.manifest import git_blob_sha1

PACKAGE = Path(__file__).parents[1] / "invert3d_ns"
COMMUNITY = HubReference("ashawkey/mvdream-sd2.1-diffusers")
CONFIG = HubReference(COMMUNITY.repository, filename="unet/config.json")


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny stand-in for a real repository. Read-only."""
    root = tmp_path_factory.mktemp("hub")
    write_community_folder(root / COMMUNITY.repository)
    return root


@pytest.fixture
def hub(repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "INVERT3D_MIRROR", "INVERT3D_ALLOW_HTTP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serve_hub(repositories) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def fetch(reference: HubReference, **settings) -> Path:
    return fetch_weights(reference, PRIOR_REPOSITORY, **settings)


# Names


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/tmp/x.json",
        "../x.json",
        "../../x.json",
        "a/../../x.json",
        "a\\..\\x.json",
        "\\\\server\\share\\x.json",
        "c:/x.json",
        "C:x.json",
        "a\0.json",
        "a\n.json",
        "a\x1b[2J.json",
        "x" * 300,
        "/".join(["abcdefgh"] * 200),
        "ä" * 200,
    ],
)
def test_names_that_no_file_of_a_repository_has(name: str) -> None:
    with pytest.raises(InputError) as error:
        require_inside(name)
    assert_one_line(error, "refused")
    assert len(str(error.value)) < 400 and str(error.value).isprintable()


@pytest.mark.parametrize(
    "name", ["a.json", "unet/config.json", "a/b/c d+e.safetensors", "..a/b..", "x" * 255, "ä/ö.txt"]
)
def test_names_that_files_have(name: str) -> None:
    require_inside(name)


@pytest.mark.parametrize(
    "text",
    [
        "hf:org/name:/etc/passwd",
        "org/name:/etc/passwd",
        "hf:org/name://etc/passwd",
        "hf:org/name:a//b",
        "hf:org/name:a/",
        "hf:org/name:-rf",
        "hf:org/name@/etc",
        "hf:org/name@-x",
        "hf:org/name@a//b",
        "hf:org/name:\n",
        "hf:org/" + "x" * 300,
        "hf:org/name:" + "x" * 300,
        "hf:org/name:a\0b",
    ],
)
def test_references_that_are_none(text: str) -> None:
    assert parse_reference(text) is None
    with pytest.raises(InputError) as error:
        load_prior(text, "cpu")
    assert_one_line(error, "unknown prior")


def test_no_two_references_share_a_folder() -> None:
    texts = ["a/b", "a/b:c", "a/b@c", "a/b@c:d", "a/b:c/d", "a/b:c--d", "a/b:c d", "a--b/c", "a/b--c", "a/b@c/d"]
    names = {HubReference.folder_name.fget(parse_reference(f"hf:{text}")) for text in texts}  # type: ignore[attr-defined]
    assert len(names) == len(texts)
    # Those that people have on their disks stay where they are.
    assert HubReference("MVDream/MVDream", filename="sd.pt").folder_name == "hf--MVDream--MVDream--sd.pt"


def test_a_link_in_the_cache_leads_nowhere(hub: FakeHub, tmp_path: Path) -> None:
    folder = download_folder(COMMUNITY, PRIOR_REPOSITORY)
    folder.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (folder / "unet").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError) as error:
        fetch(COMMUNITY)
    assert_one_line(error, "leads out of the folder of downloads", "remove the link")
    assert list((tmp_path / "elsewhere").iterdir()) == [] and hub.requests == []


# Content


def test_gits_name_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello\n")
    assert git_blob_sha1(tmp_path / "file") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object


def test_a_small_file_is_held_against_gits_hash(hub: FakeHub) -> None:
    hub.lies["unet/config.json"] = "1" * 40
    with pytest.raises(InputError) as error:
        fetch(COMMUNITY)
    assert_one_line(error, "unet/config.json has the wrong sha1", "1" * 16)
    folder = download_folder(COMMUNITY, PRIOR_REPOSITORY)
    assert not list(folder.rglob("config.json*"))
    hub.lies.clear()
    path = fetch(COMMUNITY) / "unet" / "config.json"
    found = json.loads((folder / "download.json").read_text())["files"]["unet/config.json"]
    assert found == {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}


def test_a_small_file_of_the_same_size_is_not_taken_for_the_right_one(hub: FakeHub) -> None:
    folder = fetch(COMMUNITY)
    config = folder / "unet" / "config.json"
    right = config.read_text()
    (folder / "download.json").unlink()
    config.write_text(right.replace('"image_size": 32', '"image_size": 64'))
    assert (fetch(COMMUNITY) / "unet" / "config.json").read_text() == right


def test_a_record_in_a_repository_is_not_taken_for_ours(hub: FakeHub, tmp_path: Path, tiny_prior) -> None:
    from invert3d_ns.prior.storage import save_prior

    hub.root = tmp_path / "own"
    save_prior(tiny_prior, hub.root / "org" / "uploaded")
    (hub.root / "org" / "uploaded" / "download.json").write_text('{"entry": ".", "files": {}}')
    assert load_prior("org/uploaded", "cpu").info.fingerprint == tiny_prior.info.fingerprint
    assert load_prior("org/uploaded", "cpu").info.fingerprint == tiny_prior.info.fingerprint


def test_the_commit_of_a_prior_is_recorded(hub: FakeHub) -> None:
    for name in (COMMUNITY.repository, f"hf:{COMMUNITY.repository}@v1"):
        for _ in range(2):  # converted, then from the cache
            assert load_prior(name, "cpu").info.origin == f"hf:{COMMUNITY.repository}@{COMMIT}"
    assert open_source(hub.root / COMMUNITY.repository).info.origin == ""


# Traffic


@pytest.mark.parametrize("given", ["argument", "INVERT3D_MIRROR", "HF_ENDPOINT"])
def test_plain_http_of_another_machine_is_refused(hub: FakeHub, monkeypatch, given: str) -> None:
    address = "http://user:secret@hub.example/mirror"
    if given != "argument":
        monkeypatch.setenv(given, address)
    with pytest.raises(InputError) as error:
        fetch(CONFIG, mirror=address if given == "argument" else None)
    assert_one_line(error, "http://hub.example is not encrypted", "INVERT3D_ALLOW_HTTP=1")
    assert "secret" not in str(error.value)


def test_plain_http_may_be_allowed(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from invert3d_ns.weights import download

    monkeypatch.setattr(download, "_resolves", lambda endpoint: False)
    for value, says in (("1", "does not resolve"), ("", "not encrypted"), ("0", "not encrypted")):
        monkeypatch.setenv("INVERT3D_ALLOW_HTTP", value)
        with pytest.raises(InputError, match=says):
            fetch(CONFIG, mirror="http://hub.example")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.9.9.9"])
def test_plain_http_of_this_machine_passes(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    from invert3d_ns.weights import download

    monkeypatch.setattr(download, "_resolves", lambda endpoint: False)
    with pytest.raises(InputError, match="does not resolve"):
        fetch(CONFIG, mirror=f"http://{host}:1")


@pytest.mark.parametrize("address", ["ftp://hub.example", "hub.example", "http://[::1", "https:/hub"])
def test_addresses_that_are_none(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(InputError) as error:
        fetch(CONFIG)
    assert_one_line(error, "HF_ENDPOINT" if address != "https:/hub" else "cannot fetch")


def test_another_server_that_files_come_from_gets_no_token(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with serve_hub(hub.root) as storage:
        hub.elsewhere = storage.url
        fetch(CONFIG)
        assert hub.tokens == {"Bearer secret"} and storage.tokens == {None}
        assert [name for name, _ in storage.requests] == ["unet/config.json"]


# Code


def test_a_config_cannot_name_code_that_computes_attention(repositories: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(repositories / COMMUNITY.repository, tmp_path / "copy")
    path = folder / "text_encoder" / "config.json"
    given = {"attn_implementation": "someone/kernel", "_attn_implementation": "someone/kernel", "auto_map": {"a": "b"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | given))
    config = open_source(folder).text_encoder.config
    assert "someone" not in str(vars(config))


def test_nothing_in_the_package_unpickles_code() -> None:
    """Every ``torch.load`` reads tensors alone, and nothing reads pickles or trusts code of a repository."""
    calls = 0
    for path in (*PACKAGE.rglob("*.py"), *(Path(__file__).parent / "gpu").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called, words = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert called not in ("pickle.load", "pickle.loads", "joblib.load", "dill.load"), path
            assert words.get("trust_remote_code") in (None, "False"), path
            assert words.get("allow_pickle") in (None, "False"), path
            if called == "torch.load":
                assert words.get("weights_only") == "True", f"{path}: torch.load without weights_only=True"
                calls += 1
    assert calls >= 3


# Files in folders, mirrors of other make


IN_FOLDER = HubReference("org/deep", filename="sub/m, (1) @+ü.pt")


@pytest.fixture
def deep(hub: FakeHub, tmp_path: Path) -> FakeHub:
    """A repository with a checkpoint in a folder of its own."""
    hub.root = tmp_path / "own"
    folder = hub.root / "org" / "deep"
    (folder / "sub").mkdir(parents=True)
    assert IN_FOLDER.filename is not None
    write_checkpoint(folder / "sub" / "m.pt", "sd1.5").rename(folder / IN_FOLDER.filename)
    return hub


def test_a_checkpoint_in_a_folder_is_held_against_its_record(deep: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    # The server of these tests knows no percent signs.
    monkeypatch.setattr("hub_server.urlparse", lambda url: urllib.parse.urlparse(urllib.parse.unquote(url)))
    prior = open_source(str(IN_FOLDER))
    assert prior.info.origin == f"hf:org/deep@{COMMIT}:{IN_FOLDER.filename}"
    path = fetch(IN_FOLDER)
    assert list(recorded_hashes(path)) == [path.name]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        open_source(str(IN_FOLDER))
    assert_one_line(error, "has the wrong sha256", "when it was downloaded")


def test_ordinary_names_of_files() -> None:
    names = ["a (1).pt", "a, b.ckpt", "a@b.pt", "a+b.pt", "(a).pt", "[a] b=c & d's.pt", "a/(b)/c~.pt"]
    references = [HubReference("org/name", revision, name) for name in names for revision in (None, "v1")]
    assert [parse_reference(str(reference)) for reference in references] == references
    several = [HubReference("a/b", filename=name) for name in ("c d", "c,d", "c(d", "c)d", "c@d", "c/d", "c--d", "c=d")]
    assert len({reference.folder_name for reference in several}) == len(several)
    assert "'a (1).pt'" in HubReference("a/b", filename="a (1).pt").fetch_command
    assert not any(parse_reference(f"hf:org/name:{name}") for name in ("(../a)", "a(//b", ".a", "-a", "a\n(", "a;b"))


def _pointer(content: bytes) -> str:
    """Git's name of the small file that it keeps in the place of a big one."""
    digest = hashlib.sha256(content).hexdigest()
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()
    return hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()


@pytest.mark.parametrize(
    ("stated", "passes"),
    [
        ("the pointer's", True),
        ("the file's, in capitals", True),
        ("v1-17", True),
        ("", True),
        ("z" * 40, True),
        ("1" * 64, True),
        ("1" * 40, False),
    ],
)
def test_what_mirrors_state_of_a_file(hub: FakeHub, stated: str, passes: bool) -> None:
    """What the protocol calls blobId is git's name of the file or of its pointer, or an id of the mirror's own."""
    content = (hub.root / COMMUNITY.repository / "unet" / "config.json").read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    known = {"the pointer's": _pointer(content), "the file's, in capitals": git.upper()}
    hub.lies["unet/config.json"] = known.get(stated, stated)
    if passes:
        path = fetch(CONFIG)
        assert path.read_bytes() == content
        (path.parents[1] / "download.json").unlink()
        hub.requests.clear()
        assert fetch(CONFIG) == path and hub.requests == []
        return
    with pytest.raises(InputError) as error:
        fetch(CONFIG)
    assert_one_line(error, "wrong sha1", stated[:16])


def test_a_sha256_that_is_none_leaves_gits_name(hub: FakeHub) -> None:
    weights = HubReference(COMMUNITY.repository, filename="unet/diffusion_pytorch_model.safetensors")
    assert weights.filename is not None
    content = (hub.root / weights.repository / weights.filename).read_bytes()
    hub.lies[weights.filename] = _pointer(content)  # stated as the sha256 too
    assert fetch(weights).read_bytes() == content
    hub.lies[weights.filename] = hashlib.sha256(content).hexdigest().upper()
    (download_folder(weights, PRIOR_REPOSITORY) / "download.json").unlink()
    assert fetch(weights).read_bytes() == content


def test_a_record_is_not_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.root = tmp_path / "own"
    (hub.root / "org" / "name").mkdir(parents=True)
    (hub.root / "org" / "name" / "download.json").write_text("{}")
    with pytest.raises(InputError) as error:
        fetch(HubReference("org/name", filename="download.json"))
    assert_one_line(error, "hf:org/name:download.json is a record of a download", "name another file")


def test_a_long_name_in_letters_of_several_bytes(hub: FakeHub, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("hub_server.urlparse", lambda url: urllib.parse.urlparse(urllib.parse.unquote(url)))
    name = "ü" * 120 + ".json"
    hub.root = tmp_path / "own"
    (hub.root / "org" / "name").mkdir(parents=True)
    (hub.root / "org" / "name" / name).write_text("{}")
    assert fetch(HubReference("org/name", filename=name)).read_text() == "{}"
