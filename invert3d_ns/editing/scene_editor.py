"""The edit in the scene: splats follow edited views, and are then refined by score distillation (Invert3D, eq. 8).

Views of the scene are edited by the prior all around it, and what changed in them is lifted to the splats at once:
views are linear in colors, so a single backward pass says what each splat has to become on average. A short fit
settles what the views disagree about. Splats outside the edit's region keep every bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from invert3d_ns.base.cancellation import Progress, ShouldStop
from invert3d_ns.base.errors import InputError
from invert3d_ns.base.random import random_stream
from invert3d_ns.editing import view_sets
from invert3d_ns.editing.composition import split_into_passes, with_context
from invert3d_ns.editing.conditions import edit_conditions
from invert3d_ns.editing.edit import Change, Edit, Region
from invert3d_ns.editing.framing import FramedScene, render_each
from invert3d_ns.editing.scene_edit_config import SceneEditConfig
from invert3d_ns.editing.splat_following import FollowingSplats
from invert3d_ns.editing.views import edited_views
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world, random_orbit
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.fitting import fit_splats
from invert3d_ns.scenes.rendering import render_splats

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.words.embedding import ObjectEmbedding

__all__ = ["SceneEditConfig", "SceneEditor"]

_STATE_VERSION = 2


class SceneEditor:
    """Changes splats as edits of their words say, in one pass: all new edits are of one region and change the same.

    :meth:`prepare` edits views of the scene, each :meth:`step` brings the splats nearer to them, :meth:`cloud` is where
    they are. Every random number depends on the seed and the step alone, so a run that continues from
    :meth:`state_dict` ends as if it had never stopped. For edits of several regions, see
    :class:`~invert3d_ns.editing.edit_sequence.EditSequence`.

    Args:
        cloud: the scene in the object frame; never written to.
        prior: the prior that the embedding belongs to.
        edits: those that the scene is under already, then the new ones; the last one's sampling settings count.
        applied: how many of ``edits``, from the first, the scene is under already. Of these only the ones that the
            region is under as a whole (see :func:`~invert3d_ns.editing.composition.edits_within`) have a say in its
            views.
        seed: of the order of views and of distillation; the last edit's own if None. The edited views always have
            the edit's.
        device: where splats are rendered.

    Attributes:
        edits: those that views are made under.
        applied: how many of them, from the first, the scene is under already.

    Raises:
        InputError: the embedding is of another prior, an edit cannot be carried out, a setting is out of range, the
            region holds no splats, or the new edits are of several regions.
    """

    def __init__(
        self,
        cloud: SplatCloud,
        prior: MultiViewPrior,
        embedding: ObjectEmbedding,
        edits: Sequence[Edit],
        config: SceneEditConfig | None = None,
        *,
        applied: int = 0,
        seed: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config or SceneEditConfig()
        self.config.check()
        last = edits[-1] if len(edits) > applied else Edit()
        if len(split_into_passes(edits[applied:])) > 1:
            raise InputError("the edits are of several regions or change different things; make them one after another")
        self.edits, self.applied = with_context(edits[:applied], edits[applied:])
        self.prior, self.embedding = prior, embedding
        self.seed, self.device = last.seed if seed is None else seed, torch.device(device)
        self.conditions = edit_conditions(prior, embedding, self.edits)
        self.done = 0
        self._change: Change = last.change
        self._framed = self._frame(cloud, last.region)
        size, azimuths = prior.info.image_size, view_sets.spread_cameras(self.config.orbits, self.config.views)
        self._size, self._poses = size, orbit_camera_to_world(*azimuths)
        self.cameras: Float[Tensor, "B F 16"] = camera_condition(*azimuths)
        """Camera vectors of the views."""
        self._tensors: dict[str, Tensor] = {}
        self._splats: FollowingSplats | None = None

    @property
    def total_steps(self) -> int:
        """Steps of fit and refinement."""
        return self.config.total_steps

    @property
    def prepared(self) -> bool:
        """Whether there are edited views."""
        return self._splats is not None

    @property
    def originals(self) -> Float[Tensor, "B F 3 H W"]:
        """The scene's own views at the prior's size."""
        return self._tensors["originals"]

    @property
    def edited(self) -> Float[Tensor, "B F 3 H W"]:
        """The same views as the prior edited them."""
        return self._tensors["edited"]

    @property
    def selected(self) -> Bool[Tensor, " N"]:
        """The splats of the scene that may change; known in full once prepared."""
        return self._framed.selected

    # What the splats shall look like

    @torch.no_grad()
    def prepare(self, progress: Progress | None = None, should_stop: ShouldStop | None = None) -> None:
        """Render the scene all around, have the prior edit these views, and lift what changed in them to the splats.

        Args:
            progress: called with the denoising steps done and in all.
            should_stop: asked after each of them.

        Raises:
            InputError: the words of the region are about none of its splats.
            Cancelled: ``should_stop`` said so; there are no edited views then.
        """
        originals = self._framed.locate(self._poses, self.cameras)
        keep = self.edits[-1].keep_silhouette if self.edits else True
        masks = self._framed.masks(self._poses.flatten(0, 1), keep_silhouette=keep)
        masks = masks if masks is None else masks.unflatten(0, self.cameras.shape[:2])
        edited = self._edit(originals, masks, progress, should_stop)
        targets = view_sets.target_views(self.prior, originals, edited, masks) if self.config.details else edited
        splats = self._begin(originals, edited, targets)
        # As a start, each splat takes the mean change of the pixels that it makes.
        change, weight = view_sets.lifted_change(
            self._framed.cloud,
            originals.flatten(0, 1),
            self._tensors["targets"],
            self._tensors["trust"],
            self._poses.flatten(0, 1),
            self.config.supersampling,
        )
        splats.lift(change, weight)

    @classmethod
    def from_words(
        cls,
        prior: MultiViewPrior,
        embedding: ObjectEmbedding,
        edits: Sequence[Edit] = (),
        config: SceneEditConfig | None = None,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        count: int = 1500,
        start_steps: int = 150,
        progress: Progress | None = None,
        should_stop: ShouldStop | None = None,
    ) -> SceneEditor:
        """An editor without a scene: splats of the object that the words mean, from views made out of noise.

        Views of all rings are generated in one pass, ``count`` splats start on their visual hull and are fitted for
        ``start_steps``; the editor's own steps go on from there, geometry included. It is prepared already.

        Raises:
            InputError: as the constructor; or an edit is of a region, for which there is no scene.
        """
        if not all(edit.region.is_whole for edit in edits):
            raise InputError("a region needs a scene; leave the box and the relevance out, or give splats")
        edits = [replace(edit, change="geometry") for edit in edits]
        config = replace(config or SceneEditConfig(), details=False)
        empty = SplatCloud(*(torch.zeros(1, n) for n in (3, 3, 4, 1, 3)), features_rest=torch.zeros(1, 0, 3))
        self = cls(empty, prior, embedding, edits, config, seed=seed, device=device)
        views = self._edit(None, None, progress, should_stop, seed=None if edits else seed)
        cloud = fit_splats(views.flatten(0, 1), self._poses.flatten(0, 1), count=count, steps=start_steps, seed=seed)
        cloud = cloud.to("cpu")
        self._change, self._framed = "geometry", self._frame(cloud, Region())
        self._begin(views, views, views)
        return self

    def _frame(self, cloud: SplatCloud, region: Region) -> FramedScene:
        return FramedScene(
            cloud, region, self.prior, self.embedding, supersampling=self.config.supersampling, device=self.device
        )

    def _edit(
        self,
        originals: Float[Tensor, "B F 3 H W"] | None,
        masks: Float[Tensor, "B F 1 H W"] | None,
        progress: Progress | None,
        should_stop: ShouldStop | None,
        seed: int | None = None,
    ) -> Float[Tensor, "B F 3 H W"]:

        def rows(values: Tensor | None) -> Tensor | None:
            return values.flatten(0, 1)[None] if values is not None and self.config.at_once else values

        cameras = self.cameras.flatten(0, 1)[None] if self.config.at_once else self.cameras
        views = edited_views(
            self.prior,
            self.embedding,
            self.edits,
            cameras,
            originals=rows(originals),
            masks=rows(masks),
            applied=self.applied,
            details=False,
            seed=seed,
            progress=progress,
            should_stop=should_stop,
        )
        return views.flatten(0, 1).unflatten(0, self.cameras.shape[:2]).float().to(self.device)

    def _begin(self, originals: Tensor, edited: Tensor, targets: Tensor) -> FollowingSplats:
        """Set views [B F 3 H W] and splats up for the first step."""
        alphas = view_sets.silhouettes(targets.flatten(0, 1)).to(self.device)
        trust = torch.ones_like(alphas)
        if self._change == "colors":
            trust = view_sets.trust(view_sets.silhouettes(originals.flatten(0, 1)).to(self.device), alphas)
        self._tensors = {
            "originals": originals,
            "edited": edited,
            "targets": targets.flatten(0, 1),
            "alphas": alphas,
            "trust": trust,
            "confidence": torch.ones(len(alphas), device=self.device),
        }
        self._splats = self._following()
        return self._splats

    def _following(self) -> FollowingSplats:
        pixels = min(self.config.batch, self.cameras.shape[:2].numel()) * self._size**2
        return FollowingSplats(self._framed.cloud, self._framed.free, self._change, self.config, pixels=pixels)

    # Steps

    def step(self) -> dict[str, float]:
        """Take one step, the fit's first, then the refinement's; what it lowered, by name.

        Raises:
            RuntimeError: every step is taken.
        """
        if self._splats is None:
            self.prepare()
        assert self._splats is not None
        if self.done >= self.total_steps:
            raise RuntimeError(f"all {self.total_steps} steps are taken")
        fitting = self.done < self.config.fit_steps
        share = self.done / max(self.config.fit_steps, 1)
        with torch.enable_grad():
            current = self._splats.current()
            terms = self._fit(current) if fitting else self._refine(current)
            loss = torch.stack(list(terms.values())).sum()
            self._splats.descend(loss, 0.1**share if fitting else self.config.refine_rate)
        self.done += 1
        if self.done == max(1, self.config.fit_steps // 3) and fitting:
            self._weigh_views()
        return {name: float(value.detach()) for name, value in terms.items()}

    def _fit(self, current: SplatCloud) -> dict[str, Tensor]:
        targets, poses = self._tensors["targets"], self._poses.flatten(0, 1)
        order = torch.randperm(len(targets), generator=random_stream("edit fit", self.seed, self.done))
        chosen = order[: self.config.batch]
        picks = chosen.to(self.device)
        drawn, alphas = render_splats(current, poses[chosen], self._size, supersampling=self.config.supersampling)
        weight = self._tensors["confidence"][picks][:, None, None, None]
        terms = {"colors": (weight * self._tensors["trust"][picks] * (drawn - targets[picks]).abs()).mean()}
        if self._change == "geometry":
            terms["silhouettes"] = 0.2 * (weight * (alphas - self._tensors["alphas"][picks]).abs()).mean()
        if self.config.latent_weight:
            both = self.prior.encode_images(torch.cat([drawn, targets[picks]]).to(self.prior.device))
            distance = (both[: len(picks)] - both[len(picks) :].detach()).square()
            terms["latents"] = self.config.latent_weight * (weight.to(distance) * distance).mean().to(self.device)
        return terms

    def _refine(self, current: SplatCloud) -> dict[str, Tensor]:
        generator = random_stream("edit refinement", self.seed, self.done)
        azimuths, elevations = random_orbit(1, self.config.views, generator=generator)
        drawn, _ = render_splats(
            current,
            orbit_camera_to_world(azimuths, elevations)[0],
            self._size,
            supersampling=self.config.supersampling,
        )
        guidance = self.config.sds.setup(prior=self.prior, conditions=self.conditions)
        terms = guidance.loss(
            drawn[None].to(self.prior.device),
            camera_condition(azimuths, elevations),
            generator,
            progress=(self.done - self.config.fit_steps) / self.config.refine_steps,
        )
        # In the units of the fit's mean over pixels, in which Adam's epsilon is given.
        return {name: term.to(self.device) / drawn.numel() for name, term in terms.items()}

    @torch.no_grad()
    def _weigh_views(self) -> None:
        errors = (self.renders().flatten(0, 1) - self._tensors["targets"]).abs().flatten(1).mean(1)
        self._tensors["confidence"] = view_sets.confidences(errors, self.config.tolerance)

    # Splats

    def cloud(self) -> SplatCloud:
        """The scene as it is now, on the CPU; whatever is not :attr:`selected` has the bits that it came with."""
        return self._framed.scene_with({} if self._splats is None else self._splats.settled())

    @torch.no_grad()
    def renders(self) -> Float[Tensor, "B F 3 H W"]:
        """The views of :attr:`originals` as the splats are now, RGB in [0, 1]."""
        current = self._framed.cloud if self._splats is None else self._splats.current()
        drawn = render_each(current, self._poses.flatten(0, 1), self._size, self.config.supersampling).clamp(0, 1)
        return drawn.unflatten(0, self.cameras.shape[:2])

    def state_dict(self) -> dict[str, Any]:
        """Everything that the remaining steps depend on, edited views included; the scene and the words are not in."""
        if self._splats is None:
            return {"version": _STATE_VERSION, "done": 0}
        return {
            "version": _STATE_VERSION,
            "done": self.done,
            "tensors": dict(self._tensors),
            "is_object": self._framed.is_object,
            "free": self._framed.free,
            "splats": self._splats.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, in an editor of the same scene, words, edits and settings.

        Raises:
            InputError: it is of another scene, other settings, or another version.
        """
        if state.get("version") != _STATE_VERSION:
            raise InputError(
                f"the edit was saved in version {state.get('version')}; update invert3d-ns, or start again"
            )
        self.done = int(state["done"])
        if "tensors" not in state:
            self._tensors, self._splats = {}, None
            return
        self._framed.frame(state["is_object"], state["free"])
        if len(self._framed.free) != len(self._framed.cloud):
            raise InputError("the saved edit is of another scene or has other settings; start it again")
        splats = self._following()
        splats.load_state_dict(state["splats"])
        self._tensors = {name: value.to(self.device) for name, value in state["tensors"].items()}
        self._splats = splats
