from __future__ import annotations

import base64
import contextlib
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from runs import STEPS, tiny_config, train
from synthetic import make_cloud

from invert3d_ns.live.panels.inversion_panel import InversionPanel
from invert3d_ns.prior.checkpoints import save_prior
from invert3d_ns.scenes.ply import write_splats


class Markdown:
    """Stands for viser's handle."""

    def __init__(self, content: str) -> None:
        self.content = content


class Server:
    """Stands for a viser server: keeps what is added."""

    def __init__(self) -> None:
        self.gui = self
        self.handles: list[Markdown] = []

    def add_folder(self, label: str):
        return contextlib.nullcontext()

    def add_markdown(self, content: str, image_root=None) -> Markdown:
        self.handles.append(Markdown(content))
        return self.handles[-1]


def embedded_picture(content: str) -> np.ndarray:
    (data,) = re.findall(r"!\[[^]]*\]\(data:image/png;base64,([^)]*)\)", content)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_what_is_shown_before_and_after_the_viewer_starts_is_there():
    picture = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    panel, server = InversionPanel(), Server()
    panel.show("Before", "1 of {2}", ["loss <3>", "rest"])
    panel.install(server)  # type: ignore[arg-type]
    (markdown,) = server.handles
    before = "**Before**: 1 of \\{2\\}  \nloss \\<3\\>  \nrest"
    assert markdown.content == before, "whatever people called things is shown and not run"
    panel.show(picture=picture)
    assert markdown.content.startswith(before)
    assert np.array_equal(embedded_picture(markdown.content), picture)
    panel.show("After")
    assert markdown.content.startswith("**After**\n")
    assert np.array_equal(embedded_picture(markdown.content), picture), "a new text keeps the picture"


def test_a_run_with_a_viewer_fills_the_panel(tiny_prior, tmp_path, monkeypatch):
    """nerfstudio's own viewer finds the panel, and the run ends by itself when told to quit on completion."""
    save_prior(tiny_prior, tmp_path / "prior", dtype=torch.float32)
    write_splats(tmp_path / "ball.ply", make_cloud(100))
    texts, servers = [], []
    show, install = InversionPanel.show, InversionPanel.install

    def record(self, *given, **named):
        show(self, *given, **named)
        texts.append(self._markdown.content)

    def keep(self, server):
        install(self, server)
        servers.append(server)

    monkeypatch.setattr(InversionPanel, "show", record)
    monkeypatch.setattr(InversionPanel, "install", keep)
    try:
        train(
            tiny_config(
                tmp_path / "ball.ply",
                tmp_path / "prior",
                tmp_path / "outputs",
                vis="viewer+tensorboard",
                viewer__quit_on_train_completion=True,
                viewer__websocket_host="127.0.0.1",
            )
        )
    finally:
        for server in servers:
            server.stop()
    assert len(servers) == 1
    assert texts[0].startswith("**Rendering and encoding") and texts[1].startswith(
        f"**Learning words**: step 1 of {STEPS}"
    )
    assert any(r"Held\-out loss" in text for text in texts)
    assert texts[-1].startswith(r"**Done\.**")
    picture = embedded_picture(texts[-1])
    assert picture.shape[1] == pytest.approx(4 * picture.shape[0])
