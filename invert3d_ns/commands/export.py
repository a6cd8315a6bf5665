"""``invert3d export``: splats of a run or a file as a file for any viewer, and pictures of them with camera poses.

A run of a radiance field has no splats: its pictures are drawn, and splats are fitted to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from invert3d_ns.base.outputs import check_file, check_folder
from invert3d_ns.base.ranges import at_least
from invert3d_ns.scenes.axes import UpAxis

if TYPE_CHECKING:
    from invert3d_ns.scenes.cloud import SplatCloud
    from invert3d_ns.scenes.radiance_scenes import RadianceScene


@dataclass
class ExportSplats:
    """Write the splats of a run or of a splat file as a splat file, or as a folder of posed images. Needs no open3d."""

    source: tyro.conf.Positional[Path]
    """A run: its folder or config.yml. Or a file of Gaussian splats (.ply, .compressed.ply, .spz, .splat, .ksplat,
    .sog), or a folder with nothing but one. Of a run of a radiance field (nerfacto and its relatives), views are drawn,
    and splats are fitted to views."""
    out: Path | None = None
    """The splat file to write. Its ending says which kind: .ply (3DGS), .compressed.ply (SuperSplat), .spz, .splat,
    .ksplat or .sog."""
    posed_images: Path | None = None
    """A folder to make: RGBA images and a transforms.json with their cameras, as reconstruction methods read them."""
    count: Annotated[int, at_least(1, 10_000)] = 40
    """Number of posed images."""
    size: Annotated[int, at_least(16, 8192)] = 256
    """Height and width of posed images in pixels."""
    frame: Literal["object", "input"] = "object"
    """Where the splats of the splat file lie. object: centered, of radius 0.9. input: where the input of the run, or
    the file, has them, at its size."""
    up: UpAxis = "y"
    """The axis that points up in a splat file in the object frame: y is usual for assets, z for nerfstudio."""
    objects: Path | None = None
    """Of a run that holds several objects (a3d): a folder to write a .ply of each to, with splats in the same order."""
    blend: tuple[float, ...] | None = None
    """Of such a run: how much of each object is written, from 0 to 1, of sum 1. The first object if not given."""
    anchors: Path | None = None
    """Of such a run: a file (JSON) of places and the objects that they are of, which makes a hybrid."""
    sphere: tuple[float, float, float, float] | None = None
    """Where the object is in a radiance field: X Y Z of a center and a RADIUS, in the frame of its run. None: around
    what is seen within the box of its scene."""

    def run(self) -> int:
        """Write what was asked for and say where it is."""
        from invert3d_ns.base.errors import InputError
        from invert3d_ns.base.notices import warn
        from invert3d_ns.commands.console import progress_bar
        from invert3d_ns.scenes.cloud import SplatCloud
        from invert3d_ns.scenes.posed_images import check_empty, write_posed_images
        from invert3d_ns.scenes.splat_files import check_ending, write_splat_file
        from invert3d_ns.scenes.splat_formats import left_out

        if self.out is None and self.posed_images is None and self.objects is None:
            raise InputError("nothing to write; give --out splats.ply or --posed-images FOLDER")
        ending = ""
        if self.out is not None:
            ending = check_ending(self.out)
            check_file(self.out, self.out.suffix.lower())
        if self.posed_images is not None:
            check_folder(self.posed_images, "--posed-images")
            check_empty(self.posed_images)
        if self.objects is not None:
            check_folder(self.objects, "--objects")
            self._write_objects(self.objects)
        if self.out is not None:
            cloud, up = self._as_input() if self.frame == "input" else self._as_object()
            write_splat_file(self.out, cloud, up)
            print(f"{len(cloud)} splats: {self.out}")
            if missing := left_out(cloud, ending, up):
                warn(f"{self.out} cannot say {' nor '.join(missing)}; a .ply can")
        if self.posed_images is not None:
            scene = self._scene
            with progress_bar() as show:
                drawn = scene if isinstance(scene, SplatCloud) else scene.draw
                write_posed_images(drawn, self.posed_images, self.count, self.size, show)
            print(f"{self.count} posed images: {self.posed_images}")
        return 0

    def _write_objects(self, folder: Path) -> None:
        from invert3d_ns.scenes.normalization import from_object_frame
        from invert3d_ns.scenes.run_objects import object_file, read_aligned_run
        from invert3d_ns.scenes.splat_files import write_splat_file

        for number, (cloud, prompt) in enumerate(zip(*read_aligned_run(self.source), strict=True), 1):
            path = folder / object_file(number, prompt)
            write_splat_file(path, from_object_frame(cloud, self.up), self.up)
            print(f"{len(cloud)} splats of {prompt!r}: {path}")

    @cached_property
    def _scene(self) -> SplatCloud | RadianceScene:
        """The splats in the object frame, or the radiance field of a run that has none."""
        from invert3d_ns.scenes.assets import read_object
        from invert3d_ns.scenes.radiance_runs import is_radiance_run
        from invert3d_ns.scenes.run_objects import BlendChoice
        from invert3d_ns.scenes.runs import NoSplats, is_run, read_run_object

        if choice := BlendChoice(self.blend, self.anchors):
            return choice.read(self.source)
        if not is_run(self.source):
            return read_object(self.source)[0]
        try:
            return read_run_object(self.source)
        except NoSplats:
            if not is_radiance_run(self.source):
                raise
        from invert3d_ns.scenes.radiance_scenes import RadianceScene

        return RadianceScene(self.source, sphere=self.sphere, flag="--sphere")

    @cached_property
    def _centered(self) -> SplatCloud:
        """The splats in the object frame, fitted to views of a field."""
        from invert3d_ns.commands.console import progress_bar
        from invert3d_ns.scenes.cloud import SplatCloud

        if isinstance(self._scene, SplatCloud):
            return self._scene
        with progress_bar() as show:
            return self._scene.fit(progress=show)

    def _as_object(self) -> tuple[SplatCloud, UpAxis | None]:
        """The splats centered, and the axis that points up there."""
        from invert3d_ns.scenes.normalization import from_object_frame

        return from_object_frame(self._centered, self.up), self.up

    def _as_input(self) -> tuple[SplatCloud, UpAxis | None]:
        """The splats where the input has them, and the axis that points up there, if it is known."""
        from invert3d_ns.scenes.assets import read_as_placed
        from invert3d_ns.scenes.cloud import SplatCloud
        from invert3d_ns.scenes.placement import placement_of_run
        from invert3d_ns.scenes.run_objects import BlendChoice
        from invert3d_ns.scenes.runs import NoSplats, is_run, read_run

        if not is_run(self.source):
            return read_as_placed(self.source)
        placement = placement_of_run(self.source)
        if BlendChoice(self.blend, self.anchors):
            return placement.put_back(self._centered), placement.up_axis()
        try:
            return placement.put_back(read_run(self.source)), placement.up_axis()
        except NoSplats:
            centered, scene = self._centered, self._scene
            assert not isinstance(scene, SplatCloud), "a run without splats has a field"
            return scene.placement.put_back(centered), placement.up_axis()
