"""What an edit leaves behind in a run's folder: the edits, a picture, figures, and what to do next."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.provenance import provenance
from invert3d_ns.editing.edit import Edit, save_edits
from invert3d_ns.editing.sources import EDITS
from invert3d_ns.runs.report import METRICS, psnr, say
from invert3d_ns.words.embedding import EMBEDDING

if TYPE_CHECKING:
    from invert3d_ns.methods.edit_phase import EditPhase
    from invert3d_ns.methods.invert3d import InversionPipeline
    from invert3d_ns.runs.trainer import InversionTrainerConfig

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


def write_outputs(
    pipeline: InversionPipeline,
    editing: EditPhase,
    config: InversionTrainerConfig,
    folder: Path,
    seconds: dict[str, float],
) -> EditOutputs:
    """Write ``edits.json``, ``embedding.safetensors``, ``edited.png``, and the entry "edit" of ``metrics.json``.

    Each is written whole or not at all; entries that ``metrics.json`` has already stay.

    Raises:
        InputError: a file cannot be written.
    """
    from PIL import Image

    embedding = pipeline.embedding()
    edits_path, embedding_path, views_path, metrics_path = (
        folder / name for name in (EDITS, EMBEDDING, "edited.png", METRICS)
    )
    embedding.save(embedding_path)
    save_edits(pipeline.edits, edits_path, embedding)
    picture, settings = editing.picture(), pipeline.config.edit
    with atomic_path(views_path) as temporary:
        Image.fromarray(picture).save(temporary)
    figures = {
        "edits": [edit.to_dict() for edit in pipeline.edits],
        "new": len(editing.edits),
        "steps": {"fit": settings.fit_steps, "refine": settings.refine_steps},
        "views": editing.editor.cameras.shape[:2].numel(),
        "splats": len(editing.start),
        "changed_splats": editing.changed(),
        "psnr": {"splats_to_edited_views": psnr(editing.editor.renders(), editing.editor.edited)},
        "seconds": {name: round(seconds[name], 2) for name in ("views", "edit")},
        "seed": config.machine.seed,
        "prior": {"name": embedding.prior, "fingerprint": embedding.fingerprint},
        **provenance(str(pipeline.device)),
    }
    document = {**_existing(metrics_path), "edit": figures}
    with atomic_path(metrics_path) as temporary:
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return EditOutputs(edits_path, embedding_path, views_path, metrics_path, figures, picture)


def _existing(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def announce(outputs: EditOutputs, folder: Path) -> None:
    """Say what changed, where the files are, and which commands come next."""
    config, figures = folder / "config.yml", outputs.figures
    seconds, edits = figures["seconds"], [Edit.from_dict(entry) for entry in figures["edits"]]
    change = " and ".join(sorted({edit.change for edit in edits[len(edits) - figures["new"] :]}))
    again = f"  [bold]invert3d edit {outputs.embedding} --edits {outputs.edits} --out grid.png[/bold]"
    regions = not all(edit.region.is_whole for edit in edits)  # without splats there are none
    say(
        "",
        f"[bold green]The splats are edited.[/bold green]  {figures['changed_splats']:,} of {figures['splats']:,} "
        f"splats changed ({change}), views in {seconds['views']:.1f} s, splats in {seconds['edit']:.1f} s",
        f"  picture    {outputs.views}   (the scene above, edited views, edited splats below)",
        f"  edits      {outputs.edits}",
        f"  embedding  {outputs.embedding}",
        f"  metrics    {outputs.metrics}",
        "Next:",
        f"  [bold]ns-viewer --load-config {config}[/bold]",
        f"  [bold]ns-render interpolate --load-config {config} --output-path {folder / 'render.mp4'}[/bold]",
        f"  [bold]invert3d export {folder} --out {folder / 'edited.ply'}[/bold]",
        f'  [bold]ns-train invert3d-edit --data {folder} --prompt "blue instead of red"[/bold]   (on top of this edit)',
        *([] if regions else [again]),
    )
