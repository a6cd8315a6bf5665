"""``invert3d image``: photographs without cameras -> words, views and splats."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from invert3d_ns.base.commandline import quoted_command
from invert3d_ns.base.outputs import check_folder
from invert3d_ns.commands.console import ShowProgress, progress_bar
from invert3d_ns.commands.options import PriorComputation, PriorName, Seed
from invert3d_ns.words.settings import ImageSettings

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.words.embedding import ObjectEmbedding
    from invert3d_ns.words.photographs.inversion import ImageInversion

ORBIT = (0.0, 90.0, 180.0, 270.0)
"""Azimuths in degrees of the views in the picture."""
_ELEVATION = 15.0


@dataclass
class InvertImages(PriorComputation, PriorName):
    """Find the words for the object in a photograph, or in a few, and show it from all sides."""

    photographs: tyro.conf.Positional[tuple[Path, ...]]
    """Pictures of one object: cut out (PNG with a transparent background), or before a background of one color."""
    out: Path = Path("outputs/image")
    """Folder for embedding.safetensors, views.png, metrics.json, and splats.ply if asked for."""
    settings: tyro.conf.OmitArgPrefixes[ImageSettings] = field(default_factory=ImageSettings)
    """How photographs become words."""
    splats: bool = False
    """Also fit splats to views of the words, and write splats.ply."""
    seed: Seed = 0
    """Same seed, same words."""

    def run(self) -> int:
        """Invert, generate, write, and say where the files are."""
        from invert3d_ns.base.errors import InputError
        from invert3d_ns.prior.checkpoints import load_prior

        if not self.photographs:
            raise InputError("no photograph is given; give one or more image files")
        self.settings.check(len(self.photographs))
        check_folder(self.out)
        started = time.perf_counter()
        # Pictures before the prior: what is wrong with them should not take a download to find out.
        photographs = read_photographs(self.photographs)
        prior = load_prior(self.prior, options=self.prior_options)
        with progress_bar() as show:
            embedding, inversion, seconds = self._invert(prior, photographs, show)
            embedding.save(self.out / "embedding.safetensors")
            views, figures = self._show(prior, embedding, inversion)
            if self.splats:
                self._fit(prior, embedding, show)
        figures["seconds"] = {"words": round(seconds, 2), "total": round(time.perf_counter() - started, 2)}
        self._write(prior, inversion, views, figures)
        self._print_summary(inversion, figures)
        return 0

    def _invert(
        self, prior: MultiViewPrior, photographs: Float[Tensor, "K 3 S S"], show: ShowProgress
    ) -> tuple[ObjectEmbedding, ImageInversion, float]:
        from invert3d_ns.words.photographs.inversion import invert_images

        started = time.perf_counter()
        embedding, inversion = invert_images(
            prior,
            photographs,
            self.settings,
            seed=self.seed,
            progress=show,
        )
        return embedding, inversion, time.perf_counter() - started

    def _show(
        self, prior: MultiViewPrior, embedding: ObjectEmbedding, inversion: ImageInversion
    ) -> tuple[Float[Tensor, "F 3 S S"], dict[str, Any]]:
        """Photographs, generated views from where they were taken, and an orbit, in rows of four; and figures."""
        import torch

        from invert3d_ns.base.metrics import psnr
        from invert3d_ns.scenes.cameras import camera_condition
        from invert3d_ns.words.views import generate_views

        cameras, photographs = inversion.cameras, inversion.views
        context = prior.encode_prompt(embedding.token, embedding.words)
        strength = prior.info.words_strength
        again = prior.sample(context, camera_condition(*cameras.T)[None], seed=self.seed, strength=strength)[0]
        orbit = generate_views(prior, embedding, ORBIT, _ELEVATION, seed=self.seed)
        again, orbit = again.cpu(), orbit.cpu()
        rows = [torch.cat([part, torch.ones(-len(part) % 4, *part.shape[1:])]) for part in (photographs, again, orbit)]
        likely = inversion.weights.max(1).values.tolist()
        figures: dict[str, Any] = {
            "named": inversion.text,
            "psnr": psnr(again, photographs),
            "cameras": [
                {"photograph": str(path), "azimuth": a, "elevation": e, "probability": round(p, 3), "framing": framing}
                for path, (a, e), p, framing in zip(
                    self.photographs, cameras.tolist(), likely, inversion.framings, strict=True
                )
            ],
        }
        return torch.cat(rows), figures

    def _fit(self, prior: MultiViewPrior, embedding: ObjectEmbedding, show: ShowProgress) -> None:
        """Splats of what the words mean, fitted to generated views; no photograph is needed any more."""
        from invert3d_ns.editing.scene_editor import SceneEditor
        from invert3d_ns.scenes.normalization import from_object_frame
        from invert3d_ns.scenes.ply import write_splats

        editor = SceneEditor.from_words(
            prior,
            embedding,
            seed=self.seed,
            device=prior.device,
            progress=lambda done, total: show("generating views for the splats", done, total),
        )
        while editor.done < editor.total_steps:
            editor.step()
            show("fitting splats", editor.done, editor.total_steps)
        write_splats(self.out / "splats.ply", from_object_frame(editor.cloud(), "y"), up="y")

    def _write(
        self, prior: MultiViewPrior, inversion: ImageInversion, views: Float[Tensor, "F 3 S S"], figures: dict[str, Any]
    ) -> None:
        from invert3d_ns.base.files import atomic_path
        from invert3d_ns.base.pictures import write_grid
        from invert3d_ns.base.provenance import provenance

        write_grid(self.out / "views.png", views)
        settings = {**asdict(self.settings), "seed": self.seed}
        named = {"name": prior.info.name, "fingerprint": prior.info.fingerprint}
        document = {**figures, "prior": named, "settings": settings, **provenance(str(prior.device))}
        with atomic_path(self.out / "metrics.json") as temporary:
            temporary.write_text(json.dumps(document, indent=2) + "\n")

    def _print_summary(self, inversion: ImageInversion, figures: dict[str, Any]) -> None:
        from invert3d_ns.base.english import with_article

        print(f"taken for {with_article(inversion.text)} (--init-word if it is something else)")
        for camera in figures["cameras"]:
            seen = f"azimuth {camera['azimuth']:.0f}, elevation {camera['elevation']:.0f}"
            print(f"{camera['photograph']}: seen from {seen}")
        embedding = self.out / "embedding.safetensors"
        print(f"words    {embedding}")
        print(f"picture  {self.out / 'views.png'} (photographs; the same views from the words; an orbit)")
        if self.splats:
            print(f"splats   {self.out / 'splats.ply'}")
        if self.splats:
            print(f"next     {quoted_command('invert3d', 'edit', self.out, '--prompt', 'blue')}")
        print(f"next     {quoted_command('invert3d', 'views', self.out, '--prompt', 'a photo of <object>')}")


def read_photographs(paths: tuple[Path, ...], size: int = 512) -> Float[Tensor, "K 3 S S"]:
    """Views of all photographs, whatever their sizes; objects fill them.

    Raises:
        InputError: one of them is no picture of an object; see
            :func:`invert3d_ns.words.photographs.object_views.object_view`.
    """
    import torch

    from invert3d_ns.words.photographs.object_views import object_view

    return torch.stack([object_view(path, size) for path in paths])
