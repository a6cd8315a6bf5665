"""A person morphs the objects of a finished run, in headless Chromium, and makes a hybrid of them.

Run it with ``python -m pytest tests/browser -s``: it says where its screenshots are.
"""

from __future__ import annotations

import json
from pathlib import Path

import driver
import pytest
from aligned_configs import configured
from runs import train

pytestmark = pytest.mark.skipif(bool(driver.missing()), reason=driver.missing())


VISIBLE = 40
"""How much a block of pixels changes at least from one object to another: twice as much as from a coarse picture of one
to a fine one."""
LEFT = 500
"""Pixels from the left of the view that show the object, and neither anchors nor their names."""


def _viewer(prompts: tuple[str, ...], outputs: Path) -> tuple[Path, list[str]]:
    """A run of the bundled prior's first objects, and the command that shows it."""
    options = {"pipeline__steps": 0, "pipeline__reconstruct__steps": 0, "pipeline__start__fit_steps": 80}
    options |= {"pipeline__start__splats": 800, "pipeline__start__views": 8, "pipeline__start__sampling_steps": 6}
    folder = train(configured("bundled", outputs, prompts=prompts, **options))
    return folder, ["nerfstudio.scripts.viewer.run_viewer:entrypoint", "--load-config", str(folder / "config.yml")]


def test_a_person_morphs_a_chair_into_a_table(tmp_path: Path) -> None:
    print(f"\nscreenshots: {tmp_path}")
    folder, command = _viewer(("a red chair", "an orange table"), tmp_path)
    with driver.serving(command, tmp_path / "viewer.log") as url:
        page = driver.Page(url, tmp_path, tab="Blend")
        try:
            page.wait_for_text("1: a red chair, at 0", "2: an orange table, at 1")
            chair = page.scene("1-chair")
            page.slide("Blend", 0.5)
            between = page.scene("2-between")
            page.slide("Blend", 1.0)
            table = page.scene("3-table")
            least = min(driver.change(chair, between), driver.change(between, table), driver.change(chair, table))
            assert least > VISIBLE
            page.click("1")
            assert driver.change(chair, page.scene("4-chair-again")) < VISIBLE
            assert page.field("Blend").get_attribute("value") == "0"
            page.toggle("Hybrid")
            page.click("Add anchor")
            page.wait_for_text("give two or more")
            page.choose("Object", "2: an orange table")
            page.click("Add anchor")
            page.wait(lambda: "give two or more" not in page.text(), "the complaint to go")
            hybrid = page.scene("5-hybrid")
            assert driver.change(chair[:, :LEFT], hybrid[:, :LEFT]) > VISIBLE
            page.lift("a red chair", 60)
            other = page.scene("6-other-hybrid")
            assert driver.change(hybrid[:, :LEFT], other[:, :LEFT]) > VISIBLE
            page.click("Save anchors")
            page.wait_for_text("in the run's folder")
            page.screenshot("7-saved")
            page.click("Remove anchors")
            assert driver.change(chair, page.scene("8-without-anchors")) < VISIBLE
        finally:
            page.close()
    anchors = json.loads((folder / "anchors.json").read_text())["anchors"]
    assert [anchor["weights"] for anchor in anchors] == [[1.0, 0.0], [0.0, 1.0]]
    assert anchors[0]["position"][2] > anchors[1]["position"][2] - 0.4, "which is 0.5 to begin with"
    assert "Traceback" not in (tmp_path / "viewer.log").read_text()


def test_a_person_mixes_three_objects(tmp_path: Path) -> None:
    print(f"\nscreenshots: {tmp_path}")
    _, command = _viewer(("a red chair", "an orange table", "a blue ball"), tmp_path)
    with driver.serving(command, tmp_path / "viewer.log") as url:
        page = driver.Page(url, tmp_path, tab="Blend")
        try:
            chair = page.scene("1-chair")
            page.click("3")
            ball = page.scene("2-ball")
            page.slide("a red chair", 1.0)
            between = page.scene("3-half-chair-half-ball")
            least = min(driver.change(chair, ball), driver.change(ball, between), driver.change(chair, between))
            assert least > VISIBLE
        finally:
            page.close()
    assert "Traceback" not in (tmp_path / "viewer.log").read_text()
