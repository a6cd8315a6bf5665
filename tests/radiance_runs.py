"""Tiny runs of nerfacto that nerfstudio's own trainer writes, whose field shows a red ball and a blue box."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

BALL, BALL_RADIUS = torch.tensor([0.15, -0.1, 0.05]), 0.3
BOX, BOX_HALF = torch.tensor([-0.3, 0.2, 0.15]), 0.12
RED, BLUE = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.2, 0.9])
DENSITY, EDGE = 60.0, 0.01
LENGTH = 0.15
"""Over which opacity is learned, rather than density: haze that rays add up counts."""


class Metric(nn.Module):
    """What models take for LPIPS where weights are, as on machines that trained a run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)


def truth(points: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
    """Signed distance from the scene, and its color there."""
    ball = (points - BALL).norm(dim=-1) - BALL_RADIUS
    offset = (points - BOX).abs() - BOX_HALF
    box = offset.clamp_min(0).norm(dim=-1) + offset.amax(dim=-1).clamp_max(0)
    return torch.minimum(ball, box), torch.where((ball < box)[:, None], RED, BLUE)


def true_views(transform: Float[Tensor, "4 4"], poses: Float[Tensor, "F 4 4"], size: int) -> Float[Tensor, "F H W 4"]:
    """RGBA of the scene as it is, by walking along rays.

    Args:
        transform: from the frame of the scene to that of the cameras.
        poses: cameras with the field of view of orbits.
        size: of the views in pixels.
    """
    from invert3d_ns.scenes.cameras import intrinsics

    k = intrinsics(size)
    rows, columns = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    local = torch.stack([(columns - k[0, 2]) / k[0, 0], (k[1, 2] - rows) / k[1, 1], -torch.ones(size, size)], dim=-1)
    back, views = torch.linalg.inv(transform), []
    for pose in poses:
        directions = nn.functional.normalize(local, dim=-1) @ pose[:3, :3].T
        points = pose[:3, 3] + directions[..., None, :] * torch.linspace(1.4, 3.6, 200)[:, None]
        distance, color = truth((points @ back[:3, :3].T + back[:3, 3]).reshape(-1, 3))
        inside = (distance < 0).reshape(size, size, 200)
        first = inside.float().argmax(dim=-1)
        seen = color.reshape(size, size, 200, 3).gather(2, first[..., None, None].expand(-1, -1, 1, 3))[:, :, 0]
        views.append(torch.cat([seen, inside.any(dim=-1, keepdim=True).float()], dim=-1))
    return torch.stack(views)


def make_radiance_run(
    folder: Path, *, steps: int = 80, floor: bool = False, levels: int = 4, log2: int = 13, **settings: Any
) -> Path:
    """A run's folder, as ``ns-train nerfacto`` leaves it, except that the field learned the scene from the truth.

    Args:
        folder: for the images and the run.
        steps: of learning.
        floor: an endless floor under the scene.
        levels: of the hash grid.
        log2: of its size.
        settings: of the model.
    """
    from nerfstudio.configs.method_configs import all_methods
    from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig

    data = _write_images(folder / "images")
    config: Any = copy.deepcopy(all_methods["nerfacto"])
    config.data, config.output_dir, config.timestamp, config.vis = data, folder / "outputs", "run", "tensorboard"
    config.machine.device_type, config.experiment_name = "cpu", "ball and box"
    parser = config.pipeline.datamanager.dataparser
    config.pipeline.datamanager = VanillaDataManagerConfig(data=data, dataparser=parser)  # starts no processes
    config.max_num_iterations, config.steps_per_eval_batch, config.steps_per_eval_image = 1, 0, 0
    config.mixed_precision, config.logging.local_writer.enable = False, False
    proposal = {"hidden_dim": 16, "log2_hashmap_size": 12, "num_levels": 3, "max_res": 128, "use_linear": False}
    small = {
        "num_levels": levels,
        "log2_hashmap_size": log2,
        "max_res": 256,
        "hidden_dim": 16,
        "hidden_dim_color": 16,
        "appearance_embed_dim": 4,
        "num_proposal_iterations": 1,
        "num_proposal_samples_per_ray": (64,),
        "proposal_net_args_list": [proposal],
        "implementation": "torch",
        **settings,
    }
    for name, value in small.items():
        assert hasattr(config.pipeline.model, name)
        setattr(config.pipeline.model, name, value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity", Metric)
        torch.manual_seed(0)
        trainer = config.setup(local_rank=0, world_size=1)
        config.save_config()
        trainer.setup()
        _learn(trainer.pipeline.model, steps, floor)
        outputs = trainer.pipeline.datamanager.train_dataparser_outputs
        outputs.save_dataparser_transform(config.get_base_dir() / "dataparser_transforms.json")
        trainer.save_checkpoint(steps)
    return config.get_base_dir()


def _learn(model: Any, steps: int, floor: bool) -> None:
    from nerfstudio.cameras.rays import Frustums, RaySamples
    from nerfstudio.field_components.field_heads import FieldHeadNames

    networks = [model.field, *model.proposal_networks]
    optimizer = torch.optim.Adam([p for network in networks for p in network.parameters()], lr=0.02, eps=1e-15)
    generator = torch.Generator().manual_seed(0)
    model.eval()  # the mean appearance is what is shown
    for _ in range(steps):
        points = torch.rand(3000, 3, generator=generator) * 2.2 - 1.1
        near = (torch.rand(3000, 3, generator=generator) * 2 - 1) * 0.5
        points = torch.cat([points, near])
        distance, color = truth(points)
        if floor:
            below = points[:, 2] + 0.3
            color = torch.where((below < distance)[:, None], torch.tensor([0.4, 0.6, 0.3]), color)
            distance = torch.minimum(distance, below)
        alpha = 1 - torch.exp(-LENGTH * DENSITY * torch.sigmoid(-(distance + 2 * EDGE) / EDGE))
        loss = torch.zeros(())
        for network in model.proposal_networks:
            loss = loss + (1 - torch.exp(-LENGTH * network.density_fn(points)[:, 0]) - alpha).square().mean()
        zero = torch.zeros(len(points), 1)
        directions = nn.functional.normalize(torch.randn(len(points), 3, generator=generator), dim=-1)
        frustums = Frustums(points, directions, zero, zero, zero)
        samples = RaySamples(frustums=frustums, camera_indices=zero.long())
        found = model.field(samples)
        loss = loss + (1 - torch.exp(-LENGTH * found[FieldHeadNames.DENSITY][:, 0]) - alpha).square().mean()
        loss = loss + ((found[FieldHeadNames.RGB] - color) * alpha[:, None]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _write_images(folder: Path) -> Path:
    """Posed images that nobody will look at, which nerfstudio scales to a box of its own: by half."""
    from invert3d_ns.scenes.cameras import orbit_camera_to_world

    folder.mkdir(parents=True)
    frames = []
    for index in range(10):
        Image.fromarray(np.full((16, 16, 3), 25 * index, np.uint8)).save(folder / f"{index}.png")
        pose = orbit_camera_to_world(torch.tensor(36.0 * index), torch.tensor(0.0), 2.0)
        frames.append({"file_path": f"{index}.png", "transform_matrix": pose.tolist()})
    camera = {"w": 16, "h": 16, "fl_x": 20.0, "fl_y": 20.0, "cx": 8.0, "cy": 8.0}
    (folder / "transforms.json").write_text(json.dumps({**camera, "frames": frames}))
    return folder
