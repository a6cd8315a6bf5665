"""Finds and reads an edit's words, splats and earlier edits, and checks that words and splats belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from invert3d_ns.base.commandline import quoted_command
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.filetypes import LFS_POINTER, describe_file
from invert3d_ns.editing.edit import Edit, load_edits
from invert3d_ns.scenes.axes import UpAxis
from invert3d_ns.scenes.runs import CLASS, is_run, read_run_object, read_run_record, run_settings
from invert3d_ns.words.embedding import EMBEDDING

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.scenes.cloud import SplatCloud
    from invert3d_ns.words.embedding import ObjectEmbedding

EDITS = "edits.json"
"""What the edits that a run's splats are under are called in its folder."""
EDIT_PHASE = "edit"
"""What runs call the phase that edits."""
_SAFETENSORS = "a safetensors file"
_ORBITS, _DRAWS = 2, 4


def run_folder(path: Path) -> Path:
    """The folder of a run, of which ``path`` is the folder or the ``config.yml``."""
    return path if path.is_dir() else path.parent


def find_words(path: Path) -> Path:
    """The file of an embedding: the one given, or the one in the folder (of a run, or of inverted photographs) that is
    given, or beside the ``config.yml`` that is given.

    Raises:
        InputError: it does not exist, is something else, or the run never learned its words; with the command that
            gets there.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; give the run that learned the words, or its {EMBEDDING}")
    if path.is_dir() or is_run(path):
        folder = run_folder(path)
        if (folder / EMBEDDING).is_file():
            return folder / EMBEDDING
        raise InputError(f"{folder} has no {EMBEDDING}: {_without_words(folder)}")
    kind = describe_file(path)
    if kind in (_SAFETENSORS, "an empty file"):  # whether it is whole is seen when it is read
        return path
    advice = f"give the run that learned the words, or its {EMBEDDING}"
    if kind == LFS_POINTER:
        advice = "run `git lfs pull`"
    elif "splat" in kind:
        advice = f"invert it first: {quoted_command('ns-train', 'invert3d', '--data', path)}"
    elif kind.endswith(" image"):
        advice = f"invert it first: {quoted_command('invert3d', 'image', path)}"
    elif "checkpoint" in kind:
        from invert3d_ns.words.foreign_embeddings import describe_inversion, not_an_embedding

        if describe_inversion(path) is not None:
            raise not_an_embedding(path)
    raise InputError(f"{path} is {kind}, not words; {advice}")


def _without_words(folder: Path) -> str:
    """Why a folder has no words, and what to do about it."""
    if not is_run(folder):
        runs = sorted((file.parent for file in folder.glob(f"*/{EMBEDDING}")), key=lambda run: run.stat().st_mtime)
        if runs:
            return f"it is no run itself; give one of the {len(runs)} in it, such as {runs[-1]}"
        command = quoted_command("ns-train", "invert3d", "--data", folder)
        return f"it is no run; if it holds posed images, invert them first: {command}"
    settings = run_settings(folder)
    method = settings.get("method_name")
    if str(settings.get(CLASS, "")).startswith("invert3d_ns") and isinstance(method, str):
        command = quoted_command("ns-train", method, "--load-config", folder / "config.yml")
        return f"the run is not finished; go on with it first: {command}"
    command = quoted_command("ns-train", "invert3d", "--data", folder)
    return f"it is no run of invert3d; learn its words first: {command}"


def own_prior(path: Path, embedding: ObjectEmbedding) -> str:
    """Name or path of the prior that an embedding was made with: what its run says, else what its file says."""
    from invert3d_ns.prior.checkpoints import PRIORS
    from invert3d_ns.weights.hub import parse_reference

    pipeline = run_settings(path.parent).get("pipeline") if is_run(path.parent) else None
    name = pipeline.get("prior") if isinstance(pipeline, dict) else None
    if isinstance(name, str) and name:
        return name
    if embedding.prior not in PRIORS and parse_reference(embedding.prior) is None:
        raise InputError(
            f"the embedding was made for prior {embedding.prior!r}, which is not a known name; pass its path as --prior"
        )
    return embedding.prior


def scene_edits(path: Path | None, embedding: ObjectEmbedding | None = None) -> list[Edit]:
    """The edits that the splats of a scene are under already; none unless it is a run that was edited.

    The run's checkpoint says it, which holds the splats; a run that was killed before it wrote its outputs knows too.

    Raises:
        InputError: the run is in the middle of an edit, or its edits are damaged or newer, or were made with another
            prior than the embedding's.
    """
    if path is None or not is_run(path):
        return []
    folder = run_folder(path)
    record = read_run_record(folder)
    if record.phase == EDIT_PHASE and not record.finished:
        method = run_settings(folder).get("method_name", "invert3d-edit")
        command = quoted_command("ns-train", method, "--load-config", folder / "config.yml")
        raise InputError(f"{folder} is in the middle of an edit; go on with it first: {command}")
    if record.edits is None:
        return load_edits(folder / EDITS, embedding) if (folder / EDITS).is_file() else []
    made_for = record.origin.get("fingerprint", "")
    if record.edits and embedding is not None and made_for not in ("", embedding.fingerprint):
        raise InputError(
            f"the edits of {folder} were made with prior {record.origin.get('prior')!r} ({made_for}), the embedding "
            f"belongs to {embedding.prior!r} ({embedding.fingerprint}); edit with words of the same prior"
        )
    return [Edit.from_dict(entry) for entry in record.edits]


def read_scene(path: Path, up: Literal["auto"] | UpAxis = "auto") -> SplatCloud:
    """The splats of a run or of a splat file, in the object frame; without what surrounds the object.

    Args:
        up: see :func:`~invert3d_ns.scenes.assets.read_object`.

    Raises:
        InputError: there are none.
    """
    from invert3d_ns.scenes.assets import object_splats, read_object

    if is_run(path):
        cloud = read_run_object(path)
        keep = object_splats(cloud)
        return cloud if keep is None else cloud.select(keep)
    return read_object(path, up)[0]


@torch.no_grad()
def check_same_object(prior: MultiViewPrior, embedding: ObjectEmbedding, splats: SplatCloud) -> tuple[float, float]:
    """Refuse words that describe a scene worse than the plain word does that words start from.

    Both denoise the same views of the scene from the same noise (the held-out loss of an inversion, on two orbits).

    Returns:
        The loss of the embedding, and of the plain word.

    Raises:
        InputError: the words are another object's, or another prior's.
    """
    from invert3d_ns.base.random import random_stream
    from invert3d_ns.scenes.cameras import camera_condition
    from invert3d_ns.scenes.rendering import render_orbit
    from invert3d_ns.words.bank import check_visible, held_out_orbits

    embedding.check_prior(prior)
    info = prior.info
    azimuths, elevations = held_out_orbits(_ORBITS, info.num_views)
    images = render_orbit(splats.to(prior.device), azimuths, elevations, info.image_size)
    check_visible(images)
    latents = prior.encode_images(images).float()
    cameras = camera_condition(azimuths, elevations).to(latents.device)
    word = embedding.init_word or info.init_word
    contexts = [prior.encode_prompt(embedding.token, embedding.words), prior.encode_prompt(word)]
    low, high = info.inversion_timesteps  # nothing is learned at others, where words may be worse
    losses = torch.zeros(2)
    for draw in range(_DRAWS):
        t = torch.full((_ORBITS,), int((low + (high - low) * (draw + 0.5) / _DRAWS) * prior.num_timesteps))
        noise = torch.randn(latents.shape, generator=random_stream("check of splats", 0, draw)).to(latents)
        for index, context in enumerate(contexts):
            context = context.expand(_ORBITS, -1, -1)
            losses[index] += prior.prediction_loss(latents, noise, t.to(latents.device), context, cameras).cpu()
    own, plain = (losses / _DRAWS).tolist()
    if own > plain:
        raise InputError(
            f"the embedding and the splats are of different scenes: the words describe the splats worse (loss "
            f"{own:.4f}) than the word {word!r} does ({plain:.4f}); give the words that were learned from this scene, "
            "or say which axis of its .ply points up"
        )
    return own, plain


def check_requested(edits: Sequence[Edit]) -> None:
    """Refuse edits that ask for no change.

    Raises:
        InputError: there are none, or none of them changes anything.
    """
    if not edits:
        raise InputError(
            'nothing to edit; give --prompt such as "in van gogh style", or a source and a target such as red and blue'
        )
    if all(edit.is_identity for edit in edits):
        raise InputError(f"the edit {edits[-1].label!r} changes nothing; give words, or an amount that is not 0")
