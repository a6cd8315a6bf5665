"""What an edit leaves behind in a run's folder: the edits, a picture, figures, and commands that come next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from rich.markup import escape

from invert3d_ns.base.commandline import quoted_command
from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.metrics import psnr
from invert3d_ns.base.provenance import provenance
from invert3d_ns.editing.change import EditChange, measure_change
from invert3d_ns.editing.color_words import color_shares, recoloring
from invert3d_ns.editing.edit import Edit, save_edits
from invert3d_ns.editing.sources import EDITS
from invert3d_ns.runs.report import print_lines, write_metrics
from invert3d_ns.words.embedding import EMBEDDING

if TYPE_CHECKING:
    from invert3d_ns.methods.edit_phase import EditPhase
    from invert3d_ns.methods.invert3d import InversionPipeline
    from invert3d_ns.runs.phase import Run

PICTURE = "Edit (the scene above, edited views, edited splats below)"
"""What a run's events call pictures of an edit."""


@dataclass
class EditOutputs:
    """Files that a finished edit wrote."""

    edits: Path
    """All edits that the splats are under, to carry out again."""
    embedding: Path
    """The words that were edited."""
    views: Path
    """The scene as it was, above the edited views, above what the splats have become."""
    metrics: Path
    """Figures, as JSON."""
    figures: dict[str, Any]
    """The entry "edit" of :attr:`metrics`."""
    picture: UInt8[np.ndarray, "H W 3"]
    """The content of :attr:`views`."""
    change: EditChange
    """How much the edit did."""
    recoloring: tuple[str, str]
    """A target and a source color for the edit that is suggested next."""


def write_outputs(pipeline: InversionPipeline, phase: EditPhase, run: Run) -> EditOutputs:
    """Write ``edits.json``, ``embedding.safetensors``, ``edited.png``, and the entry "edit" of ``metrics.json``.

    Each is written whole or not at all; entries that ``metrics.json`` has already stay.

    Raises:
        InputError: a file cannot be written.
    """
    from PIL import Image

    embedding = pipeline.embedding()
    edits_path, embedding_path, views_path = (run.folder / name for name in (EDITS, EMBEDDING, "edited.png"))
    embedding.save(embedding_path)
    save_edits(pipeline.edits, edits_path, embedding)
    picture, settings = phase.picture(), pipeline.config.edit
    splats = phase.sequence.cloud().to(pipeline.device)
    change = measure_change(phase.scene_before().to(pipeline.device), splats)
    with atomic_path(views_path) as temporary:
        Image.fromarray(picture).save(temporary)
    figures = {
        "edits": [edit.to_dict() for edit in pipeline.edits],
        "new": len(phase.edits),
        "steps": {"fit": settings.fit_steps, "refine": settings.refine_steps},
        "views": phase.editor.cameras.shape[:2].numel(),
        "splats": len(splats),
        "changed_splats": phase.changed(),
        "change": {
            "color": round(change.color, 2),
            "silhouette": round(change.silhouette, 4),
            "share": round(change.share, 4),
        },
        "psnr": {"splats_to_edited_views": psnr(phase.editor.renders(), phase.editor.edited)},
        "seconds": {name: round(run.seconds.get(name, 0.0), 2) for name in ("views", "edit")},
        "prior": {"name": embedding.prior, "fingerprint": embedding.fingerprint},
        **provenance(str(pipeline.device)),
    }
    metrics_path = write_metrics(run.folder, figures, section="edit")
    suggested = recoloring(color_shares(splats))
    return EditOutputs(edits_path, embedding_path, views_path, metrics_path, figures, picture, change, suggested)


def announce(outputs: EditOutputs) -> None:
    """Say what changed, and where the files are."""
    figures = outputs.figures
    seconds, edits = figures["seconds"], [Edit.from_dict(entry) for entry in figures["edits"]]
    done = escape(", then ".join(edit.label for edit in edits[len(edits) - figures["new"] :]))
    print_lines(
        "",
        f"[bold green]The splats are edited[/bold green] ({done}): {outputs.change.sentence('--pipeline.edit.')}",
        f"  views in {seconds['views']:.1f} s, splats in {seconds['edit']:.1f} s",
        f"  picture    {escape(str(outputs.views))}   (the scene above, edited views, edited splats below)",
        f"  edits      {escape(str(outputs.edits))}",
        f"  embedding  {escape(str(outputs.embedding))}",
        f"  metrics    {escape(str(outputs.metrics))}",
    )


def next_commands(outputs: EditOutputs, folder: Path) -> Sequence[str]:
    """Commands that come next after an edit, ready to be pasted."""
    target, source = outputs.recoloring
    prompt = f"{target} instead of {source}"
    return (
        quoted_command("ns-viewer", "--load-config", folder / "config.yml"),
        quoted_command("invert3d", "export", folder, "--out", folder / "edited.ply"),
        quoted_command("ns-train", "invert3d-edit", "--data", folder, "--prompt", prompt),
    )
