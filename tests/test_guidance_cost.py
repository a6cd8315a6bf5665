"""What an iteration of guidance costs: samples of the UNet, memory, operations, counted without computing anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.cli import main
from invert3d_ns.guidance import configs
from invert3d_ns.guidance.configs import GUIDANCE_CONFIGS
from invert3d_ns.metrics.guidance_cost import ENCODER, figures_of, guidance_cost


def by_kind(rows: list[dict]) -> dict[tuple[str, int], dict]:
    return {(row["guidance"], row["groups"]): row for row in rows}


@pytest.fixture(scope="module")
def counted() -> dict[tuple[str, int], dict]:
    """Every kind on one group of four views, and score distillation on two."""
    given: dict = {"precisions": ("fp32",), "teraflops": 2.0}
    rows = guidance_cost("tiny", "meta", groups=(1,), **given)
    with pytest.MonkeyPatch.context() as patch:
        only_sds(patch)
        return by_kind(rows + guidance_cost("tiny", "meta", groups=(2,), **given))


def only_sds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(configs, "GUIDANCE_CONFIGS", {"sds": GUIDANCE_CONFIGS["sds"]})


def test_samples_are_those_of_the_formulas(counted: dict[tuple[str, int], dict]) -> None:
    """GE3D: six jumps up, and down under two conditions: 18 for each of four views."""
    assert counted["ge3d", 1]["UNet samples"] == counted["ge3d", 1]["samples on average"] == 72
    assert counted["sds", 1]["UNet samples"] == 8 and counted[ENCODER, 1]["UNet samples"] == 0
    assert 12 <= counted["ism", 1]["UNet samples"] <= 28 and counted["ism", 1]["UNet samples"] % 4 == 0
    assert counted["sds", 2]["UNet samples"] == counted["sds", 2]["samples on average"] == 16


def test_memory_and_operations_grow_with_the_groups(counted: dict[tuple[str, int], dict]) -> None:
    for kind in (ENCODER, "sds"):
        one, two = counted[kind, 1], counted[kind, 2]
        assert one["GB"] < two["GB"] < 2 * one["GB"], "weights are there once"
        assert two["TFLOP"] == pytest.approx(2 * one["TFLOP"], rel=1e-3)
        assert "seconds" not in one and one["reckoned seconds"] == pytest.approx(one["TFLOP"] / 2, rel=1e-2)
    encoder = counted[ENCODER, 1]
    a_sample = {
        kind: (counted[kind, 1]["TFLOP"] - encoder["TFLOP"]) / counted[kind, 1]["UNet samples"]
        for kind in GUIDANCE_CONFIGS
    }
    assert a_sample["ge3d"] == pytest.approx(a_sample["sds"], rel=1e-2) and a_sample["sds"] > 0
    # What the encoder keeps for its backward pass stays while the UNet is asked.
    assert all(counted[kind, 1]["GB"] > encoder["GB"] for kind in GUIDANCE_CONFIGS)


def test_counting_without_computing_gives_the_same_bytes(counted: dict[tuple[str, int], dict]) -> None:
    computed = by_kind(guidance_cost("tiny", "cpu", groups=(1,), runs=1))
    assert len(computed) == 1 + len(GUIDANCE_CONFIGS)
    for kind, row in computed.items():
        assert row["seconds"] > 0 and row["precision"] == "fp32"
        assert (row["UNet samples"], row["TFLOP"]) == (counted[kind]["UNet samples"], counted[kind]["TFLOP"])
        assert row["GB"] == pytest.approx(counted[kind]["GB"], abs=1e-3)


def test_operations_of_fused_attention_count() -> None:
    from invert3d_ns.metrics.guidance_cost import flop_counter

    q = torch.randn(1, 2, 8, 4, requires_grad=True)
    with flop_counter() as flops:
        attended = torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert flops.get_total_flops() == 2 * 2 * (8 * 8 * 4) * 2, "two products of 8 x 4 x 8 in each of two heads"
    with flop_counter() as flops:
        attended.sum().backward()
    assert flops.get_total_flops() >= 2 * 4 * (8 * 8 * 4) * 2


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_sds(monkeypatch)
    words = ["bench", "guidance", "--quick", "--size", "tiny", "--device", "meta", "--out", str(tmp_path / "r")]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert not stopped.value.code
    document = json.loads((tmp_path / "r" / "table.json").read_text())
    rows = document["rows"]
    assert [row["precision"] for row in rows] == ["fp32"] * 2 + ["fp16"] * 2 and {row["groups"] for row in rows} == {1}
    assert all(half["GB"] < full["GB"] for full, half in zip(rows[:2], rows[2:], strict=True))
    assert document["figures"] == figures_of(rows) and document["figures"]["sds_fp16_1_GB"] == rows[3]["GB"]
    assert document["command"].startswith("invert3d bench guidance") and "--size tiny" in document["command"]


def test_what_cannot_be_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no groups of views are given"):
        guidance_cost("tiny", "meta", groups=())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no CUDA device; take --device cpu, or meta"):
        guidance_cost("tiny", "cuda")
