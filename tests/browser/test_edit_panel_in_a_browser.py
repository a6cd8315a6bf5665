"""A person edits a finished run in nerfstudio's viewer, in headless Chromium.

Run it with ``python -m pytest tests/browser -s``: it says where its screenshots are.
"""

from __future__ import annotations

from pathlib import Path

import driver
import pytest
from runs import tiny_config, train

from invert3d_ns.editing.edit import load_edits
from invert3d_ns.scenes.assets import DEMO_SCENE

pytestmark = pytest.mark.skipif(bool(driver.missing()), reason=driver.missing())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the demo scene with the bundled prior; a few steps make words that are good enough to click on."""
    config = tiny_config(
        DEMO_SCENE,
        Path("bundled"),
        tmp_path_factory.mktemp("outputs"),
        pipeline__vectors=8,
        pipeline__clip="bundled",
        pipeline__datamanager__dataparser__image_size=64,
    )
    return train(config)


def test_a_person_edits_a_run(run: Path, tmp_path: Path):
    command = ["nerfstudio.scripts.viewer.run_viewer:entrypoint", "--load-config", str(run / "config.yml")]
    print(f"\nscreenshots: {tmp_path}")
    with driver.serving(command, tmp_path / "viewer.log") as url:
        page = driver.Page(url, tmp_path)
        try:
            _edit(page, url, run, tmp_path)
        finally:
            page.close()
    log = (tmp_path / "viewer.log").read_text()
    assert "Traceback" not in log, "nor when it is interrupted"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    kept = Path(lines[-1].removeprefix("ns-viewer --load-config ")).parent
    assert "Your unsaved edits are a run now" in lines[-2] and kept.parent == run.parents[1] / "invert3d-edit"
    assert [edit.label for edit in load_edits(kept / "edits.json")] == ["in van gogh style", "a green"]
    with driver.serving(command, tmp_path / "again.log") as url:
        page = driver.Page(url, tmp_path)
        try:
            page.click("Hide Train Cams")
            before = page.scene("b1-started-again")
            page.wait_for_text("Kept from last time", "a green (press Open)")
            page.click("Open")
            page.wait_for_text("Opened", "Edits: in van gogh style; a green")
            assert driver.differ(before, page.scene("b2-opened"))
        finally:
            page.close()


def _edit(page: driver.Page, url: str, run: Path, pictures: Path) -> None:
    page.click("Hide Train Cams")  # their small pictures flicker
    before = page.scene("1-opened")
    assert page.field("It is").get_attribute("value") == "red chair with yellow legs", "what CLIP says it is"
    assert "Pause Training" not in page.text() and "Step: 0" not in page.text(), "nobody trains a finished run"

    page.click("Preview")
    page.wait_for_text("Error: the edit is empty")
    page.fill("Words", "a {1+1} <object> in red")
    page.fill("Words", "in van gogh style")
    page.toggle("More")
    page.fill("Weights", "monet=2")
    page.click("Preview")
    page.wait_for_text("Error: the word 'monet' has a weight but is not in the edit")
    page.screenshot("2-bad-weight")
    page.fill("Weights", "van gogh=2")

    page.click("Preview")
    page.wait_for_text("Preview of 'in van gogh style' in")
    assert "Error" not in page.text() and len(page.picture_sources()) == 1
    preview = page.picture_sources()
    page.screenshot("3-preview")

    page.click("Apply")
    page.wait_for_text("Applied 'in van gogh style' in", "Edits: in van gogh style")
    assert page.picture_sources() != preview
    applied = page.scene("4-applied")
    assert driver.differ(before, applied), "one sees the splats change"

    page.click("Compare")
    page.wait_for_text("Shown: before all edits")
    assert not driver.differ(before, page.scene("5-compare"))
    page.click("Compare")
    page.wait_for_text("The scene now.")

    second = driver.Page(url, pictures)
    try:
        second.wait_for_text("Edits: in van gogh style")
        assert second.field("Words").get_attribute("value") == "", "each window has a form of its own"
        second.click("Undo")
        page.wait_for_text("Undid 'in van gogh style' in")
        assert "Edits:" not in page.text() and not driver.differ(before, page.scene("6-undone"))
        assert not page.picture_sources(), "a picture goes with the scene that it shows"
        second.click("Apply")
        second.wait_for_text("Error: the edit is empty")
        assert "Error" not in page.text(), "what one typed wrong is said to nobody else"
        second.fill("Words", "in van gogh style")
        second.toggle("More")
        second.fill("Weights", "van gogh=2")
        assert page.field("Words").get_attribute("value") == "in van gogh style"
        # Closing a browser in the middle harms nothing.
        second.click("Apply")
        page.wait_for_text("Applying 'in van gogh style'")
    finally:
        second.close()
    page.wait_for_text("Applied 'in van gogh style' in")
    assert not driver.differ(applied, page.scene("7-applied-again"))

    page.click("Save")
    page.wait_for_text("Saved as the run")
    (saved,) = (run.parents[1] / "invert3d-edit").iterdir()
    assert {path.name for path in saved.iterdir()} == {
        *("camera_path.json", "config.yml", "dataparser_transforms.json", "edited.png", "edits.json"),
        *("embedding.safetensors", "metrics.json", "nerfstudio_models", "turntable.mp4"),
    }
    page.click("Undo")
    page.wait_for_text("Undid 'in van gogh style' in")
    page.click("Open")
    page.wait_for_text("Opened")
    assert not driver.differ(applied, page.scene("8-opened"))

    page.click("Apply")
    page.wait_for_text("Applying")
    page.click("Stop")
    page.wait_for_text("Apply stopped; the scene is as before.")
    assert not driver.differ(applied, page.scene("9-stopped"))

    page.fill("Words", "green")
    page.fill("Weights", "")
    page.click("Apply")
    page.wait_for_text("Applied 'a green' in", "Edits: in van gogh style; a green")
    page.scene("10-green")


def test_the_region_is_drawn(run: Path, tmp_path: Path):
    command = ["nerfstudio.scripts.viewer.run_viewer:entrypoint", "--load-config", str(run / "config.yml")]
    with driver.serving(command, tmp_path / "viewer.log") as url:
        page = driver.Page(url, tmp_path)
        try:
            page.click("Hide Train Cams")
            before = page.scene("1-no-region")
            page.toggle("Region")
            page.driver.execute_script("arguments[0].click()", page.field("Only here"))
            region = page.scene("2-region")
            assert driver.differ(before, region)
            page.fill("Words", "green")
            page.fill("Center", "7")
            assert driver.differ(region, page.scene("3-moved-away"))
            page.click("Apply")
            page.wait_for_text("Error: the region holds no splats")
            page.screenshot("4-nothing-in-it")
        finally:
            page.close()
