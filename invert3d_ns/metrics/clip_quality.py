"""Evaluation of CLIP: retrieval and zero-shot classification of objects that were held out from training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from invert3d_ns.base.random import random_stream
from invert3d_ns.metrics.report import mean_and_spread

if TYPE_CHECKING:
    from invert3d_ns.alignment.clip import ClipTowers
    from invert3d_ns.world.objects import WorldObject

OBJECTS = 200
"""Objects among which one is to be found."""
VIEWS = 4
_SEED = 7700
"""Of the objects that are evaluated; a seed of the command is added to it."""


def measure_clip(
    towers: ClipTowers, seeds: Sequence[int] = (0, 1, 2), count: int = OBJECTS
) -> tuple[list[dict[str, str]], dict[str, float]]:
    """Grade towers on a set of held-out objects for each seed.

    Args:
        seeds: one or more.
        count: objects in a set.

    Returns:
        A line of the table for each figure of :func:`evaluate_clip`, in per cent with its spread over seeds; and their
        means, as shares.
    """
    measured = [evaluate_clip(towers, seed, count) for seed in seeds]
    figures = {key: sum(values[key] for values in measured) / len(measured) for key in measured[0]}
    rows = [
        {"what": key.replace("_", " "), "%": mean_and_spread([100 * values[key] for values in measured], 1)}
        for key in figures
    ]
    return rows, figures


@torch.no_grad()
def evaluate_clip(towers: ClipTowers, seed: int = 0, count: int = OBJECTS) -> dict[str, float]:
    """Grade towers on one set of held-out objects.

    Returns:
        Shares in [0, 1]: objects found first (``recall_1``) and among the first five by their description from four
        views, by one view, and descriptions found by their object; zero-shot accuracy over single views for style,
        class, and for color and pattern where they can be seen; and what retrieval can reach at most, if nothing
        but what a style hides were mistaken; and recall, style and class of views that are blurred or cropped.
    """
    from invert3d_ns.world.attributes import attribute_prompts
    from invert3d_ns.world.captions import full_description
    from invert3d_ns.world.data import render_on_orbits
    from invert3d_ns.world.vocabulary import BLOCKY, COLORLESS, STYLES

    items = held_out_objects(_SEED + seed, count)
    rgb = torch.from_numpy(render_on_orbits(items, _SEED + seed, 64, VIEWS)[0]).permute(0, 1, 4, 2, 3).float() / 255
    device = towers.mean.device
    single = torch.cat([towers.encode_image(part.flatten(0, 1).to(device)) for part in rgb.split(32)])
    views = single.unflatten(0, (len(items), VIEWS))
    objects = torch.nn.functional.normalize(views.mean(1), dim=-1)
    words = towers.encode_text([full_description(item) for item in items])
    found = words @ objects.T
    right = among_best(found)
    photo = torch.tensor([item.style == "photo" for item in items])
    hidden = torch.tensor([item.style in COLORLESS for item in items])
    result = {
        "recall_1": right.float().mean().item(),
        "recall_5": among_best(found, 5).float().mean().item(),
        "recall_1_one_view": among_best(words @ views[:, 0].T).float().mean().item(),
        "recall_1_object_to_text": among_best(found.T).float().mean().item(),
        "recall_1_photos": right[photo].float().mean().item(),
        "recall_1_other_styles_in_color": right[~photo & ~hidden].float().mean().item(),
        "recall_1_colorless_styles": right[hidden].float().mean().item(),
        "recall_1_attainable": _attainable(items),
    }
    everywhere = torch.ones(len(items), dtype=torch.bool)
    tables: dict[str, tuple[list[str], Bool[Tensor, " O"]]] = {
        "style": ([i.style for i in items], everywhere),
        "class": ([i.name for i in items], everywhere),
        "color": ([i.color for i in items], ~hidden),
        "pattern": ([i.pattern for i in items], torch.tensor([i.style not in BLOCKY for i in items])),
    }
    for key, prompts in attribute_prompts().items():
        truth, seen = tables[key]
        named = towers.classify(single, list(prompts.values())).argmax(1).cpu().unflatten(0, views.shape[:2])
        answers: Int[Tensor, "O 1"] = torch.tensor([list(prompts).index(t) for t in truth])[:, None]
        agree = (named == answers).float()
        result[f"zero_shot_{key}"] = agree[seen].mean().item()
        if key == "style":
            for style in STYLES:
                mine = torch.tensor([item.style == style for item in items])
                if mine.any():
                    result[f"zero_shot_style_{style.replace(' ', '_')}"] = agree[mine].mean().item()
    for name, changed in _made_harder(rgb.flatten(0, 1), seed).items():
        vectors = torch.cat([towers.encode_image(part.to(device)) for part in changed.split(128)])
        of_object = torch.nn.functional.normalize(vectors.unflatten(0, views.shape[:2]).mean(1), dim=-1)
        result[f"recall_1_{name}"] = among_best(words @ of_object.T).float().mean().item()
        for key in ("style", "class"):
            prompts, truth = attribute_prompts()[key], tables[key][0]
            named = towers.classify(vectors, list(prompts.values())).argmax(1).cpu().unflatten(0, views.shape[:2])
            answers = torch.tensor([list(prompts).index(t) for t in truth])[:, None]
            result[f"zero_shot_{key}_{name}"] = (named == answers).float().mean().item()
    return result


def _made_harder(images: Float[Tensor, "B 3 H W"], seed: int) -> dict[str, Float[Tensor, "B 3 H W"]]:
    """Views as large splats and small crops show them: blurred by one or two pixels, or slanted, of half a side."""
    from torchvision.transforms.functional import gaussian_blur

    from invert3d_ns.alignment.augmentation import apply_crops, draw_crops

    generator = random_stream("crops of an evaluation of CLIP", seed)
    crops = draw_crops(len(images), generator, side=(0.5, 0.5), perspective=0.4)
    return {
        "blurred_by_1": gaussian_blur(images, [9, 9], [1.0, 1.0]),
        "blurred_by_2": gaussian_blur(images, [9, 9], [2.0, 2.0]),
        "crops": apply_crops(images, crops, images.shape[-1]),
    }


def among_best(scores: Float[Tensor, "N N"], best: int = 1) -> Bool[Tensor, " N"]:
    """Whether each row's own column is among its ``best`` highest."""
    own = torch.arange(len(scores), device=scores.device)[:, None]
    return (scores.topk(min(best, len(scores)), 1).indices == own).any(1).cpu()


def held_out_objects(seed: int, count: int) -> list[WorldObject]:
    """Draw objects of held-out combinations, of which no two have the same description."""
    import numpy as np

    from invert3d_ns.world.captions import full_description
    from invert3d_ns.world.objects import sample_object

    rng = np.random.default_rng([seed])
    found: dict[str, WorldObject] = {}
    while len(found) < count:
        item = sample_object(rng, split="held-out")
        found.setdefault(full_description(item), item)
    return list(found.values())


def _attainable(items: Sequence[WorldObject]) -> float:
    """Recall of one who sees all but colors in colorless styles, and guesses among those that then look alike."""
    import dataclasses

    from invert3d_ns.world.captions import full_description
    from invert3d_ns.world.vocabulary import COLORLESS

    def seen(item: WorldObject) -> str:
        if item.style not in COLORLESS:
            return full_description(item)
        return full_description(dataclasses.replace(item, color="?", second=item.second and "?"))

    keys = [seen(item) for item in items]
    return sum(1 / keys.count(key) for key in keys) / len(keys)
