"""The judge of class and colour: a small classifier that no loss and no training of a prior ever sees.

Own network, because no pretrained one may be assumed and its independence is the point: trained on true renders of
other seeds, another architecture (plain strided convolutions on pixels) than anything in the prior.
:meth:`Judge.accuracy` on true renders is reported beside every figure that rests on it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from invert3d_ns.errors import InputError

WEIGHTS = Path(__file__).parent / "judge" / "judge.safetensors"
SIZE = 64
"""Pixels of the square views that are judged."""


class Judge(nn.Module):
    """Names the class and the main colour of single views.

    Args:
        classes: number of classes.
        colours: number of colours.
    """

    def __init__(self, classes: int, colours: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = [3, width, 2 * width, 4 * width, 6 * width]
        for a, b in pairwise(channels):
            layers += [
                nn.Conv2d(a, b, 4, 2, 1),
                nn.BatchNorm2d(b),
                nn.ReLU(),
                nn.Conv2d(b, b, 3, 1, 1, groups=b),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.classes = nn.Linear(channels[-1] * 16, classes)
        self.colours = nn.Linear(channels[-1] * 16, colours)

    def forward(self, images: Float[Tensor, "B 3 64 64"]) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B C"]]:
        """Logits of class and of colour, for views in [0, 1] on white."""
        h = self.features(images * 2 - 1).flatten(1)
        return self.classes(h), self.colours(h)

    @torch.no_grad()
    def name(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Int[Tensor, "B"], Int[Tensor, "B"]]:  # noqa: F821
        """Most likely class and colour, as indices into CLASSES and COLOURS; views of any size are resized."""
        if images.shape[-1] != SIZE:
            images = nn.functional.interpolate(images, (SIZE, SIZE), mode="area")
        first, second = self(images)
        return first.argmax(1), second.argmax(1)

    def accuracy(
        self,
        images: Float[Tensor, "B 3 H W"],
        classes: Int[Tensor, "B"],  # noqa: F821
        colours: Int[Tensor, "B"],  # noqa: F821
    ) -> tuple[float, float]:
        """Share of views whose class, and whose colour, is named as given."""
        a, b = self.name(images)
        return (a == classes).float().mean().item(), (b == colours).float().mean().item()

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Judge:
        """Load the shipped judge.

        Raises:
            InputError: its weights are missing.
        """
        from safetensors.torch import load_file

        if not path.exists():
            raise InputError(
                f"the judge's weights {path.name} are missing; run `invert3d train judge` or reinstall the package"
            )
        state = {key: value.float() for key, value in load_file(path).items()}
        judge = cls(len(state["classes.bias"]), len(state["colours.bias"]), len(state["features.0.bias"]))
        judge.load_state_dict(state, strict=False)
        return judge.eval()
