"""What the learning of words leaves behind: the embedding, a picture, figures, and commands that come next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from rich.markup import escape
from torch import Tensor

from invert3d_ns.base.commandline import quoted_command
from invert3d_ns.base.english import with_article
from invert3d_ns.base.files import atomic_path
from invert3d_ns.base.metrics import psnr, silhouette_overlap
from invert3d_ns.base.provenance import provenance
from invert3d_ns.editing.color_words import color_shares, recoloring
from invert3d_ns.runs.report import print_lines, write_metrics
from invert3d_ns.words.cti import TOKEN
from invert3d_ns.words.embedding import EMBEDDING

if TYPE_CHECKING:
    from invert3d_ns.methods.invert3d import InversionPipeline
    from invert3d_ns.runs.phase import Run
    from invert3d_ns.words.bank import LatentBank

PICTURE = "Held-out views (truth above, generated below)"
"""What a run's events call pictures of what its words generate."""
ROUGH_OVERLAP, ROUGH_GAP = 0.7, 20.0
"""Silhouettes' overlap below which, and decibels behind the autoencoder above which, words are a rough likeness."""
_GENERATED_GROUPS = 2
_PREVIEW_STEPS = 8
_VIEW_PIXELS = 192


@dataclass
class WordsOutputs:
    """Files that a finished inversion wrote."""

    embedding: Path
    """The words, as safetensors."""
    views: Path
    """Held-out views: truth above, generated from the words below."""
    metrics: Path
    """Figures, as JSON."""
    figures: dict[str, Any]
    """The content of :attr:`metrics`."""
    picture: UInt8[np.ndarray, "H W 3"]
    """The content of :attr:`views`."""
    recoloring: tuple[str, str]
    """A target and a source color for the edit that is suggested."""
    description: str = ""
    """What the object is, in plain words, as far as it is known."""

    def is_rough(self) -> bool:
        """Whether the words' views are far from the object, in outline or in all."""
        quality = self.figures["psnr"]
        return (
            self.figures["silhouette_iou"] < ROUGH_OVERLAP or quality["autoencoder"] - quality["embedding"] > ROUGH_GAP
        )


def comparison(
    truth: Float[Tensor, "G F 3 H W"], generated: Float[Tensor, "G F 3 H W"], *, view_pixels: int = _VIEW_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """True views in a row above generated ones, all groups side by side, small views enlarged by a whole factor."""
    rows = [torch.cat(list(images.flatten(0, 1).cpu()), dim=-1) for images in (truth, generated)]
    picture = torch.cat(rows, dim=-2)
    factor = max(1, view_pixels // truth.shape[-1])
    picture = picture.repeat_interleave(factor, dim=-1).repeat_interleave(factor, dim=-2)
    return (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def preview(pipeline: InversionPipeline, bank: LatentBank) -> UInt8[np.ndarray, "H W 3"]:
    """A quick comparison on the first held-out orbit."""
    truth, cameras = _heldout(pipeline, bank, groups=1)
    return comparison(truth, pipeline.generate(cameras, steps=_PREVIEW_STEPS))


def measure(
    pipeline: InversionPipeline, bank: LatentBank, seed: int
) -> tuple[dict[str, Any], UInt8[np.ndarray, "H W 3"]]:
    """Held-out figures of the words and of the init word they started from, and the picture of the words.

    Returns:
        ``heldout_loss`` (denoising loss, lower is better) and ``psnr`` (generated views against the truth in dB, higher
        is better), each for ``embedding`` and ``init_word``; ``psnr`` also for the ``autoencoder`` alone, which no
        words can beat; ``silhouette_iou`` of the words' views with the truth; and true views above generated ones.
    """
    assert pipeline.words is not None
    truth, cameras = _heldout(pipeline, bank, groups=_GENERATED_GROUPS)
    prompts = {"embedding": TOKEN, "init_word": pipeline.init_word()}
    conditions = {"embedding": pipeline.words.detach(), "init_word": pipeline.init_word()}
    heldout_loss = pipeline.inversion_of_prior().heldout_loss
    losses = {name: heldout_loss(condition, bank, draws=8) for name, condition in conditions.items()}
    generated = {name: pipeline.generate(cameras, prompt, seed=seed) for name, prompt in prompts.items()}
    quality = {name: psnr(images, truth) for name, images in generated.items()}
    with pipeline.prior.use() as prior:
        quality["autoencoder"] = psnr(prior.decode_latents(prior.encode_images(truth)).to(truth), truth)
    overlap = silhouette_overlap(generated["embedding"], truth)
    figures = {"heldout_loss": losses, "psnr": quality, "silhouette_iou": overlap}
    return figures, comparison(truth, generated["embedding"])


def write_outputs(pipeline: InversionPipeline, bank: LatentBank, steps: int, run: Run, *, lr: float) -> WordsOutputs:
    """Write ``embedding.safetensors``, ``views.png`` and ``metrics.json``, each complete or not at all.

    Args:
        steps: of learning that were taken.
        lr: the learning rate of the first.

    Raises:
        InputError: a file cannot be written.
    """
    from PIL import Image

    settings = pipeline.config
    inversion = pipeline.inversion_of_prior()
    embedding_path, views_path = run.folder / EMBEDDING, run.folder / "views.png"
    # The words first: measuring takes a while and the words are what the run was for.
    pipeline.embedding().save(embedding_path)
    figures, picture = measure(pipeline, bank, run.seed)
    with atomic_path(views_path) as temporary:
        Image.fromarray(picture).save(temporary)
    document = {
        "description": pipeline.embedding().description,
        **figures,
        "heldout_views": int(bank.heldout_images.shape[:2].numel()),
        "seconds": {name: round(value, 2) for name, value in run.seconds.items()},
        "steps": {"splats": pipeline.splat_steps, "words": steps},
        "seed": run.seed,
        "prior": {"name": inversion.prior.info.name, "fingerprint": inversion.prior.info.fingerprint},
        "settings": {
            "vectors": pipeline.vectors,
            "init": "encoder" if pipeline.encodes else "word",
            "init_word": pipeline.init_word(),
            "lr": lr,
            "lr_decay": settings.lr_decay,
            "norm_penalty": settings.norm_penalty,
            "bank_groups": settings.bank_groups,
            "per_view_timesteps": settings.per_view_timesteps,
            "init_jitter": pipeline.init_jitter(),
            "timestep_range": list(inversion.objective.timestep_range),
            "sampling_steps": settings.sampling_steps or inversion.prior.info.sampling_steps,
        },
        "splats": pipeline.model.num_points,
        **provenance(str(pipeline.device)),
    }
    suggested = recoloring(color_shares(pipeline.splats()))
    return WordsOutputs(
        embedding_path,
        views_path,
        write_metrics(run.folder, document),
        document,
        picture,
        suggested,
        document["description"],
    )


def announce(outputs: WordsOutputs) -> None:
    """Say where the files are, and how good the words are."""
    loss, quality = outputs.figures["heldout_loss"], outputs.figures["psnr"]
    looks = []
    if outputs.is_rough():
        overlap = 100 * outputs.figures["silhouette_iou"]
        looks.append(
            f"[bold]A rough likeness:[/bold] views from the words share {overlap:.0f} % of the silhouette and reach "
            f"{quality['embedding']:.1f} dB, where the prior's autoencoder alone reaches {quality['autoencoder']:.1f}: "
            "the prior knows few such objects"
        )
    if outputs.description:
        named = escape(with_article(outputs.description))
        looks.append(f"It looks like {named}; edits start from that (--noun says it better)")
    print_lines(
        "",
        f"[bold green]The scene is words now.[/bold green]  Held-out loss {loss['embedding']:.4f}"
        f" (init word {loss['init_word']:.4f}), generated views {quality['embedding']:.1f} dB"
        f" (init word {quality['init_word']:.1f} dB)",
        *looks,
        f"  embedding  {escape(str(outputs.embedding))}",
        f"  picture    {escape(str(outputs.views))}   (truth above, generated below)",
        f"  metrics    {escape(str(outputs.metrics))}",
    )


def next_commands(outputs: WordsOutputs, folder: Path) -> Sequence[str]:
    """Commands that come next after the words of the run in ``folder``, ready to be pasted."""
    target, source = outputs.recoloring
    prompt = f"{target} instead of {source}"
    return (
        quoted_command("invert3d", "views", folder, "--prompt", f"a photo of {TOKEN}"),
        quoted_command("invert3d", "edit", folder, "--prompt", prompt),
        quoted_command("ns-train", "invert3d-edit", "--data", folder, "--prompt", prompt),
        quoted_command("ns-viewer", "--load-config", folder / "config.yml"),
    )


def _heldout(pipeline: InversionPipeline, bank: LatentBank, groups: int) -> tuple[Tensor, Tensor]:
    """The first held-out views at the size that the prior generates, and their cameras."""
    images, size = bank.heldout_images[:groups], pipeline.inversion_of_prior().prior.info.image_size
    if images.shape[-1] != size:
        resized = F.interpolate(images.flatten(0, 1), (size, size), mode="area")
        images = resized.unflatten(0, images.shape[:2])
    return images.to(pipeline.device), bank.heldout_cameras[:groups]
