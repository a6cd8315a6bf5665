"""``invert3d export``: splats of a run or a file for any viewer, a mesh of them, and pictures with camera poses.

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
    from invert3d_ns.scenes.placement import Placement
    from invert3d_ns.scenes.radiance_scenes import RadianceScene


@dataclass
class ExportSplats:
    """Write the splats of a run or of a splat file as a splat file, as a mesh with a texture, or as a folder of posed
    images. Needs no open3d.
    """

    source: tyro.conf.Positional[Path]
    """A run: its folder or config.yml. Or a file of Gaussian splats (.ply, .compressed.ply, .spz, .splat, .ksplat,
    .sog) or a mesh that splats are made of (.glb, .gltf, .obj, .stl, .off, .ply), or a folder with nothing but one. Of
    a run of a radiance field (nerfacto and its relatives), views are drawn, and splats are fitted to views."""
    out: Path | None = None
    """The splat file to write. Its ending says which kind: .ply (3DGS), .compressed.ply (SuperSplat), .spz, .splat,
    .ksplat or .sog."""
    mesh: Path | None = None
    """The mesh to make and write: .glb (with its texture), .obj (with an .mtl and a .png beside it) or .ply (with
    colors of vertices). Of the object only, where a run shows its surroundings, too."""
    faces: Annotated[int, at_least(1000, 500_000)] = 40_000
    """Number of triangles of the mesh, at most."""
    texture_size: Annotated[int, at_least(64, 4096)] = 1024
    """Height and width of the texture of the mesh in pixels."""
    posed_images: Path | None = None
    """A folder to make: RGBA images and a transforms.json with their cameras, as reconstruction methods read them."""
    count: Annotated[int, at_least(1, 10_000)] = 40
    """Number of posed images."""
    size: Annotated[int, at_least(16, 8192)] = 256
    """Height and width of posed images in pixels."""
    frame: Literal["object", "input"] = "object"
    """Where the splats of the splat file and the mesh lie. object: centered, of radius 0.9. input: where the input of
    the run, or the file, has them, at its size."""
    up: UpAxis = "y"
    """The axis that points up in a splat file or a mesh in the object frame: y is usual for assets and the rule in
    .glb, z for nerfstudio."""
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
        from invert3d_ns.scenes.meshes.writing import check_mesh_name
        from invert3d_ns.scenes.posed_images import check_empty, write_posed_images
        from invert3d_ns.scenes.splat_files import LISTED, check_ending, write_splat_file
        from invert3d_ns.scenes.splat_formats import left_out

        if self.out is None and self.mesh is None and self.posed_images is None and self.objects is None:
            raise InputError("nothing to write; give --out splats.ply, --mesh mesh.glb or --posed-images FOLDER")
        ending = ""
        if self.out is not None:
            if self.out.suffix.lower() in (".glb", ".obj"):
                raise InputError(f"{self.out} does not end in {LISTED}; give --mesh {self.out} for a mesh")
            ending = check_ending(self.out)
            check_file(self.out, self.out.suffix.lower())
        if self.mesh is not None:
            check_mesh_name(self.mesh)
            if self.out is not None and self.out.resolve() == self.mesh.resolve():
                raise InputError(f"--out and --mesh are both {self.mesh}; give them different names")
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
        if self.mesh is not None:
            self._write_mesh(self.mesh)
        if self.posed_images is not None:
            scene = self._read[0]
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

    def _write_mesh(self, path: Path) -> None:
        """Make a mesh of the object and write it."""
        from invert3d_ns.compat import device_type
        from invert3d_ns.scenes.assets import object_splats
        from invert3d_ns.scenes.meshes.making import mesh_of_splats
        from invert3d_ns.scenes.meshes.mesh import moved
        from invert3d_ns.scenes.meshes.writing import write_mesh
        from invert3d_ns.scenes.normalization import from_z_up
        from invert3d_ns.scenes.placement import placement_of_run
        from invert3d_ns.scenes.runs import is_run

        cloud = self._centered
        if self.frame == "input":
            if is_run(self.source):
                placement_of_run(self.source)  # which must be known
            transform = self._read[1].inverse
        else:
            transform = from_z_up(self.up).double()
        within = object_splats(cloud)
        cloud = (cloud if within is None else cloud.select(within)).to(device_type())
        mesh = mesh_of_splats(cloud, faces=self.faces, texture_size=self.texture_size)
        files = write_mesh(path, moved(mesh, transform.numpy()))
        print(f"{len(mesh.faces)} triangles: {', '.join(map(str, files))}")

    @cached_property
    def _read(self) -> tuple[SplatCloud | RadianceScene, Placement]:
        """The splats in the object frame, or the radiance field of a run that has none, and how they were moved."""
        from invert3d_ns.scenes.assets import read_object_and_placement
        from invert3d_ns.scenes.placement import Placement
        from invert3d_ns.scenes.radiance_runs import is_radiance_run
        from invert3d_ns.scenes.run_objects import BlendChoice
        from invert3d_ns.scenes.runs import NoSplats

        if choice := BlendChoice(self.blend, self.anchors):
            return choice.read(self.source), Placement.of_run(self.source)
        try:
            return read_object_and_placement(self.source)
        except NoSplats:
            if not is_radiance_run(self.source):
                raise
        from invert3d_ns.scenes.radiance_scenes import RadianceScene

        scene = RadianceScene(self.source, sphere=self.sphere, flag="--sphere")
        return scene, scene.placement

    @cached_property
    def _centered(self) -> SplatCloud:
        """The splats in the object frame, fitted to views of a field."""
        from invert3d_ns.commands.console import progress_bar
        from invert3d_ns.scenes.cloud import SplatCloud

        scene = self._read[0]
        if isinstance(scene, SplatCloud):
            return scene
        with progress_bar() as show:
            return scene.fit(progress=show)

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
            centered, scene = self._centered, self._read[0]
            assert not isinstance(scene, SplatCloud), "a run without splats has a field"
            return scene.placement.put_back(centered), placement.up_axis()
