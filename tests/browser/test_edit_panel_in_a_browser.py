"""A person edits a finished run in nerfstudio's viewer, in headless Chromium.

Run it with ``python -m pytest tests/browser -s``: it says where its screenshots are.
"""

from __future__ import annotations

from pathlib import Path

import driver
import numpy as np
import pytest
from runs import tiny_config, train

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
        # Before it is ended: nerfstudio's viewer prints a traceback of its own when it is interrupted.
        assert "Traceback" not in (tmp_path / "viewer.log").read_text()


def _edit(page: driver.Page, url: str, run: Path, pictures: Path) -> None:
    before = page.scene("1-opened")

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
    assert _differ(before, applied), "one sees the splats change"

    page.click("Compare")
    page.wait_for_text("Shown: before all edits")
    assert not _differ(before, page.scene("5-compare"))
    page.click("Compare")
    page.wait_for_text("The scene now.")

    second = driver.Page(url, pictures)
    try:
        second.wait_for_text("Edits: in van gogh style")
        second.click("Undo")
        page.wait_for_text("Undid 'in van gogh style' in")
        assert "Edits:" not in page.text() and not _differ(before, page.scene("6-undone"))
        # Closing a browser in the middle harms nothing.
        second.click("Apply")
        page.wait_for_text("Applying 'in van gogh style'")
    finally:
        second.close()
    page.wait_for_text("Applied 'in van gogh style' in")
    assert not _differ(applied, page.scene("7-applied-again"))

    page.click("Save")
    page.wait_for_text("Saved to")
    (saved,) = list(run.rglob("edited.ply"))
    assert {path.name for path in saved.parent.iterdir()} == {"edited.ply", "edits.json", "grid.png"}

    page.click("Apply")
    page.wait_for_text("Applying")
    page.click("Stop")
    page.wait_for_text("Apply stopped; the scene is as before.")
    assert not _differ(applied, page.scene("8-stopped"))


def test_the_region_is_drawn(run: Path, tmp_path: Path):
    command = ["nerfstudio.scripts.viewer.run_viewer:entrypoint", "--load-config", str(run / "config.yml")]
    with driver.serving(command, tmp_path / "viewer.log") as url:
        page = driver.Page(url, tmp_path)
        try:
            before = page.scene("1-no-region")
            page.toggle("Region")
            page.driver.execute_script("arguments[0].click()", page.field("Only here"))
            assert _differ(before, page.scene("2-region"))
            page.fill("Words", "green")
            page.fill("Center", "7")
            page.click("Apply")
            page.wait_for_text("Error: the region holds no splats")
            page.screenshot("3-nothing-in-it")
        finally:
            page.close()


def _differ(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether more than a hundredth of a percent of the pixels show another color (JPEG moves them a little)."""
    changed = (np.abs(one.astype(int) - other.astype(int)).max(axis=-1) > 24).mean()
    return bool(changed > 1e-4)
