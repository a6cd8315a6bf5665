"""Headless Chromium on nerfstudio's viewer, as a person would use the edit panel."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PATIENCE = 240.0
"""Seconds to wait for anything; machines that test are busy."""

_METHODS = {"invert3d": "invert3d", "ge3d": "ge3d", "clip-splat": "clip_splat"}


def missing() -> str:
    """What a browser test lacks here; empty if nothing."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (pip install -e '.[browser]')"
    if not _chromium() or not shutil.which("chromedriver"):
        return "chromium or chromedriver is not installed"
    return ""


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(command: list[str], log: Path) -> Iterator[str]:
    """Run a nerfstudio command (``ns-viewer``'s or ``ns-train``'s function, with arguments) and yield its page.

    Args:
        command: the function as ``module:name``, then the arguments; host and port are added.
        log: where its output goes.
    """
    port = free_port()
    module, name = command[0].split(":")
    code = f"import sys; sys.argv[0] = 'ns'; from {module} import {name}; {name}()"
    arguments = [*command[1:], "--viewer.websocket-host", "127.0.0.1", "--viewer.websocket-port", str(port)]
    root = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        "NERFSTUDIO_METHOD_CONFIGS": ",".join(
            f"{name}=invert3d_ns.configs:{where}" for name, where in _METHODS.items()
        ),
    }
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _wait(lambda: _answers(port), f"the viewer to answer; see {log}", lambda: process.poll() is None)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(PATIENCE)  # it saves what is in no run
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5) as page:
            return page.status == 200
    except OSError:
        return False


def _wait(done: Callable[[], object], what: str, alive: Callable[[], bool] = lambda: True) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert alive(), f"it ended while waiting for {what}"
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.2)


class Page:
    """One browser on the viewer.

    Args:
        url: the viewer's page.
        pictures: where screenshots go.
        tab: of the panel, which is opened.
    """

    def __init__(self, url: str, pictures: Path, size: tuple[int, int] = (1400, 1000), *, tab: str = "Edit") -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = _chromium() or ""
        options.page_load_strategy = "none"  # what the page fetches from the web may not be there
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            f"--window-size={size[0]},{size[1]}",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            "--hide-scrollbars",
        ):
            options.add_argument(argument)
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.pictures = pictures
        try:
            connection: Any = self.driver.command_executor
            connection.client_config.timeout = PATIENCE
            self.driver.set_page_load_timeout(PATIENCE)
            # The page draws its 3D view as often as it can, and here that is done by the processor that all else needs.
            slower = "window.requestAnimationFrame = draw => setTimeout(() => draw(performance.now()), 200)"
            self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": slower})
            self.driver.get(url)
            self.wait(lambda: self._all(f"//button[normalize-space()='{tab}']"), "the panel")
            self.click(tab)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the browser, whatever it is in the middle of."""
        self.driver.quit()

    def _all(self, path: str) -> list:
        return self.driver.find_elements("xpath", path)

    def wait(self, done: Callable[[], object], what: str) -> None:
        """Wait until something is so."""
        try:
            _wait(done, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the page says: {self.text()[-2000:]}") from error

    def text(self) -> str:
        """Everything that the page says."""
        return self.driver.execute_script("return document.body.innerText")

    def wait_for_text(self, *texts: str) -> None:
        """Wait until the page says all of this."""
        self.wait(lambda: all(text in self.text() for text in texts), f"the texts {texts}")

    def click(self, label: str) -> None:
        """Click the button with this label."""
        self.wait(lambda: self._all(f"//button[normalize-space()='{label}']"), f"the button {label}")
        button = self._all(f"//button[normalize-space()='{label}']")[0]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", button)

    def toggle(self, folder: str) -> None:
        """Open or close a folder of the panel."""
        header = self._all(f"//*[contains(@class, 'Paper')][normalize-space()='{folder}']")[-1]
        self.driver.execute_script("arguments[0].click()", header)

    def field(self, label: str):
        """The input with this label."""
        path = f"//label[normalize-space()='{label}']/../../..//input"
        self.wait(lambda: self._all(path), f"the field {label}")
        return self._all(path)[0]

    def fill(self, label: str, text: str) -> None:
        """Type a text into a field, in the place of what is there."""
        from selenium.webdriver.common.keys import Keys

        field = self.field(label)
        self.wait(field.is_displayed, f"the field {label} to show")  # folders open slowly
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.DELETE)
        field.send_keys(text)
        self.wait(lambda: field.get_attribute("value") == text, f"the field {label} to hold {text!r}")
        time.sleep(1.0)  # the page sends what is typed a moment later, and nobody clicks in the same instant

    def slide(self, label: str, share: float) -> None:
        """Drag the slider with this label to a share of its length."""
        from selenium.webdriver.common.action_chains import ActionChains

        path = f"//label[normalize-space()='{label}']/../../..//*[@role='slider']"
        self.wait(lambda: self._all(path), f"the slider {label}")
        thumb = self._all(path)[0]
        track = thumb.find_element("xpath", "..").rect
        distance = track["x"] + share * track["width"] - (thumb.rect["x"] + thumb.rect["width"] / 2)
        ActionChains(self.driver).drag_and_drop_by_offset(thumb, round(distance), 0).perform()
        time.sleep(1.0)  # as in fill()

    def lift(self, name: str, pixels: int) -> None:
        """Drag the handle at this name in the 3D view upwards, by the arrow that leads there."""
        from selenium.webdriver.common.action_chains import ActionChains

        path = f"//span[normalize-space()='{name}']"
        self.wait(lambda: self._all(path), f"the name {name}")
        corner = self._all(path)[0].rect
        x, y = round(corner["x"]) + 1, round(corner["y"]) - 20
        actions = ActionChains(self.driver, duration=500)
        pointer = actions.w3c_actions.pointer_action
        # The page looks what is below the pointer when it draws.
        for act in (
            lambda: pointer.move_to_location(x, y),
            pointer.pointer_down,
            lambda: pointer.move_to_location(x, y - pixels),
            pointer.pointer_up,
        ):
            act()
            actions.pause(1.0)
        actions.perform()

    def choose(self, label: str, option: str) -> None:
        """Choose an option of the list with this label."""
        field, path = self.field(label), f"//*[@role='option'][normalize-space()='{option}']"
        self.wait(field.is_displayed, f"the list {label} to show")
        field.click()
        self.wait(lambda: self._all(path), f"the option {option}")
        self.driver.execute_script("arguments[0].click()", self._all(path)[0])
        self.wait(lambda: field.get_attribute("value") == option, f"the list {label} to hold {option!r}")

    def picture_sources(self) -> list[str]:
        """The URLs of the pictures that the panel shows; those of other tabs are not among them."""
        images = self._all("//img[starts-with(@src, 'data:')]")
        return [image.get_attribute("src") for image in images if image.is_displayed()]

    def screenshot(self, name: str) -> np.ndarray:
        """Write a picture of the whole page and return it."""
        from selenium.common.exceptions import TimeoutException

        path = self.pictures / f"{name}.png"

        def taken() -> bool:
            # Software rendering of the 3D view can keep a busy machine from an answer in time.
            with contextlib.suppress(TimeoutException):
                return self.driver.save_screenshot(str(path))
            return False

        self.wait(taken, f"the screenshot {name}")
        return np.asarray(Image.open(path).convert("RGB"))

    def scene(self, name: str) -> np.ndarray:
        """The part of a screenshot that shows nothing but the 3D view, once it stays the same."""
        views = [self._view(self.screenshot(name))]
        end = time.monotonic() + PATIENCE
        while len(views) < 3 or not all(np.array_equal(view, views[-1]) for view in views[-3:]):
            assert time.monotonic() < end, "the 3D view does not come to rest"
            # The viewer renders in steps of resolution, 0.2 s apart, more on a machine that has other work.
            time.sleep(1.5)
            views.append(self._view(self.screenshot(name)))
        return views[-1]

    @staticmethod
    def _view(screenshot: np.ndarray) -> np.ndarray:
        height, width = screenshot.shape[:2]
        return screenshot[height // 10 :, : int(0.7 * width)]


def differ(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the color of any block of 16 by 16 pixels has changed visibly."""
    return change(one, other) > 16


def change(one: np.ndarray, other: np.ndarray) -> float:
    """How much the color of that block of 16 by 16 pixels has changed that has changed most, of 255.

    Not of single pixels: JPEG moves them, and where a page has more to do than it can, it may decode the coarse picture
    that nerfstudio sends first after the fine one.
    """
    first, second = (_blocks(picture) for picture in (one, other))
    return float(np.abs(first - second).max())


def _blocks(picture: np.ndarray, side: int = 16) -> np.ndarray:
    rows, columns = (length // side for length in picture.shape[:2])
    blocks = picture[: rows * side, : columns * side].reshape(rows, side, columns, side, 3)
    return blocks.astype(float).mean(axis=(1, 3))
