"""In what networks compute while they train, and what is ready for them."""

from __future__ import annotations

import threading

import pytest
import torch

from invert3d_ns.training.compute import mixed_precision, quick_attention, working_dtype
from invert3d_ns.training.drawing import AHEAD, drawn_ahead


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


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_batches_are_those_of_their_steps_whoever_draws_them(device: str) -> None:
    drawn: list[tuple[int, bool]] = []

    def draw(step: int) -> int:
        drawn.append((step, threading.current_thread() is threading.main_thread()))
        if step == 20:
            raise ValueError("no such batch")
        return 10 * step

    with drawn_ahead(draw, torch.device(device)) as fetch:
        assert [fetch(step) for step in range(5, 9)] == [50, 60, 70, 80]
        assert fetch(18) == 180  # of a training that goes on elsewhere
        fetch(19)
        with pytest.raises(ValueError, match="no such batch"):
            fetch(20)
    here = {there for _, there in drawn}
    assert here == {device == "cpu"}
    assert len({step for step, _ in drawn}) == len(drawn), "none is drawn twice"
    assert max(step for step, _ in drawn) <= 20 + AHEAD
