"""Runs of radiance fields as posed images: an orbit of views with alpha around the object, rendered when needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from invert3d_ns import compat
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.notices import warn
from invert3d_ns.scenes.cameras import (
    OBJECT_RADIUS,
    PinholeCameras,
    orbit_camera_to_world,
    orbit_cameras,
    pinhole_cameras,
)
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.folders import scene_metadata
from invert3d_ns.scenes.normalization import robust_sphere, rotation_about_z, similarity
from invert3d_ns.scenes.placement import PlacedOutputs, Placement
from invert3d_ns.scenes.posed_images import rising_orbit, spread_orbit
from invert3d_ns.scenes.radiance_fields import RadianceField, Sphere
from invert3d_ns.scenes.radiance_runs import load_radiance_model

SPHERE_FLAG = "--pipeline.datamanager.dataparser.sphere"
_VIEWS = 16
"""From which the object is looked for."""
_COARSE, _FINE = 24, 48
"""Pixels of these views: in the whole box of the scene, and around what was found there."""
_AROUND = 1.1
"""How much farther than the object's sphere views of it reach: as splats that belong to the object may."""
_CUT = 0.1
"""Share of what is seen that may lie at the edge of the box before it is more than an object."""
_USUAL = 1 / 3
"""Of the box: radius of the object where the surroundings reach to its edge. nerfstudio scales cameras to the box; with
its usual lens they show a third of it."""
_SEEDS = 5000


class RadianceScene:
    """An object in the radiance field of a run, in the object frame.

    Its frame is that of the run, z up, as nerfstudio's is, centered and scaled. The model alone is loaded, once.
    Views are rendered on CUDA where there is one, else on the CPU.

    Args:
        path: the run's folder, or the ``config.yml`` in it.
        sphere: center (x, y, z) and radius of the object in the run's frame; None: where what is seen in the box of the
            scene lies, few and far things left aside.
        front: azimuth in degrees at which the scene as read shows its front; it is turned to azimuth 0.
        flag: that sets ``sphere``, for what is said.

    Attributes:
        transform: the similarity from the run's frame.
        placement: where the scene lay in the input of the run; the run's own frame where that is not known.

    Raises:
        InputError: the run cannot be loaded (see :func:`~invert3d_ns.scenes.radiance_runs.load_radiance_model`) or
            drawn, or shows nothing.
    """

    def __init__(
        self,
        path: Path,
        *,
        sphere: tuple[float, float, float, float] | None = None,
        front: float = 0.0,
        flag: str = SPHERE_FLAG,
    ) -> None:
        self._flag = flag
        self.field = RadianceField(load_radiance_model(path, compat.device_type()), str(path))
        self._lock = Lock()
        found, points, colors = self._find() if sphere is None else self._given(sphere)
        rotation = rotation_about_z(-front)[:3, :3]
        self.transform = similarity(rotation, rotation @ found.center, OBJECT_RADIUS / found.radius)
        self.placement = Placement.of_run(path).then(self.transform)
        self._back = torch.linalg.inv(self.transform)
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:_SEEDS]
        points = points[order] @ self.transform[:3, :3].T + self.transform[:3, 3]
        self.seeds = {"points3D_xyz": points, "points3D_rgb": (colors[order] * 255).round().byte()}

    def __deepcopy__(self, memo: dict[int, Any]) -> RadianceScene:
        """Itself: nerfstudio copies what a dataset knows, and there is one model."""
        return self

    def outputs(self, split: str, name: str, count: int, size: int) -> DataparserOutputs:
        """One split of ``count`` orbit cameras in the object frame; their pictures are drawn by :meth:`draw`."""
        orbit = spread_orbit(count) if split == "train" else rising_orbit(count)
        return PlacedOutputs(
            image_filenames=[Path(name) / f"{split}_{index:04d}.png" for index in range(count)],
            cameras=orbit_cameras(*orbit, size),
            metadata=scene_metadata(field=self, has_alpha=True, **(self.seeds if split == "train" else {})),
            dataparser_transform=self.placement.unscaled.float(),
            dataparser_scale=self.placement.scale,
            placement=self.placement,
        )

    def draw(self, cameras: Cameras) -> Float[Tensor, "1 H W 4"]:
        """RGBA in [0, 1] (alpha not premultiplied) on the CPU of one camera (shape (1,)) in the object frame.

        Raises:
            InputError: see :meth:`~invert3d_ns.scenes.radiance_fields.RadianceField.render`.
        """
        with self._lock:  # models keep what they compute in themselves, and nerfstudio loads images in threads
            return self.field.render(_moved(pinhole_cameras(cameras), self._back))[0][None]

    def fit(
        self,
        *,
        views: int = 24,
        size: int = 96,
        splats: int = 2000,
        steps: int = 150,
        progress: Callable[[str, int, int], None] = lambda label, done, total: None,
    ) -> SplatCloud:
        """Splats in the object frame, fitted to views: see :func:`~invert3d_ns.scenes.fitting.fit_splats`.

        Args:
            views: number of views, 2 or more.
            size: height and width of each in pixels.
            splats: number of splats.
            steps: of the fit.
            progress: told what is done, of how much.
        """
        from invert3d_ns.scenes.fitting import fit_splats

        cameras = orbit_cameras(*spread_orbit(views), size)
        pictures = []
        for index in range(views):
            progress("drawing views", index, views)
            pictures.append(self.draw(cameras[index : index + 1])[0])
        rgba = torch.stack(pictures).permute(0, 3, 1, 2)
        # The fit takes for the object what is not white: a soft edge or haze would become white splats around it.
        images = torch.where(rgba[:, 3:] > 0.5, rgba[:, :3], 1.0)
        progress("fitting splats", views, views)
        return fit_splats(images.to(compat.device_type()), cameras.camera_to_worlds, count=splats, steps=steps)

    def _find(self) -> tuple[Sphere, Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
        """The sphere of the object, and colored points of its surface, in the run's frame."""
        low, high = self.field.box
        whole = Sphere((low + high) / 2, float((high - low).min()) / 2)
        points, colors, alpha = self._surface(whole, _COARSE)
        self._check(len(points), whole)
        at_edge = (points - whole.center).norm(dim=-1) > 0.97 * whole.radius
        if at_edge.float().mean() > _CUT:
            usual = Sphere(whole.center, whole.radius * _USUAL)
            place = " ".join(f"{value:.3g}" for value in [*usual.center.tolist(), usual.radius])
            warn(
                f"the radiance field of {self.field.name} shows more than an object; what lies within a third of its"
                f" box is taken to be it ({self._flag} {place}). If that is wrong, say where it is: X Y Z RADIUS"
            )
            return self._given((*usual.center.tolist(), usual.radius))
        around = Sphere(*robust_sphere(points, alpha))
        wide = Sphere(around.center, min(1.25 * around.radius, whole.radius))
        points, colors, alpha = self._surface(wide, _FINE)
        self._check(len(points), wide)
        found = Sphere(*robust_sphere(points, alpha))
        self.field.look_at(Sphere(found.center, _AROUND * found.radius))
        return found, points, colors

    def _given(
        self, sphere: tuple[float, float, float, float]
    ) -> tuple[Sphere, Float[Tensor, "N 3"], Float[Tensor, "N 3"]]:
        *center, radius = sphere
        if not (all(map(math.isfinite, sphere)) and radius > 0):
            raise InputError(f"{self._flag} is {sphere}; give finite numbers X Y Z RADIUS, and a radius above 0")
        found = Sphere(torch.tensor(center), radius)
        points, colors, _ = self._surface(found, _FINE)
        self._check(len(points), found)
        return found, points, colors

    def _surface(
        self, sphere: Sphere, size: int
    ) -> tuple[Float[Tensor, "N 3"], Float[Tensor, "N 3"], Float[Tensor, " N"]]:
        """Points of the surface within a sphere that an orbit of cameras sees, their colors, and how opaque it is."""
        self.field.look_at(sphere)
        back = torch.linalg.inv(similarity(torch.eye(3), sphere.center, OBJECT_RADIUS / sphere.radius))
        points, colors, alphas = [], [], []
        poses = orbit_camera_to_world(*spread_orbit(_VIEWS))
        silent = not CONSOLE.is_terminal
        for pose in track(poses, "Looking for the object", _VIEWS, console=CONSOLE, transient=True, disable=silent):
            rgba, surface = self.field.render(_moved(pinhole_cameras(pose[None], size), back))
            seen = rgba[..., 3] > 0.5
            points.append(surface[seen])
            colors.append(rgba[seen][:, :3])
            alphas.append(rgba[seen][:, 3])
        return torch.cat(points), torch.cat(colors), torch.cat(alphas)

    def _check(self, count: int, sphere: Sphere) -> None:
        if count < 4:
            place = " ".join(f"{value:.3g}" for value in [*sphere.center.tolist(), sphere.radius])
            raise InputError(
                f"the radiance field of {self.field.name} shows nothing within the sphere {place}; say where its "
                f"object is with {self._flag} X Y Z RADIUS, or train it longer"
            )


def _moved(cameras: PinholeCameras, transform: Float[Tensor, "4 4"]) -> PinholeCameras:
    """Cameras moved by a similarity."""
    poses = cameras.camera_to_world
    rotation = transform[:3, :3] / torch.linalg.det(transform[:3, :3]).pow(1 / 3) @ poses[..., :3]
    position = transform[:3, :3] @ poses[..., 3:] + transform[:3, 3:]
    return replace(cameras, camera_to_world=torch.cat([rotation, position], dim=-1))
