"""The edit in the scene: splats follow edited views, and are then refined by score distillation (Invert3D, eq. 8).

Views of the scene are edited by the prior all around it, and what changed in them is lifted to the splats at once:
views are linear in colors, so a single backward pass says what each splat has to become on average. A short fit
settles what the views disagree about. Splats outside a region keep every bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from invert3d_ns.base.errors import InputError
from invert3d_ns.base.random import random_stream
from invert3d_ns.editing import view_sets
from invert3d_ns.editing.regions import coverage_masks, inside_box, take, to_frame
from invert3d_ns.editing.scene_edit_config import SceneEditConfig
from invert3d_ns.editing.views import edited_views
from invert3d_ns.guidance.sds import ScoreDistillation
from invert3d_ns.prior.conditions import edit_conditions
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world, random_orbit
from invert3d_ns.scenes.fitting import fit_splats, render_splats
from invert3d_ns.scenes.normalization import transform_splats
from invert3d_ns.scenes.ply import SH_C0, SplatCloud

if TYPE_CHECKING:
    from invert3d_ns.editing.edit import Edit
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.words.embedding import ObjectEmbedding

__all__ = ["SceneEditConfig", "SceneEditor"]

_COLORS = ("features_dc", "features_rest")
_GEOMETRY = ("means", "scales", "quats", "opacities")
_RATES = {"means": 5e-4, "scales": 5e-3, "quats": 5e-3, "opacities": 2e-2}
_STATE_VERSION = 1


class SceneEditor:
    """Changes splats as edits of their words say.

    :meth:`prepare` edits views of the scene, each :meth:`step` brings the splats nearer to them, :meth:`cloud` is where
    they are. Every random number depends on the seed and the step alone, so a run that continues from
    :meth:`state_dict` ends as if it had never stopped.

    Args:
        cloud: the scene in the object frame; never written to.
        prior: the prior that the embedding belongs to.
        edits: what shall change; the last one's sampling settings count.
        applied: how many of ``edits``, from the first, the scene is under already.
        seed: of the order of views and of distillation; the edited views have that of the edit.
        device: where splats are rendered.

    Raises:
        InputError: the embedding is of another prior, an edit cannot be carried out, a setting is out of range, or the
            region holds no splats.
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
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config or SceneEditConfig()
        self.config.check()
        self.prior, self.embedding, self.edits, self.applied = prior, embedding, list(edits), applied
        self.seed, self.device = seed, torch.device(device)
        self.conditions = edit_conditions(prior, embedding, self.edits)
        self.done = 0
        self._scene = cloud.to("cpu")
        box = self.config.box
        self._inside = torch.ones(len(cloud), dtype=torch.bool) if box is None else inside_box(self._scene, box)
        size, azimuths = prior.info.image_size, view_sets.spread_cameras(self.config.orbits, self.config.views)
        self._size, self._poses = size, orbit_camera_to_world(*azimuths)
        self.cameras: Float[Tensor, "B F 16"] = camera_condition(*azimuths)
        """Camera vectors of the views."""
        self._tensors: dict[str, Tensor] = {}
        self._leaves: dict[str, Tensor] = {}

    @property
    def total_steps(self) -> int:
        """Steps of fit and refinement."""
        return self.config.fit_steps + self.config.refine_steps

    @property
    def prepared(self) -> bool:
        """Whether there are edited views."""
        return bool(self._tensors)

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
        rows = self._inside.clone()
        if self.prepared:
            rows[rows.nonzero()[:, 0] if self._is_object else slice(None)] = self._tensors["free"].cpu()
        return rows

    @property
    def _is_object(self) -> bool:
        return bool(self._tensors["is_object"])

    # What the splats shall look like

    @torch.no_grad()
    def prepare(
        self, progress: Callable[[int, int], None] | None = None, cancelled: Callable[[], bool] | None = None
    ) -> None:
        """Render the scene all around, have the prior edit these views, and lift what changed in them to the splats.

        Args:
            progress: called with the denoising steps done and in all.
            cancelled: asked after each of them.

        Raises:
            InputError: the words of the region are about none of its splats.
            Cancelled: ``cancelled`` said so; the editor is as it was.
        """
        holds = self.config.box_holds
        is_object = self.config.box is not None and (holds == "object" or (holds == "auto" and self._box_is_object()))
        base = self._framed(is_object)
        free = torch.ones(len(base), dtype=torch.bool) if is_object else self._inside.clone()
        originals = self._render(base, self._poses.flatten(0, 1)).clamp(0, 1).unflatten(0, self.cameras.shape[:2])
        if self.config.relevance is not None:
            from invert3d_ns.editing.relevance import relevant_splats

            free &= relevant_splats(
                self.prior,
                self.embedding,
                self.config.relevance,
                base,
                self._poses,
                originals,
                self.cameras,
                among=free,
                threshold=self.config.relevance_threshold,
                supersampling=self.config.supersampling,
            ).cpu()
        masks = None
        if not free.all():
            masks = coverage_masks(
                base,
                free.to(self.device),
                self._poses.flatten(0, 1),
                self._size,
                supersampling=self.config.supersampling,
            ).unflatten(0, self.cameras.shape[:2])
        edited = self._edit(originals, masks, progress, cancelled)
        wanted = view_sets.wanted_views(self.prior, originals, edited, masks) if self.config.details else edited
        self._begin(base, is_object, free, originals, edited, wanted)
        self._lift(base)

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
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> SceneEditor:
        """An editor without a scene: splats of the object that the words mean, from views made out of noise.

        Views of all rings are generated in one pass, ``count`` splats start on their visual hull and are fitted for
        ``start_steps``; the editor's own steps go on from there, geometry included. It is prepared already.

        Raises:
            InputError: as the constructor; or a region is given, for which there is no scene.
        """
        config = config or SceneEditConfig()
        if config.box is not None or config.relevance is not None:
            raise InputError("a region needs a scene; leave the box and the relevance out, or give splats")
        config = replace(config, change="geometry", details=False)
        empty = SplatCloud(*(torch.zeros(1, n) for n in (3, 3, 4, 1, 3)), features_rest=torch.zeros(1, 0, 3))
        self = cls(empty, prior, embedding, edits, config, seed=seed, device=device)
        views = self._edit(None, None, progress, cancelled)
        cloud = fit_splats(
            views.flatten(0, 1).cpu(), self._poses.flatten(0, 1), count=count, steps=start_steps, seed=seed
        )
        self._scene, self._inside = cloud, torch.ones(len(cloud), dtype=torch.bool)
        self._begin(cloud.to(self.device), False, self._inside, views, views, views)
        return self

    def _edit(
        self,
        originals: Float[Tensor, "B F 3 H W"] | None,
        masks: Float[Tensor, "B F 1 H W"] | None,
        progress: Callable[[int, int], None] | None,
        cancelled: Callable[[], bool] | None,
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
            progress=progress,
            cancelled=cancelled,
        )
        return views.flatten(0, 1).unflatten(0, self.cameras.shape[:2]).float().to(self.device)

    def _framed(self, is_object: bool) -> SplatCloud:
        """The scene as the prior is shown it: whole, or only what is inside the box, at the size of objects."""
        if not is_object:
            return self._scene.to(self.device)
        inside = take(self._scene, self._inside)
        return transform_splats(inside, to_frame(inside)).to(self.device)

    def _box_is_object(self) -> bool:
        """Whether the words explain what is in the box, shown alone, better than the scene as a whole."""
        alone, whole = (
            view_sets.explained_share(
                self.prior,
                self.embedding,
                self._render(self._framed(is_object), self._poses[0]).clamp(0, 1),
                self.cameras[0],
            )
            for is_object in (True, False)
        )
        return alone < whole

    def _begin(
        self, base: SplatCloud, is_object: bool, free: Tensor, originals: Tensor, edited: Tensor, wanted: Tensor
    ) -> None:
        names = _COLORS if self.config.change == "colors" else _COLORS + _GEOMETRY
        alphas = view_sets.silhouettes(wanted.flatten(0, 1)).to(self.device)
        trust = torch.ones_like(alphas)
        if self.config.change == "colors":
            trust = view_sets.trust(view_sets.silhouettes(originals.flatten(0, 1)).to(self.device), alphas)
        self._tensors = {
            "is_object": torch.tensor(is_object),
            "free": free.to(self.device),
            "originals": originals,
            "edited": edited,
            "wanted": wanted.flatten(0, 1),
            "alphas": alphas,
            "trust": trust,
            "confidence": torch.ones(len(alphas), device=self.device),
            "unseen": torch.zeros(0, dtype=torch.long),
            "neighbors": torch.zeros(0, 4, dtype=torch.long),
            "start": base.features_dc[free.to(self.device)].clone(),
        }
        self._set_leaves(base, {name: getattr(base, name)[free.to(self.device)].clone() for name in names})

    def _lift(self, base: SplatCloud) -> None:
        """Give each splat the mean change of the pixels that it makes, as a start."""
        change, weight = view_sets.lifted_change(
            base,
            self.originals.flatten(0, 1),
            self._tensors["wanted"],
            self._tensors["trust"],
            self._poses.flatten(0, 1),
            self.config.supersampling,
        )
        free = self._tensors["free"]
        change, weight = change[free], weight[free]
        self._leaves["features_dc"].data += torch.where(weight[:, None] > view_sets.SEEN, change / SH_C0, 0.0)
        seen, unseen = (weight > view_sets.SEEN).nonzero()[:, 0].cpu(), (weight <= view_sets.SEEN).nonzero()[:, 0].cpu()
        if len(seen) and len(unseen):
            self._tensors["unseen"] = unseen
            self._tensors["neighbors"] = view_sets.neighbors_of_unseen(take(base, free).to("cpu"), seen, unseen)

    # Steps

    def step(self) -> dict[str, float]:
        """Take one step, the fit's first, then the refinement's; what it lowered, by name.

        Raises:
            RuntimeError: every step is taken.
        """
        if not self.prepared:
            self.prepare()
        if self.done >= self.total_steps:
            raise RuntimeError(f"all {self.total_steps} steps are taken")
        fitting = self.done < self.config.fit_steps
        for group in self._optimizer.param_groups:
            progress = self.done / max(self.config.fit_steps, 1)
            group["lr"] = group["first"] * (0.1**progress if fitting else self.config.refine_rate)
        with torch.enable_grad():
            terms = self._fit() if fitting else self._refine()
            torch.stack(list(terms.values())).sum().backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.done += 1
        if self.done == max(1, self.config.fit_steps // 3) and fitting:
            self._weigh_views()
        return {name: float(value.detach()) for name, value in terms.items()}

    def _fit(self) -> dict[str, Tensor]:
        wanted, poses = self._tensors["wanted"], self._poses.flatten(0, 1)
        order = torch.randperm(len(wanted), generator=random_stream("edit fit", self.seed, self.done))
        picks = order[: self.config.batch].to(self.device)
        drawn, alphas = render_splats(
            self._current(), poses[picks.cpu()], self._size, supersampling=self.config.supersampling
        )
        weight = self._tensors["confidence"][picks][:, None, None, None]
        terms = {"colors": (weight * self._tensors["trust"][picks] * (drawn - wanted[picks]).abs()).mean()}
        if self.config.change == "geometry":
            terms["silhouettes"] = 0.2 * (weight * (alphas - self._tensors["alphas"][picks]).abs()).mean()
        if self.config.latent_weight:
            both = self.prior.encode_images(torch.cat([drawn, wanted[picks]]).to(self.prior.device))
            distance = (both[: len(picks)] - both[len(picks) :].detach()).square()
            terms["latents"] = self.config.latent_weight * (weight.to(distance) * distance).mean().to(self.device)
        return terms

    def _refine(self) -> dict[str, Tensor]:
        generator = random_stream("edit refinement", self.seed, self.done)
        azimuths, elevations = random_orbit(1, self.config.views, generator=generator)
        drawn, _ = render_splats(
            self._current(),
            orbit_camera_to_world(azimuths, elevations)[0],
            self._size,
            supersampling=self.config.supersampling,
        )
        distillation = ScoreDistillation(self.prior, self.conditions, self.config.sds)
        loss = distillation.loss(
            drawn[None].to(self.prior.device),
            camera_condition(azimuths, elevations),
            generator,
            progress=(self.done - self.config.fit_steps) / self.config.refine_steps,
        )
        # In the units of the fit's mean over pixels, in which Adam's epsilon is given.
        return {"distillation": loss.to(self.device) / drawn.numel()}

    @torch.no_grad()
    def _weigh_views(self) -> None:
        errors = (self.renders().flatten(0, 1) - self._tensors["wanted"]).abs().flatten(1).mean(1)
        self._tensors["confidence"] = view_sets.confidences(errors, self.config.tolerance)

    # Splats

    def _set_leaves(self, base: SplatCloud, leaves: dict[str, Tensor]) -> None:
        self._base = base
        self._leaves = {name: leaf.detach().to(self.device).requires_grad_() for name, leaf in leaves.items()}
        # A splat of a tenth of one pixel moves at half the rate: Adam would move it as fast as any, by noise.
        pixel = SH_C0 / (min(self.config.batch, self.cameras.shape[:2].numel()) * 3 * self._size**2)
        rates = {"features_dc": self.config.color_rate, "features_rest": self.config.color_rate / 20}
        rates |= {name: rate * self.config.geometry_rate for name, rate in _RATES.items()}
        epsilons: dict[str, float] = dict.fromkeys(_COLORS, 0.1 * pixel)
        self._optimizer = torch.optim.Adam(
            [
                {"params": [leaf], "lr": rates[name], "first": rates[name], "eps": epsilons.get(name, 1e-15)}
                for name, leaf in self._leaves.items()
            ]
        )

    def _current(self) -> SplatCloud:
        """All splats of the prior's frame, differentiable in those that may change."""
        rows = (self._tensors["free"].nonzero()[:, 0],)
        return replace(
            self._base, **{name: getattr(self._base, name).index_put(rows, leaf) for name, leaf in self._leaves.items()}
        )

    @torch.no_grad()
    def cloud(self) -> SplatCloud:
        """The scene as it is now, on the CPU; whatever is not :attr:`selected` has the bits that it came with."""
        if not self.prepared:
            return replace(self._scene)
        leaves = {name: leaf.detach().cpu().clone() for name, leaf in self._leaves.items()}
        unseen, neighbors = self._tensors["unseen"].cpu(), self._tensors["neighbors"].cpu()
        if len(unseen):
            change = leaves["features_dc"] - self._tensors["start"].cpu()
            leaves["features_dc"][unseen] += change[neighbors].mean(dim=1) - change[unseen]
        if "quats" in leaves:
            leaves["quats"] = functional.normalize(leaves["quats"], dim=-1)
        if self._is_object and "means" in leaves:
            back = torch.linalg.inv(to_frame(take(self._scene, self._inside)))
            leaves["means"] = leaves["means"] @ back[:3, :3].T + back[:3, 3]
            leaves["scales"] = leaves["scales"] + back[0, 0].log()
        rows = (self.selected.nonzero()[:, 0],)
        values = {name: getattr(self._scene, name).index_put(rows, leaf) for name, leaf in leaves.items()}
        return replace(self._scene, **values)

    def _render(self, cloud: SplatCloud, poses: Float[Tensor, "F 4 4"]) -> Float[Tensor, "F 3 H W"]:
        # View by view: what a pass keeps grows with the number of views.
        with torch.no_grad():
            return torch.cat(
                [
                    render_splats(cloud, pose[None], self._size, supersampling=self.config.supersampling)[0]
                    for pose in poses
                ]
            )

    def renders(self) -> Float[Tensor, "B F 3 H W"]:
        """The views of :attr:`originals` as the splats are now."""
        drawn = self._render(self._current(), self._poses.flatten(0, 1)).clamp(0, 1)
        return drawn.unflatten(0, self.cameras.shape[:2])

    def state_dict(self) -> dict[str, Any]:
        """Everything that the remaining steps depend on, edited views included; the scene and the words are not in."""
        if not self.prepared:
            return {"version": _STATE_VERSION, "done": 0}
        return {
            "version": _STATE_VERSION,
            "done": self.done,
            "tensors": dict(self._tensors),
            "leaves": {name: leaf.detach().clone() for name, leaf in self._leaves.items()},
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, in an editor of the same scene, words, edits and settings.

        Raises:
            InputError: it is of another scene, other settings, or a newer version.
        """
        if state.get("version") != _STATE_VERSION:
            raise InputError(
                f"the edit was saved in version {state.get('version')}; update invert3d-ns, or start again"
            )
        self.done = int(state["done"])
        if "tensors" not in state:
            self._tensors, self._leaves = {}, {}
            return
        tensors = {name: value.to(self.device) for name, value in state["tensors"].items()}
        base = self._framed(bool(tensors["is_object"]))
        names = _COLORS if self.config.change == "colors" else _COLORS + _GEOMETRY
        if len(tensors["free"]) != len(base) or tuple(state["leaves"]) != names:
            raise InputError("the saved edit is of another scene or has other settings; start it again")
        self._tensors = tensors
        self._set_leaves(base, state["leaves"])
        self._optimizer.load_state_dict(state["optimizer"])
