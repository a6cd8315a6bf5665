"""A scene as the prior is shown it for the edit of a region, and the way back from there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from invert3d_ns.editing.edit import Region
from invert3d_ns.editing.regions import coverage_masks, inside_box, to_frame
from invert3d_ns.editing.view_sets import explained_share, spread_cameras
from invert3d_ns.scenes.cameras import camera_condition, orbit_camera_to_world
from invert3d_ns.scenes.cloud import SplatCloud
from invert3d_ns.scenes.normalization import transform_splats
from invert3d_ns.scenes.rendering import render_splats

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.words.embedding import ObjectEmbedding


class FramedScene:
    """The splats of a scene that an edit may change, and the scene as the prior is shown it for that edit.

    The prior is shown the whole scene, or, where a box holds an object of its own, that object alone and as large as
    the prior knows objects. Which of the two, and which splats the words of the region are about, is known from
    :meth:`locate` on; before it is the whole scene with all splats of the box.

    Args:
        scene: splats in the object frame; never written to.
        region: where the edit may change them.
        prior: the prior that the embedding belongs to.
        supersampling: samples along each side of a pixel.
        device: where splats are rendered.

    Attributes:
        scene: on the CPU.
        cloud: the splats that are shown, on ``device``, in the frame in which they are shown.
        free: those of ``cloud`` that may change, on the CPU.
        is_object: whether only the contents of the box are shown.

    Raises:
        InputError: the box of the region holds no splats.
    """

    def __init__(
        self,
        scene: SplatCloud,
        region: Region,
        prior: MultiViewPrior,
        embedding: ObjectEmbedding,
        *,
        supersampling: int = 2,
        device: torch.device | str = "cpu",
    ) -> None:
        self.scene, self.region = scene.to("cpu"), region
        self._prior, self._embedding = prior, embedding
        self._supersampling, self._device = supersampling, torch.device(device)
        everything = torch.ones(len(scene), dtype=torch.bool)
        self._inside = everything if region.box is None else inside_box(self.scene, region.box)
        self.frame(False)

    def frame(self, is_object: bool, free: Bool[Tensor, " N"] | None = None) -> None:
        """Show only the contents of the box (or everything), of which ``free`` may change (what is in the box)."""
        self.is_object = is_object
        self.cloud = self._shown(is_object)
        if free is None:
            free = torch.ones(len(self.cloud), dtype=torch.bool) if is_object else self._inside.clone()
        self.free = free.cpu()

    def _shown(self, is_object: bool) -> SplatCloud:
        if not is_object:
            return self.scene.to(self._device)
        inside = self.scene.select(self._inside)
        return transform_splats(inside, to_frame(inside)).to(self._device)

    def locate(self, poses: Float[Tensor, "B F 4 4"], cameras: Float[Tensor, "B F 16"]) -> Float[Tensor, "B F 3 H W"]:
        """Find out what the box holds and which splats the words of the region are about; returns views of it.

        Args:
            poses: camera-to-world matrices of the views that are looked at.
            cameras: the prior's vectors of the same cameras.

        Raises:
            InputError: the words of the region are about none of its splats.
        """
        holds = self.region.box_holds
        is_object = self.region.box is not None and (
            holds == "object" or (holds == "auto" and self._box_is_object(poses[0], cameras[0]))
        )
        self.frame(is_object)
        originals = self.render(poses.flatten(0, 1)).unflatten(0, cameras.shape[:2])
        if self.region.relevance is not None:
            from invert3d_ns.editing.relevance import relevant_splats

            self.free &= relevant_splats(
                self._prior,
                self._embedding,
                self.region.relevance,
                self.cloud,
                poses,
                originals,
                cameras,
                among=self.free,
                threshold=self.region.relevance_threshold,
                supersampling=self._supersampling,
            ).cpu()
        return originals

    def _box_is_object(self, poses: Float[Tensor, "F 4 4"], cameras: Float[Tensor, "F 16"]) -> bool:
        """Whether the words explain what is in the box, shown alone, better than the scene as a whole."""
        size = self._prior.info.image_size
        alone, whole = (
            explained_share(
                self._prior,
                self._embedding,
                render_each(self._shown(is_object), poses, size, self._supersampling).clamp(0, 1),
                cameras,
            )
            for is_object in (True, False)
        )
        return alone < whole

    def render(self, poses: Float[Tensor, "F 4 4"]) -> Float[Tensor, "F 3 H W"]:
        """Views of what is shown, RGB in [0, 1] on white, at the prior's size."""
        return render_each(self.cloud, poses, self._prior.info.image_size, self._supersampling).clamp(0, 1)

    def masks(self, poses: Float[Tensor, "F 4 4"], *, keep_silhouette: bool = True) -> Float[Tensor, "F 1 H W"] | None:
        """Where views may change: 1 where they show splats that may, 0 elsewhere; None if all splats may.

        Args:
            keep_silhouette: whether the background stays as it is; else it may change wherever it is seen.
        """
        if self.free.all():
            return None
        free, size = self.free.to(self._device), self._prior.info.image_size
        masks = coverage_masks(self.cloud, free, poses, size, supersampling=self._supersampling)
        if keep_silhouette:
            return masks
        others = coverage_masks(self.cloud, ~free, poses, size, supersampling=self._supersampling, dilation=0)
        return torch.maximum(masks, 1 - others)

    @property
    def selected(self) -> Bool[Tensor, " N"]:
        """The splats of the scene that may change, on the CPU."""
        rows = self._inside.clone()
        rows[rows.nonzero()[:, 0] if self.is_object else slice(None)] = self.free
        return rows

    def scene_with(self, changed: dict[str, Tensor]) -> SplatCloud:
        """The scene with other values of the :attr:`selected` splats; all others keep every bit.

        Args:
            changed: values by the name of a field of :class:`SplatCloud`, in the frame of :attr:`cloud`, on the CPU.
        """
        if self.is_object and "means" in changed:
            back = torch.linalg.inv(to_frame(self.scene.select(self._inside)))
            means = changed["means"] @ back[:3, :3].T + back[:3, 3]
            changed = changed | {"means": means, "scales": changed["scales"] + back[0, 0].log()}
        rows = (self.selected.nonzero()[:, 0],)
        values = {name: getattr(self.scene, name).index_put(rows, value) for name, value in changed.items()}
        return replace(self.scene, **values)


def frame_object(
    scene: SplatCloud,
    region: Region,
    prior: MultiViewPrior,
    embedding: ObjectEmbedding,
    *,
    check_words: bool,
    device: torch.device | str = "cpu",
) -> FramedScene:
    """A scene as the prior is shown it for the edit of a region, which is found in it.

    Args:
        check_words: whether to refuse words that describe another object than is shown.

    Raises:
        InputError: the region holds no splats, or see :func:`~invert3d_ns.editing.sources.check_same_object`.
    """
    from invert3d_ns.editing import sources

    framed = FramedScene(scene, region, prior, embedding, device=device)
    if not region.is_whole:
        around = spread_cameras(orbits=3, views=4)
        framed.locate(orbit_camera_to_world(*around), camera_condition(*around))
    if check_words:
        sources.check_same_object(prior, embedding, framed.cloud)
    return framed


@torch.no_grad()
def render_each(
    cloud: SplatCloud, poses: Float[Tensor, "F 4 4"], size: int, supersampling: int
) -> Float[Tensor, "F 3 H W"]:
    """Views one by one, RGB on white: what a pass of rendering keeps grows with the number of its views."""
    return torch.cat([render_splats(cloud, pose[None], size, supersampling=supersampling)[0] for pose in poses])
