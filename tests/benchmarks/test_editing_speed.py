"""Re-weighting words must cost next to nothing. Measured: 0.99 to 1.01; the bound leaves room for a busy machine."""

from invert3d_ns.metrics.bench_editing import bench_editing
from invert3d_ns.prior.checkpoints import load_prior


def test_weights_are_free():
    rows = bench_editing(load_prior("bundled"), quick=True)
    assert [row["what"] for row in rows[:2]] == ["guided step", "guided step, words re-weighted"]
    assert rows[1]["ratio"] < 1.1
