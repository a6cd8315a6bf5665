"""Render the judge's training set: every style and pattern equally often, as in the prompts of evaluations."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.progress import track
from torch import Tensor

from invert3d_ns.base.files import atomic_path
from invert3d_ns.world.data import CHUNK, render_on_orbits
from invert3d_ns.world.objects import WorldObject, sample_object

if TYPE_CHECKING:
    from invert3d_ns.metrics.judge import Judgment

VIEWS = 2
"""Views of each object: another object teaches more than another view."""
PLAIN_SHARE = 0.5
"""Share of objects without parts, materials, sizes and poses of their own."""


@dataclass
class JudgedViews:
    """V single views and what they show."""

    rgb: UInt8[np.ndarray, "V H W 3"]
    """In each object's style, composited on white."""
    truth: Judgment
    """Azimuths are NaN where nothing can be told from the object's side."""

    def __len__(self) -> int:
        return len(self.rgb)

    def fingerprint(self) -> str:
        """Eight hexadecimal digits that differ between data sets: over sizes, what is seen and the first view."""
        digest = hashlib.sha256(json.dumps(self.rgb.shape).encode() + self.rgb[:1].tobytes())
        for values in (getattr(self.truth, field.name) for field in fields(self.truth)):
            digest.update(values.contiguous().numpy().tobytes())
        return digest.hexdigest()[:8]

    def images(self, views: Tensor | slice) -> Float[Tensor, "B 3 H W"]:
        """Some views, RGB in [0, 1]."""
        return torch.from_numpy(self.rgb[views]).permute(0, 3, 1, 2).float() / 255


def judged_views(folder: Path, objects: int, *, seed: int, size: int = 64) -> JudgedViews:
    """Read :data:`VIEWS` views of each of many objects, of held-out combinations too, from ``folder``.

    The first call renders them; it goes on where an earlier one was stopped.
    """
    from invert3d_ns.metrics.judge import KINDS, Judgment

    chunks: list[Path] = []
    for index in track(range(-(-objects // CHUNK)), description=f"Views of {objects} objects"):
        count = min(CHUNK, objects - index * CHUNK)
        chunks.append(folder / f"judge-{seed}-{size}" / f"{index:05d}-{count}.npz")
        if not chunks[-1].exists():
            with atomic_path(chunks[-1]) as temporary, temporary.open("wb") as file:
                np.savez(file, **_chunk(count, seed, index, size))  # type: ignore[arg-type]
    arrays: dict[str, list[np.ndarray]] = {}
    for chunk in chunks:
        with np.load(chunk) as content:
            for key in content.files:
                arrays.setdefault(key, []).append(content[key])
    joined = {key: np.concatenate(parts) for key, parts in arrays.items()}
    labels = {key: torch.from_numpy(joined[key]) for key in (*KINDS, "azimuths")}
    return JudgedViews(joined["rgb"], Judgment(**labels))


def _chunk(count: int, seed: int, index: int, size: int) -> dict[str, np.ndarray]:
    from invert3d_ns.metrics.judge import attribute_indices, fronted

    rng = np.random.default_rng([seed, index])
    objects = [_draw(rng) for _ in range(count)]
    rgb, _, azimuths, _ = render_on_orbits(objects, seed * 1_000_003 + index, size, VIEWS)
    found = {kind: np.repeat(values.numpy(), VIEWS) for kind, values in attribute_indices(objects).items()}
    told = np.repeat([o.pose == "upright" for o in objects], VIEWS) & fronted().numpy()[found["classes"]]
    degrees = (azimuths.flatten().numpy() + 180) % 360 - 180
    return found | {"rgb": rgb.reshape(-1, *rgb.shape[2:]), "azimuths": np.where(told, degrees, np.nan).astype("f4")}


def _draw(rng: np.random.Generator) -> WorldObject:
    from invert3d_ns.metrics.judge import world_names

    names = world_names()
    while True:
        style, pattern, color = (names[k][rng.integers(len(names[k]))] for k in ("styles", "patterns", "colors"))
        # White checks on red and red checks on white are one thing.
        if pattern != "checkered" or color not in ("white", "black"):
            plain = bool(rng.random() < PLAIN_SHARE)
            return sample_object(rng, color=color, pattern=pattern, style=style, plain=plain, split="any")
