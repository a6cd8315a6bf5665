"""One dataparser for every scene: nothing (the bundled demo), a .ply of splats, a run, or a folder of posed images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.axes import UpAxis
from invert3d_ns.scenes.cameras import orbit_cameras
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.folders import FolderScene, find_layout, scene_metadata
from invert3d_ns.scenes.normalization import rotation_about_z, to_object_frame, transform_splats, within_object
from invert3d_ns.scenes.ply import declared_up_axis, read_splats
from invert3d_ns.scenes.runs import is_run, read_run_object, run_settings

DEMO_SCENE = Path(__file__).parents[1] / "data" / "demo.ply"
"""The scene that is inverted when no data is given."""


@dataclass
class SceneDataParserConfig(DataParserConfig):
    """Reads any scene and brings it into the object frame: z up, centered, radius 0.9."""

    _target: type = field(default_factory=lambda: SceneDataParser)
    data: Path | None = None  # type: ignore[assignment]
    """A .ply file of Gaussian splats, a run whose splats are taken (its folder or config.yml), or a folder of posed
    images (transforms.json, Blender, COLMAP). Nothing: the bundled demo."""
    up: Literal["auto"] | UpAxis = "auto"
    """The axis that points up in a .ply file. auto: what the file says (nerfstudio's do), else y, as in generated
    assets (LGM, 3DGS). In folders the cameras tell what is up."""
    front: float = 0.0
    """Azimuth in degrees at which the scene as read shows its front; it is turned to azimuth 0."""
    image_size: int = 256
    """Size in pixels of the orbit images of splats, and the largest height or width of images from a folder: larger
    ones shrink."""
    num_train_views: int = 24
    """Number of orbit cameras that splats are seen by in training."""
    num_eval_views: int = 8
    """Number of held-out orbit cameras of splats, in the order of a flight around the object."""
    masks_are_objects: bool = True
    """Masks in a folder cut out the object, as alpha does. Otherwise masked pixels are only ignored, as nerfstudio
    does."""


def read_object(path: Path | str, up: Literal["auto"] | UpAxis = "auto") -> tuple[SplatCloud, Float[Tensor, "4 4"]]:
    """Splats of a .ply file in the object frame, and the similarity that brought them there.

    Raises:
        InputError: see :func:`~invert3d_ns.scenes.ply.read_splats` and
            :func:`~invert3d_ns.scenes.normalization.to_object_frame`.
    """
    cloud = read_splats(path)
    axis = (declared_up_axis(path) or "y") if up == "auto" else up
    return to_object_frame(cloud, cast(UpAxis, axis))


def scene_name(data: Path | None) -> str:
    """What runs on a scene are called: the demo, the .ply file, the folder, or what the run was called."""
    if data is None:
        return "demo"
    name = run_settings(data).get("experiment_name") if is_run(data) else None
    return str(name) if name else data.resolve().stem


def object_splats(cloud: SplatCloud) -> Bool[Tensor, " N"] | None:
    """The splats of an object-frame scene that lie in the object's sphere; None if that is (nearly) all of them."""
    within = within_object(cloud.means)
    return within if within.float().mean() < 0.99 else None


class SceneDataParser(DataParser):
    """See :class:`SceneDataParserConfig`.

    The outputs' metadata hold ``splats`` (a SplatCloud in the object frame, or None), ``background`` ("white"),
    ``has_alpha``,
    ``image_background`` (RGB that opaque images of a folder show around the object, or None), ``surroundings`` (True
    when images show more than the object), ``alpha_filenames`` (masks, or None), and for folders ``points3D_xyz`` and
    ``points3D_rgb``.
    """

    config: SceneDataParserConfig

    def __init__(self, config: SceneDataParserConfig) -> None:
        super().__init__(config=config)
        self.config = config
        self.path = Path(config.data) if config.data is not None else DEMO_SCENE
        self._folder: FolderScene | None = None

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        if not self.path.exists():
            raise InputError(
                f"{self.path} does not exist; give a .ply file of splats, a run or a folder of posed images"
            )
        if self.config.image_size < 32:
            raise InputError(f"an image size of {self.config.image_size} pixels is too small; use at least 32")
        if is_run(self.path):
            cloud = read_run_object(self.path)
            outputs = self._from_splats(scene_name(self.path), cloud, torch.eye(4), split)
            outputs.metadata["surroundings"] = object_splats(cloud) is not None
            return outputs
        ply = self._ply_path()
        if ply is not None:
            return self._from_splats(ply.stem, *read_object(ply, self.config.up), split)
        if self._folder is None:
            self._folder = FolderScene(
                self.path,
                image_size=self.config.image_size,
                front=self.config.front,
                masks_are_objects=self.config.masks_are_objects,
            )
        return self._folder.outputs(split)

    def _ply_path(self) -> Path | None:
        """The .ply to read, if the scene is one: a file, or the only content of a folder without cameras."""
        if self.path.is_dir():
            if find_layout(self.path) is None:
                plys = sorted(self.path.glob("*.ply"))
                return plys[0] if len(plys) == 1 else None
            return None
        if self.path.suffix.lower() != ".ply":
            raise InputError(f"{self.path} is neither a .ply file nor a run nor a folder of images; give one of these")
        return self.path

    def _from_splats(
        self, name: str, cloud: SplatCloud, transform: Float[Tensor, "4 4"], split: str
    ) -> DataparserOutputs:
        from invert3d_ns.scenes.posed_images import rising_orbit, spread_orbit

        if self.config.front:
            to_front = rotation_about_z(-self.config.front)
            cloud, transform = transform_splats(cloud, to_front), to_front @ transform
        count = self.config.num_train_views if split == "train" else self.config.num_eval_views
        if count < 1:
            raise InputError(
                "splats need at least 1 training and 1 evaluation view; raise num-train-views, num-eval-views"
            )
        azimuths, elevations = spread_orbit(count) if split == "train" else rising_orbit(count)
        scale = float(torch.linalg.det(transform[:3, :3]).pow(1 / 3))
        unscaled = torch.cat([transform[:3, :3] / scale, transform[:3, 3:] / scale], dim=-1)
        return DataparserOutputs(
            # No such files exist: the dataset renders the splats, and nerfstudio's commands name their outputs after
            # these.
            image_filenames=[Path(name) / f"{split}_{index:04d}.png" for index in range(count)],
            cameras=orbit_cameras(azimuths, elevations, self.config.image_size),
            metadata=scene_metadata(splats=cloud, has_alpha=True),
            dataparser_transform=unscaled,
            dataparser_scale=scale,
        )
