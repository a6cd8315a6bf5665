from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from splat_tables import save, splat_table
from synthetic import make_cloud

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.assets import DEMO_SCENE
from invert3d_ns.scenes.ply import read_splats
from invert3d_ns.scenes.splat_values import checked


def changed(cloud, name, rows, value, column: int | slice = slice(None)):
    tensor = getattr(cloud, name).clone()
    tensor[rows, column] = value
    return replace(cloud, **{name: tensor})


def test_good_splats_keep_every_bit_and_nothing_is_said(capsys):
    cloud = make_cloud(200, 2)
    again = checked(cloud, "a.ply")
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in cloud.tensors().items())
    assert checked(read_splats(DEMO_SCENE), "demo.ply") is not None
    assert capsys.readouterr() == ("", "")


def test_infinite_opacities_are_what_they_mean(capsys):
    cloud = changed(make_cloud(), "opacities", slice(0, 400, 2), math.inf)
    cloud = changed(cloud, "opacities", 1, -math.inf)
    again = checked(cloud, "a.ply")
    assert len(again) == 400 and again.opacities.isfinite().all()
    alphas = again.opacities.sigmoid()[:, 0]
    assert (alphas[::2] == 1).all() and alphas[1] < 1e-8 and torch.equal(again.opacities[3::2], cloud.opacities[3::2])
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "column"),
    [
        ("means", math.nan, 0),
        ("means", math.inf, 2),
        ("scales", -math.inf, 1),
        ("scales", math.inf, 1),
        ("scales", math.nan, 1),
        ("opacities", math.nan, 0),
        ("quats", 0.0, slice(None)),
        ("quats", math.nan, 3),
        ("features_dc", math.nan, 1),
        ("features_rest", math.inf, 0),
    ],
)
def test_a_few_unusable_splats_are_left_out_and_counted(capsys, name, value, column):
    cloud = make_cloud(200, 1)
    bad = [3, 50, 199]
    again = checked(changed(cloud, name, bad, value, column), "a.ply")
    kept = [row for row in range(200) if row not in bad]
    assert torch.equal(again.means, cloud.means[kept]) and len(again) == 197
    warned = capsys.readouterr().err
    assert "in 3 of 200 splats, which are left out" in warned and warned.count("\n") == 1
    with pytest.raises(InputError, match="in 150 of 200 splats; export"):
        checked(changed(cloud, name, slice(0, 150), value, column), "a.ply")


def test_scales_that_can_only_be_lengths_are_read_as_lengths(capsys):
    cloud = read_splats(DEMO_SCENE)
    again = checked(replace(cloud, scales=cloud.scales.exp()), "a.ply")
    assert torch.allclose(again.scales, cloud.scales, atol=1e-4)
    assert "lengths, not logarithms" in capsys.readouterr().err


@pytest.mark.parametrize("unit", [0.01, 1.0, 10.0])
def test_lengths_are_found_in_scenes_of_any_size(unit):
    cloud = make_cloud(500)
    lengths = replace(cloud, means=unit * cloud.means, scales=unit * cloud.scales.exp())
    again = checked(lengths, "a.ply")
    assert torch.allclose(again.scales, cloud.scales + math.log(unit), atol=1e-4)


@pytest.mark.parametrize("unit", [1.0, 1e3, 1e6])
def test_logarithms_of_huge_scenes_stay_logarithms(capsys, unit):
    cloud = make_cloud(500)
    huge = replace(cloud, means=unit * cloud.means, scales=cloud.scales + math.log(unit))
    assert torch.equal(checked(huge, "a.ply").scales, huge.scales)
    few = replace(huge.select(torch.arange(3)), scales=torch.full((3, 3), math.log(0.1 * unit)))
    assert torch.equal(checked(few, "a.ply").scales, few.scales)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("spread", [5.0, 10.0, 50.0])
@pytest.mark.parametrize("differ", [0.3, 0.8])
def test_small_lengths_in_large_scenes_are_lengths(capsys, spread, differ):
    """As logarithms they would make every splat as wide as one unit, which does not fill the scene."""
    cloud = make_cloud(2000)
    generator = torch.Generator().manual_seed(0)
    lengths = 0.02 * torch.exp(differ * torch.randn(2000, 3, generator=generator))
    again = checked(replace(cloud, means=spread * torch.randn(2000, 3, generator=generator), scales=lengths), "a.ply")
    assert torch.allclose(again.scales.exp(), lengths, atol=1e-6)
    assert "about one unit wide): they are read as lengths" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("middle", "differ"), [(math.log(1.02), 0.0), (math.log(1.3), 0.02), (0.0, 0.0), (1.5, 0.3), (1.5, 0.8), (4.0, 0.8)]
)
def test_logarithms_of_sizes_in_large_scenes_are_logarithms(capsys, middle, differ):
    """Sizes of one unit that are all the same, and sizes that differ as those of scenes do."""
    cloud = make_cloud(2000)
    generator = torch.Generator().manual_seed(0)
    scales = middle + differ * torch.randn(2000, 3, generator=generator)
    large = replace(cloud, means=20000 * cloud.means, scales=scales)
    assert torch.equal(checked(large, "a.ply").scales, scales) and not capsys.readouterr().err


def test_a_length_of_zero_is_a_flat_splat():
    cloud = make_cloud(500)
    again = checked(changed(replace(cloud, scales=cloud.scales.exp()), "scales", slice(None), 0.0, 2), "a.ply")
    assert len(again) == 500 and torch.allclose(again.scales[:, :2], cloud.scales[:, :2], atol=1e-4)


def test_sizes_that_make_no_sense_in_any_way_are_refused():
    cloud = make_cloud(500)
    with pytest.raises(InputError, match="larger than the scene"):
        checked(replace(cloud, scales=cloud.scales + 9), "a.ply")


def test_opacities_that_look_like_no_logits_are_warned_about(capsys):
    cloud = make_cloud()
    shares = replace(cloud, opacities=torch.linspace(0.02, 0.98, 400)[:, None])
    assert torch.equal(checked(shares, "a.ply").opacities, shares.opacities)
    assert "opacities of a.ply all lie between 0 and 1" in capsys.readouterr().err
    checked(replace(cloud, opacities=torch.full((400, 1), 0.5)), "a.ply")  # a scene that was never trained
    assert not capsys.readouterr().err


def test_a_far_scene_in_single_precision_is_warned_about(tmp_path, capsys):
    table = splat_table(tmp_path)
    table["y"] += np.float32(4.1e6)
    read_splats(save(tmp_path / "a.ply", table))
    assert "round them to steps of 0.49" in capsys.readouterr().err


def test_one_splat_and_splats_in_one_point_are_read(capsys):
    one = make_cloud(1)
    assert torch.equal(checked(one, "a.ply").means, one.means)
    point = replace(make_cloud(20), means=torch.ones(20, 3))
    assert len(checked(point, "a.ply")) == 20
    assert not capsys.readouterr().err
