"""Training sets of the procedural world: rendered once, kept on disk, read through memory maps."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.progress import track
from torch import Tensor

from invert3d_ns.prior.training.shapes import CLASSES
from invert3d_ns.prior.training.world import COLOURS, WorldObject, render, sample_object
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world, random_orbit

CHUNK = 256
"""Objects drawn from one seed; a set of any size begins with the chunks of a smaller one."""


@dataclass
class WorldViews:
    """Captioned views of many objects."""

    rgb: UInt8[np.ndarray, "O F H W 3"]
    """Composited on white."""
    azimuths: Float[Tensor, "O F"]
    """Degrees."""
    elevations: Float[Tensor, "O F"]
    """Degrees."""
    captions: list[list[str]]
    """Several wordings for each object."""
    classes: Float[Tensor, "O"]  # noqa: F821
    """Index into CLASSES."""
    colours: Float[Tensor, "O"]  # noqa: F821
    """Index into COLOURS."""

    def __len__(self) -> int:
        return len(self.captions)

    def cameras(self) -> Float[Tensor, "O F 16"]:
        """MVDream's camera vectors."""
        return camera_condition(self.azimuths, self.elevations)

    def images(self, objects: Tensor | slice | list[int]) -> Float[Tensor, "B F 3 H W"]:
        """Views of some objects, RGB in [0, 1]."""
        return torch.from_numpy(np.array(self.rgb[objects])).permute(0, 1, 4, 2, 3).float() / 255


def render_set(
    objects: list[WorldObject], seed: int, size: int, views: int = 4
) -> tuple[UInt8[np.ndarray, "O F H W 3"], Float[Tensor, "O F"], Float[Tensor, "O F"]]:
    """Views of objects from random orbits: RGB, azimuths and elevations in degrees."""
    azimuths, elevations = random_orbit(len(objects), views, generator=torch.Generator().manual_seed(seed))
    cameras = orbit_camera_to_world(azimuths, elevations)
    return render(objects, cameras, size).rgb, azimuths, elevations


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
    """A set of captioned views; rendered on the first call (about 100 objects a second on two cores), then read from
    ``folder``.
    """
    path = folder / f"world-{split}{'-plain' if plain else ''}-{seed}-{count}x{views}x{size}.npy"
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]

    def draw(index: int) -> tuple[list[WorldObject], np.random.Generator]:
        rng = np.random.default_rng([seed, index])
        return [sample_object(rng, split=split, plain=plain) for _ in chunks[index]], rng

    meta = path.with_suffix(".json")
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    fresh = not (path.exists() and meta.exists())
    store = np.lib.format.open_memmap(partial, "w+", np.uint8, (count, views, size, size, 3)) if fresh else None
    captions, classes, colours, azimuths, elevations = [], [], [], [], []
    if store is not None:
        with ThreadPoolExecutor(1) as ahead:
            pending = ahead.submit(draw, 0)
            for index, chunk in track(list(enumerate(chunks)), description=f"Rendering {count} objects"):
                objects, rng = pending.result()
                if index + 1 < len(chunks):
                    pending = ahead.submit(draw, index + 1)
                rgb, a, e = render_set(objects, seed * 1_000_003 + index, size, views)
                store[chunk.start : chunk.stop] = rgb
                azimuths += a.tolist()
                elevations += e.tolist()
                captions += [[o.caption(rng) for _ in range(4)] for o in objects]
                classes += [list(CLASSES).index(o.name) for o in objects]
                colours += [list(COLOURS).index(o.colour) for o in objects]
        store.flush()
        table = {
            "captions": captions,
            "classes": classes,
            "colours": colours,
            "azimuths": azimuths,
            "elevations": elevations,
        }
        meta.write_text(json.dumps(table))
        partial.replace(path)
    table = json.loads(meta.read_text())
    return WorldViews(
        np.load(path, mmap_mode="r"),
        torch.tensor(table["azimuths"]),
        torch.tensor(table["elevations"]),
        table["captions"],
        torch.tensor(table["classes"]),
        torch.tensor(table["colours"]),
    )
