"""``invert3d prior``: list the priors, fetch and convert checkpoints, and check that they are whole."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(kw_only=True)
class DownloadOptions:
    """Where a checkpoint comes from, and what it must be."""

    mirror: str | None = None
    """https:// address of a mirror of the hub, or a folder (or file:// address) with repositories as org/name; for all
    commands: $INVERT3D_MIRROR, or $HF_ENDPOINT."""
    sha256: str | None = None
    """What the checkpoint must hash to, if it is a single file. What the hub states is compared in any case."""


@dataclass
class PriorList:
    """List the priors by name: whether they load without a network, what is downloaded, and where from."""

    def run(self) -> int:
        """Print one line for each prior."""
        from invert3d_ns.prior.checkpoints import BUNDLED_FOLDER, PRIORS, is_available, knows_sha256

        rows = [("name", "offline", "size", "sha256", "layout", "from", "what it is")]
        for name, source in PRIORS.items():
            place = "this package" if source.repository is None else f"{source.repository}/{source.filename or ''}"
            size = source.size
            if source.repository is None:
                size = f"{sum(f.stat().st_size for f in BUNDLED_FOLDER.rglob('*') if f.is_file()) / 1e6:.0f} MB"
            known = "known" if knows_sha256(name) else "unknown"
            offline = "yes" if is_available(name) else "no"
            rows.append((name, offline, size, known, source.layout or "prior", place.rstrip("/"), source.description))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)))
        return 0


@dataclass
class PriorFetch(DownloadOptions):
    """Download a prior's checkpoint, or go on with a download that was interrupted. It is converted when first used."""

    name: tyro.conf.Positional[str]
    """A name (see `invert3d prior list`), or a repository on the hub: org/name or hf:org/name[@revision][:file]."""

    def run(self) -> int:
        """Fetch and print where it is."""
        from invert3d_ns.prior.checkpoints import converted_folder, fetch_checkpoint

        folder = converted_folder(self.name)
        if folder is not None and self.sha256 is None:
            print(f"prior {self.name!r} is here, converted: {folder}")
            return 0
        path = fetch_checkpoint(self.name, mirror=self.mirror, sha256=self.sha256)
        print(f"prior {self.name!r} is here: {path}")
        return 0


@dataclass
class PriorCheck:
    """Check that priors are whole: the sha256 of every file, and that they load. Golden files (weights, inputs and
    output of an original network) are sent through our conversion and attention.
    """

    names: tyro.conf.Positional[tuple[str, ...]]
    """Names (see `invert3d prior list`), folders, checkpoints; or golden files: safetensors with LDM-named weights
    under `state_dict.`, `input.{sample,timestep,context,camera}`, `output.sample`, and `num_frames` and `num_heads` or
    `num_head_channels` in the metadata."""

    def run(self) -> int:
        """Print one line for each, OK or what is wrong; 0 when all are in order, else 1."""
        from invert3d_ns.base.errors import InputError
        from invert3d_ns.prior.checks import check_prior

        if not self.names:
            raise InputError("nothing to check is given; run for example `invert3d prior check bundled`")
        failures = 0
        for name in self.names:
            try:
                print(f"OK {name}: {check_prior(name)}")
            except InputError as error:
                failures += 1
                print(f"FAILED {name}: {error}")
        return 1 if failures else 0


@dataclass
class PriorConvert(DownloadOptions):
    """Convert a checkpoint to a folder that loads quickly: half precision, safetensors, diffusers' layout."""

    source: tyro.conf.Positional[str]
    """A name (see `invert3d prior list`), a checkpoint (.pt, .ckpt, .safetensors), a folder, or a repository on the
    hub: org/name or hf:org/name[@revision][:file]."""
    folder: tyro.conf.Positional[Path]
    """Folder to write; pass it as `--prior` afterwards."""
    shard_size: str = "2GB"
    """Largest weight file, in KB, MB, GB or TB."""

    def run(self) -> int:
        """Convert and write the folder, or nothing."""
        from invert3d_ns.base.errors import InputError
        from invert3d_ns.prior.checkpoints import open_source, save_prior

        if not re.fullmatch(r"0*[1-9]\d*\s*[KMGT]B", self.shard_size, re.IGNORECASE):
            raise InputError(f"--shard-size is {self.shard_size!r}; give a number of KB, MB, GB or TB, such as 2GB")
        if self.folder.exists() and not (self.folder / "prior.json").is_file():
            raise InputError(f"{self.folder} exists and is not a prior; choose another folder to write")
        prior = open_source(self.source, mirror=self.mirror, sha256=self.sha256)
        save_prior(prior, self.folder, max_shard_size=self.shard_size)
        print(f"wrote prior {prior.info.name!r} ({prior.info.fingerprint}) to {self.folder}")
        return 0


PriorCommand = (
    Annotated[PriorList, tyro.conf.subcommand("list", prefix_name=False)]
    | Annotated[PriorFetch, tyro.conf.subcommand("fetch", prefix_name=False)]
    | Annotated[PriorCheck, tyro.conf.subcommand("check", prefix_name=False)]
    | Annotated[PriorConvert, tyro.conf.subcommand("convert", prefix_name=False)]
)


@dataclass
class Prior:
    """Priors: list, fetch, convert, check."""

    command: tyro.conf.OmitArgPrefixes[PriorCommand]

    def run(self) -> int | None:
        """Run the chosen command."""
        return self.command.run()
