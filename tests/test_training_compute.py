"""In what networks compute while they train."""

from __future__ import annotations

import pytest
import torch

from invert3d_ns.training.compute import mixed_precision, quick_attention, working_dtype


@pytest.mark.parametrize("native", [True, False])
def test_a_cpu_computes_in_bfloat16_only_if_it_need_not_imitate_it(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert working_dtype("cpu") == (torch.bfloat16 if native else torch.float32)
    assert working_dtype("cuda:0") == working_dtype(torch.device("meta")) == torch.bfloat16
    matrix = torch.randn(4, 4)
    with mixed_precision("cpu"):
        assert (matrix @ matrix).dtype == working_dtype("cpu")


def test_attention_on_a_cpu_is_plain() -> None:
    from torch.backends.cuda import flash_sdp_enabled, math_sdp_enabled

    with quick_attention("cpu"):
        assert math_sdp_enabled() and not flash_sdp_enabled()
    with quick_attention("cuda"):
        assert flash_sdp_enabled()


def test_a_torch_that_does_not_say_what_the_cpu_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert working_dtype("cpu") == torch.float32
