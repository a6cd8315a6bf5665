"""Splats and fields give views to be trained on in one way."""

from __future__ import annotations

import inspect

import pytest

from invert3d_ns.scenes.field_scene import FieldSceneModel
from invert3d_ns.scenes.latent_field_model import LatentFieldModel
from invert3d_ns.scenes.splats import ObjectSplatModel
from invert3d_ns.scenes.training_views import RendersToTrain


@pytest.mark.parametrize("kind", [ObjectSplatModel, FieldSceneModel, LatentFieldModel])
def test_a_scene_takes_what_phases_give_and_has_the_same_defaults(kind: type) -> None:
    asked = inspect.signature(RendersToTrain.render_to_train)
    found = inspect.signature(kind.render_to_train)  # type: ignore[attr-defined]
    shared = [value for name, value in found.parameters.items() if name in asked.parameters]
    assert shared == list(asked.parameters.values()) and found.return_annotation == asked.return_annotation
    own = [value for name, value in found.parameters.items() if name not in asked.parameters]
    assert all(value.default is not inspect.Parameter.empty for value in own)
