"""``invert3d export``: splats of a run or a file for any viewer, a mesh of them, and pictures with camera poses."""

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


@dataclass
class ExportSplats:
    """Write the splats of a run or of a splat file as a splat file, as a mesh with a texture, or as a folder of posed
    images. Needs no open3d.
    """

    source: tyro.conf.Positional[Path]
    """A run: its folder or config.yml. Or a file of Gaussian splats (.ply, .compressed.ply, .spz, .splat, .ksplat,
    .sog) or a mesh that splats are made of (.glb, .gltf, .obj, .stl, .off, .ply), or a folder with nothing but one."""
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

    def run(self) -> int:
        """Write what was asked for and say where it is."""
        from invert3d_ns.base.errors import InputError
        from invert3d_ns.base.notices import warn
        from invert3d_ns.scenes.meshes.writing import check_mesh_name
        from invert3d_ns.scenes.posed_images import check_empty, write_posed_images
        from invert3d_ns.scenes.splat_files import LISTED, check_ending, write_splat_file
        from invert3d_ns.scenes.splat_formats import left_out

        if self.out is None and self.mesh is None and self.posed_images is None:
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
        if self.out is not None:
            cloud, up = self._as_input() if self.frame == "input" else self._as_object()
            write_splat_file(self.out, cloud, up)
            print(f"{len(cloud)} splats: {self.out}")
            if missing := left_out(cloud, ending, up):
                warn(f"{self.out} cannot say {' nor '.join(missing)}; a .ply can")
        if self.mesh is not None:
            self._write_mesh(self.mesh)
        if self.posed_images is not None:
            write_posed_images(self._centered, self.posed_images, self.count, self.size)
            print(f"{self.count} posed images: {self.posed_images}")
        return 0

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

        cloud, placement = self._placed
        if self.frame == "input":
            if is_run(self.source):
                placement_of_run(self.source)  # which must be known
            transform = placement.inverse
        else:
            transform = from_z_up(self.up).double()
        within = object_splats(cloud)
        cloud = (cloud if within is None else cloud.select(within)).to(device_type())
        mesh = mesh_of_splats(cloud, faces=self.faces, texture_size=self.texture_size)
        files = write_mesh(path, moved(mesh, transform.numpy()))
        print(f"{len(mesh.faces)} triangles: {', '.join(map(str, files))}")

    @cached_property
    def _placed(self) -> tuple[SplatCloud, Placement]:
        """The splats in the object frame, and how they were moved there."""
        from invert3d_ns.scenes.assets import read_object_and_placement

        return read_object_and_placement(self.source)

    @property
    def _centered(self) -> SplatCloud:
        """The splats in the object frame."""
        return self._placed[0]

    def _as_object(self) -> tuple[SplatCloud, UpAxis | None]:
        """The splats centered, and the axis that points up there."""
        from invert3d_ns.scenes.normalization import from_object_frame

        return from_object_frame(self._centered, self.up), self.up

    def _as_input(self) -> tuple[SplatCloud, UpAxis | None]:
        """The splats where the input has them, and the axis that points up there, if it is known."""
        from invert3d_ns.scenes.assets import read_as_placed
        from invert3d_ns.scenes.placement import placement_of_run
        from invert3d_ns.scenes.runs import is_run, read_run

        if not is_run(self.source):
            return read_as_placed(self.source)
        placement = placement_of_run(self.source)
        return placement.put_back(read_run(self.source)), placement.up_axis()
