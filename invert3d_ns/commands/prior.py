"""``invert3d prior``: list the priors, convert checkpoints, and check conversion against golden files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class PriorList:
    """List the priors by name, where they come from, and whether they load without a network."""

    def run(self) -> int:
        """Print one line for each prior."""
        from invert3d_ns.prior.checkpoints import PRIORS, is_available

        rows = [("name", "offline", "from", "what it is")]
        for name, source in PRIORS.items():
            place = "this package" if source.repository is None else f"{source.repository}/{source.filename or ''}"
            rows.append((name, "yes" if is_available(name) else "no", place.rstrip("/"), source.description))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)))
        return 0


@dataclass
class PriorCheck:
    """Run golden files (weights, inputs and output of an original network) through our conversion and attention."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """safetensors files with LDM-named weights under `state_dict.`, `input.{sample,timestep,context,camera}`,
    `output.sample`, and `num_frames` and `num_heads` or `num_head_channels` in the metadata."""

    def run(self) -> int:
        """Print the largest absolute difference of each file; 0 when all agree to 1e-5, else 1."""
        from invert3d_ns.errors import InputError
        from invert3d_ns.prior.golden import TOLERANCE, golden_difference

        if not self.files:
            raise InputError("no golden file is given; run `invert3d prior check <file.safetensors>`")
        agreed = True
        for path in self.files:
            difference = golden_difference(path)
            agrees = difference <= TOLERANCE
            agreed &= agrees
            print(f"{path}: max abs difference {difference:.3g} ({'agrees' if agrees else f'above {TOLERANCE:g}'})")
        return 0 if agreed else 1


@dataclass
class PriorConvert:
    """Convert a checkpoint to a folder that loads quickly: half precision, safetensors, diffusers' layout."""

    source: tyro.conf.Positional[str]
    """A name (see `invert3d prior list`), an MVDream checkpoint (.pt, .ckpt, .safetensors), or a folder."""
    folder: tyro.conf.Positional[Path]
    """Folder to write; pass it as `--prior` afterwards."""
    shard_size: str = "2GB"
    """Largest weight file."""

    def run(self) -> int:
        """Convert and write the folder, or nothing."""
        from invert3d_ns.errors import InputError
        from invert3d_ns.prior.checkpoints import open_source, save_prior

        if self.folder.exists() and not (self.folder / "prior.json").is_file():
            raise InputError(f"{self.folder} exists and is not a prior; choose another folder to write")
        prior = open_source(self.source)
        save_prior(prior, self.folder, max_shard_size=self.shard_size)
        print(f"wrote prior {prior.info.name!r} ({prior.info.fingerprint}) to {self.folder}")
        return 0


PriorCommand = (
    Annotated[PriorList, tyro.conf.subcommand("list", prefix_name=False)]
    | Annotated[PriorCheck, tyro.conf.subcommand("check", prefix_name=False)]
    | Annotated[PriorConvert, tyro.conf.subcommand("convert", prefix_name=False)]
)


@dataclass
class Prior:
    """Priors: list, convert, check."""

    command: PriorCommand

    def run(self) -> int | None:
        """Run the chosen command."""
        return self.command.run()
