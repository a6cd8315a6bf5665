"""A run of styles in nerfstudio's viewer: asked for something while it trains and afterwards, opened, gone on with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from live_stage import Watcher
from nerfstudio.utils.eval_utils import eval_setup
from runs import go_on, train
from synthetic import make_cloud

from invert3d_ns import configs
from invert3d_ns.alignment.style_losses import StyleLossConfig
from invert3d_ns.live.panels.style_panel import StylePanel
from invert3d_ns.live.queue import ActionQueue
from invert3d_ns.runs.checkpoints import list_checkpoints, read_checkpoint
from invert3d_ns.scenes.ply import write_splats

STRENGTHS = {
    "clip": 0.0,
    "augmented": 0.0,
    "directional": 1.0,
    "patch": 0.5,
    "reach": StyleLossConfig.reach,
    "color": 2.0,
}


def _config(folder: Path) -> Any:
    write_splats(folder / "ball.ply", make_cloud(60))
    config: Any = copy.deepcopy(configs.clip_splat.config)
    config.data, config.output_dir, config.timestamp = folder / "ball.ply", folder, "run"
    config.prompts, config.machine.device_type = ("at night",), "cpu"
    config.logging.steps_per_log, config.vis = 1, "viewer+tensorboard"
    config.viewer.quit_on_train_completion, config.viewer.websocket_host = True, "127.0.0.1"
    pipeline = config.pipeline
    pipeline.steps, pipeline.style.crops = 2, 1
    pipeline.cameras.count, pipeline.cameras.views, pipeline.cameras.size = 4, 1, 32
    return config


def test_a_run_of_styles_is_asked_for_more_while_it_is_watched(tmp_path: Path, monkeypatch) -> None:
    panels: list[StylePanel] = []
    setup, run_pending = StylePanel._setup, ActionQueue.run_pending
    followed: list[str] = []

    def keep(self: StylePanel, viewer: Any) -> None:
        setup(self, viewer)
        panels.append(self)

    def serve(self: ActionQueue, limit: int = 1) -> int:
        if not followed:
            panel = panels[0]
            panel.prompt.value, panel.negative.value = "on fire", "blue"
            panel.sliders["patch"].value, panel.sliders["color"].value = 0.5, 2.0
            self.ask(panel.follow)
        done = run_pending(self, limit)
        followed.append(self.state.message + self.state.error)
        return done

    monkeypatch.setattr(StylePanel, "_setup", keep)
    monkeypatch.setattr(ActionQueue, "run_pending", serve)
    try:
        folder = train(_config(tmp_path))
        assert followed[0] == "Following 'on fire' from the next step on."
        (panel,) = panels
        pipeline: Any = panel.host
        assert panel.viewer.train_lock is pipeline.lock and not pipeline.model.follows_time
        watcher = Watcher(panel.queue)
        panel.prompt.value, panel.negative.value = "in van gogh style", ""
        for action in (panel.make, panel.save):
            panel.queue.ask(action)
            watcher.until_idle()
        assert pipeline.strengths == STRENGTHS
        assert "the run has them, too" in panel.queue.state.message and not panel.queue.state.error
        assert panel.show.value == "in van gogh style"
    finally:
        for panel in panels:
            panel.queue.close()
            panel.viser_server.stop()
    made = pipeline.object_at(2).features_dc
    assert (made - pipeline.object_at(0).features_dc).abs().max() > 0.01
    _, opened, _, _ = eval_setup(folder / "config.yml", test_mode="test")
    again: Any = opened
    assert again.prompts == ("original", "on fire", "in van gogh style")
    assert torch.equal(again.object_at(2).features_dc, made)
    run = read_checkpoint(max(list_checkpoints(folder / "nerfstudio_models").items())[1])["run"]
    assert run["settings"]["style1"]["--pipeline.style.patch"] == 1.0, "what the run began with"
    panels.clear()
    config_file = folder / "config.yml"
    config_file.write_text(config_file.read_text().replace("vis: viewer+tensorboard", "vis: tensorboard"))
    go_on(folder)  # of a run that is finished only the report is left
    assert len(list((folder / "styles").glob("*.ply"))) == 3 and not panels
