"""Generate an object's views from its embedding, from any cameras (Invert3D, equation 7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from invert3d_ns.base.errors import InputError
from invert3d_ns.prior.placeholders import check_placeholders
from invert3d_ns.scenes.cameras import camera_condition

if TYPE_CHECKING:
    from invert3d_ns.prior.multiview import MultiViewPrior
    from invert3d_ns.words.embedding import ObjectEmbedding


def view_groups(count: int, size: int) -> list[list[int]]:
    """Split ``count`` views along an orbit into groups of at most ``size``, each spread over the whole orbit.

    The prior was trained on ``size`` views around an object, so every group should go all the way round.
    """
    groups = max(1, -(-count // size))
    return [list(range(index, count, groups)) for index in range(groups)]


def generate_views(
    prior: MultiViewPrior,
    embedding: ObjectEmbedding,
    azimuths: Sequence[float],
    elevation: float = 15.0,
    *,
    prompt: str | None = None,
    group_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **sampling: Any,
) -> Float[Tensor, "F 3 H W"]:
    """Generate the object from F cameras on an orbit, RGB in [0, 1].

    Args:
        prior: the prior that the embedding belongs to.
        embedding: the object.
        azimuths: degrees, in the order in which views are returned.
        elevation: degrees.
        prompt: words around the placeholder; the bare placeholder if None. The prior's prompt suffix is appended to
            prompts that have words of their own.
        group_size: views that are denoised together and so agree with each other; as many as the prior was trained with
            if None. Every group starts from the same noise.
        progress: called with the steps done and the steps in all.
        sampling: keywords of :meth:`MultiViewPrior.sample`; the bare placeholder is sampled with the prior's
            ``words_strength`` if none is given.

    Raises:
        InputError: the embedding is not for this prior, there are no azimuths, the elevation is out of range, or the
            prompt lacks the placeholder.
    """
    from invert3d_ns.prior.sampling import count_steps, default_steps

    embedding.check_prior(prior)
    if not azimuths:
        raise InputError("no azimuths are given; give at least one, in degrees")
    if not -90 < elevation < 90:
        raise InputError(f"elevation {elevation:g} is out of range; give degrees between -90 and 90, best -30 to 30")
    prompt = prompt or embedding.token
    check_placeholders(prompt, embedding.words)
    if embedding.token not in prompt:
        raise InputError(f"the prompt {prompt!r} does not mention the object; put {embedding.token} where it belongs")
    if prompt.strip() != embedding.token:
        prompt += prior.info.prompt_suffix
    with torch.no_grad():
        context = prior.encode_prompt(prompt, embedding.words)
    cameras = camera_condition(torch.tensor([float(a) for a in azimuths]), torch.tensor(float(elevation)))
    groups = view_groups(len(azimuths), group_size or prior.info.num_views)
    bare = prompt.strip() == embedding.token
    strength = sampling.setdefault("strength", prior.info.words_strength if bare else 1.0)
    whole = sampling["steps"] = sampling.get("steps") or default_steps(prior, strength)
    steps = count_steps(whole, strength)
    images: dict[int, Tensor] = {}
    for done, group in enumerate(groups):

        def callback(step: int, _: Tensor, done: int = done) -> None:
            if progress is not None:
                progress(done * steps + step + 1, len(groups) * steps)

        sampled = prior.sample(context, cameras[group][None], callback=callback, **sampling)[0]
        images.update(zip(group, sampled, strict=True))
    return torch.stack([images[index] for index in range(len(azimuths))])
