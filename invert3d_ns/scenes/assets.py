"""One dataparser for every scene: nothing (the bundled demo), a splat file, a run of splats or of a radiance field, or
a folder of posed images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jaxtyping import Bool, Float
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.ranges import FINITE, at_least, check_numbers
from invert3d_ns.scenes.axes import UpAxis
from invert3d_ns.scenes.cameras import orbit_cameras
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.folders import FolderScene, find_layout, scene_metadata
from invert3d_ns.scenes.meshes.sampling import SPLATS
from invert3d_ns.scenes.normalization import rotation_about_z, to_object_frame, transform_splats, within_object
from invert3d_ns.scenes.placement import PlacedOutputs, Placement
from invert3d_ns.scenes.radiance_runs import is_radiance_run
from invert3d_ns.scenes.runs import NoSplats, is_run, read_moved_run, run_settings
from invert3d_ns.scenes.splat_files import LISTED, foreign_file, is_scene_file, read_splat_file, splat_stem

if TYPE_CHECKING:
    from invert3d_ns.scenes.radiance_scenes import RadianceScene

DEMO_SCENE = Path(__file__).parents[1] / "data" / "demo.ply"
"""The scene that is inverted when no data is given."""

_HELD_OUT = ("transforms_val.json", "transforms_test.json")
"""Lists that are read together with a transforms_train.json."""


@dataclass
class SceneDataParserConfig(DataParserConfig):
    """Reads any scene and brings it into the object frame: z up, centered, radius 0.9."""

    _target: type = field(default_factory=lambda: SceneDataParser)
    data: Path | None = None  # type: ignore[assignment]
    """A file of Gaussian splats (.ply, .compressed.ply, .spz, .splat, .ksplat, .sog), a mesh (.glb, .gltf, .obj, .stl,
    .off, .ply), a run whose splats are taken (its folder or config.yml), a run of a radiance field such as nerfacto's,
    to whose views splats are fitted, or a folder of posed images (transforms.json, Blender, COLMAP). Nothing: the
    bundled demo."""
    up: Literal["auto"] | UpAxis = "auto"
    """The axis that points up in a splat file or a mesh. auto: what the file says (nerfstudio's do), else y, as in
    generated assets (LGM, 3DGS, glTF). In folders the cameras tell what is up."""
    front: Annotated[float, FINITE] = 0.0
    """Azimuth in degrees at which the scene as read shows its front; it is turned to azimuth 0."""
    image_size: Annotated[int, at_least(32, 8192)] = 256
    """Size in pixels of the orbit images of splats and of radiance fields, and the largest height or width of images
    from a folder: larger ones shrink."""
    num_train_views: Annotated[int, at_least(1)] = 24
    """Number of orbit cameras that splats and radiance fields are seen by in training."""
    num_eval_views: Annotated[int, at_least(1)] = 8
    """Number of held-out orbit cameras of splats and radiance fields, in the order of a flight around the object."""
    mesh_splats: Annotated[int, at_least(100, 5_000_000)] = SPLATS
    """Number of splats that are spread over a mesh."""
    masks_are_objects: bool = True
    """Masks in a folder cut out the object, as alpha does. Otherwise masked pixels are only ignored, as nerfstudio
    does."""
    sphere: tuple[float, float, float, float] | None = None
    """Where the object is in a radiance field: X Y Z of a center and a RADIUS, in the frame of its run, which is that
    of the crop box in nerfstudio's viewer. Nothing else of the field is shown. None: around what is seen within the box
    of its scene."""


def read_object(path: Path | str, up: Literal["auto"] | UpAxis = "auto") -> tuple[SplatCloud, Float[Tensor, "4 4"]]:
    """Splats of a file, or made of a mesh, in the object frame, and the similarity that brought them there.

    Args:
        path: a splat file or mesh of any kind, or a folder with nothing but one.
        up: the axis of the file that points up; auto: what the file says, else y.

    Returns:
        The splats, and the transform of :func:`~invert3d_ns.scenes.normalization.to_object_frame`.

    Raises:
        InputError: there is no such file, or it holds something else; see
            :func:`~invert3d_ns.scenes.splat_files.read_splat_file` and
            :func:`~invert3d_ns.scenes.normalization.to_object_frame`.
    """
    cloud, transform, _ = _read_placed(_only_splats(Path(path)), up)
    return cloud, transform


def read_object_and_placement(
    path: Path | str, up: Literal["auto"] | UpAxis = "auto", mesh_splats: int = SPLATS
) -> tuple[SplatCloud, Placement]:
    """Splats of a run or a file in the object frame, and how they were moved there from the input.

    Args:
        path: a run (its folder or config.yml), or see :func:`read_object`.
        up: see :func:`read_object`.
        mesh_splats: number of splats that are spread over a mesh.

    Raises:
        InputError: see :func:`read_object` and :func:`~invert3d_ns.scenes.runs.read_run`.
    """
    path = Path(path)
    if is_run(path):
        cloud, transform = read_moved_run(path)
        return cloud, Placement.of_run(path).then(transform)
    cloud, transform, origin = _read_placed(_only_splats(path), up, mesh_splats)
    return cloud, Placement(transform.double(), origin)


def read_as_placed(path: Path | str) -> tuple[SplatCloud, UpAxis | None]:
    """Splats of a file, or of a folder with nothing but one, where they lie in it, and the axis that it says points up.

    Raises:
        InputError: see :func:`read_object`.
    """
    return read_splat_file(_only_splats(Path(path)))


def find_splat_file(path: Path) -> Path | None:
    """The splat file or mesh that a scene is: the file itself, or the only one in a folder without cameras; None for
    folders of posed images and folders without splats.

    Raises:
        InputError: it does not exist, is a file of another kind, or a folder with several such files.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; give a splat file, a mesh, a run or a folder of posed images")
    if not path.is_dir():
        if not is_scene_file(path):
            raise foreign_file(path)
        return path
    if find_layout(path) is not None:
        return None
    found = sorted(file for file in path.iterdir() if is_scene_file(file) and not file.name.startswith("."))
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:3]) + (", ..." if len(found) > 3 else "")
        raise InputError(
            f"{path} has {len(found)} files of splats or meshes ({names}) and no cameras; give one of them"
        )
    return found[0] if found else None


def _only_splats(path: Path) -> Path:
    found = find_splat_file(path)
    if found is not None:
        return found
    if find_layout(path) is None:
        raise InputError(
            f"{path} holds neither a run nor splats ({LISTED}) nor a mesh; give a folder that does, or a file"
        )
    raise InputError(
        f"{path} holds posed images and no splats; fit splats to them first (ns-train invert3d --data ...) and give "
        "the run"
    )


def _read_placed(
    file: Path, up: Literal["auto"] | UpAxis, mesh_splats: int = SPLATS
) -> tuple[SplatCloud, Float[Tensor, "4 4"], tuple[float, float, float]]:
    """Splats of a file in the object frame, the similarity that brought them there, and the origin before that."""
    cloud, declared = read_splat_file(file, mesh_splats)
    moved, transform = to_object_frame(cloud, (declared or "y") if up == "auto" else up)
    return moved, transform, cloud.origin


def _whole_scene(data: Path) -> Path:
    """The scene that a path is about: its folder if it is the list of that folder's images, else the path itself.

    Raises:
        InputError: it is a list of images, and not the one that is read of its folder.
    """
    if not (data.name.startswith("transforms") and data.suffix == ".json" and data.is_file()):
        return data
    layout = find_layout(data.parent)
    if layout is None:
        raise InputError(f"{data} is a list of images that is not read by this name; rename it to transforms.json")
    kind, source = layout
    if data.name != source.name and not (kind == "blender" and data.name in _HELD_OUT):
        raise InputError(
            f"{data} is not the list of images that is read of its folder, which is {source}; give that, or move"
            f" {data.name} as transforms.json into a folder of its own with its images"
        )
    return data.parent


def scene_name(data: Path | None) -> str:
    """What runs on a scene are called: the demo, the splat file, the folder, or what the run was called."""
    if data is None:
        return "demo"
    data = _whole_scene(data)
    name = run_settings(data).get("experiment_name") if is_run(data) else None
    if name:
        return str(name)
    return data.resolve().name if data.is_dir() else splat_stem(data.resolve())


def object_splats(cloud: SplatCloud) -> Bool[Tensor, " N"] | None:
    """The splats of an object-frame scene that lie in the object's sphere; None if that is (nearly) all of them."""
    within = within_object(cloud.means)
    return within if within.float().mean() < 0.99 else None


class SceneDataParser(DataParser):
    """See :class:`SceneDataParserConfig`.

    The outputs' metadata hold ``splats`` (a SplatCloud in the object frame, or None), ``field`` (a RadianceScene that
    draws the pictures, or None), ``background`` ("white"), ``has_alpha``,
    ``image_background`` (RGB that opaque images of a folder show around the object, or None), ``surroundings`` (True
    when images show more than the object), ``alpha_filenames`` (masks, or None), and for folders and fields
    ``points3D_xyz`` and ``points3D_rgb``.
    """

    config: SceneDataParserConfig

    def __init__(self, config: SceneDataParserConfig) -> None:
        super().__init__(config=config)
        self.config = config
        self.path = _whole_scene(Path(config.data)) if config.data is not None else DEMO_SCENE
        self._folder: FolderScene | None = None
        self._field: RadianceScene | None = None
        self._splats: tuple[str, SplatCloud, Placement] | None = None

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        check_numbers(self.config, "--pipeline.datamanager.dataparser.")
        if self._splats is None and self._folder is None and self._field is None:
            self._splats = self._read_splats()
        if self._splats is not None:
            outputs = self._from_splats(*self._splats, split)
            if is_run(self.path):
                outputs.metadata["surroundings"] = object_splats(outputs.metadata["splats"]) is not None
            return outputs
        if self._field is not None or is_run(self.path):
            return self._from_field(split)
        if self._folder is None:
            self._folder = FolderScene(
                self.path,
                image_size=self.config.image_size,
                front=self.config.front,
                masks_are_objects=self.config.masks_are_objects,
            )
        return self._folder.outputs(split)

    def _read_splats(self) -> tuple[str, SplatCloud, Placement] | None:
        """Name, splats and placement of a scene that is splats, read once for all splits; None if it is a folder of
        images, or a radiance field.
        """
        if is_run(self.path):
            try:
                return scene_name(self.path), *read_object_and_placement(self.path)
            except NoSplats:
                if is_radiance_run(self.path):
                    return None
                raise
        file = find_splat_file(self.path)
        if file is None:
            return None
        return splat_stem(file), *read_object_and_placement(file, self.config.up, self.config.mesh_splats)

    def _from_field(self, split: str) -> DataparserOutputs:
        from invert3d_ns.scenes.radiance_scenes import RadianceScene

        config = self.config
        if self._field is None:
            self._field = RadianceScene(self.path, sphere=config.sphere, front=config.front)
        count = config.num_train_views if split == "train" else config.num_eval_views
        return self._field.outputs(split, scene_name(self.path), count, config.image_size)

    def _from_splats(self, name: str, cloud: SplatCloud, placement: Placement, split: str) -> DataparserOutputs:
        from invert3d_ns.scenes.posed_images import rising_orbit, spread_orbit

        if self.config.front:
            to_front = rotation_about_z(-self.config.front)
            cloud, placement = transform_splats(cloud, to_front), placement.then(to_front)
        count = self.config.num_train_views if split == "train" else self.config.num_eval_views
        azimuths, elevations = spread_orbit(count) if split == "train" else rising_orbit(count)
        return PlacedOutputs(
            # No such files exist: the dataset renders the splats, and nerfstudio's commands name their outputs after
            # these.
            image_filenames=[Path(name) / f"{split}_{index:04d}.png" for index in range(count)],
            cameras=orbit_cameras(azimuths, elevations, self.config.image_size),
            metadata=scene_metadata(splats=cloud, has_alpha=True),
            dataparser_transform=placement.unscaled.float(),
            dataparser_scale=placement.scale,
            placement=placement,
        )
