"""``invert3d evaluate``: quality, measured on objects and prompts that were not trained on, a file for each kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from invert3d_ns.commands.evaluate.aligned import EvaluateA3D
from invert3d_ns.commands.evaluate.clip import EvaluateClip
from invert3d_ns.commands.evaluate.edit import EvaluateEdit
from invert3d_ns.commands.evaluate.inversion import EvaluateInversion
from invert3d_ns.commands.evaluate.prior import EvaluatePrior
from invert3d_ns.commands.evaluate.stylization import EvaluateStylization
from invert3d_ns.commands.evaluate.text import EvaluateTextTo3D

EvaluateCommand = (
    Annotated[EvaluatePrior, tyro.conf.subcommand("prior", prefix_name=False)]
    | Annotated[EvaluateInversion, tyro.conf.subcommand("inversion", prefix_name=False)]
    | Annotated[EvaluateEdit, tyro.conf.subcommand("edit", prefix_name=False)]
    | Annotated[EvaluateTextTo3D, tyro.conf.subcommand("text-to-3d", prefix_name=False)]
    | Annotated[EvaluateA3D, tyro.conf.subcommand("a3d", prefix_name=False)]
    | Annotated[EvaluateStylization, tyro.conf.subcommand("stylization", prefix_name=False)]
    | Annotated[EvaluateClip, tyro.conf.subcommand("clip", prefix_name=False)]
)


@dataclass
class Evaluate:
    """Measure quality and write table.md, table.json and pictures."""

    command: tyro.conf.OmitArgPrefixes[EvaluateCommand]

    def run(self) -> int:
        """Run the chosen evaluation."""
        return self.command.run()
