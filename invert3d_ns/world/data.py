"""Data sets of the procedural world: rendered once, kept on disk, read through memory maps.

Their random streams are numpy's and torch's own of a plain seed, and stay so: they made the shipped weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from rich.progress import track
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world, random_orbit
from invert3d_ns.world.captions import full_description, varied_caption
from invert3d_ns.world.objects import WorldObject, sample_object
from invert3d_ns.world.rendering import render_objects
from invert3d_ns.world.shapes import CLASSES
from invert3d_ns.world.stores import open_store
from invert3d_ns.world.styles import apply_styles, style_coverage
from invert3d_ns.world.vocabulary import COLORS, PATTERNS, STYLES

CHUNK = 256
"""Objects drawn from one seed; a set of any size begins with the chunks of a smaller one."""
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
    """Index into CLASSES."""
    colors: Int[Tensor, " O"]
    """Index into COLORS."""
    patterns: Int[Tensor, " O"]
    """Index into PATTERNS."""
    styles: Int[Tensor, " O"]
    """Index into STYLES."""
    upright: Bool[Tensor, " O"]
    """Standing as usual, so that its azimuth can be told."""

    def __len__(self) -> int:
        return len(self.captions)

    def cameras(self) -> Float[Tensor, "O F 16"]:
        """MVDream's camera vectors."""
        return camera_condition(self.azimuths, self.elevations)

    def fingerprint(self) -> str:
        """Eight hexadecimal digits that differ between data sets: over words, cameras, sizes and the first views."""
        digest = hashlib.sha256(json.dumps([self.rgb.shape, self.captions, self.descriptions]).encode())
        for values in (self.azimuths, self.elevations, torch.from_numpy(np.array(self.rgb[:1]))):
            digest.update(values.contiguous().numpy().tobytes())
        return digest.hexdigest()[:8]

    def images(self, objects: Tensor | slice | list[int]) -> Float[Tensor, "B F 3 H W"]:
        """Views of some objects, RGB in [0, 1]."""
        return torch.from_numpy(np.array(self.rgb[objects])).permute(0, 1, 4, 2, 3).float() / 255

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
    azimuths, elevations = sample_orbits(len(objects), views, seed)
    renders = render_objects(objects, orbit_camera_to_world(azimuths, elevations), size)
    styles = [o.style for o in objects]
    rgb = apply_styles(renders, styles, [seed * CHUNK + i for i in range(len(objects))])
    return rgb, style_coverage(renders.alpha, styles), azimuths, elevations


def world_views(
    folder: Path,
    count: int,
    *,
    seed: int = 0,
    size: int = 64,
    views: int = 4,
    split: str = "train",
    plain: bool = False,
) -> WorldViews:
    """Read a set of captioned views from ``folder``; the first call renders it (about 200 views a second and core).

    A rendering that was stopped goes on from its last finished chunk.
    """
    stem = f"world-{split}{'-plain' if plain else ''}-{seed}-{count}x{views}x{size}"
    done = folder / f"{stem}.json"
    if not done.exists():
        _render_chunks(folder / stem, count, seed, size, views, split, plain)
        table: dict[str, list[Any]] = {}
        chunks = sorted((folder / stem).glob("*.json"))
        for chunk in chunks:
            for key, values in json.loads(chunk.read_text()).items():
                table.setdefault(key, []).extend(values)
        for kind, shape in (("rgb", (count, views, size, size, 3)), ("alpha", (count, views, size, size))):
            store, _ = open_store(folder / f"{stem}.{kind}.npy", np.uint8, shape)
            for index, chunk in enumerate(chunks):
                with np.load(chunk.with_suffix(".npz")) as arrays:
                    store[index * CHUNK : (index + 1) * CHUNK] = arrays[kind]
            store.flush()
        with atomic_path(done) as temporary:
            temporary.write_text(json.dumps(table))
        shutil.rmtree(folder / stem)
    table = json.loads(done.read_text())
    index = {
        key: torch.tensor([list(names).index(name) for name in table[key]])
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
        **index,
    )


def _read_store(path: Path, done: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is missing or damaged; delete {done} to render these views again") from error


def _render_chunks(folder: Path, count: int, seed: int, size: int, views: int, split: str, plain: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, start in enumerate(track(range(0, count, CHUNK), description=f"Rendering {count} objects")):
        path = folder / f"{index:05d}.json"
        if path.exists():
            continue
        rng = np.random.default_rng([seed, index])
        objects = [sample_object(rng, split=split, plain=plain) for _ in range(min(CHUNK, count - start))]
        rgb, alpha, azimuths, elevations = render_on_orbits(objects, seed * 1_000_003 + index, size, views)
        with atomic_path(path.with_suffix(".npz")) as temporary:
            np.savez(temporary, rgb=rgb, alpha=alpha)
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
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(table))
