"""What a text to splats leaves behind: a picture, figures, and commands that come next."""

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
from invert3d_ns.editing.color_words import color_shares, recoloring
from invert3d_ns.guidance.configs import guidance_name
from invert3d_ns.runs.report import print_lines, write_metrics
from invert3d_ns.scenes.rendering import render_orbit

if TYPE_CHECKING:
    from invert3d_ns.methods.text_to_splats import TextToSplatsPipeline
    from invert3d_ns.runs.phase import Run

PICTURE = "The splats from around"
"""What a run's events call the last picture."""
_VIEWS, _ELEVATION, _PIXELS = 8, 15.0, 192


@dataclass
class TextOutputs:
    """Files that a finished run wrote."""

    views: Path
    """The splats from eight sides."""
    metrics: Path
    """Figures, as JSON."""
    figures: dict[str, Any]
    """The content of :attr:`metrics`."""
    picture: UInt8[np.ndarray, "H W 3"]
    """The content of :attr:`views`."""
    recoloring: tuple[str, str]
    """A target and a source color for the edit that is suggested."""


def write_outputs(pipeline: TextToSplatsPipeline, run: Run) -> TextOutputs:
    """Write ``views.png`` and ``metrics.json``, each complete or not at all.

    Raises:
        InputError: a file cannot be written.
    """
    from PIL import Image

    from invert3d_ns.alignment.checkpoints import load_clip

    config = pipeline.config
    splats = pipeline.splats().to(pipeline.device)
    azimuths = torch.arange(_VIEWS) * (360.0 / _VIEWS)
    views = render_orbit(splats, azimuths, torch.tensor(_ELEVATION), _PIXELS)
    picture = tile(views, _VIEWS // 2)
    views_path = run.folder / "views.png"
    with atomic_path(views_path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
    prompt, negative = pipeline.words
    with pipeline.prior.use() as prior:
        info = prior.info
    document = {
        "prompt": prompt,
        "negative_prompt": negative,
        "clip_similarity": round(load_clip("bundled", views.device).similarity(views, prompt), 4),
        "splats": len(splats),
        "unet_samples": pipeline.unet_samples,
        "seconds": {name: round(value, 2) for name, value in run.seconds.items()},
        "steps": {phase.name: phase.steps for phase in pipeline.phases},
        "guidance": guidance_name(config.guidance) if "distill" in {p.name for p in pipeline.phases} else "none",
        "seed": run.seed,
        "prior": {"name": info.name, "fingerprint": info.fingerprint},
        **provenance(str(pipeline.device)),
    }
    suggested = recoloring(color_shares(splats))
    return TextOutputs(views_path, write_metrics(run.folder, document), document, picture, suggested)


def announce(outputs: TextOutputs) -> None:
    """Say where the files are, and how near the splats came to the prompt."""
    figures = outputs.figures
    print_lines(
        "",
        f"[bold green]{figures['splats']} splats of {escape(repr(figures['prompt']))}[/bold green]"
        f"  CLIP similarity {figures['clip_similarity']:.2f}",
        f"  picture    {escape(str(outputs.views))}   (from eight sides)",
        f"  metrics    {escape(str(outputs.metrics))}",
    )


def next_commands(outputs: TextOutputs, folder: Path) -> Sequence[str]:
    """Commands that come next, ready to be pasted."""
    target, source = outputs.recoloring
    return (
        quoted_command("ns-viewer", "--load-config", folder / "config.yml"),
        quoted_command("invert3d", "export", folder, "--out", folder / "splats.ply"),
        quoted_command("ns-train", "invert3d", "--data", folder, "--prompt", f"{target} instead of {source}"),
    )
