"""Objects are cut out of photographs before walls that are not of one color."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from invert3d_ns.base.errors import InputError
from invert3d_ns.words.photographs import cutout
from invert3d_ns.words.photographs.cutout import cut_out, smooth_background

SIDE = 160


def _grid() -> tuple[torch.Tensor, torch.Tensor]:
    line = torch.linspace(-1, 1, SIDE)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return y, x


def _wall() -> torch.Tensor:
    y, x = _grid()
    return torch.stack([0.8 - 0.1 * x - 0.08 * y, 0.78 - 0.1 * x - 0.08 * y, 0.74 - 0.09 * x - 0.08 * y], -1)


def _pictured(color: tuple[float, float, float], shadow: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    y, x = _grid()
    picture = _wall() * (1 - shadow * torch.exp(-((x - 0.3) ** 2 / 0.15 + (y - 0.45) ** 2 / 0.03)))[..., None]
    shown = (x.abs() < 0.3) & (y.abs() < 0.4)
    picture[shown] = torch.tensor(color)
    noise = 0.004 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    return (picture + noise).clamp(0, 1), shown


def _cut(picture: torch.Tensor) -> torch.Tensor:
    return cut_out(Path("photo.png"), (picture * 255).byte().numpy(), picture) > 0.5


@pytest.mark.parametrize("shadow", [0.0, 0.3])
@pytest.mark.parametrize("color", [(0.2, 0.5, 0.3), (0.95, 0.2, 0.2), (0.1, 0.1, 0.12)])
def test_a_soft_gradient_and_a_soft_shadow_are_the_wall(color: tuple[float, float, float], shadow: float) -> None:
    picture, shown = _pictured(color, shadow)
    found = _cut(picture)
    assert float((found & shown).sum() / (found | shown).sum()) > 0.93
    surface = smooth_background(picture)
    assert surface is not None and float((surface - _wall()).abs().max()) < 0.03


def test_a_busy_background_needs_a_segmenter(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = torch.rand(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(1))
    assert smooth_background(busy) is None
    monkeypatch.setattr(cutout.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not a plain wall; `pip install 'invert3d-ns\[photos\]'`"):
        _cut(busy)


def test_the_segmenter_is_asked_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """rembg's interface, as its documentation has it: a session of a model's name, and a mask of an array."""
    import sys
    from types import SimpleNamespace

    busy = torch.rand(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(1))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[40:90, 30:100] = 255
    asked = []

    def remove(picture: np.ndarray, *, session: object, only_mask: bool) -> np.ndarray:
        asked.append((picture.shape, picture.dtype, session, only_mask))
        return mask

    monkeypatch.setitem(sys.modules, "rembg", SimpleNamespace(new_session=lambda name: name, remove=remove))
    monkeypatch.setattr(cutout.importlib.util, "find_spec", lambda name: object())
    assert (_cut(busy).numpy() == (mask > 0)).all()
    assert asked == [((SIDE, SIDE, 3), np.uint8, "u2netp", True)]

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setitem(sys.modules, "rembg", SimpleNamespace(new_session=offline, remove=remove))
    with pytest.raises(InputError, match=r"cannot cut out .* \(no network\); run `rembg d u2netp`"):
        _cut(busy)
