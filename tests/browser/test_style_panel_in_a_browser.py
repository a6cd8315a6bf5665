"""A person looks at the styles of a scene, changes one while it is made, and makes a further one, in headless Chromium.

Run it with ``python -m pytest tests/browser -s``: it says where its screenshots are.
"""

from __future__ import annotations

from pathlib import Path

import driver
import pytest
from synthetic import make_cloud

from invert3d_ns.runs.checkpoints import list_checkpoints, read_checkpoint
from invert3d_ns.scenes.ply import write_splats
from invert3d_ns.scenes.runs import read_run_record

pytestmark = pytest.mark.skipif(bool(driver.missing()), reason=driver.missing())


def _command(folder: Path, steps: int) -> list[str]:
    write_splats(folder / "ball.ply", make_cloud(400))
    return [
        "nerfstudio.scripts.train:entrypoint", "clip-splat", "--data", str(folder / "ball.ply"),
        "--prompt", "at night", "--output-dir", str(folder), "--timestamp", "t", "--vis", "viewer",
        "--machine.device-type", "cpu", "--pipeline.steps", str(steps), "--pipeline.cameras.size", "48",
    ]  # fmt: skip


def test_a_person_changes_a_style_while_it_is_made(tmp_path: Path) -> None:
    print(f"\nscreenshots: {tmp_path}")
    with driver.serving(_command(tmp_path, 100_000), tmp_path / "train.log") as url:
        page = driver.Page(url, tmp_path, tab="Style")
        try:
            assert page.field("Prompt").get_attribute("value") == "at night"
            page.wait_for_text("Shown: at night", "Follows: at night")
            page.screenshot("1-following")
            page.fill("Prompt", "on fire")
            page.click("Follow")
            page.wait_for_text("Follows: on fire", "from the next step on")
            page.wait(lambda: page.field("Show").get_attribute("value") == "on fire", "the new name of the style")
            page.fill("Prompt", " ")
            page.click("Follow")
            page.wait_for_text("Error: a prompt is empty", "Follows: on fire")
            page.click("Hide Train Cams")
            page.click("A/B")
            page.wait_for_text("Shown: original")
            page.screenshot("2-the-original")
            page.click("A/B")
            page.wait_for_text("Shown: on fire")
            page.fill("Prompt", "on fire")
            page.click("Make style")
            page.wait_for_text("Error: there is a style 'on fire' already")
            page.fill("Prompt", "in van gogh style")
            page.click("Make style")
            page.wait_for_text("Make style waits until the training is done", "Waiting: 1")
            page.click("Finish now")
            page.wait_for_text("Making 'in van gogh style'", "Follows: in van gogh style")
            page.screenshot("3-a-further-style")
            page.click("Stop")
            page.wait_for_text("Make style stopped; the scene is as before", "Shown: on fire")
        finally:
            page.close()
    (path,) = (tmp_path / "ball" / "clip-splat" / "t" / "nerfstudio_models").iterdir()
    assert read_checkpoint(path)["run"]["state"]["prompt"] == "on fire"
    assert "Traceback" not in (tmp_path / "train.log").read_text()


def test_a_person_makes_a_further_style_and_finds_it_again(tmp_path: Path) -> None:
    print(f"\nscreenshots: {tmp_path}")
    run = tmp_path / "ball" / "clip-splat" / "t"
    with driver.serving(_command(tmp_path, 20), tmp_path / "train.log") as url:
        page = driver.Page(url, tmp_path, tab="Style")
        try:
            page.wait(lambda: (run / "metrics.json").is_file(), "the run to end")
            page.click("Hide Train Cams")
            before = page.scene("1-trained")
            page.fill("Prompt", "in van gogh style")
            page.click("Make style")
            page.wait_for_text("Made 'in van gogh style'", "Shown: in van gogh style")
            page.wait(page.picture_sources, "a picture of the style")
            assert (page.scene("2-made") != before).any()
            page.click("Save styles")
            page.wait_for_text("3 files, the scene and its styles", "the run has them, too")
        finally:
            page.close()
    assert read_run_record(run).prompts == ("original", "at night", "in van gogh style")
    assert len(list_checkpoints(run / "nerfstudio_models")) == 1
    command = ["nerfstudio.scripts.viewer.run_viewer:entrypoint", "--load-config", str(run / "config.yml")]
    with driver.serving(command, tmp_path / "viewer.log") as url:
        page = driver.Page(url, tmp_path, tab="Style")
        try:
            assert "Finish now" not in page.text()
            page.fill("Prompt", "on fire")
            page.click("Follow")
            page.wait_for_text("Error: no style is being made")
            page.click("Make style")
            page.wait_for_text("Made 'on fire'", "Shown: on fire")
            page.screenshot("3-in-the-viewer")
        finally:
            page.close()
    for name in ("train.log", "viewer.log"):
        assert "Traceback" not in (tmp_path / name).read_text()
