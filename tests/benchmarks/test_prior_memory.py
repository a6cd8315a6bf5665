"""What options save must stay worth their names. Measured: 4.2, 0.59, 0.68, 0.64 and 0.20 in the order of the lines."""

from invert3d_ns.metrics.bench_prior import bench_prior


def test_options_save_memory():
    names = ["plain-attention", "vae-slicing", "gradient-checkpointing", "offload-sequential"]
    rows = bench_prior("small", "meta", names)
    memory = {(row["options"], row["what"]): row["memory"] for row in rows}
    assert memory["plain-attention", "inversion step"] > 2
    assert memory["gradient-checkpointing", "inversion step"] < 0.7
    assert memory["vae-slicing", "encode 4 views"] < 0.8
    assert memory["vae-slicing", "decode 4 views"] < 0.8
    assert memory["offload-sequential", "guided denoising step"] < 0.35
