"""CLIP towers: encode images, views of an object, and texts as unit vectors of one space, with open_clip's models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from invert3d_ns.base.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class ClipTowers(nn.Module):
    """The image and the text tower of a CLIP model, with its own preprocessing, differentiable up to the images.

    Args:
        model: a model of open_clip (``CLIP``, ``CustomTextCLIP``).
        tokenizer: a tokenizer of open_clip: list of texts -> LongTensor (texts, context length).
        config: ``{"model_cfg": ..., "preprocess_cfg": ...}`` as in open_clip's ``open_clip_config.json``.
        name: for messages.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Callable[[list[str]], Tensor], config: dict[str, Any], name: str = "clip"
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.tokenizer = tokenizer
        self.config = config
        self.name = name
        preprocess = config["preprocess_cfg"]
        shape = (3, 1, 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocess["mean"]).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess["std"]).view(shape), persistent=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of what the image tower sees."""
        size = self.model.visual.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return self.config["model_cfg"]["embed_dim"]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the towers' weights; vectors are returned in float32."""
        return next(self.model.visual.parameters()).dtype

    def freeze(self) -> ClipTowers:
        """Switch to evaluation mode and turn off gradients of all weights (images keep theirs); returns itself."""
        return self.eval().requires_grad_(False)

    def preprocess(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
        """Resize with antialiasing, crop the center, normalize, as the model's config says; differentiable.

        Raises:
            InputError: not a batch of RGB images of floating-point numbers.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or 0 in images.shape:
            raise InputError(
                f"images of shape {tuple(images.shape)}, {images.dtype}, cannot be encoded; "
                "give RGB in [0, 1] as floats of shape (batch, 3, height, width)"
            )
        images = images.float()
        height, width = self.size
        if images.shape[-2:] != (height, width):
            from torchvision.transforms.v2 import InterpolationMode, functional

            settings = self.config["preprocess_cfg"]
            inner = [height, width]
            if settings["resize_mode"] != "squash":
                ratio = max(height / images.shape[-2], width / images.shape[-1])
                inner = [max(int(n * ratio), least) for n, least in zip(images.shape[-2:], inner, strict=True)]
            images = functional.resize(images, inner, InterpolationMode(settings["interpolation"]), antialias=True)
            images = functional.center_crop(images, [height, width])
        return (images - self.mean) / self.std

    def encode_image(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Encode RGB images in [0, 1] of any size as unit vectors, float32. Gradients reach the images.

        Raises:
            InputError: not a batch of RGB images.
        """
        return self.encode_prepared(self.preprocess(images))

    def encode_prepared(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B D"]:
        """Encode what :meth:`preprocess` gave as unit vectors, float32. Gradients reach the images."""
        return nn.functional.normalize(self.model.encode_image(images.to(self.dtype)).float(), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Encode texts as unit vectors, float32. What exceeds the context length is cut off, as by open_clip.

        Raises:
            InputError: no text at all.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise InputError("there is no text to encode; give at least one")
        tokens = self.tokenizer(texts).to(self.mean.device)
        return nn.functional.normalize(self.model.encode_text(tokens).float(), dim=-1)

    def encode_views(self, images: Float[Tensor, "B F 3 H W"]) -> Float[Tensor, "B D"]:
        """Encode the views of each object as one unit vector: the direction of the mean of its views' unit vectors.

        Raises:
            InputError: not views of RGB images.
        """
        if images.ndim != 5:
            raise InputError(
                f"views of shape {tuple(images.shape)} cannot be encoded; give (batch, views, 3, height, width)"
            )
        vectors = self.encode_image(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return nn.functional.normalize(vectors.mean(1), dim=-1)

    @torch.no_grad()
    def similarity(self, images: Float[Tensor, "B 3 H W"], text: str) -> float:
        """Compute the mean cosine, in [-1, 1], of RGB images in [0, 1] and a text, without gradients.

        Raises:
            InputError: not a batch of RGB images.
        """
        return float((self.encode_image(images) @ self.encode_text([text]).T).mean())

    def classify(self, vectors: Float[Tensor, "B D"], prompts: Sequence[Sequence[str]]) -> Float[Tensor, "B K"]:
        """Compute cosine similarities to K classes, for zero-shot classification.

        Args:
            vectors: unit vectors of images or objects.
            prompts: one or more wordings of each class; their mean direction is compared with.

        Returns:
            Similarities in [-1, 1].
        """
        classes = [nn.functional.normalize(self.encode_text(wordings).mean(0), dim=-1) for wordings in prompts]
        return vectors @ torch.stack(classes).T
