"""Data sets of the procedural world: rendered once, kept on disk, read through memory maps.

Their random streams are numpy's and torch's own of a plain seed, and stay so: they made the shipped weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from rich.progress import track
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world, random_orbit
from invert3d_ns.world.assemblies import sample_assembly
from invert3d_ns.world.captions import full_description, varied_caption
from invert3d_ns.world.changes import sample_changed
from invert3d_ns.world.objects import WorldObject, sample_object
from invert3d_ns.world.rendering import render_objects
from invert3d_ns.world.shapes import CLASSES
from invert3d_ns.world.stores import open_store
from invert3d_ns.world.styles import apply_styles, style_coverage
from invert3d_ns.world.vocabulary import COLORS, PATTERNS, STYLES

Kind = Literal["classes", "assemblies", "changes"]
"""What a set holds: objects that have a name, random assemblies, or both and what words make of them."""
CHUNK = 256
"""Objects drawn from one seed; a set of any size begins with the chunks of a smaller one."""
MANY = 4
"""Chunks, and threads, from which on chunks are rendered by processes beside each other."""
WORDINGS = 6
"""Captions of each object."""


@dataclass
class WorldViews:
    """Captioned views of many objects."""

    rgb: UInt8[np.ndarray, "O F H W 3"]
    """In each object's style, composited on white."""
    alpha: UInt8[np.ndarray, "O F H W"]
    """Coverage, in each object's style."""
    azimuths: Float[Tensor, "O F"]
    """Degrees."""
    elevations: Float[Tensor, "O F"]
    """Degrees."""
    captions: list[list[str]]
    """Several wordings for each object."""
    descriptions: list[str]
    """Everything that can be said of each object."""
    classes: Int[Tensor, " O"]
    """Index into CLASSES; -1 for an assembly."""
    colors: Int[Tensor, " O"]
    """Index into COLORS."""
    patterns: Int[Tensor, " O"]
    """Index into PATTERNS."""
    styles: Int[Tensor, " O"]
    """Index into STYLES."""
    upright: Bool[Tensor, " O"]
    """Standing as usual, so that its azimuth can be told."""
    photos: UInt8[np.ndarray, "S F H W 3"] | None = None
    """The S objects that look otherwise as photos, before their style or change, in order; None where they were not
    asked for."""
    changes: list[str] | None = None
    """In a set of changes, the words around "{}" that ask for each object as it is, not as a photo."""

    def __len__(self) -> int:
        return len(self.captions)

    def cameras(self) -> Float[Tensor, "O F 16"]:
        """MVDream's camera vectors."""
        return camera_condition(self.azimuths, self.elevations)

    def fingerprint(self) -> str:
        """Eight hexadecimal digits that differ between data sets: over words, cameras, sizes and the first views."""
        changes = [] if self.changes is None else [self.changes]
        digest = hashlib.sha256(json.dumps([self.rgb.shape, self.captions, self.descriptions, *changes]).encode())
        for values in (self.azimuths, self.elevations, torch.from_numpy(np.array(self.rgb[:1]))):
            digest.update(values.contiguous().numpy().tobytes())
        return digest.hexdigest()[:8]

    def images(self, objects: Tensor | slice | list[int]) -> Float[Tensor, "B F 3 H W"]:
        """Views of some objects, RGB in [0, 1]."""
        return torch.from_numpy(np.array(self.rgb[objects])).permute(0, 1, 4, 2, 3).float() / 255

    def have_photos(self) -> Bool[Tensor, " O"]:
        """Which objects look otherwise as photos: those in a style, and all of a set of changes."""
        return self.styles > 0 if self.changes is None else torch.ones(len(self), dtype=torch.bool)

    def photo_rows(self) -> Int[Tensor, " O"]:
        """Which of :attr:`photos` each object is that looks otherwise as a photo; means nothing for the others."""
        return self.have_photos().cumsum(0) - 1

    def photo_images(self, item: int) -> Float[Tensor, "F 3 H W"]:
        """Views of an object as a photo, whatever became of it."""
        if self.photos is None or not self.have_photos()[item]:
            return self.images([item])[0]
        return torch.from_numpy(np.array(self.photos[int(self.photo_rows()[item])])).permute(0, 3, 1, 2).float() / 255

    def masks(self, objects: Tensor | slice | list[int]) -> Float[Tensor, "B F 1 H W"]:
        """Coverage of some objects' views, in [0, 1]."""
        return torch.from_numpy(np.array(self.alpha[objects]))[:, :, None].float() / 255


def sample_orbits(objects: int, views: int, seed: int) -> tuple[Float[Tensor, "O F"], Float[Tensor, "O F"]]:
    """Draw azimuths and elevations in degrees: four evenly spaced views from one elevation, as MVDream was trained on.

    Of eight views, the odd ones are a second such orbit half way between, in every other object at a height of its
    own: any choice of views then makes a training example.
    """
    generator = torch.Generator().manual_seed(seed)
    azimuths, elevations = random_orbit(objects, views, generator=generator)
    if views == 8:
        _, others = random_orbit(objects, views, generator=generator)
        own = torch.rand(objects, 1, generator=generator) < 0.5
        elevations = torch.where(own & (torch.arange(views) % 2 == 1), others, elevations)
    return azimuths, elevations


def render_on_orbits(
    objects: list[WorldObject], seed: int, size: int, views: int = 4
) -> tuple[UInt8[np.ndarray, "O F H W 3"], UInt8[np.ndarray, "O F H W"], Float[Tensor, "O F"], Float[Tensor, "O F"]]:
    """Render objects, each in its style, from random orbits: RGB, coverage, azimuths and elevations in degrees."""
    rgb, alpha, azimuths, elevations, _ = _render_both(objects, seed, size, views)
    return rgb, alpha, azimuths, elevations


def _render_both(
    objects: list[WorldObject], seed: int, size: int, views: int, *, before: Sequence[WorldObject] = ()
) -> tuple[np.ndarray, np.ndarray, Tensor, Tensor, UInt8[np.ndarray, "S F H W 3"]]:
    """As :func:`render_on_orbits`, and the objects that are in a style, or what all were before, as photos."""
    azimuths, elevations = sample_orbits(len(objects), views, seed)
    poses = orbit_camera_to_world(azimuths, elevations)
    renders = render_objects(objects, poses, size)
    styles = [o.style for o in objects]
    rgb = apply_styles(renders, styles, [seed * CHUNK + i for i in range(len(objects))])
    photos = renders.rgb[[style != "photo" for style in styles]]
    if before:
        photos = render_objects(before, poses, size).rgb
    return rgb, style_coverage(renders.alpha, styles), azimuths, elevations, photos


def world_views(
    folder: Path,
    count: int,
    *,
    seed: int = 0,
    size: int = 64,
    views: int = 4,
    split: str = "train",
    plain: bool = False,
    kind: Kind = "classes",
    photos: bool = False,
) -> WorldViews:
    """Read a set of captioned views from ``folder``; the first call renders it (about 200 views a second and core).

    A rendering that was stopped goes on from its last finished chunk.

    Args:
        folder: for the files of all sets.
        count: number of objects.
        seed: of their choice; held-out assemblies are those of other seeds.
        size: pixels of the square views.
        views: of each object.
        split: see :func:`.objects.sample_object`; assemblies and changes have none.
        plain: see :func:`.objects.sample_object`; changes have none.
        kind: objects that have a name, random assemblies, or changes of both.
        photos: keep views before the style or the change, too; a set of changes always does.
    """
    photos |= kind == "changes"
    traits = f"{split}{'-plain' if plain else ''}{'-photos' if photos else ''}"
    stem = f"world-{traits if kind == 'classes' else f'{kind}-{traits}'}-{seed}-{count}x{views}x{size}"
    done = folder / f"{stem}.json"
    if not done.exists():
        _render_chunks(_Chunks(folder / stem, count, seed, size, views, split, plain, kind))
        table: dict[str, list[Any]] = {}
        chunks = sorted((folder / stem).glob("*.json"))
        for chunk in chunks:
            for key, values in json.loads(chunk.read_text()).items():
                table.setdefault(key, []).extend(values)
        styled = count if kind == "changes" else sum(style != "photo" for style in table["styles"])
        pictures = {"rgb": (count, views, size, size, 3), "alpha": (count, views, size, size)}
        if photos:
            pictures["photos"] = (styled, views, size, size, 3)
        for name, shape in pictures.items():
            store, _ = open_store(folder / f"{stem}.{name}.npy", np.uint8, shape)
            filled = 0
            for chunk in chunks:
                with np.load(chunk.with_suffix(".npz")) as arrays:
                    store[filled : filled + len(arrays[name])] = arrays[name]
                    filled += len(arrays[name])
            store.flush()
        with atomic_path(done) as temporary:
            temporary.write_text(json.dumps(table))
        shutil.rmtree(folder / stem)
    table = json.loads(done.read_text())
    index = {
        key: torch.tensor([list(names).index(name) if name in names else -1 for name in table[key]])
        for key, names in (("classes", CLASSES), ("colors", COLORS), ("patterns", PATTERNS), ("styles", STYLES))
    }
    return WorldViews(
        _read_store(folder / f"{stem}.rgb.npy", done),
        _read_store(folder / f"{stem}.alpha.npy", done),
        torch.tensor(table["azimuths"]),
        torch.tensor(table["elevations"]),
        table["captions"],
        table["descriptions"],
        upright=torch.tensor(table["upright"]),
        photos=_read_store(folder / f"{stem}.photos.npy", done) if photos else None,
        changes=table.get("changes"),
        **index,
    )


def _read_store(path: Path, done: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is missing or damaged; delete {done} to render these views again") from error


@dataclass(frozen=True)
class _Chunks:
    """A set that is rendered chunk by chunk; see :func:`world_views`."""

    folder: Path
    count: int
    seed: int
    size: int
    views: int
    split: str
    plain: bool
    kind: Kind

    def path(self, index: int) -> Path:
        """Where the words of a chunk are kept, and beside them its pictures; there when it is whole."""
        return self.folder / f"{index:05d}.json"

    def draw(self, rng: np.random.Generator) -> tuple[WorldObject, WorldObject | None, str]:
        """Draw an object, what it was before a change, if it was changed, and the words for the change."""
        if self.kind == "changes":
            before, after, words = sample_changed(rng)
            return after, before, words
        if self.kind == "assemblies":
            return sample_assembly(rng, style="photo" if self.plain else None), None, ""
        return sample_object(rng, split=self.split, plain=self.plain), None, ""

    def render(self, index: int) -> None:
        """Render a chunk to its files."""
        rng = np.random.default_rng([self.seed, index])
        drawn = [self.draw(rng) for _ in range(min(CHUNK, self.count - index * CHUNK))]
        objects, before = [one for one, _, _ in drawn], [old for _, old, _ in drawn if old is not None]
        rgb, alpha, azimuths, elevations, photos = _render_both(
            objects, self.seed * 1_000_003 + index, self.size, self.views, before=before
        )
        with atomic_path(self.path(index).with_suffix(".npz")) as temporary:
            np.savez(temporary, rgb=rgb, alpha=alpha, photos=photos)
        table = {
            "captions": [[varied_caption(o, rng) for _ in range(WORDINGS)] for o in objects],
            "descriptions": [full_description(o) for o in objects],
            "classes": [o.name for o in objects],
            "colors": [o.color for o in objects],
            "patterns": [o.pattern for o in objects],
            "styles": [o.style for o in objects],
            "upright": [o.pose == "upright" for o in objects],
            "azimuths": azimuths.tolist(),
            "elevations": elevations.tolist(),
        }
        if before:
            table["changes"] = [words for _, _, words in drawn]
        with atomic_path(self.path(index)) as temporary:
            temporary.write_text(json.dumps(table))

    def render_alone(self, index: int) -> None:
        """Render a chunk in one thread, beside other processes."""
        torch.set_num_threads(1)
        self.render(index)


def _render_chunks(chunks: _Chunks) -> None:
    chunks.folder.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(math.ceil(chunks.count / CHUNK)) if not chunks.path(index).exists()]
    description = f"Rendering {chunks.count} objects"
    workers = min(torch.get_num_threads(), len(missing))
    if workers < MANY:
        for index in track(missing, description=description):
            chunks.render(index)
        return
    # The renderer has threads of its own, but what surrounds it does not: many cores are kept busy by processes.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(chunks.render_alone, index) for index in missing]
        for future in track(as_completed(futures), description=description, total=len(futures)):
            future.result()
