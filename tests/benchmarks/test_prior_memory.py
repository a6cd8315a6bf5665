"""What options save at the depth of full size must stay worth their names."""

from invert3d_ns.metrics.bench_prior import bench_prior


def test_options_save_memory():
    names = ["plain-attention", "vae-slicing", "gradient-checkpointing", "offload-sequential"]
    rows = bench_prior("small", "meta", names)
    memory = {(row["options"], row["what"]): row["memory"] for row in rows}
    assert memory["plain-attention", "inversion step"] > 1.3
    assert memory["gradient-checkpointing", "inversion step"] < 0.7
    assert memory["vae-slicing", "encode 4 views"] < 0.8
    assert memory["vae-slicing", "decode 4 views"] < 0.8
    assert memory["offload-sequential", "guided denoising step"] < 0.7
