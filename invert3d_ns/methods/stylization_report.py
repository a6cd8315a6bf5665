"""What a run of styles leaves behind: a picture, figures, each style's splats, commands that come next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.markup import escape
from torch import Tensor

from invert3d_ns.base.commandline import quoted_command
from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.pictures import tile
from invert3d_ns.base.provenance import provenance
from invert3d_ns.runs.report import print_lines, write_metrics

if TYPE_CHECKING:
    from invert3d_ns.alignment.clip import ClipTowers
    from invert3d_ns.alignment.style_words import StyleWords
    from invert3d_ns.methods.stylization import StylizationPipeline
    from invert3d_ns.methods.stylization_joint import JointPipeline
    from invert3d_ns.runs.phase import Run
    from invert3d_ns.scenes.cloud import SplatCloud

PICTURE = "The scene, and its styles below (a row each)"
"""What a run's events call the last picture."""
JOINT_PICTURE = "The photographs, and the scene below"
"""The same of a joint fit."""
STYLES = "styles"
"""The folder of splat files in a run's folder: splat i is the same in each."""
GEOMETRY = ("means", "scales", "quats", "opacities")
"""What stays to the bit unless it is set free."""
_VIEWS, _PIXELS = 6, 160


@dataclass
class StyleOutputs:
    """Files that a finished run wrote."""

    views: Path
    """The scene (or its photographs) and its styles, a row each."""
    styles: list[Path]
    """The splats of each, the scene as it was first."""
    metrics: Path
    """Figures, as JSON."""
    figures: dict[str, Any]
    """The content of :attr:`metrics`."""
    picture: UInt8[np.ndarray, "H W 3"]
    """The content of :attr:`views`."""


def write_outputs(pipeline: StylizationPipeline, run: Run) -> StyleOutputs:
    """Write ``views.png``, ``metrics.json`` and the splats of every style, each complete or not at all.

    Raises:
        InputError: a file cannot be written.
    """
    from invert3d_ns.alignment.checkpoints import load_clip

    views = pipeline.style_views(run.seed)
    judge = load_clip("bundled", views.source.means.device)
    total = len(views.groups[0])
    rows = torch.arange(_VIEWS) * max(total // _VIEWS, 1) % total
    objects = [pipeline.object_at(index) for index in range(len(pipeline.prompts))]
    with torch.no_grad():
        shown = [views.render(cloud, 0, rows)[0].clamp(0, 1) for cloud in objects]
    styles = {
        prompt: {
            **_measure(judge, pipeline.words_of(prompt), shown[0], after),
            "geometry_unchanged": same_geometry(cloud, objects[0]),
        }
        for prompt, after, cloud in zip(pipeline.prompts[1:], shown[1:], objects[1:], strict=True)
    }
    return _write(pipeline, run, shown, styles, pipeline.write_objects(run.folder / STYLES))


@torch.no_grad()
def write_joint_outputs(pipeline: JointPipeline, run: Run) -> StyleOutputs:
    """The same of a joint fit, with its photographs in place of the scene as it was, and how near it is to them.

    Raises:
        InputError: a file cannot be written.
    """
    from invert3d_ns.alignment.checkpoints import load_clip
    from invert3d_ns.base.metrics import psnr

    data: Any = pipeline.datamanager
    dataset = data.train_dataset
    model: Any = pipeline.model
    model.eval()
    count = len(dataset)
    photographs, drawn = [], []
    for index in range(0, count, max(count // _VIEWS, 1))[:_VIEWS]:
        camera = dataset.cameras[index : index + 1].to(pipeline.device)
        drawn.append(model.get_outputs(camera)["rgb"].permute(2, 0, 1)[:3])
        photographs.append(dataset[index]["image"].permute(2, 0, 1)[:3].float().to(pipeline.device))
    size = min(min(image.shape[1:]) for image in photographs)
    before, after = (
        torch.stack([torch.nn.functional.interpolate(image[None], (size, size))[0] for image in images])
        for images in (photographs, drawn)
    )
    (prompt,) = pipeline.prompts
    after = after.clamp(0, 1)
    found = {
        **_measure(load_clip("bundled", before.device), pipeline.words_of(prompt), before, after),
        "psnr_to_images": round(psnr(after, before), 2),
    }
    files = pipeline.write_objects(run.folder / STYLES)
    return _write(pipeline, run, [before, after], {prompt: found}, files)


def same_geometry(cloud: SplatCloud, other: SplatCloud) -> bool:
    """Whether two clouds differ in nothing but colors, to the bit."""
    return all(torch.equal(getattr(cloud, name), getattr(other, name)) for name in GEOMETRY)


@torch.no_grad()
def _measure(
    judge: ClipTowers, words: StyleWords, before: Float[Tensor, "F 3 H W"], after: Float[Tensor, "F 3 H W"]
) -> dict[str, Any]:
    """How near a style came to its words, in the eyes of a tower that is not followed unless it was asked for."""
    from invert3d_ns.alignment.style_words import encode_words

    asked, source = encode_words(judge, words)
    was, became = judge.encode_image(before), judge.encode_image(after)
    way = torch.nn.functional.cosine_similarity(became - was, (asked - source)[None], dim=-1)
    return {
        "clip_similarity": round(float((became @ asked).mean()), 4),
        "clip_similarity_before": round(float((was @ asked).mean()), 4),
        "clip_directional": round(float(way.mean()), 4),
        "color_change": round(float((after - before).abs().mean()), 4),
    }


def _write(
    pipeline: StylizationPipeline, run: Run, shown: list[Tensor], styles: dict[str, Any], files: list[Path]
) -> StyleOutputs:
    from PIL import Image

    picture = tile(torch.cat(shown), len(shown[0]), least=_PIXELS)
    views_path = run.folder / "views.png"
    with atomic_path(views_path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
    document = {
        "prompts": list(styles),
        "noun": pipeline.noun(),
        "styles": styles,
        "splats": pipeline.model.num_points,
        "towers": list(pipeline.config.towers),
        "seconds": {name: round(value, 2) for name, value in run.seconds.items()},
        "steps": {phase.name: phase.steps for phase in pipeline.phases},
        "seed": run.seed,
        **provenance(str(pipeline.device)),
    }
    return StyleOutputs(views_path, files, write_metrics(run.folder, document), document, picture)


def announce(outputs: StyleOutputs) -> None:
    """Say where the files are, and how near each style came to its words, in the eyes of a tower that was not asked."""
    figures = outputs.figures
    print_lines("")
    for prompt, found in figures["styles"].items():
        print_lines(
            f"[bold green]{escape(repr(prompt))}[/bold green]  CLIP similarity {found['clip_similarity_before']:.2f}"
            f" -> {found['clip_similarity']:.2f}, direction {found['clip_directional']:.2f}"
        )
    print_lines(
        f"  {figures['splats']} splats, seen as {figures['noun']}",
        f"  picture    {escape(str(outputs.views))}   (the scene, and a row for each style)",
        f"  styles     {escape(str(outputs.styles[0].parent))}   (a .ply each, splats in the same order)",
        f"  metrics    {escape(str(outputs.metrics))}",
    )


def next_commands(outputs: StyleOutputs, folder: Path) -> Sequence[str]:
    """Commands that come next, ready to be pasted."""
    return (
        quoted_command("ns-viewer", "--load-config", folder / "config.yml"),
        quoted_command("ns-train", "clip-splat", "--data", folder, "--prompt", "at night"),
        quoted_command("invert3d", "export", folder, "--out", folder / "style.ply"),
    )
