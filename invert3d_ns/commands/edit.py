"""``invert3d edit``: views of an inverted object under an edit, beside those of its scene."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from invert3d_ns.base.outputs import check_file
from invert3d_ns.commands.console import progress_bar
from invert3d_ns.commands.options import EmbeddingPrior, OrbitOptions
from invert3d_ns.editing.options import EditOptions
from invert3d_ns.scenes.axes import UpAxis

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from invert3d_ns.editing.change import EditChange
    from invert3d_ns.editing.edit import Edit
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.scenes.cloud import SplatCloud
    from invert3d_ns.words.embedding import ObjectEmbedding

_COLUMNS = 4


@dataclass
class EditViews(EmbeddingPrior, OrbitOptions):
    """Generate views of an inverted object under an edit, as a PNG grid. To change the splats themselves, use ns-train
    invert3d-edit.
    """

    embedding: tyro.conf.Positional[Path]
    """The run that learned the words (its folder or config.yml), whose splats are the scene then, or an
    embedding.safetensors."""
    prompt: str | None = None
    """What to change: "in van gogh style", "blue instead of red", or a whole prompt such as "a photo of <object> on a
    table"."""
    options: Annotated[EditOptions, tyro.conf.arg(name="")] = field(default_factory=EditOptions)
    """More about what to change, and where; a region needs a scene."""
    scene: Path | None = None
    """The object's splats: a run (its folder or config.yml) or a splat file. Views then keep its structure, and are
    shown below its own. Without, they are made from noise."""
    up: Literal["auto"] | UpAxis = "auto"
    """The axis that points up in a splat file. auto: what the file says, else y."""
    save_edits: Path | None = None
    """Write the edits to this file (.json), which --edits carries out again."""
    out: Path | None = None
    """The PNG file to write. Default: edited.png in a folder `generated` beside the embedding."""

    def run(self) -> int:
        """Generate, write the files, and say what was done and where they are."""
        from invert3d_ns.base.pictures import write_grid
        from invert3d_ns.editing.composition import with_context
        from invert3d_ns.editing.edit import save_edits
        from invert3d_ns.editing.reading import warn_unknown
        from invert3d_ns.editing.sources import check_requested, find_words, own_prior, read_scene, scene_edits
        from invert3d_ns.prior.checkpoints import load_prior
        from invert3d_ns.scenes.runs import is_run
        from invert3d_ns.words.embedding import ObjectEmbedding

        self._check()
        file = find_words(self.embedding)
        out = self.out or file.parent / "generated" / "edited.png"
        check_file(out, ".png")
        embedding = ObjectEmbedding.load(file)
        requested = self.options.requested_edits(self.prompt, embedding)
        check_requested(requested)
        scene = self._scene(file)
        _check_regions(requested, scene)
        before = scene_edits(scene, embedding)
        splats = None if scene is None else read_scene(scene, self.up)  # before the prior, which may take minutes
        prior = load_prior(self.prior or own_prior(file, embedding), options=self.prior_options)
        embedding.check_prior(prior)
        warn_unknown(requested, prior.info)
        edits, applied = with_context(before, requested)
        originals = masks = None
        if splats is not None:
            check = self.scene is not None and not before  # edited scenes are no more what their words say
            originals, masks = self._originals(splats, edits[-1], prior, embedding, check=check)
        started = time.perf_counter()
        edited = self._edited(prior, embedding, edits, originals, masks, applied)
        seconds = time.perf_counter() - started
        write_grid(out, _rows(originals, edited), columns=min(_COLUMNS, len(edited)))
        for edit in before:
            print(f"before   {edit.label}")
        for edit in requested:
            print(f"edit     {describe_edit(edit)}")
        if originals is not None:
            print(f"change   {_change(originals.cpu(), edited, masks).sentence('--')}")
        elif is_run(file.parent):
            print(f"scene    none, all is made from noise; give {file.parent} instead to see the run's scene edited")
        above = "" if originals is None else ", the scene's own above the edited ones"
        print(f"picture  {out}   ({len(edited)} views in {seconds:.1f} s{above})")
        if self.save_edits is not None:
            save_edits([*before, *requested], self.save_edits, embedding)
            print(f"edits    {self.save_edits}")
        return 0

    def _scene(self, words: Path) -> Path | None:
        """The scene to edit: what --scene says, else the run that is given, or splats beside a photograph's words."""
        from invert3d_ns.scenes.runs import is_run

        if self.scene is not None or self.embedding == words:
            return self.scene
        splats = words.with_name("splats.ply")
        return self.embedding if is_run(self.embedding) else splats if splats.is_file() else None

    def _check(self) -> None:
        self.check_orbit()
        if self.out is not None:
            check_file(self.out, ".png")
        if self.save_edits is not None:
            check_file(self.save_edits, ".json", "--save-edits")

    def _originals(
        self, splats: SplatCloud, edit: Edit, prior: MultiViewPrior, embedding: ObjectEmbedding, check: bool
    ) -> tuple[Float[Tensor, "F 3 H W"], Float[Tensor, "F 1 H W"] | None]:
        """Views of the scene, or of the object that its region holds, and masks of where they may change."""
        from invert3d_ns.editing.framing import frame_object
        from invert3d_ns.scenes.cameras import orbit_camera_to_world

        framed = frame_object(splats, edit.region, prior, embedding, check_words=check, device=prior.device)
        poses = orbit_camera_to_world(*self.orbit_angles())
        return framed.render(poses), framed.masks(poses, keep_silhouette=edit.keep_silhouette)

    def _edited(
        self,
        prior: MultiViewPrior,
        embedding: ObjectEmbedding,
        edits: list[Edit],
        originals: Float[Tensor, "F 3 H W"] | None,
        masks: Float[Tensor, "F 1 H W"] | None,
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
                    masks=None if masks is None else masks[group][None],
                    applied=applied,
                    progress=lambda step, steps, done=done: show("editing", done * steps + step, len(groups) * steps),
                )[0]
                images.update(zip(group, views.cpu(), strict=True))
        return torch.stack([images[index] for index in range(len(cameras))])


def _check_regions(edits: list[Edit], scene: Path | None) -> None:
    from invert3d_ns.base.errors import InputError

    if scene is None and not all(edit.region.is_whole for edit in edits):
        raise InputError("a box or a relevance is found in a scene; give --scene, or leave the region out")
    if any(edit.region != edits[-1].region for edit in edits):
        raise InputError(
            "the edits are of several regions, which are not shown at once; carry them out one after another with "
            "ns-train invert3d-edit --pipeline.edit.edits"
        )


def _change(
    originals: Float[Tensor, "F 3 H W"], edited: Float[Tensor, "F 3 H W"], masks: Float[Tensor, "F 1 H W"] | None
) -> EditChange:
    """How much the views changed, where they could."""
    from invert3d_ns.editing.change import compare_views
    from invert3d_ns.editing.view_sets import silhouettes

    could = None if masks is None else masks.cpu() > 0.5
    return compare_views(originals, edited, silhouettes(originals), silhouettes(edited), could)


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
    parts, defaults = [edit.label], type(edit)().to_dict()
    for name, value in edit.to_dict().items():
        if name in ("prompt", "source", "target"):
            continue
        if name == "weights":
            parts += [f"{phrase}={factor:g}" for phrase, factor in value.items()]
        elif value != defaults[name]:
            shown = " ".join(f"{number:g}" for number in value) if name == "box" else value
            parts.append(f"{name.replace('_', ' ')} {shown}")
    return ", ".join(parts)
