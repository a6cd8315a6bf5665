"""``invert3d export``: splats of a run as a .ply file, and pictures of them with camera poses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from invert3d_ns.base.outputs import check_file, check_folder
from invert3d_ns.base.ranges import at_least
from invert3d_ns.scenes.axes import UpAxis


@dataclass
class ExportSplats:
    """Write the splats of a run, or of a .ply file, as a .ply file or as a folder of posed images. Needs no open3d."""

    source: tyro.conf.Positional[Path]
    """A run: its folder or config.yml. Or a .ply file of Gaussian splats."""
    out: Path | None = None
    """The .ply file to write, in the 3DGS layout, centered and of radius 0.9."""
    posed_images: Path | None = None
    """A folder to make: RGBA images and a transforms.json with their cameras, as reconstruction methods read them."""
    count: Annotated[int, at_least(1, 10_000)] = 40
    """Number of posed images."""
    size: Annotated[int, at_least(16, 8192)] = 256
    """Height and width of posed images in pixels."""
    up: UpAxis = "y"
    """The axis that points up in the .ply file that is written: y is usual for assets, z for nerfstudio."""

    def run(self) -> int:
        """Write what was asked for and say where it is."""
        from invert3d_ns.base.errors import InputError
        from invert3d_ns.scenes.assets import read_object
        from invert3d_ns.scenes.normalization import from_object_frame
        from invert3d_ns.scenes.ply import write_splats
        from invert3d_ns.scenes.posed_images import write_posed_images
        from invert3d_ns.scenes.runs import read_run

        if self.out is None and self.posed_images is None:
            raise InputError("nothing to write; give --out splats.ply or --posed-images FOLDER")
        if self.out is not None:
            check_file(self.out, ".ply")
        if self.posed_images is not None:
            check_folder(self.posed_images, "--posed-images")
        if self.source.suffix.lower() == ".ply":
            cloud, _ = read_object(self.source)
        else:
            cloud = read_run(self.source)
        if self.out is not None:
            write_splats(self.out, from_object_frame(cloud, self.up), up=self.up)
            print(f"{len(cloud)} splats: {self.out}")
        if self.posed_images is not None:
            write_posed_images(cloud, self.posed_images, self.count, self.size)
            print(f"{self.count} posed images: {self.posed_images}")
        return 0
