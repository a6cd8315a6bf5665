"""What full size costs: counted on networks of the true shape, which can be mistaken for no prior."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.cli import main
from invert3d_ns.metrics import bench_prior as module
from invert3d_ns.metrics.bench_prior import VARIANTS, WHAT, bench_prior
from invert3d_ns.metrics.random_prior import NAME, random_prior
from invert3d_ns.metrics.tensor_memory import TensorMemory, tensor_bytes
from invert3d_ns.prior.checkpoints import PRIORS, load_prior
from invert3d_ns.prior.out_of_memory import SAVINGS
from invert3d_ns.prior.settings import PriorOptions


def test_bytes_of_tensors_are_counted_while_they_live() -> None:
    known = torch.zeros(1000)
    with TensorMemory([known]) as counted:
        known.add_(1)
        assert counted.now == 0
        first = torch.ones(250)
        second = first + 1
        view = first[10:]
        assert counted.now == 2000
        del first
        assert counted.now == 2000, "a view keeps its storage"
        del view
        assert counted.now == 1000
        words = torch.ones(100, requires_grad=True)
        (words.exp() * second.mean()).sum().backward()
    assert 1000 + 400 + 400 + 400 <= counted.peak <= 1000 + 5 * 400 + 100
    assert tensor_bytes([known, known[3:], second]) == 4000 + 1000


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str], dict]:
    names = ["sliced-attention", "vae-slicing", "offload-model", "offload-sequential", "gradient-checkpointing"]
    return {(row["options"], row["what"]): row for row in bench_prior("tiny", "cpu", names, runs=0)}


def test_every_work_is_measured(rows: dict[tuple[str, str], dict]) -> None:
    for what in WHAT.values():
        plain = rows["plain", what]
        assert plain["ms"] > 0 and plain["time"] == plain["memory"] == 1.0
        assert rows["offload-sequential", what]["memory"] < 0.7
        assert rows["offload-sequential", what]["MB"] < rows["offload-model", what]["MB"] < plain["MB"]
    assert rows["vae-slicing", "encode 4 views"]["memory"] < 0.8 > rows["vae-slicing", "decode 4 views"]["memory"]
    assert rows["gradient-checkpointing", "inversion step"]["memory"] < 0.9
    # An inversion step keeps activations, and what decodes pictures does not depend on how attention is computed.
    assert rows["plain", "inversion step"]["MB"] > rows["plain", "guided denoising step"]["MB"]
    assert ("sliced-attention", "decode 4 views") not in rows


def test_counting_without_computing_gives_the_same_bytes(rows: dict[tuple[str, str], dict]) -> None:
    """What full size needs may therefore be counted anywhere."""
    counted = bench_prior("tiny", "meta", ["fp32"])
    assert {row["options"] for row in counted} == {"plain", "fp32"}
    for row in counted:
        assert "ms" not in row and "time" not in row
        if row["options"] == "fp32":
            assert row["MB"] == pytest.approx(rows["plain", row["what"]]["MB"], abs=0.11)
            assert row["memory"] > 1.3, "plain is in half precision there"


@pytest.mark.parametrize(
    ("size", "unet", "text"), [("sd1.5", 859_520_964, 123_060_480), ("sd2.1", 865_910_724, 340_387_840)]
)
def test_full_size_has_the_parameters_of_stable_diffusion(size, unet: int, text: int) -> None:
    prior = random_prior(size, "meta")
    # MVDream adds two layers, 16 -> 1280 -> 1280, for the camera.
    assert sum(p.numel() for p in prior.unet.parameters()) == unet + (16 + 1) * 1280 + (1280 + 1) * 1280
    assert sum(p.numel() for p in prior.vae.parameters()) == 83_653_863
    assert sum(p.numel() for p in prior.text_encoder.parameters()) == text
    info = prior.info
    assert (info.image_size, info.latent_size, info.latent_channels, info.num_views) == (256, 32, 4, 4)
    assert info.token_dim == {"sd1.5": 768, "sd2.1": 1024}[size] == prior.unet.config["cross_attention_dim"]


def test_random_weights_are_no_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prior = random_prior("tiny")
    assert prior.info.name == prior.info.fingerprint == NAME and not prior.info.training
    assert NAME not in PRIORS
    with pytest.raises(InputError, match="unknown prior"):
        load_prior(NAME)
    with pytest.raises(InputError, match="random"):
        prior.sample("a mug", torch.zeros(1, 4, 16))
    bench_prior("tiny", "cpu", ["plain"], runs=0)
    assert list(tmp_path.iterdir()) == []


def test_variants_are_options() -> None:
    for name, changes in VARIANTS.items():
        assert (PriorOptions(**changes) == PriorOptions()) == (name == "plain")
    measured = {(key, str(value)) for changes in VARIANTS.values() for key, value in changes.items()}
    assert {(name, value) for name, values in SAVINGS.items() for value in values} <= measured


def test_command(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "prior", "--quick", "--device", "cpu", "--options", "vae-slicing", "--out", str(tmp_path / "r")])
    assert not stopped.value.code
    document = json.loads((tmp_path / "r" / "table.json").read_text())
    assert document["command"].startswith(
        "invert3d bench prior --quick --size tiny --device cpu --options vae-slicing --runs 1 --out"
    )
    assert [row["options"] for row in document["rows"]] == ["plain"] * 4 + ["vae-slicing"] * 2
    assert document["figures"]["inversion_step_ms"] > 0
    assert document["figures"]["decode_4_views_vae_slicing_saves"] > 0.2
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["table.json", "table.md"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--options", "vae-sliced"], "vae-sliced"),
        (["--device", "cuda"], "--device"),
        (["--runs", "-1"], "--runs"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "_measure", lambda *_: pytest.fail("measured before the mistake was told"))
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "prior", "--quick", *arguments, "--out", str(tmp_path / "r")])
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and says in error and error.startswith("Error: ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
