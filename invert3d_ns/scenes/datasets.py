"""Pictures for nerfstudio's commands: image files read with their alpha, or splats and radiance fields rendered when
somebody looks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.data.utils.dataloaders import FixedIndicesEvalDataloader

from invert3d_ns import compat
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import Range, above, at_least
from invert3d_ns.scenes.assets import SceneDataParserConfig
from invert3d_ns.scenes.images import read_image


class SceneDataset(InputDataset):
    """Images of a scene at the size of its cameras.

    Files are read with alpha; where ``metadata["alpha_filenames"]`` names masks, those are the alpha, and where
    ``metadata["used_filenames"]`` does, those are the ``mask`` of pixels to learn from. A scene that came as splats has
    no files: its pictures are rendered from ``metadata["splats"]`` at their first use, on :attr:`device`; that of a
    radiance field by ``metadata["field"]``, a :class:`~invert3d_ns.scenes.radiance_scenes.RadianceScene`. One that is
    only imagined (``metadata["imagined"]``) has cameras, and nothing in its pictures.
    """

    device: torch.device | str = "cpu"
    """Where splats are rendered; images are on the CPU."""

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0):
        super().__init__(dataparser_outputs, scale_factor)
        # Kept apart from the cameras, whose sizes change when a datamanager undistorts the images.
        self._sizes = torch.cat([self.cameras.width, self.cameras.height], dim=-1).tolist()
        self._rendered: dict[int, npt.NDArray[np.uint8]] = {}

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """The image as (H, W, 3 or 4) uint8, alpha not premultiplied.

        Raises:
            InputError: the file is missing or cannot be decoded.
        """
        width, height = self._sizes[image_idx]
        if self.metadata.get("imagined"):
            return np.zeros((height, width, 4), np.uint8)
        if self.metadata.get("splats") is not None or self.metadata.get("field") is not None:
            return self._render(image_idx)
        mask = self._of(image_idx, "alpha_filenames", None)
        upright = self._of(image_idx, "upright", True)
        image = read_image(self.image_filenames[image_idx], mask, (width, height), upright=upright)
        if self.metadata.get("has_alpha") and image.shape[-1] == 3:
            # Some programs save pictures without alpha where they are opaque all over.
            image = np.dstack([image, np.full_like(image[..., :1], 255)])
        return image

    def get_metadata(self, data: dict[str, Any]) -> dict[str, Any]:
        """The ``mask`` (H, W, 1) of pixels to learn from, at the size of the camera, where there are such masks."""
        index = data["image_idx"]
        mask = self._of(index, "used_filenames", None)
        if mask is None:
            return {}
        width, height = self._sizes[index]
        upright = self._of(index, "upright", True)
        shown = read_image(self.image_filenames[index], mask, (width, height), upright=upright)
        return {"mask": torch.from_numpy(shown[..., 3:] > 127)}

    def _of(self, image_idx: int, name: str, default: Any) -> Any:
        """What ``metadata[name]`` lists for one image."""
        listed = self.metadata.get(name)
        return default if listed is None else listed[image_idx]

    def _render(self, image_idx: int) -> npt.NDArray[np.uint8]:
        if image_idx not in self._rendered:
            camera = self.cameras[image_idx : image_idx + 1]
            if self.metadata.get("splats") is None:
                rgba = self.metadata["field"].draw(camera)[0]
            else:
                from invert3d_ns.scenes.rendering import render_rgba

                rgba = render_rgba(self.metadata["splats"].to(self.device), camera)[0]
            self._rendered[image_idx] = (rgba * 255).round().byte().cpu().numpy()
        return self._rendered[image_idx]

    def __getitem__(self, image_idx: int) -> dict[str, Any]:
        """One item on the scene's white background, for the viewer and ns-render; :meth:`get_data` keeps the alpha."""
        data = self.get_data(image_idx)
        image = data["image"]
        if image.shape[-1] == 4:
            data["image"] = image[..., :3] * image[..., 3:] + (1 - image[..., 3:])
        return data


def check_path(cameras: int, steps: int) -> None:
    """Refuse a camera path that cannot be made: through fewer than two cameras, or without a picture.

    Raises:
        InputError: by the flag of ``ns-render interpolate`` that helps.
    """
    if cameras < 2:
        raise InputError("a path leads through two cameras or more, and there is one; add --pose-source train")
    if steps < 1:
        raise InputError(f"--interpolation-steps is {steps}; give 1 or more")


@dataclass
class SceneDatamanagerConfig(FullImageDatamanagerConfig):
    """Full images and cameras of one object."""

    number_ranges: ClassVar[dict[str, Range]] = {
        "camera_res_scale_factor": above(0),
        "eval_num_images_to_sample_from": at_least(-1),
        "eval_num_times_to_repeat_images": at_least(-1),
        "eval_image_indices": at_least(0),
        "max_thread_workers": at_least(1),
        "train_cameras_sampling_seed": at_least(0, 2**32 - 1),
        "fps_reset_every": at_least(1),
    }
    _target: type = field(default_factory=lambda: SceneDatamanager)
    dataparser: SceneDataParserConfig = field(default_factory=SceneDataParserConfig)  # type: ignore[assignment]
    """How the scene is read and brought into the object frame."""
    cache_images_type: Literal["uint8", "float32"] = "uint8"
    """The image type returned from manager, caching images in uint8 saves memory"""


class SceneDatamanager(FullImageDatamanager[SceneDataset]):
    """Nerfstudio's manager of full images, for scenes of any kind, on machines of any kind."""

    config: SceneDatamanagerConfig
    train_dataset: SceneDataset
    eval_dataset: SceneDataset

    def __init__(self, config: SceneDatamanagerConfig, **kwargs: Any) -> None:
        compat.allow_spiral_for_full_images()
        compat.check_camera_paths(check_path)
        super().__init__(config, **kwargs)

    @property
    def dataset_type(self) -> type[SceneDataset]:  # type: ignore[override]
        """The class of both datasets."""
        return SceneDataset

    def create_train_dataset(self) -> SceneDataset:
        """The cameras and images to train on, rendered where this manager's device is."""
        dataset = super().create_train_dataset()
        dataset.device = self.device
        return dataset

    def create_eval_dataset(self) -> SceneDataset:
        """The held-out cameras and images, rendered where this manager's device is."""
        dataset = super().create_eval_dataset()
        dataset.device = self.device
        return dataset

    def _load_images(self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]) -> list[dict]:
        # Caching on the "cpu" pins memory for transfers to CUDA, which raises where there is none; on the "gpu" is on
        # this manager's own device.
        on_cpu = torch.device(self.device).type == "cpu"
        return super()._load_images(split, "gpu" if on_cpu else cache_images_device)

    @property
    def eval_dataloader(self) -> FixedIndicesEvalDataloader:
        """The held-out cameras, as ``ns-render spiral`` asks for them."""
        return FixedIndicesEvalDataloader(input_dataset=self.eval_dataset, device=self.device)

    def get_datapath(self) -> Path:
        """The scene's file or folder."""
        return self.dataparser.path
