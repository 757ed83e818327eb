"""The app as a program, and people who use it in headless Chromium."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glamm_jax.cli.app import free_port

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0
ANSWER_MS = 60_000
# Text of every visible element against the ground behind it.
CONTRASTS = """() => {
  const parse = (text) => {
    const context = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    context.fillStyle = text;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((x) => x / 255)
      .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const results = [];
  for (const element of document.querySelectorAll("body *")) {
    const texts = [...element.childNodes].filter((n) => n.nodeType === 3 && n.data.trim());
    const disabled = element.closest("button:disabled");
    if (!texts.length || disabled || !element.checkVisibility() || element.closest("svg")) continue;
    const [a, b] = [parse(getComputedStyle(element).color), ground(element)].map((c) =>
      luminance(c.slice(0, 3)));
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    results.push([texts[0].data.trim().slice(0, 40), contrast]);
  }
  return results;
}"""


@contextmanager
def running_app(
    *options: str, python_path: str = "", is_ready: bool = True
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `glamm-jax app` on a free port; yields its address and process, by default when ready."""
    port = free_port()
    path = os.pathsep.join(filter(None, (python_path, str(ROOT))))
    environment = {**os.environ, "PYTHONPATH": path, "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "-m", "glamm_jax", "app", "--port", str(port), *options]
    process = subprocess.Popen(command, env=environment, text=True, cwd=ROOT)
    try:
        if is_ready:
            wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    """Wait until something answers at the address."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(f"the app ended with status {process.returncode}")
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the app does not answer")


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the Chromium of this machine."""
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """Somebody with a browser of their own."""

    def __init__(self, browser: Any, url: str, **options: Any):
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, **options}
        )
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append(dialog.message))
        self.page.on("request", self._check_request)
        self.page.goto(url)
        self.page.wait_for_selector(".glamm-stage")

    def _check_request(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.problems.append(f"the page loads {request.url}")

    @property
    def question(self) -> Any:
        return self.page.locator("#glamm-question textarea")

    @property
    def transcript(self) -> Any:
        return self.page.locator(".glamm-transcript")

    def upload(self, path: Path) -> None:
        self.page.locator("input[type=file]").first.set_input_files(path)
        self.page.wait_for_selector(".glamm-stage .picture")

    def draw(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Drag a box, in shares of the image's sides."""
        count = self.page.locator(".glamm-stage .remove").count()
        frame = self.page.locator(".glamm-stage svg").bounding_box()
        mouse = self.page.mouse
        mouse.move(frame["x"] + x0 * frame["width"], frame["y"] + y0 * frame["height"])
        mouse.down()
        mouse.move(frame["x"] + x1 * frame["width"], frame["y"] + y1 * frame["height"], steps=4)
        mouse.up()
        self.page.wait_for_function(
            "n => document.querySelectorAll('.glamm-stage .remove').length === n", arg=count + 1
        )

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def send(self, question: str | None = None) -> None:
        """Ask without waiting for the answer."""
        if question is not None:
            self.question.fill(question)
        self.press("Ask")

    def answers(self, count: int = 1) -> list[str]:
        """Wait until there are so many complete answers."""
        self.page.wait_for_function(
            "n => document.querySelectorAll('.exchange:not(.pending) .answer').length === n",
            arg=count,
            timeout=ANSWER_MS,
        )
        return self.page.locator(".exchange:not(.pending) .answer > span").all_inner_texts()

    def error(self) -> str:
        """Wait for an error in the transcript."""
        self.page.wait_for_selector(".glamm-transcript .error", timeout=ANSWER_MS)
        return self.page.locator(".glamm-transcript .error").inner_text()

    def style(self, selector: str, name: str) -> str:
        """A computed style of the first element."""
        script = "(e, name) => getComputedStyle(e)[name]"
        return self.page.locator(selector).first.evaluate(script, name)

    def close(self) -> None:
        self.context.close()
