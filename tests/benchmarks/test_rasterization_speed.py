"""The compiled kernel must be worth its compiler."""

import pytest

from invert3d_ns.metrics.bench_rasterization import bench_rasterization
from invert3d_ns.scenes.rasterization import kernel_available


@pytest.mark.skipif(not kernel_available(), reason="the kernel was not built")
def test_kernel_is_twenty_times_faster_than_its_torch_twin():
    rows = bench_rasterization(quick=True)
    assert [row["backend"] for row in rows] == ["kernel", "torch"]
    assert rows[1]["ratio"] >= 20
