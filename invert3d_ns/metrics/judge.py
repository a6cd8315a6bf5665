"""The judge: a small classifier of single views, independent of every loss and of every prior's training.

Own network, because no pretrained one may be assumed and its independence is the point: trained on true renders of
other seeds, another architecture (plain strided convolutions on pixels) than anything in the prior or in CLIP.
What it says of true renders is reported beside every figure that rests on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.files import atomic_path

WEIGHTS = Path(__file__).parent / "judge" / "judge.safetensors"
SIZE = 64
"""Pixels of the square views that are judged."""
WIDTHS = (32, 64, 96, 128)
"""Channels after each halving of the view."""
BINS = 24
"""Directions between which the azimuth is read."""
KINDS = ("classes", "colors", "patterns", "styles")
"""Attributes that are named, each by a word of the world; fields of a :class:`Judgment`."""
ASPECTS = ("class", "color", "pattern", "style", "azimuth")
"""What is graded, as tables name it: :data:`KINDS`, then the azimuth."""
TOLERANCE = 30.0
"""Degrees by which an azimuth may miss and be right."""


@dataclass(frozen=True)
class Judgment:
    """What B views show, or what they should show."""

    classes: Int[Tensor, " B"]
    """Index into CLASSES."""
    colors: Int[Tensor, " B"]
    """Index into COLORS; of the largest part."""
    patterns: Int[Tensor, " B"]
    """Index into PATTERNS."""
    styles: Int[Tensor, " B"]
    """Index into STYLES."""
    azimuths: Float[Tensor, " B"]
    """Degrees in [-180, 180); as what should be seen, NaN where nothing can be told from the object's side."""

    def right(self, truth: Judgment) -> dict[str, Float[Tensor, " B"]]:
        """For each of :data:`ASPECTS`: 1 where a view shows what ``truth`` says, else 0.

        NaN where that cannot be judged: the color in a style without colors, an azimuth that is NaN in ``truth``.
        """
        found = {kind: (getattr(self, kind) == getattr(truth, kind)).float() for kind in KINDS}
        found["colors"] = found["colors"].masked_fill(colorless()[truth.styles], torch.nan)
        off = (self.azimuths - truth.azimuths + 180) % 360 - 180
        found["azimuths"] = torch.where(off.isnan(), off, (off.abs() <= TOLERANCE).float())
        return dict(zip(ASPECTS, found.values(), strict=True))


def mean_shares(right: Mapping[str, Float[Tensor, " B"]]) -> dict[str, float]:
    """Share of right views among those that could be judged, of each aspect; NaN where there are none."""
    return {key: values.nanmean().item() for key, values in right.items()}


@lru_cache(maxsize=1)
def world_names() -> dict[str, tuple[str, ...]]:
    """The names that each of :data:`KINDS` has in the procedural world, in order."""
    from invert3d_ns.world.shapes import CLASSES
    from invert3d_ns.world.vocabulary import COLORS, PATTERNS, STYLES

    return dict(zip(KINDS, map(tuple, (CLASSES, COLORS, PATTERNS, STYLES)), strict=True))


class Described(Protocol):
    """What has attributes in words of the world: an object, or a prompt that asks for one."""

    @property
    def name(self) -> str:
        """Class."""
        ...

    @property
    def color(self) -> str:
        """Key of COLORS."""
        ...

    @property
    def pattern(self) -> str:
        """Key of PATTERNS."""
        ...

    @property
    def style(self) -> str:
        """Key of STYLES."""
        ...


def attribute_indices(items: Iterable[Described]) -> dict[str, Int[Tensor, " B"]]:
    """The attributes of objects, or those that prompts ask for, as indices into the names of each of :data:`KINDS`."""
    fields: dict[str, str] = dict(zip(KINDS, ("name", "color", "pattern", "style"), strict=True))
    items = list(items)
    return {
        kind: torch.tensor([names.index(getattr(item, fields[kind])) for item in items])
        for kind, names in world_names().items()
    }


@lru_cache(maxsize=1)
def colorless() -> Tensor:
    """For each style, whether it hides the object's color (bool)."""
    from invert3d_ns.world.vocabulary import COLORLESS

    return torch.tensor([style in COLORLESS for style in world_names()["styles"]])


@lru_cache(maxsize=1)
def fronted() -> Tensor:
    """For each class, whether it has a front (bool)."""
    from invert3d_ns.world.shapes import FRONTED

    return torch.tensor([name in FRONTED for name in world_names()["classes"]])


class Judge(nn.Module):
    """A classifier that names class, color, pattern and style of single views, and the azimuth they are seen from.

    Args:
        names: words of each of :data:`KINDS`; those of the world if not given.
        widths: channels after each of four halvings of the view.
    """

    def __init__(self, names: Mapping[str, Sequence[str]] | None = None, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.names = {kind: tuple(words) for kind, words in (names or world_names()).items()}
        self.widths = tuple(widths)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 4, 2, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, 1, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            )
            for before, after in pairwise((3, *widths))
        )
        inside = widths[-1] * (SIZE >> len(widths)) ** 2 + 2 * sum(widths[1:-1])
        self.hidden = nn.Sequential(nn.Dropout(0.15), nn.Linear(inside, 256), nn.ReLU())
        self.heads = nn.ModuleDict({kind: nn.Linear(256, len(self.names[kind])) for kind in KINDS})
        self.heads["azimuths"] = nn.Linear(256, BINS)

    def forward(self, images: Float[Tensor, "B 3 64 64"]) -> dict[str, Float[Tensor, "B _"]]:
        """Logits of each of :data:`KINDS`, and of the azimuth's :data:`BINS`, for views in [0, 1] on white."""
        hidden, found = images * 2 - 1, []
        for index, stage in enumerate(self.stages):
            hidden = stage(hidden)
            # Patterns and styles are textures, told by what occurs anywhere; classes and azimuths by what lies where.
            if 0 < index < len(self.stages) - 1:
                found += [hidden.mean((2, 3)), hidden.amax((2, 3))]
        hidden = self.hidden(torch.cat([hidden.flatten(1), *found], 1))
        return {kind: head(hidden) for kind, head in self.heads.items()}

    @torch.no_grad()
    def judge(self, images: Float[Tensor, "B 3 H W"], batch: int = 256) -> Judgment:
        """Classify views: RGB in [0, 1] on white, square, of any size and on any device.

        The azimuth is the mean direction of the likeliest bin and its two neighbors.
        """
        device = next(self.parameters()).device
        parts: list[dict[str, Tensor]] = []
        for some in images.split(batch):
            some = some.to(device).float()
            if some.shape[-1] != SIZE:
                some = nn.functional.interpolate(some, (SIZE, SIZE), mode="area")
            logits = self(some)
            parts.append({kind: logits[kind].argmax(1) for kind in KINDS} | {"azimuths": _azimuth(logits["azimuths"])})
        return Judgment(**{key: torch.cat([part[key] for part in parts]).cpu() for key in parts[0]})

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Judge:
        """Load the shipped judge.

        Raises:
            InputError: its weights are missing, damaged, or of another world or architecture than this version's.
        """
        from safetensors import SafetensorError, safe_open

        if not path.exists():
            raise InputError(
                f"the judge's weights {path.name} are missing; run `invert3d train judge` or reinstall the package"
            )
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(f"{path} is damaged ({error}); run `invert3d train judge` or reinstall") from error
        try:
            names = {kind: tuple(json.loads(metadata.get(kind, "[]"))) for kind in KINDS}
            widths = json.loads(metadata.get("widths", "[]"))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}); run `invert3d train judge` or reinstall") from error
        other = [kind for kind in KINDS if names[kind] != world_names()[kind]]
        if other:
            raise InputError(
                f"the judge {path.name} is of another world, with other {' and '.join(other)}; "
                "run `invert3d train judge` and use what it writes"
            )
        try:
            possible = isinstance(widths, list) and len(widths) == len(WIDTHS)
            if not possible or any(width not in range(1, 1025) for width in widths):
                raise ValueError(f"widths {widths}")
            judge = cls(names, widths)
            judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{path} is a judge of another architecture; run `invert3d train judge` again") from error
        return judge.eval()

    def save(self, path: Path) -> None:
        """Write the weights in half precision, with the names that they stand for."""
        from safetensors.torch import save_file

        state = {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        metadata = {kind: json.dumps(self.names[kind]) for kind in KINDS} | {"widths": json.dumps(self.widths)}
        with atomic_path(path) as temporary:
            save_file({k: v.cpu().contiguous() for k, v in state.items()}, temporary, metadata)


def _azimuth(logits: Float[Tensor, "B bins"]) -> Float[Tensor, " B"]:
    best = logits.argmax(1, keepdim=True)
    near = (best + torch.arange(-1, 2, device=logits.device)) % BINS
    weights = logits.gather(1, near).softmax(1)
    # Offsets from the likeliest bin, so that nothing is averaged across the half turn.
    degrees = (best[:, 0] + weights[:, 2] - weights[:, 0]) * (360 / BINS)
    return (degrees + 180) % 360 - 180
