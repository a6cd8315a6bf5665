"""``invert3d edit``: views of an inverted object under an edit, beside those of its scene."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from invert3d_ns.commands.console import progress_bar
from invert3d_ns.commands.options import EmbeddingPrior, OrbitOptions
from invert3d_ns.editing.options import EditOptions
from invert3d_ns.scenes.axes import UpAxis

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from invert3d_ns.editing.edit import Edit
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.words.embedding import ObjectEmbedding

_COLUMNS = 4


@dataclass
class EditViews(EmbeddingPrior, OrbitOptions):
    """Generate views of an inverted object under an edit, as a PNG grid. To change the splats themselves, use ns-train
    invert3d-edit.
    """

    embedding: tyro.conf.Positional[Path]
    """The object's words: an embedding.safetensors, or the run that learned it, whose splats are the scene then."""
    prompt: str | None = None
    """What to change: "in van gogh style", "blue instead of red", or a whole prompt such as "a photo of <object> on a
    table"."""
    options: Annotated[EditOptions, tyro.conf.arg(name="")] = field(default_factory=EditOptions)
    """More about what to change."""
    scene: Path | None = None
    """The object's splats: a run (its folder or config.yml) or a .ply file. Views then keep its structure, and are
    shown below its own. Without, they are made from noise."""
    up: Literal["auto"] | UpAxis = "auto"
    """The axis that points up in a .ply file. auto: what the file says, else y."""
    save_edits: Path | None = None
    """Write the edits to this file (.json), which --edits carries out again."""
    out: Path | None = None
    """The PNG file to write. Default: edited.png in a folder `generated` beside the embedding."""

    def run(self) -> int:
        """Generate, write the files, and say what was done and where they are."""
        from invert3d_ns.base.pictures import write_grid
        from invert3d_ns.editing.edit import save_edits
        from invert3d_ns.editing.sources import check_wanted, find_words, own_prior, scene_edits
        from invert3d_ns.prior.memory import load_with_options
        from invert3d_ns.words.embedding import ObjectEmbedding

        self._check()
        file = find_words(self.embedding)
        embedding = ObjectEmbedding.load(file)
        wanted = self.options.wanted(self.prompt, embedding)
        check_wanted(wanted)
        scene = self.scene if self.scene is not None or self.embedding == file else self.embedding
        before = scene_edits(scene, embedding)
        prior = load_with_options(self.prior or own_prior(file, embedding), self.prior_options)
        embedding.check_prior(prior)
        originals = None if scene is None else self._originals(scene, prior, embedding, checked=bool(before))
        started = time.perf_counter()
        edited = self._edited(prior, embedding, [*before, *wanted], originals, applied=len(before))
        seconds = time.perf_counter() - started
        out = self.out or file.parent / "generated" / "edited.png"
        write_grid(out, _rows(originals, edited), columns=min(_COLUMNS, len(edited)))
        for edit in before:
            print(f"before   {edit.label}")
        for edit in wanted:
            print(f"edit     {describe_edit(edit)}")
        above = "" if originals is None else ", the scene's own above the edited ones"
        print(f"picture  {out}   ({len(edited)} views in {seconds:.1f} s{above})")
        if self.save_edits is not None:
            save_edits([*before, *wanted], self.save_edits, embedding)
            print(f"edits    {self.save_edits}")
        return 0

    def _check(self) -> None:
        from invert3d_ns.base.errors import InputError

        self.check_orbit()
        if self.out is not None and self.out.suffix.lower() != ".png":
            raise InputError(f"{self.out} does not end in .png; give --out a name that does")

    def _originals(
        self, scene: Path, prior: MultiViewPrior, embedding: ObjectEmbedding, checked: bool
    ) -> Float[Tensor, "F 3 H W"]:
        """The scene's own views; ``checked`` scenes are under edits, which its words do not say."""
        import torch

        from invert3d_ns.editing.sources import check_same_object, read_scene
        from invert3d_ns.scenes.cameras import orbit_camera_to_world
        from invert3d_ns.scenes.fitting import render_splats

        splats = read_scene(scene, self.up)
        if self.scene is not None and not checked:
            check_same_object(prior, embedding, splats)
        poses = orbit_camera_to_world(*self.orbit_angles())
        with torch.no_grad():
            images, _ = render_splats(splats.to(prior.device), poses, prior.info.image_size, supersampling=2)
        return images.clamp(0, 1)

    def _edited(
        self,
        prior: MultiViewPrior,
        embedding: ObjectEmbedding,
        edits: list[Edit],
        originals: Float[Tensor, "F 3 H W"] | None,
        applied: int,
    ) -> Float[Tensor, "F 3 H W"]:
        import torch

        from invert3d_ns.editing.views import edited_views
        from invert3d_ns.scenes.cameras import camera_condition
        from invert3d_ns.words.views import view_groups

        cameras = camera_condition(*self.orbit_angles())
        groups = view_groups(len(cameras), self.joint_views or prior.info.num_views)
        images: dict[int, Tensor] = {}
        with progress_bar() as show:
            for done, group in enumerate(groups):
                views = edited_views(
                    prior,
                    embedding,
                    edits,
                    cameras[group][None],
                    originals=None if originals is None else originals[group][None],
                    applied=applied,
                    progress=lambda step, steps, done=done: show("editing", done * steps + step, len(groups) * steps),
                )[0]
                images.update(zip(group, views.cpu(), strict=True))
        return torch.stack([images[index] for index in range(len(cameras))])


def _rows(originals: Float[Tensor, "F 3 H W"] | None, edited: Float[Tensor, "F 3 H W"]) -> Float[Tensor, "G 3 H W"]:
    """Edited views, each row of them below the originals of the same cameras."""
    import torch

    if originals is None:
        return edited
    rows = []
    for first in range(0, len(edited), _COLUMNS):
        for images in (originals.cpu(), edited):
            row = images[first : first + _COLUMNS]
            rows += [row, torch.ones(min(_COLUMNS, len(edited)) - len(row), *row.shape[1:])]
    return torch.cat(rows)


def describe_edit(edit: Edit) -> str:
    """An edit on one line: its label, and every setting that was chosen."""
    from dataclasses import fields

    parts = [edit.label]
    for entry in fields(edit):
        value = getattr(edit, entry.name)
        if entry.name in ("prompt", "source", "target"):
            continue
        if entry.name == "weights":
            parts += [f"{phrase}={factor:g}" for phrase, factor in value.items()]
        elif value != entry.default:
            parts.append(f"{entry.name.replace('_', ' ')} {value}")
    return ", ".join(parts)
