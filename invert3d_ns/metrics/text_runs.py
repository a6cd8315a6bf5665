"""Whole runs of a method that makes splats from words, as a person starts them, for evaluations."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from invert3d_ns.guidance.base import GuidanceConfig
    from invert3d_ns.scenes.cloud import SplatCloud

VIEWS = 4
"""Views in a step of guidance, as the method has them by default."""


@dataclass(frozen=True)
class Variant:
    """One way of making splats from words."""

    name: str
    guidance: str = ""
    """Kind of guidance; empty for first splats alone."""
    settings: Mapping[str, Any] | None = None
    """Of the guidance, by field, where they are not its own."""
    reconstruct: bool = False
    """Whether the last phase fits splats to denoised views."""


NOISIER: Mapping[str, Any] = {
    "jump": (0.1, 0.15), "jump_end": (0.06, 0.1), "max_step": 0.9, "max_step_end": 0.6
}  # fmt: skip
"""A schedule of GE3D that goes further up than the official one: at zero terminal signal-to-noise ratio, and with
latents of 8x8, what is seen is decided later."""
VARIANTS = (
    Variant("views only"),
    Variant("sds", "sds", {"t_max": 0.8, "t_max_end": 0.4}),
    Variant("ism", "ism", {"t_max": 0.8, "t_max_end": 0.4}),
    Variant("ge3d", "ge3d"),
    Variant("ge3d, noisier", "ge3d", NOISIER),
    Variant("ge3d without DBC", "ge3d", {"balance": False}),
    Variant("ge3d + reconstruction", "ge3d", None, reconstruct=True),
    Variant("reconstruction only", reconstruct=True),
)
"""What is compared unless told otherwise; "default" is what a run without flags does."""


@dataclass(frozen=True)
class MadeSplats:
    """What a run came to."""

    cloud: SplatCloud
    samples: int
    """Views that the UNet was called for, over the whole run."""
    seconds: float
    """Of its phases; not of starting the program."""


def guidance_of(variant: Variant) -> GuidanceConfig:
    """The settings of a variant's guidance."""
    from invert3d_ns.guidance.configs import GUIDANCE_CONFIGS

    return replace(copy.deepcopy(GUIDANCE_CONFIGS[variant.guidance]), **(variant.settings or {}))


def samples_a_step(config: GuidanceConfig, timesteps: int = 1000, views: int = VIEWS) -> float:
    """Views that the UNet is called for in a step of guidance, on average over its schedule, with guidance of two
    conditions.
    """
    from invert3d_ns.guidance.ge3d import EditingTrajectoriesConfig
    from invert3d_ns.guidance.ism import IntervalScoreMatchingConfig, strides

    generator, draws = torch.Generator().manual_seed(0), 200
    calls = 0.0
    for index in range(draws):
        progress = index / draws
        if isinstance(config, EditingTrajectoriesConfig):
            calls += 3 * (len(config.nodes(timesteps, generator, progress)) - 1)
        elif isinstance(config, IntervalScoreMatchingConfig):
            t = int(config.draw(1, timesteps, generator, progress))
            calls += len(strides(config, max(t - config.interval_steps(progress, timesteps), 0), timesteps)) + 2
        else:
            calls += 2
    return views * calls / draws


@contextlib.contextmanager
def quiet_run(config: Any, given: SplatCloud | None = None) -> Iterator[Path]:
    """Run a method by ``ns-train``, without a word, in a folder that is there as long as the block lasts; gives it.

    Args:
        config: of the run, changed in place.
        given: splats in the object frame that are its ``--data``.
    """
    from invert3d_ns import compat

    compat.install_remedies()
    from nerfstudio.scripts.train import main
    from nerfstudio.utils import writer

    config.timestamp = "run"
    with tempfile.TemporaryDirectory(prefix="invert3d-text-", ignore_cleanup_errors=True) as folder:
        config.output_dir = Path(folder) / "outputs"
        if given is not None:
            from invert3d_ns.scenes.ply import write_splats

            config.data = Path(folder) / "given.ply"
            write_splats(config.data, given, up="z")
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main(config)
        for event_writer in writer.EVENT_WRITERS:  # whose threads would write into a folder that goes away
            if isinstance(event_writer, writer.TensorboardWriter):
                event_writer.tb_writer.close()
        yield config.get_base_dir()


def run_figures(run: Path) -> tuple[int, float]:
    """Views that the UNet was called for in a run, and the seconds of its phases."""
    figures = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return figures["unet_samples"], sum(figures["seconds"].values())


def make_splats(
    variant: Variant | None,
    prompt: str,
    seed: int,
    prior: str,
    samples: int = 0,
    *,
    start: str | None = None,
    given: SplatCloud | None = None,
    strength: float | None = None,
) -> MadeSplats:
    """Make splats of a prompt by ``ns-train ge3d``, in a folder that is thrown away.

    Args:
        variant: None for the method's own default.
        prompt: the words.
        seed: of everything random.
        prior: name or path.
        samples: views that the UNet may be called for in guidance; decides the number of its steps.
        start: what the first splats are made from, if not the method's choice.
        given: splats in the object frame to start from.
        strength: of the last phase, if not the method's own.
    """
    from invert3d_ns.methods.text_to_splats import text_to_splats
    from invert3d_ns.scenes.runs import read_run

    config: Any = text_to_splats("ge3d")
    pipeline = config.pipeline
    config.prompt, pipeline.prior, pipeline.start.kind = prompt, prior, start
    config.machine.seed = seed
    pipeline.preview_every = 0
    if strength is not None:
        pipeline.reconstruct.strength = strength
    if variant is not None:
        pipeline.steps = 0
        if variant.guidance:
            pipeline.guidance = guidance_of(variant)
            pipeline.steps = max(round(samples / samples_a_step(pipeline.guidance)), 1)
        pipeline.reconstruct.steps = None if variant.reconstruct else 0
    with quiet_run(config, given) as run:
        return MadeSplats(read_run(run), *run_figures(run))
