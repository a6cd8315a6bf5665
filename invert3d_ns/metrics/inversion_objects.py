"""Objects that inversions are measured on: none of them was in any training set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from invert3d_ns.scenes.cloud import SplatCloud

Kind = Literal["class", "assembly", "asset"]
OBJECTS: dict[str, tuple[str, str]] = {
    "robot": ("green", "a green robot"),
    "rocket": ("red", "a red rocket"),
    "duck": ("yellow", "a yellow duck"),
    "cactus": ("purple", "a purple cactus"),
    "dumbbell": ("blue", "a blue dumbbell"),
}
"""Classes that no training render holds: main color, and the plain caption that z* has to beat."""
ASSEMBLIES = 20
"""Random assemblies that are measured if nothing else is asked for."""
_ASSEMBLY_SEED = 90_210
"""Training draws assemblies from streams of (1, chunk); these are of (this, number)."""


@dataclass(frozen=True)
class InversionObject:
    """An object to invert, and what can be said of it in plain words."""

    name: str
    kind: Kind
    caption: str
    cloud: SplatCloud


def unseen_object(name: str, seed: int = 5) -> SplatCloud:
    """Make splats of one of :data:`OBJECTS`, with a part or a pattern in a second color as the seed has it."""
    import numpy as np

    from invert3d_ns.world.objects import sample_object
    from invert3d_ns.world.splats import splats_of

    rng = np.random.default_rng(seed)
    return splats_of(sample_object(rng, name=name, color=OBJECTS[name][0], style="photo", upright=True))


def inversion_objects(
    names: Sequence[str] = tuple(OBJECTS), assemblies: int = 0, assets: Sequence[Path] = ()
) -> list[InversionObject]:
    """List objects of classes that no prior saw, held-out assemblies, and splats of files.

    Args:
        names: of :data:`OBJECTS`.
        assemblies: how many of the pinned ones.
        assets: splat files or runs.

    Raises:
        InputError: a file holds no splats.
    """
    import numpy as np

    from invert3d_ns.editing.sources import read_scene
    from invert3d_ns.world.assemblies import sample_assembly
    from invert3d_ns.world.captions import full_description
    from invert3d_ns.world.splats import splats_of

    found = [InversionObject(name, "class", OBJECTS[name][1], unseen_object(name)) for name in names]
    for number in range(assemblies):
        item = sample_assembly(np.random.default_rng([_ASSEMBLY_SEED, number]), style="photo")
        found.append(InversionObject(f"assembly {number}", "assembly", full_description(item), splats_of(item)))
    for path in assets:
        words = path.stem.replace("_", " ").replace("-", " ").lower()
        found.append(InversionObject(path.stem, "asset", f"a {words}", read_scene(path)))
    return found
