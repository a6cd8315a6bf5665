"""A person morphs the objects of a finished run, in headless Chromium, and makes a hybrid of them.

Run it with ``python -m pytest tests/browser -s``: it says where its screenshots are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import driver
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

pytestmark = pytest.mark.skipif(bool(driver.missing()), reason=driver.missing())


def test_a_person_morphs_a_chair_into_a_table(tmp_path: Path) -> None:
    from aligned_configs import configured
    from runs import train

    print(f"\nscreenshots: {tmp_path}")
    options = {"pipeline__steps": 0, "pipeline__reconstruct__steps": 0, "pipeline__start__fit_steps": 80}
    options |= {"pipeline__start__splats": 800, "pipeline__start__views": 8, "pipeline__start__sampling_steps": 6}
    config = configured("bundled", tmp_path, "a3d", **options)
    config.prompts = ("a red chair", "an orange table")
    folder = train(config)
    command = ["nerfstudio.scripts.viewer.run_viewer:entrypoint", "--load-config", str(folder / "config.yml")]
    with driver.serving(command, tmp_path / "viewer.log") as url:
        page = driver.Page(url, tmp_path, tab="Blend")
        try:
            page.wait_for_text("0: a red chair", "1: an orange table")
            page.screenshot("1-first")
            page.click("2")
            page.screenshot("2-second")
            page.toggle("Hybrid")
            page.click("Add anchor")
            page.wait_for_text("give two or more")
            page.click("Add anchor")
            page.screenshot("3-hybrid")
            page.click("Save anchors")
            page.wait_for_text("in the run's folder")
        finally:
            page.close()
    assert len(json.loads((folder / "anchors.json").read_text())["anchors"]) == 2
    assert "Traceback" not in (tmp_path / "viewer.log").read_text()
