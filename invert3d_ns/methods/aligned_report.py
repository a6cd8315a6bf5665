"""What a run of aligned objects leaves behind: a picture, figures, each object's splats, commands that come next."""

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
from invert3d_ns.base.metrics import silhouette_overlap
from invert3d_ns.base.pictures import tile
from invert3d_ns.base.provenance import provenance
from invert3d_ns.guidance.configs import guidance_name
from invert3d_ns.runs.report import print_lines, write_metrics
from invert3d_ns.scenes.rendering import render_orbit

if TYPE_CHECKING:
    from invert3d_ns.methods.aligned import AlignedPipeline
    from invert3d_ns.runs.phase import Run

PICTURE = "From one object to the next (a row for each view)"
"""What a run's events call the last picture."""
OBJECTS = "objects"
"""The folder of splat files in a run's folder: splat i is the same part in each."""
_VIEWS, _ELEVATION, _PIXELS, _BETWEEN = 4, 15.0, 160, 4


@dataclass
class AlignedOutputs:
    """Files that a finished run wrote."""

    views: Path
    """The way through all objects, from four sides."""
    objects: list[Path]
    """The splats of each."""
    metrics: Path
    """Figures, as JSON."""
    figures: dict[str, Any]
    """The content of :attr:`metrics`."""
    picture: UInt8[np.ndarray, "H W 3"]
    """The content of :attr:`views`."""


def write_outputs(pipeline: AlignedPipeline, run: Run) -> AlignedOutputs:
    """Write ``views.png``, ``metrics.json``, and the splats of every object, each complete or not at all.

    Raises:
        InputError: a file cannot be written.
    """
    from PIL import Image

    from invert3d_ns.alignment.checkpoints import load_clip

    objects = len(pipeline.prompts)
    # Of two objects the way there; of more through all of them, and not back again either.
    stops = [index / (objects * _BETWEEN) for index in range((objects - 1) * _BETWEEN + 1)]
    azimuths = torch.arange(_VIEWS) * (360.0 / _VIEWS) + 30.0
    shown = [
        render_orbit(pipeline.along(share), azimuths, torch.tensor(_ELEVATION), _PIXELS, supersampling=2)
        for share in stops
    ]
    picture = tile(torch.stack(shown, 1).flatten(0, 1), len(stops), least=_PIXELS)
    views_path = run.folder / "views.png"
    with atomic_path(views_path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
    vertices = shown[::_BETWEEN]
    towers = load_clip("bundled", vertices[0].device)
    similarities = [towers.similarity(views, prompt) for prompt, views in zip(pipeline.prompts, vertices, strict=True)]
    pairs = [(i, j) for i in range(objects) for j in range(i + 1, objects)]
    with pipeline.prior.use() as prior:
        info = prior.info
    document = {
        "prompts": list(pipeline.prompts),
        "negative_prompt": pipeline.config.negative_prompt,
        "clip_similarity": [round(value, 4) for value in similarities],
        "silhouette_iou": {
            f"{i + 1}-{j + 1}": round(silhouette_overlap(vertices[i], vertices[j]), 4) for i, j in pairs
        },
        "splats": pipeline.model.num_points,
        "unet_samples": pipeline.unet_samples,
        "seconds": {name: round(value, 2) for name, value in run.seconds.items()},
        "steps": {phase.name: phase.steps for phase in pipeline.phases},
        "guidance": guidance_name(pipeline.config.guidance)
        if "distill" in {phase.name for phase in pipeline.phases}
        else "none",
        "edge": pipeline.config.edge,
        "seed": run.seed,
        "prior": {"name": info.name, "fingerprint": info.fingerprint},
        **provenance(str(pipeline.device)),
    }
    files = pipeline.write_objects(run.folder / OBJECTS)
    return AlignedOutputs(views_path, files, write_metrics(run.folder, document), document, picture)


def announce(outputs: AlignedOutputs) -> None:
    """Say where the files are, how near each object came to its prompt, and how alike they are."""
    figures = outputs.figures
    print_lines("")
    for number, prompt in enumerate(figures["prompts"], 1):
        print_lines(
            f"[bold green]{number} {escape(repr(prompt))}[/bold green]"
            f"  CLIP similarity {figures['clip_similarity'][number - 1]:.2f}"
        )
    alike = ", ".join(f"{name} {value:.2f}" for name, value in figures["silhouette_iou"].items())
    print_lines(
        f"  {figures['splats']} splats each; silhouettes share (IoU) {alike}",
        f"  picture    {escape(str(outputs.views))}   (from one object to the next)",
        f"  objects    {escape(str(outputs.objects[0].parent))}   (a .ply each, splats in the same order)",
        f"  metrics    {escape(str(outputs.metrics))}",
    )


def next_commands(outputs: AlignedOutputs, folder: Path) -> Sequence[str]:
    """Commands that come next, ready to be pasted."""
    return (
        quoted_command("ns-viewer", "--load-config", folder / "config.yml"),
        quoted_command("invert3d", "export", folder, "--blend", "0.5", "0.5", "--out", folder / "between.ply"),
    )
