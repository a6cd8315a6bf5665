"""Folders of posed images: whatever tool laid them out, the object in them is brought into the object frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from invert3d_ns.base.english import counted
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.notices import warn
from invert3d_ns.scenes.cameras import OBJECT_RADIUS
from invert3d_ns.scenes.layouts.colmap import find_model, read_model
from invert3d_ns.scenes.layouts.frames import Frame, cameras_of, read_frames, turned_over
from invert3d_ns.scenes.layouts.listing import Listing
from invert3d_ns.scenes.layouts.splits import choose_split
from invert3d_ns.scenes.layouts.transforms import read_transforms
from invert3d_ns.scenes.normalization import rotation_about_z
from invert3d_ns.scenes.placement import PlacedOutputs, Placement

if TYPE_CHECKING:
    from invert3d_ns.scenes.silhouettes import Views

_MAX_VIEWS_FOR_HULL = 36
_SEED_POINTS = 5000
_FAR = 100.0
"""Cameras farther from the origin than this many times their own extent are moved there before single precision."""
_CLEARLY = 0.005
"""How much more of its silhouettes the hull of images turned otherwise must cover to be believed."""


def scene_metadata(**given: Any) -> dict[str, Any]:
    """Metadata of a parsed scene: ``given``, with defaults for the rest of what readers of scenes promise.

    ``splats`` is a :class:`~invert3d_ns.scenes.cloud.SplatCloud` in the object frame or None; ``field`` a
    :class:`~invert3d_ns.scenes.radiance_scenes.RadianceScene` that draws the images, or None; ``background`` "white";
    ``has_alpha`` whether images have alpha; ``image_background`` the RGB that opaque images show around the object, or
    None; ``surroundings`` whether images show more than the object; ``alpha_filenames`` masks that cut out the
    object, or None; ``used_filenames`` masks of the pixels to learn from, or None; ``upright`` whether each image is
    turned by its EXIF orientation, or None if all are.
    """
    defaults = {"splats": None, "field": None, "background": "white", "has_alpha": False, "image_background": None}
    files = {"alpha_filenames": None, "used_filenames": None, "upright": None}
    return {**defaults, "surroundings": False, **files, **given}


def find_layout(folder: Path) -> tuple[str, Path] | None:
    """Kind of posed images in a folder, and the file or folder that says so."""
    for kind, name in [("nerfstudio", "transforms.json"), ("blender", "transforms_train.json")]:
        if (folder / name).is_file():
            return kind, folder / name
    model = find_model(folder)
    return None if model is None else ("colmap", model)


def read_listing(folder: Path) -> Listing:
    """The images and cameras that a folder lists.

    Raises:
        InputError: it lists none, or its list cannot be read.
    """
    layout = find_layout(folder)
    if layout is None:
        content = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        if not content:
            raise InputError(f"{folder} is empty; give a .ply file of splats or a folder of posed images")
        within = next((path for path in content if path.is_dir() and find_layout(path)), None)
        raise InputError(
            f"{folder} has no transforms.json, transforms_train.json or COLMAP model; "
            + ("run ns-process-data on your images first" if within is None else f"give {within}, which has one")
        )
    kind, source = layout
    if kind == "colmap":
        return read_model(folder, find_model(folder, aloud=True) or source)
    return read_transforms(source)


class FolderScene:
    """A folder of posed images, brought into the object frame.

    Args:
        folder: with transforms.json (nerfstudio, instant-ngp), transforms_train.json (Blender) or a COLMAP model.
        image_size: largest height or width of images in pixels; larger ones shrink.
        front: azimuth in degrees at which the scene as read shows its front; it is turned to azimuth 0.
        masks_are_objects: masks cut out the object, as alpha does; otherwise masked pixels are only ignored.

    Raises:
        InputError: there are no posed images, something cannot be read, or no object can be found in it.
    """

    def __init__(self, folder: Path, *, image_size: int, front: float = 0.0, masks_are_objects: bool = True) -> None:
        self.folder, self.image_size, self.front = folder, image_size, front
        self.listing = read_listing(folder)
        self.frames = read_frames(self.listing)
        self.offset = _offset(self.frames)
        masks = {frame.mask for frame in self.frames}
        self.masks_are_objects = masks_are_objects
        if masks_are_objects and len(masks) == 1 < len(self.frames) and None not in masks:
            warn(f"all images have the same mask ({masks.pop()}); it is taken as what to learn from, not as the object")
            self.masks_are_objects = False
        self.transform, self.seeds, self.extras = self._normalize()

    def outputs(self, split: str) -> DataparserOutputs:
        """One split ("train", "val" or "test") in the object frame."""
        frames = choose_split(self.frames, split, every_eighth=self.listing.every_eighth)
        scale = float(torch.linalg.det(self.transform[:3, :3]).pow(1 / 3))
        cameras = _to(cameras_of(frames, self.offset), self.transform, scale)
        largest = max(int(cameras.width.max()), int(cameras.height.max()))
        if largest > self.image_size:
            cameras.rescale_output_resolution(self.image_size / largest, scale_rounding_mode="round")
        masks = [frame.mask for frame in frames] if all(frame.mask for frame in frames) else None
        placement = self._placement()
        return PlacedOutputs(
            image_filenames=[frame.image for frame in frames],
            cameras=cameras,
            scene_box=DataparserOutputs([], cameras).scene_box,
            metadata=scene_metadata(
                **self.extras,
                **(self.seeds if split == "train" else {}),
                alpha_filenames=masks if self.masks_are_objects else None,
                used_filenames=None if self.masks_are_objects else masks,
                upright=[frame.upright for frame in frames],
            ),
            dataparser_transform=placement.unscaled.float(),
            dataparser_scale=placement.scale,
            placement=placement,
        )

    def _placement(self) -> Placement:
        """How the world that the tool started from is moved into the object frame."""
        written = np.diag([self.listing.world_scale] * 3 + [1.0]) @ self.listing.world
        x, y, z = np.linalg.solve(written, [*self.offset, 1.0])[:3].tolist() if self.offset.any() else (0.0, 0.0, 0.0)
        turned = torch.from_numpy(written)
        turned[:3, 3] *= 0.0 if self.offset.any() else 1.0
        return Placement(self.transform.double() @ turned, (x, y, z))

    def _normalize(self) -> tuple[Float[Tensor, "4 4"], dict[str, Tensor], dict[str, Any]]:
        """The similarity into the object frame, points to start splats from, and metadata about what the images
        show.
        """
        from invert3d_ns.scenes import silhouettes

        train = choose_split(self.frames, "train", every_eighth=self.listing.every_eighth)
        cameras = cameras_of(train, self.offset)
        rotation = _upright(cameras.camera_to_worlds, self.front)
        upright = torch.eye(4)
        upright[:3, :3] = rotation
        poses = _to(cameras, upright, 1.0).camera_to_worlds
        views, extras = self._views(train, cameras, poses)
        if views is not None:
            views, (hull, surface, spacing) = self._hull(train, cameras, poses, views)
            low, high = hull.amin(dim=0), hull.amax(dim=0)
            center = (low + high) / 2
            largest = float((hull - center).norm(dim=-1).max()) + spacing / 2
            extent = min(largest, silhouettes.apparent_radius(views, center))
            points = _subsample(hull[surface], _SEED_POINTS)
            colors = silhouettes.hull_colors(views, points) * 255
            self.listing.read_points(quick=True)  # not needed; what is wrong with them is said all the same
        else:
            warn(
                "the images show more than the object: neither alpha, masks nor a plain background. What the cameras"
                " look at is taken to be the object; images with alpha work better"
            )
            center, distance = silhouettes.common_focus(poses)
            fov = (0.5 * cameras.height / cameras.fy).median()
            extent = distance * math.sin(math.atan(float(fov))) * 0.9
            points, colors = self._sparse_points()
            points = points @ rotation.T
        self._say_orientation(judged=views is not None)
        transform = torch.eye(4)
        scale = OBJECT_RADIUS / extent
        transform[:3, :3], transform[:3, 3] = scale * rotation, -scale * center
        points = scale * (points - center)
        if not extras["surroundings"]:
            near = points.norm(dim=-1) < 1.2 * OBJECT_RADIUS
            points, colors = points[near], colors[near]
        seeds = {"points3D_xyz": points, "points3D_rgb": colors.round().byte()} if len(points) > 3 else {}
        return transform, seeds, extras

    def _hull(
        self, train: list[Frame], cameras: Cameras, poses: Float[Tensor, "F 3 4"], views: Views
    ) -> tuple[Views, Any]:
        """The visual hull, and the views that it is of: where EXIF orientation can be meant or not, those that agree
        better.
        """
        from invert3d_ns.scenes import silhouettes

        if not any(frame.either for frame in train):
            return views, silhouettes.visual_hull(views)
        fault: InputError | None = None
        found, shares = [], []
        for frames in (self.frames, turned_over(self.frames)):
            chosen = choose_split(frames, "train", every_eighth=self.listing.every_eighth)
            try:
                views = self._views(chosen, cameras, poses)[0] or views
                hull = silhouettes.visual_hull(views)
            except InputError as error:
                fault = fault or error
                continue
            found.append((frames, views, hull))
            shares.append(silhouettes.explained(views, hull[0], hull[2]))
        if not found:
            raise fault or InputError(f"no object is found in {self.folder}; check images and masks")
        self.frames, views, hull = found[1 if len(found) == 2 and shares[1] > shares[0] + _CLEARLY else 0]
        return views, hull

    def _say_orientation(self, judged: bool) -> None:
        """Which way images are taken that fit their cameras turned as well as not."""
        first = next((frame for frame in self.frames if frame.either), None)
        if first is not None:
            what = "turned as their EXIF orientation says" if first.upright else "taken as they are stored, not turned"
            reason = "so they show one object best" if judged else "turn them, and remove the tag, if this is wrong"
            warn(f"images are {what} (such as {first.image}); both fit their cameras, {reason}")

    def _views(
        self, train: list[Frame], cameras: Cameras, poses: Float[Tensor, "F 3 4"]
    ) -> tuple[Views | None, dict[str, Any]]:
        """Small images with silhouettes, if alpha, masks or a plain background give any, and what kind of images they
        are.
        """
        from invert3d_ns.scenes import silhouettes

        count = len(train)
        chosen = torch.linspace(0, count - 1, min(count, _MAX_VIEWS_FOR_HULL)).round().long().unique().tolist()
        images = [_small_image(train[index], self.masks_are_objects) for index in chosen]
        extras: dict[str, Any] = {"has_alpha": False, "surroundings": False, "image_background": None}
        if any(image.shape[-1] == 4 and (image[..., 3] < 0.5).any() for image in images):
            extras["has_alpha"] = True
            alpha = [image[..., 3] if image.shape[-1] == 4 else torch.ones(image.shape[:2]) for image in images]
        else:
            images = [image[..., :3] for image in images]
            background = silhouettes.uniform_background(images)
            if background is None:
                extras["surroundings"] = True
                return None, extras
            extras["image_background"] = background.tolist()
            alpha = [silhouettes.alpha_from_background(image, background) for image in images]
        full = [position for position, a in enumerate(alpha) if (a > 0.5).any()]
        if not full:
            raise InputError(f"the cameras of {self.folder} see nothing: all images are empty; check images and masks")
        if len(full) < len(alpha):
            empty = next(train[index].image for position, index in enumerate(chosen) if position not in full)
            what = counted(len(alpha) - len(full), len(alpha), "images")
            warn(f"{what} show no object, such as {empty}; remove them if they should")
        masked = self.masks_are_objects and all(train[index].mask for index in chosen)
        if masked and silhouettes.look_inverted([alpha[position] for position in full]):
            raise InputError(
                f"the masks of {self.folder} cover the borders of the images and not their middle; invert them: white"
                " is the object"
            )
        chosen = [chosen[position] for position in full]
        size = torch.cat([cameras.width, cameras.height], dim=-1)[chosen]
        return silhouettes.Views(
            camera_to_worlds=poses[chosen],
            focals=(torch.cat([cameras.fx, cameras.fy], dim=-1)[chosen] / size).float(),
            principals=(torch.cat([cameras.cx, cameras.cy], dim=-1)[chosen] / size).float(),
            rgb=[images[position][..., :3] for position in full],
            alpha=[alpha[position] for position in full],
        ), extras

    def _sparse_points(self) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
        """The reconstruction's own points in the frame of the cameras, with colors from 0 to 255; none if there are
        none.
        """
        points = self.listing.read_points()
        if points is None:
            return torch.zeros(0, 3), torch.zeros(0, 3)
        positions = (points.positions - self.offset).astype(np.float32)
        return torch.from_numpy(positions), torch.from_numpy(points.colors.astype(np.float32))


def _offset(frames: Sequence[Frame]) -> Float[np.ndarray, "3"]:
    """Where the cameras are, if that is so far from the origin that single precision would blur them; else zero."""
    positions = np.stack([frame.pose[:3, 3] for frame in frames])
    middle = positions.mean(axis=0)
    extent = np.linalg.norm(positions - middle, axis=1).max()
    return middle if np.abs(positions).max() > _FAR * extent > 0 else np.zeros(3)


def _small_image(frame: Frame, with_mask: bool) -> Float[Tensor, "H W c"]:
    """An image of at most 128 pixels, RGB or RGBA in [0, 1]."""
    from invert3d_ns.scenes.images import read_image

    width, height = frame.size
    shrink = min(1.0, 128 / max(width, height))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    image = read_image(frame.image, frame.mask if with_mask else None, size, upright=frame.upright)
    return torch.from_numpy(image).float() / 255


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
