"""A person changes the prompt of a scene while it follows it, in headless Chromium, and ends the run.

Run it with ``python -m pytest tests/browser -s``: it says where its screenshots are.
"""

from __future__ import annotations

from pathlib import Path

import driver
import pytest

from invert3d_ns.runs.checkpoints import read_checkpoint

pytestmark = pytest.mark.skipif(bool(driver.missing()), reason=driver.missing())


def test_a_person_changes_the_prompt_of_a_run(tmp_path: Path) -> None:
    print(f"\nscreenshots: {tmp_path}")
    command = [
        "nerfstudio.scripts.train:entrypoint", "ge3d", "--prompt", "a red cube", "--output-dir", str(tmp_path),
        "--timestamp", "t", "--vis", "viewer", "--machine.device-type", "cpu", "--pipeline.steps", "100000",
        "--pipeline.start.fit-steps", "60", "--pipeline.preview-every", "3",
    ]  # fmt: skip
    with driver.serving(command, tmp_path / "train.log") as url:
        page = driver.Page(url, tmp_path, tab="Prompt")
        try:
            assert page.field("Prompt").get_attribute("value") == "a red cube"
            page.wait_for_text("Follows: a red cube")
            page.screenshot("1-following")
            page.fill("Prompt", "a blue zeppelin")
            page.click("Follow")
            page.wait_for_text("Follows: a blue zeppelin", "from the next step on", "never learned 'zeppelin'")
            page.fill("Prompt", " ")
            page.click("Follow")
            page.wait_for_text("Error: the prompt is empty", "Follows: a blue zeppelin")
            page.screenshot("2-another-prompt")
            page.click("Run")
            page.wait_for_text("Following the prompt", "Prompt: a blue zeppelin")
            page.wait(page.picture_sources, "a picture of what guides")
            page.screenshot("3-run")
            page.wait(lambda: "Step: 0" not in page.text(), "the number of steps to be told")
            page.click("Prompt")
            page.click("Finish now")
            page.wait(lambda: "Stopped after step" in (tmp_path / "train.log").read_text(), "the run to end")
        finally:
            page.close()
    (path,) = (tmp_path / "a-red-cube" / "ge3d" / "t" / "nerfstudio_models").iterdir()
    assert read_checkpoint(path)["run"]["state"]["prompt"] == "a blue zeppelin"
    assert "Traceback" not in (tmp_path / "train.log").read_text()
