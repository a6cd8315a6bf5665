"""Folders of posed images: nerfstudio's parsers read them, and the object in them is brought into the object frame."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.scenes.cameras import OBJECT_RADIUS
from invert3d_ns.scenes.normalization import rotation_about_z

if TYPE_CHECKING:
    from invert3d_ns.scenes.silhouettes import Views

_MAX_VIEWS_FOR_HULL = 36
_SEED_POINTS = 5000
# What nerfstudio's parsers raise on files that are not what they expect.
_PARSER_ERRORS = (
    AssertionError,
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def scene_metadata(**given: Any) -> dict[str, Any]:
    """Metadata of a parsed scene: ``given``, with defaults for the rest of what readers of scenes promise.

    ``splats`` is a :class:`~invert3d_ns.scenes.cloud.SplatCloud` in the object frame or None; ``background`` "white";
    ``has_alpha`` whether images have alpha; ``image_background`` the RGB that opaque images show around the object, or
    None; ``surroundings`` whether images show more than the object; ``alpha_filenames`` masks, or None.
    """
    defaults = {"splats": None, "background": "white", "has_alpha": False, "image_background": None}
    return {**defaults, "surroundings": False, "alpha_filenames": None, **given}


def find_layout(folder: Path) -> tuple[str, Path] | None:
    """Kind of posed images in a folder, and the file or folder that says so."""
    for kind, name in [("nerfstudio", "transforms.json"), ("blender", "transforms_train.json")]:
        if (folder / name).is_file():
            return kind, folder / name
    for name in ("sparse/0", "colmap/sparse/0", "sparse", "colmap"):
        if any((folder / name / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt")):
            return "colmap", folder / name
    return None


class FolderScene:
    """A folder of posed images, read by nerfstudio's parsers and brought into the object frame.

    Args:
        folder: with transforms.json (nerfstudio), transforms_train.json (Blender) or a COLMAP model.
        image_size: largest height or width of images in pixels; larger ones shrink.
        front: azimuth in degrees at which the scene as read shows its front; it is turned to azimuth 0.
        masks_are_objects: masks cut out the object, as alpha does; otherwise masked pixels are only ignored.

    Raises:
        InputError: there are no posed images, something cannot be read, or no object can be found in it.
    """

    def __init__(self, folder: Path, *, image_size: int, front: float = 0.0, masks_are_objects: bool = True) -> None:
        self.folder, self.image_size, self.front = folder, image_size, front
        self.masks_are_objects = masks_are_objects
        layout = find_layout(folder)
        if layout is None:
            content = [path for path in folder.iterdir() if not path.name.startswith(".")]
            if not content:
                raise InputError(f"{folder} is empty; give a .ply file of splats or a folder of posed images")
            raise InputError(
                f"{folder} has no transforms.json, transforms_train.json or COLMAP model;"
                " run ns-process-data on your images first"
            )
        self.kind, self.source = layout
        self.parse = self._parser()
        self.train = self._checked("train")
        self.transform, self.seeds, self.extras = self._normalize(self.train)

    def outputs(self, split: str) -> DataparserOutputs:
        """One split in the object frame."""
        raw = self.train if split == "train" else self._checked(split)
        scale = float(torch.linalg.det(self.transform[:3, :3]).pow(1 / 3))
        cameras = _to(raw.cameras, self.transform, scale)
        largest = max(int(cameras.width.max()), int(cameras.height.max()))
        if largest > self.image_size:
            cameras.rescale_output_resolution(self.image_size / largest, scale_rounding_mode="round")
        original = torch.cat([raw.dataparser_transform, torch.tensor([[0.0, 0.0, 0.0, 1.0]])])
        # nerfstudio applies the rotation and translation first and the scale last.
        total = self.transform @ torch.diag(torch.tensor([raw.dataparser_scale] * 3 + [1.0])) @ original
        scale *= raw.dataparser_scale
        masks = raw.mask_filenames
        as_alpha = self.masks_are_objects and masks is not None
        return replace(
            raw,
            cameras=cameras,
            alpha_color=None,
            mask_filenames=None if as_alpha else masks,
            metadata=scene_metadata(
                **self.extras, **(self.seeds if split == "train" else {}), alpha_filenames=masks if as_alpha else None
            ),
            scene_box=DataparserOutputs([], cameras).scene_box,
            dataparser_transform=total[:3] / scale,
            dataparser_scale=scale,
        )

    def _parser(self) -> Callable[[str], DataparserOutputs]:
        """Nerfstudio's parser of this kind of folder, told to change nothing about poses."""
        if self.kind == "nerfstudio":
            from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

            # Points are read here: nerfstudio's reader imports open3d, which bare machines cannot load, and may ask
            # questions.
            parser = NerfstudioDataParserConfig(
                data=self.folder,
                orientation_method="none",
                center_method="none",
                auto_scale_poses=False,
                train_split_fraction=self._train_fraction(),
            ).setup()
            return parser.get_dataparser_outputs
        if self.kind == "blender":
            from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

            return BlenderDataParserConfig(data=self.folder, alpha_color=None).setup().get_dataparser_outputs
        from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

        masks = Path("masks") if (self.folder / "masks").is_dir() else None
        # A factor of 1 keeps the parser from asking whether to write shrunk copies; images shrink as they are read.
        parser = ColmapDataParserConfig(
            data=self.folder,
            colmap_path=self.source.relative_to(self.folder),
            masks_path=masks,
            downscale_factor=1,
            orientation_method="none",
            center_method="none",
            auto_scale_poses=False,
        ).setup()
        return parser.get_dataparser_outputs

    def _train_fraction(self) -> float:
        """Nerfstudio's nine tenths, less for small folders: two images are held out once there are eight."""
        try:
            count = len(json.loads(self.source.read_text(encoding="utf-8"))["frames"])
        except (LookupError, OSError, TypeError, ValueError):
            return 0.9  # the parser will say what is wrong
        return min(0.9, (count - 2.5) / count) if count >= 8 else 0.9

    def _checked(self, split: str) -> DataparserOutputs:
        """A split as nerfstudio reads it, with errors in one line and every image there."""
        if self.kind == "blender" and split != "train":
            names = [name for name in (split, "test", "val") if (self.folder / f"transforms_{name}.json").is_file()]
            split = names[0] if names else "train"
        try:
            outputs = self.parse(split)
        except FileNotFoundError as error:  # the parsers look into the first image themselves
            missing = error.filename or self.source
            raise InputError(
                f"the image {missing} is missing; restore it, or remove its entry from {self.source.name}"
            ) from error
        except _PARSER_ERRORS as error:
            reason = str(error).strip().splitlines()
            raise InputError(
                f"{self.source} cannot be read ({reason[0].strip() if reason else type(error).__name__});"
                " check it or make it again with ns-process-data"
            ) from error
        if not outputs.image_filenames:
            if split == "train":
                raise InputError(f"{self.source} lists no images; add frames with file_path and transform_matrix")
            # Too few images to hold any out.
            return self._checked("train")
        for path in [*outputs.image_filenames, *(outputs.mask_filenames or [])]:
            if not path.exists():
                raise InputError(
                    f"the image {path} is missing; restore it, or remove its entry from {self.source.name}"
                )
        flat = (CameraType.PERSPECTIVE, CameraType.FISHEYE, CameraType.FISHEYE624)  # the datamanager undistorts these
        if not torch.isin(outputs.cameras.camera_type, torch.tensor([kind.value for kind in flat])).all():
            raise InputError(f"{self.source} has panoramic cameras; give images of perspective or fisheye cameras")
        if not outputs.cameras.camera_to_worlds.isfinite().all():
            raise InputError(f"{self.source} has camera poses with NaN or infinity; remove those frames")
        return outputs

    def _normalize(self, train: DataparserOutputs) -> tuple[Float[Tensor, "4 4"], dict[str, Tensor], dict[str, Any]]:
        """The similarity into the object frame, points to start splats from, and metadata about what the images
        show.
        """
        from nerfstudio.utils.rich_utils import CONSOLE

        from invert3d_ns.scenes import silhouettes

        rotation = _upright(train.cameras.camera_to_worlds, self.front)
        upright = torch.eye(4)
        upright[:3, :3] = rotation
        poses = _to(train.cameras, upright, 1.0).camera_to_worlds
        views, extras = self._views(train, poses)
        points, colors = self._sparse_points(train)
        points = points @ rotation.T
        if views is not None:
            hull, surface, spacing = silhouettes.visual_hull(views)
            low, high = hull.amin(dim=0), hull.amax(dim=0)
            center = (low + high) / 2
            largest = float((hull - center).norm(dim=-1).max()) + spacing / 2
            extent = min(largest, silhouettes.apparent_radius(views, center))
            points = _subsample(hull[surface], _SEED_POINTS)
            colors = silhouettes.hull_colors(views, points) * 255
        else:
            CONSOLE.print(
                "[yellow]The images show more than the object: neither alpha, masks nor a plain background. What the"
                " cameras look at is taken to be the object; images with alpha work better."
            )
            center, distance = silhouettes.common_focus(poses)
            fov = (0.5 * train.cameras.height / train.cameras.fy).median()
            extent = distance * math.sin(math.atan(float(fov))) * 0.9
        transform = torch.eye(4)
        scale = OBJECT_RADIUS / extent
        transform[:3, :3], transform[:3, 3] = scale * rotation, -scale * center
        points = scale * (points - center)
        if not extras["surroundings"]:
            near = points.norm(dim=-1) < 1.2 * OBJECT_RADIUS
            points, colors = points[near], colors[near]
        seeds = {"points3D_xyz": points, "points3D_rgb": colors.round().byte()} if len(points) > 3 else {}
        return transform, seeds, extras

    def _views(self, train: DataparserOutputs, poses: Float[Tensor, "F 3 4"]) -> tuple[Views | None, dict[str, Any]]:
        """Small images with silhouettes, if alpha, masks or a plain background give any, and what kind of images they
        are.
        """
        from invert3d_ns.scenes import silhouettes
        from invert3d_ns.scenes.images import read_image

        count = len(train.image_filenames)
        chosen = torch.linspace(0, count - 1, min(count, _MAX_VIEWS_FOR_HULL)).round().long().unique().tolist()
        masks = train.mask_filenames if self.masks_are_objects else None
        images = []
        for index in chosen:
            width, height = int(train.cameras.width[index]), int(train.cameras.height[index])
            shrink = min(1.0, 128 / max(width, height))
            size = max(1, round(width * shrink)), max(1, round(height * shrink))
            image = read_image(train.image_filenames[index], masks[index] if masks else None, size)
            images.append(torch.from_numpy(image).float() / 255)
        extras: dict[str, Any] = {"has_alpha": False, "surroundings": False, "image_background": None}
        if all(image.shape[-1] == 4 for image in images) and any((image[..., 3] < 0.5).any() for image in images):
            extras["has_alpha"] = True
            alpha = [image[..., 3] for image in images]
        else:
            images = [image[..., :3] for image in images]
            background = silhouettes.uniform_background(images)
            if background is None:
                extras["surroundings"] = True
                return None, extras
            extras["image_background"] = background.tolist()
            alpha = [silhouettes.alpha_from_background(image, background) for image in images]
        if not any((a > 0.5).any() for a in alpha):
            raise InputError(f"the cameras of {self.folder} see nothing: all images are empty; check images and masks")
        size = torch.cat([train.cameras.width, train.cameras.height], dim=-1)[chosen]
        camera = train.cameras
        return silhouettes.Views(
            camera_to_worlds=poses[chosen],
            focals=(torch.cat([camera.fx, camera.fy], dim=-1)[chosen] / size).float(),
            principals=(torch.cat([camera.cx, camera.cy], dim=-1)[chosen] / size).float(),
            rgb=[image[..., :3] for image in images],
            alpha=alpha,
        ), extras

    def _sparse_points(self, train: DataparserOutputs) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
        """The reconstruction's own points in the frame of the cameras, with colors from 0 to 255; none if there are
        none.
        """
        points = train.metadata.get("points3D_xyz")
        if points is not None:
            return points.float(), train.metadata["points3D_rgb"].float()
        empty = torch.zeros(0, 3)
        if self.kind != "nerfstudio":
            return empty, empty
        name = json.loads(self.source.read_text(encoding="utf-8")).get("ply_file_path")
        if name is None or not (self.folder / name).is_file():
            return empty, empty
        from plyfile import PlyData

        vertex = PlyData.read(str(self.folder / name))["vertex"]

        def columns(*names: str) -> Tensor:
            return torch.stack([torch.tensor(vertex[n].tolist(), dtype=torch.float32) for n in names], dim=-1)

        points = columns("x", "y", "z")
        has_colors = "red" in {prop.name for prop in vertex.properties}
        return points, columns("red", "green", "blue") if has_colors else torch.full_like(points, 128.0)


def _subsample(points: Float[Tensor, "N 3"], count: int) -> Float[Tensor, "M 3"]:
    """At most ``count`` of the points, the same ones each time."""
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    return points[order[:count]]


def _to(cameras: Cameras, transform: Float[Tensor, "4 4"], scale: float) -> Cameras:
    """Copies of cameras moved by a similarity whose scale is given."""
    from copy import deepcopy

    moved = deepcopy(cameras)
    poses = cameras.camera_to_worlds
    rotation = transform[:3, :3] / scale @ poses[..., :3]
    moved.camera_to_worlds = torch.cat([rotation, transform[:3, :3] @ poses[..., 3:] + transform[:3, 3:]], dim=-1)
    return moved


def _upright(camera_to_worlds: Float[Tensor, "F 3 4"], front: float) -> Float[Tensor, "3 3"]:
    """The rotation that brings the scene's up to +z and its front to azimuth 0.

    Up is the direction that no camera's horizontal has a part in, because people and programs seldom roll a camera;
    when the horizontals do not tell (all cameras in a row), it is the mean up of the cameras. A world whose up is an
    axis keeps its own azimuths (turned by the shortest rotation, so y-up becomes z-up as in MVDream); any other world,
    such as COLMAP's, has none, and there the first camera sees the front.
    """
    right, up = camera_to_worlds[:, :, 0].double(), camera_to_worlds[:, :, 1].double().mean(dim=0)
    _, values, axes = torch.linalg.svd(right, full_matrices=True)
    if len(values) == 3 and values[1] > 0.1 * values[0] and abs(float(axes[2] @ up)) > 0.2:
        direction = axes[2] * torch.sign(axes[2] @ up)
    else:
        direction = up / up.norm()
    z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    along_axis = float(direction.abs().max()) > math.cos(math.radians(2.0))
    if along_axis:
        direction = torch.where(direction.abs() == direction.abs().max(), direction.sign(), 0.0)
    cross = torch.linalg.cross(direction, z)
    if float(cross.norm()) < 1e-9:
        rotation = torch.diag(torch.tensor([1.0, 1.0, 1.0] if direction[2] > 0 else [1.0, -1.0, -1.0])).double()
    else:
        skew = torch.tensor([[0, -cross[2], cross[1]], [cross[2], 0, -cross[0]], [-cross[1], cross[0], 0]])
        rotation = torch.eye(3, dtype=torch.float64) + skew + skew @ skew / (1 + direction[2])
    if not along_axis:
        backward = rotation @ camera_to_worlds[0, :, 2].double()
        azimuth = math.degrees(math.atan2(float(backward[0]), -float(backward[1])))
        rotation = rotation_about_z(-azimuth)[:3, :3].double() @ rotation
    return (rotation_about_z(-front)[:3, :3].double() @ rotation).float()
