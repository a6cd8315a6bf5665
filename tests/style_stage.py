"""Stand-ins for a scene that takes on styles: a tower that is a matrix, and a pipeline that loads nothing."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import torch
from nerfstudio.data.scene_box import SceneBox
from synthetic import make_cloud
from torch import Tensor
from torch.nn import functional

from invert3d_ns.alignment.style_losses import StyleLossConfig
from invert3d_ns.live.panels.inversion_panel import InversionPanel
from invert3d_ns.live.queue import ActionQueue
from invert3d_ns.methods.stylization import RATES, StylizationPipeline
from invert3d_ns.methods.stylization_settings import ORIGINAL, StyleCameraSettings, StylizationSettings
from invert3d_ns.scenes.latent_splats import LatentSplatModelConfig
from invert3d_ns.scenes.normalization import to_object_frame


class Tower:
    """Sees the colors of sixteen places; every text is a direction of its own."""

    name, size = "bundled-pretend", (16, 16)

    def __init__(self) -> None:
        self.weights = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
        self.broken = False

    def encode_text(self, texts: list[str]) -> Tensor:
        generators = [torch.Generator().manual_seed(zlib.crc32(text.encode())) for text in texts]
        return functional.normalize(torch.stack([torch.randn(8, generator=each) for each in generators]), dim=-1)

    def preprocess(self, images: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(images, 4)

    def encode_prepared(self, images: Tensor) -> Tensor:
        found = functional.normalize(images.flatten(1) @ self.weights, dim=-1)
        return found + (0 * images.sum()).sqrt() if self.broken else found  # whose gradient is no number


class Scene(StylizationPipeline):
    """The pipeline of a run that is finished, without its data."""

    def __init__(self, *styles: str, folder: Path | None = None) -> None:
        torch.nn.Module.__init__(self)
        self.config = StylizationSettings(
            prompts=styles,
            steps=3,
            preview_every=2,
            style=StyleLossConfig(crops=1),
            cameras=StyleCameraSettings(kind="orbit", count=4, views=2, size=16),
        )
        self.prompts = self.asked_for = (ORIGINAL, *styles)
        model: Any = LatentSplatModelConfig(objects=len(self.prompts), num_random=30)
        box = SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3]))
        self._model: Any = model.setup(scene_box=box, num_train_data=4, metadata={}, device="cpu")
        cloud = to_object_frame(make_cloud(30, sh_degree=1))[0]
        self.model.adopt_each([cloud] * len(self.prompts), anchored=True)
        self.begin_hosting()
        self.output_folder = folder
        self.towers: list[Any] = [Tower()]
        self._noun, self.negative_prompt = "a chair", ""
        self._views = {}
        self.panel, self.queue = InversionPanel("Run"), ActionQueue(self)
        self.observers, self.phases, self.current = [], [], None
        self.begin_live_styles(RATES)

    def colors(self, index: int) -> Tensor:
        """Base colors of one of the objects."""
        return self.object_at(index).features_dc
