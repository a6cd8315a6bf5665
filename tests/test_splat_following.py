"""Splats that follow views: what a step touches."""

from __future__ import annotations

import pytest
import torch
from synthetic import make_cloud

from invert3d_ns.editing.scene_edit_config import SceneEditConfig
from invert3d_ns.editing.splat_following import FollowingSplats
from invert3d_ns.scenes.cloud import TENSORS


def pointers(cloud) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in cloud.tensors().items()}


@pytest.mark.parametrize("change", ["colors", "geometry"])
def test_a_step_on_all_splats_copies_none(change):
    cloud = make_cloud(50, 1)
    splats = FollowingSplats(cloud, torch.ones(50, dtype=torch.bool), change, SceneEditConfig(), pixels=64)
    first = splats.current()
    for _ in range(2):
        splats.descend(sum(tensor.square().sum() for tensor in first.tensors().values()), 1.0)  # type: ignore[arg-type]
    assert pointers(first) == pointers(splats.current()), "the leaves themselves, moved in place"
    changed = {name for name in TENSORS if pointers(first)[name] != pointers(cloud)[name]}
    assert changed == ({"features_dc", "features_rest"} if change == "colors" else set(TENSORS))


def test_a_step_on_some_leaves_the_others():
    cloud, free = make_cloud(50, 1), torch.arange(50) % 3 == 0
    splats = FollowingSplats(cloud, free, "geometry", SceneEditConfig(), pixels=64)
    splats.descend(sum(tensor.square().sum() for tensor in splats.current().tensors().values()), 1.0)  # type: ignore[arg-type]
    for name, tensor in splats.current().tensors().items():
        assert torch.equal(tensor[~free], getattr(cloud, name)[~free]), name
        assert not torch.equal(tensor[free], getattr(cloud, name)[free]), name
