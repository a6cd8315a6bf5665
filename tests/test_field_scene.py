"""A latent field as the scene of a run."""

from __future__ import annotations

import pytest
import torch
from field_scenes import make_cones, small_config
from nerfstudio.cameras.cameras import Cameras

from invert3d_ns.scenes.blending import SameEverywhere
from invert3d_ns.scenes.cameras import orbit_camera_to_world
from invert3d_ns.scenes.field_scene import FieldSceneModel, FieldSceneModelConfig
from invert3d_ns.scenes.latent_field_model import LatentFieldModelConfig

FRONT = orbit_camera_to_world(torch.tensor([0.0]), torch.tensor([0.0]))


@pytest.fixture
def scene() -> FieldSceneModel:
    """Cones, to the left of the first object, to the right of the second."""
    nerf = LatentFieldModelConfig(samples=32, field=small_config())
    config = FieldSceneModelConfig(objects=2, num_random=10, sh_degree=0, nerf=nerf)
    model = config.setup(scene_box=None, num_train_data=1).eval()
    make_cones(model.nerf.field)
    model.begin_step(0, 0)
    return model


def test_the_time_of_a_camera_leads_along_the_edges(scene: FieldSceneModel) -> None:
    def look(time: float | None) -> torch.Tensor:
        times = None if time is None else torch.tensor([[time]])
        camera = Cameras(FRONT[:, :3], 20.0, 20.0, 8.0, 8.0, 16, 16, times=times)
        with torch.no_grad():
            return scene.get_outputs(camera)["rgb"]  # type: ignore[return-value]

    assert torch.equal(look(0.0), look(None)) and not torch.allclose(look(0.5), look(0.0))
    scene.blend = SameEverywhere.of([0.0, 1.0])
    assert torch.equal(look(0.5), look(None))
    scene.follows_time = False
    assert torch.equal(look(0.0), look(None))
