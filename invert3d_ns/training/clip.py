"""Train the bundled CLIP towers: open_clip's model and contrastive loss, on views of the world and their captions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from invert3d_ns.alignment.augmentation import apply_crops, draw_crops
from invert3d_ns.training.compute import mixed_precision, quick_attention
from invert3d_ns.training.loop import Stage, initial_weights, step_generator
from invert3d_ns.training.text import load_or_build_tokenizer
from invert3d_ns.world.attributes import attribute_labels, attribute_prompts
from invert3d_ns.world.data import WorldViews

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from invert3d_ns.alignment.clip import ClipTowers

    Augmentation = Callable[[Float[Tensor, "B 3 H W"], torch.Generator], Float[Tensor, "B 3 H W"]]

ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"layers": [1, 2, 2, 1], "width": 16, "head_width": 64, "image_size": 64},
    "text_cfg": {"context_length": 32, "width": 128, "heads": 4, "layers": 3},
}
"""open_clip's model config, without the vocabulary. A small ResNet costs a third of the time of a transformer of four
layers over 8x8 patches."""
ATTRIBUTES_FROM = 400
"""Step from which prompts that name an attribute alone are learned too; whole descriptions come first."""
ATTRIBUTE_WEIGHT = 0.5
"""Weight of the loss over such prompts, relative to the contrastive one."""
WORSENED_FROM = 400
"""Step from which views of a training with crops are made worse before they are learned."""
WORSE = 0.6
"""How far such a view may be from the true one: the length of their difference, over all numbers in [0, 1] of a view of
64 pixels."""
MOST_VIEWS = 2
"""Views of an object that are averaged in training: one or up to this many."""


def train_clip(
    folder: Path,
    data: WorldViews,
    steps: int,
    *,
    batch: int = 256,
    lr: float = 3e-3,
    crops: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> ClipTowers:
    """Train both towers; a second call goes on where the first stopped.

    Each item is an object: one or two of its views, their vectors averaged, against one of its wordings. Of objects
    whose wording is the same only the first stays in the batch, so that no true pair is pushed apart. Prompts that name
    an attribute and no object ("a pencil sketch of an object") fit many objects of a batch and can have no place in
    it: each image is told apart from theirs in a cross-entropy of its own. Hidden matrices are trained with Muon.

    Args:
        folder: for the checkpoint and the vocabulary.
        data: what to learn from.
        steps: optimizer steps.
        batch: objects a step.
        lr: peak learning rate.
        crops: show crops, slants and soft views too (:func:`augment_crops`), for towers that stylize.
        seed: of weights and batches.
        device: where to train.

    Raises:
        InputError: ``folder`` has a checkpoint of a training with other settings, or cannot be written.
    """
    from open_clip.loss import ClipLoss

    batches = CaptionBatches(data)
    prompts, labels = attribute_prompts(), attribute_labels(data)
    with initial_weights(seed):
        towers = build_clip(folder, batches.texts)
    settings = {
        "--seed": seed,
        "--objects": len(data),
        "the learning rate": lr,
        "the objects a step": batch,
        "the training set": data.fingerprint(),
        "--crops": crops,
    }
    augment = augment_crops if crops else augment_views
    model = towers.to(device).model
    stage = Stage("clip", folder, model, steps, lr, settings, seed, weight_decay=0.05, muon=True)
    contrast = ClipLoss()

    def features(step: int, generator: torch.Generator) -> tuple[Tensor, Tensor, list[str]]:
        objects, chosen = batches.draw(step, batch, generator)
        count = int(torch.randint(1, MOST_VIEWS + 1, (), generator=generator))
        seen = torch.randint(data.rgb.shape[1], (len(objects), count), generator=generator)
        images = torch.from_numpy(data.rgb[objects[:, None].numpy(), seen.numpy()]).to(device)
        images = images.permute(0, 1, 4, 2, 3).float() / 255
        return augment(images.flatten(0, 1), generator).unflatten(0, images.shape[:2]), objects, chosen

    def compare(images: Tensor, objects: Tensor, words: Tensor, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # The vectors are float32 again; products of bfloat16 would round away the differences that matter.
        scale = towers.model.logit_scale.exp()
        right = (images @ words.T).argmax(0) == torch.arange(len(words), device=images.device)
        apart = contrast(images, words, scale)
        told = torch.zeros_like(apart)
        for key, vectors in named.items():
            answers, seen = labels[key]
            answer = torch.where(seen[objects], answers[objects], -100).to(images.device)
            each = nn.functional.cross_entropy(scale * images @ vectors.T, answer, reduction="sum")
            told = told + each / (answer >= 0).sum().clamp_min(1) / len(named)
        loss = apart + ATTRIBUTE_WEIGHT * told
        return {"loss": loss, "contrast": apart, "attributes": told, "recall": right.float().mean(), "scale": scale}

    def loss(step: int) -> dict[str, Tensor]:
        generator = step_generator(seed, step)
        with torch.no_grad():
            # open_clip's own bound on the temperature.
            towers.model.logit_scale.clamp_(0, math.log(100))
        with mixed_precision(device):
            views, objects, chosen = features(step, generator)
            picked = {}
            if step >= ATTRIBUTES_FROM:
                picked = {
                    k: [draw_wording(texts, generator) for texts in table.values()] for k, table in prompts.items()
                }
            words = towers.encode_text([*chosen, *(text for texts in picked.values() for text in texts)])
            words, *rest = words.split([len(chosen), *map(len, picked.values())])
            named = dict(zip(picked, rest, strict=True))
            if crops and step >= WORSENED_FROM:
                fixed = {key: vectors.detach() for key, vectors in named.items()}

                def harm(worse: Tensor) -> Tensor:
                    return compare(towers.encode_views(worse), objects, words.detach(), fixed)["loss"]

                views = worsen(views, harm, generator)
            images = towers.encode_views(views)
        return compare(images, objects, words, named)

    with quick_attention(device):
        stage.train(loss)
    stage.use_average()
    _renew_batch_statistics(towers, data, seed, augment if crops else None)
    return towers.freeze()


def draw_wording(options: list[str], generator: torch.Generator) -> str:
    """Draw one of several wordings."""
    return options[int(torch.randint(len(options), (), generator=generator))]


def object_wordings(data: WorldViews) -> list[list[str]]:
    """List the captions of each object; the last is its full description.

    Empty captions, from which a prior learns to do without, are left out.
    """
    return [
        [text for text in texts if text] + [whole]
        for texts, whole in zip(data.captions, data.descriptions, strict=True)
    ]


class CaptionBatches:
    """Batches of objects, and a wording of each.

    Every other batch is of look-alikes: groups of four of one class and one color, or one class and one style, by
    their full descriptions. Among objects drawn at random, class, color and style alone tell nearly all apart, and
    towers that are trained on those only do not look for patterns, parts and materials.
    """

    def __init__(self, data: WorldViews) -> None:
        self.texts = object_wordings(data)
        self.groups = [_grouped(data.classes * 1000 + other) for other in (data.colors, data.styles)]

    def draw(self, step: int, size: int, generator: torch.Generator) -> tuple[Int[Tensor, " B"], list[str]]:
        """Draw objects, and a wording of each; no wording twice, so there may be fewer than ``size``."""
        luck = torch.rand(size, generator=generator)
        if step % 2 == 0:
            objects = torch.randint(len(self.texts), (size,), generator=generator)
        else:
            anchors = torch.randint(len(self.texts), (-(-size // 4),), generator=generator).repeat_interleave(4)[:size]
            order, start, count = self.groups[step // 2 % 2]
            objects = order[start[anchors] + (luck * count[anchors]).long()]
            luck = torch.ones(size)
        chosen: dict[str, int] = {}
        for item, share in zip(objects.tolist(), luck.tolist(), strict=True):
            # The description is as likely as all the other wordings, which leave things out, together.
            options = self.texts[item]
            chosen.setdefault(options[min(int(2 * share * (len(options) - 1)), len(options) - 1)], item)
        return torch.tensor(list(chosen.values())), list(chosen)


def _grouped(keys: Int[Tensor, " O"]) -> tuple[Tensor, Tensor, Tensor]:
    """Objects in the order of their keys, and for each object where its group begins there and how large it is."""
    order = keys.argsort(stable=True)
    _, index, counts = keys.unique(return_inverse=True, return_counts=True)
    return order, (counts.cumsum(0) - counts)[index], counts[index]


def augment_views(images: Float[Tensor, "B 3 H W"], generator: torch.Generator) -> Float[Tensor, "B 3 H W"]:
    """Shift, scale, blur and add noise to views in [0, 1], so that soft ones and other renderers' are understood."""
    from torchvision.transforms.functional import gaussian_blur

    count = len(images)
    scale = 1 / (0.85 + 0.3 * torch.rand(count, generator=generator))
    shift = 0.16 * torch.rand(count, 2, 1, generator=generator) - 0.08
    frame = torch.cat([torch.diag_embed(scale[:, None].expand(-1, 2)), shift], 2).to(images)
    grid = nn.functional.affine_grid(frame, list(images.shape), align_corners=False)
    images = nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    blur, width, noise = torch.rand(3, generator=generator).tolist()
    if blur < 0.4:
        images = gaussian_blur(images, [5, 5], [0.3 + 0.9 * width])
    grain = torch.randn(images.shape, generator=generator).to(images)
    return (images + 0.03 * noise * grain).clamp(0, 1)


def augment_crops(images: Float[Tensor, "B 3 H W"], generator: torch.Generator) -> Float[Tensor, "B 3 H W"]:
    """Crop, tilt and soften each view in [0, 1] by itself, and add noise.

    Half of the views are nearly whole, half are patches; half are blurred, some as much as large splats blur. Unlike
    :func:`augment_views`, every batch holds all of these, so that its statistics are those of any other.
    """
    count, size = len(images), images.shape[-1]
    near = draw_crops(count, generator, side=(0.85, 1.15), perspective=0.15)
    patch = draw_crops(count, generator, side=(0.35, 0.85), perspective=0.4)
    whole = torch.rand(count, generator=generator) < 0.5
    images = apply_crops(images, torch.where(whole[:, None, None], near, patch), size, samples=1)
    soft = torch.rand(count, generator=generator) < 0.5
    width = (0.3 + 1.7 * torch.rand(count, generator=generator)) * soft + 1e-3
    reach = torch.arange(-4.0, 5.0)
    kernel = torch.softmax(-0.5 * (reach / width[:, None]).square(), dim=1).to(images).repeat_interleave(3, 0)[:, None]
    rows = nn.functional.pad(images.flatten(0, 1)[None], (4, 4, 4, 4), mode="replicate")
    rows = nn.functional.conv2d(rows, kernel[:, :, None], groups=3 * count)
    images = nn.functional.conv2d(rows, kernel[..., None], groups=3 * count).view(count, 3, size, size)
    grain = torch.randn(images.shape, generator=generator).to(images)
    noise = 0.03 * torch.rand(count, 1, 1, 1, generator=generator).to(images)
    return (images + noise * grain).clamp(0, 1)


def worsen(
    views: Float[Tensor, "B F 3 H W"], harm: Callable[[Tensor], Tensor], generator: torch.Generator
) -> Float[Tensor, "B F 3 H W"]:
    """Move views a little to where a loss is greater: one step from a random start, of length :data:`WORSE` at most.

    Towers that withstand this have gradients that a person can make sense of, so that pictures may be optimized by them
    without any other prior (Ganz and Elad, CLIPAG, WACV 2024; one step: Wong et al., ICLR 2020).

    Args:
        harm: the loss of views.
    """
    reach = WORSE * views.shape[-1] / 64

    def scaled(change: Tensor, length: float) -> Tensor:
        norms = change.flatten(2).norm(dim=2).clamp_min(1e-12)
        return change * (length / norms)[..., None, None, None]

    start = scaled(torch.randn(views.shape, generator=generator).to(views), reach)
    start = start * torch.rand(views.shape[:2], generator=generator).to(views)[..., None, None, None]
    start.requires_grad_()
    (slope,) = torch.autograd.grad(harm(views + start), start)
    moved = start.detach() + scaled(slope, 1.25 * reach)
    norms = moved.flatten(2).norm(dim=2)[..., None, None, None]
    return (views + moved * (reach / norms.clamp_min(reach))).clamp(0, 1)


def build_clip(folder: Path, texts: list[list[str]]) -> ClipTowers:
    """Build towers with fresh weights over the vocabulary kept in ``folder``; it is learned from texts when missing."""
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip.model import CLIP

    from invert3d_ns.alignment.clip import ClipTowers
    from invert3d_ns.alignment.storage import MERGES, build_tokenizer, write_merges

    folder.mkdir(parents=True, exist_ok=True)
    load_or_build_tokenizer(folder / "tokenizer", [text for options in texts for text in options])
    lines = (folder / "tokenizer" / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [line for line in lines if line and not line.startswith("#version")]
    write_merges(folder, merges)
    text = ARCHITECTURE["text_cfg"]
    tokenizer = build_tokenizer(folder, text["context_length"], bpe_path=MERGES)
    config = ARCHITECTURE | {"text_cfg": text | {"vocab_size": tokenizer.vocab_size}}
    preprocess = {
        "mean": list(OPENAI_DATASET_MEAN),
        "std": list(OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    return ClipTowers(CLIP(**config), tokenizer, {"model_cfg": config, "preprocess_cfg": preprocess})


@torch.no_grad()
def _renew_batch_statistics(
    towers: ClipTowers, data: WorldViews, seed: int, augment: Augmentation | None = None, batches: int = 8
) -> None:
    # The averaged weights are no step's weights, so no step's running mean and variance fit them. Where whole batches
    # were blurred or not, they are taken from views as they are: blur dims just those features that styles are told by,
    # and statistics of blurred views cost a tenth of the views their style (measured: 87 % right instead of 98 %).
    norms = [m for m in towers.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    towers.train()
    for index in range(batches):
        generator = step_generator(seed, -1 - index)
        objects = torch.randint(len(data), (256,), generator=generator)
        seen = torch.randint(data.rgb.shape[1], (256,), generator=generator)
        images = torch.from_numpy(data.rgb[objects.numpy(), seen.numpy()]).to(towers.mean.device)
        images = images.permute(0, 3, 1, 2).float() / 255
        towers.encode_image(images if augment is None else augment(images, generator))
    for norm in norms:
        norm.momentum = 0.1
