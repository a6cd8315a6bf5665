"""Whether a prior is whole: every file's sha256, and that its networks load and are the ones that were written."""

from __future__ import annotations

import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.inputs import user_path
from invert3d_ns.prior.checkpoints import converted_folder, open_source
from invert3d_ns.prior.golden import TOLERANCE, golden_difference, is_golden
from invert3d_ns.prior.storage import load_folder
from invert3d_ns.weights.manifest import check_hashes


def check_prior(name_or_path: str) -> str:
    """Check a prior, a checkpoint or a golden file; one line for people that says what was found in order.

    A folder's files are held against its manifest, a download's against what the hub stated, and everything is loaded.
    A golden file (weights, inputs and output of an original network) is sent through our conversion and attention.

    Raises:
        InputError: something is not in order; the message says what.
    """
    path = user_path(name_or_path)
    if path.is_file() and is_golden(path):
        difference = golden_difference(path)
        if difference > TOLERANCE:
            raise InputError(f"max abs difference {difference:.3g} is above {TOLERANCE:g}; the conversion is wrong")
        return f"max abs difference {difference:.3g} from the original network"
    folder = converted_folder(name_or_path)
    if folder is None:
        prior = open_source(name_or_path)
        size = sum(entry["size"] for entry in prior.info.sources.values())
        return f"converts; {len(prior.info.sources)} files, {size / 1e6:.1f} MB, fingerprint {prior.info.fingerprint}"
    compared = check_hashes(folder)
    prior = load_folder(folder, torch.device("cpu"), torch.float32)
    found = prior.fingerprint()
    if found != prior.info.fingerprint:
        raise InputError(
            f"the weights in {folder} have fingerprint {found}, prior.json says {prior.info.fingerprint}; they were "
            "exchanged or edited, convert the prior again"
        )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    hashes = "no manifest to compare sha256 with" if compared is None else f"{compared} files agree with their sha256"
    return f"{hashes}; {size / 1e6:.1f} MB, fingerprint {found}"
