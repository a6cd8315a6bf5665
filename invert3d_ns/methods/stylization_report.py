"""What a run of styles leaves behind: a picture, figures, each style's splats, commands that come next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from rich.markup import escape

from invert3d_ns.base.commandline import quoted_command
from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.pictures import tile
from invert3d_ns.base.provenance import provenance
from invert3d_ns.runs.report import print_lines, write_metrics
from invert3d_ns.scenes.run_objects import object_file

if TYPE_CHECKING:
    from invert3d_ns.methods.stylization import StylizationPipeline
    from invert3d_ns.runs.phase import Run

PICTURE = "The scene, and its styles below (a row each)"
"""What a run's events call the last picture."""
STYLES = "styles"
"""The folder of splat files in a run's folder: splat i is the same in each."""
_VIEWS, _PIXELS = 6, 160


@dataclass
class StyleOutputs:
    """Files that a finished run wrote."""

    views: Path
    """The scene and its styles, a row each."""
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
    from PIL import Image

    from invert3d_ns.alignment.checkpoints import load_clip
    from invert3d_ns.alignment.style_words import encode_words

    views = pipeline.style_views(run.seed)
    total = len(views.groups[0])
    rows = torch.arange(_VIEWS) * max(total // _VIEWS, 1) % total
    objects = [pipeline.object_at(index) for index in range(len(pipeline.prompts))]
    with torch.no_grad():
        shown = [views.render(cloud, 0, rows)[0].clamp(0, 1) for cloud in objects]
    picture = tile(torch.cat(shown), _VIEWS, least=_PIXELS)
    views_path = run.folder / "views.png"
    with atomic_path(views_path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
    judge = load_clip("bundled", views.source.means.device)
    before = judge.encode_image(shown[0])
    styles = {}
    for index, prompt in enumerate(pipeline.prompts[1:], 1):
        asked, source = encode_words(judge, pipeline.words_of(prompt))
        after = judge.encode_image(shown[index])
        way = torch.nn.functional.cosine_similarity(after - before, (asked - source)[None], dim=-1)
        geometry = all(torch.equal(getattr(objects[index], name), getattr(objects[0], name)) for name in _GEOMETRY)
        styles[prompt] = {
            "clip_similarity": round(float((after @ asked).mean()), 4),
            "clip_similarity_before": round(float((before @ asked).mean()), 4),
            "clip_directional": round(float(way.mean()), 4),
            "color_change": round(float((shown[index] - shown[0]).abs().mean()), 4),
            "geometry_unchanged": geometry,
        }
    document = {
        "prompts": list(pipeline.prompts[1:]),
        "noun": pipeline.noun(),
        "styles": styles,
        "splats": len(objects[0]),
        "towers": list(pipeline.config.towers),
        "seconds": {name: round(value, 2) for name, value in run.seconds.items()},
        "steps": {phase.name: phase.steps for phase in pipeline.phases},
        "seed": run.seed,
        **provenance(str(pipeline.device)),
    }
    files = write_styles(pipeline, run.folder / STYLES)
    return StyleOutputs(views_path, files, write_metrics(run.folder, document), document, picture)


_GEOMETRY = ("means", "scales", "quats", "opacities")


def write_styles(pipeline: StylizationPipeline, folder: Path) -> list[Path]:
    """Write the splats of the scene as it was and of every style, in one order.

    Raises:
        InputError: a file cannot be written.
    """
    from invert3d_ns.scenes.ply import write_splats

    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for index, prompt in enumerate(pipeline.prompts):
        found.append(folder / object_file(index + 1, prompt))
        write_splats(found[-1], pipeline.object_at(index).to("cpu"), up="z")
    return found


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
