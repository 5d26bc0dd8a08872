"""Chromium, driven by playwright, with a film of the drawn world as its camera.

`browser()` starts it. `visit()` opens a page with a session of its own and records console errors, uncaught exceptions and
violations of the Content-Security-Policy. Without Chromium the tests are skipped.
"""

import atexit
import functools
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright, expect

from model.world.draw import draw
from model.world.scene import Scene
from tests.support.streams import LOOPBACK_ALONE

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
PHONE = {"width": 375, "height": 740}
DESKTOP = {"width": 1280, "height": 800}
_NETWORK = "Failed to load resource"  # how Chromium reports a request that failed or got an error status
# Elements that reach beyond the width of the screen.
TOO_WIDE = """width => document.documentElement.scrollWidth <= width ? [] : [...document.querySelectorAll("main *")]
  .filter(each => each.getBoundingClientRect().right > width).map(each => each.outerHTML.slice(0, 120))"""

expect.set_options(timeout=20_000)


@functools.cache
def world_film(seconds: int = 8, rate_hz: int = 10, width: int = 1280, height: int = 720) -> Path:
    """Write a Motion JPEG film of the drawn world, which Chromium's fake camera plays in a loop."""
    folder = Path(tempfile.mkdtemp(prefix="vilamp-film-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "world.mjpeg"
    scene = Scene.from_seed(7, duration_s=60.0, style="fixed", split="eval")
    with path.open("wb") as film:
        for number in range(seconds * rate_hz):
            picture = draw(scene, number / rate_hz, width // 4, height // 4)
            Image.fromarray(np.asarray(picture)).resize((width, height)).save(film, "JPEG", quality=85)
    return path


@asynccontextmanager
async def browser(*, camera: bool = True) -> AsyncIterator[Browser]:
    """Start Chromium. `camera`: with a fake camera that pages may use without a prompt."""
    elsewhere = "--host-resolver-rules=MAP camera.example 127.0.0.1"  # a host name that is not localhost
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", elsewhere]
    if LOOPBACK_ALONE:  # Chromium tries loopback addresses only when told to
        arguments.append("--allow-loopback-in-peer-connection")
    if camera:
        arguments += [
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-video-capture={world_film()}",
        ]
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield chromium
        finally:
            await chromium.close()


@dataclass
class Visit:
    """A page with its errors. `refused`: failed requests, which some tests cause on purpose."""

    page: Page
    context: BrowserContext
    errors: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def watch(self) -> None:
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            place = f"{message.text} ({message.location.get('url', '')})"
            (self.refused if message.text.startswith(_NETWORK) else self.errors).append(place)

    async def open(self, url: str, token: str, view: str = "cameras") -> Page:
        """Open a view with a token in the URL, like the link that the server prints."""
        await self.page.goto(f"{url}/#{view}&token={token}")
        await self.page.locator("#tabs a[aria-current]").wait_for()
        return self.page

    def unharmed(self, *, requests: bool = True) -> None:
        """Assert that the page had no errors. `requests=False` allows failed requests."""
        assert self.errors == []
        assert not (requests and self.refused), self.refused


@asynccontextmanager
async def visit(chromium: Browser, *, size: Any = None, scheme: Any = "light", **options: Any) -> AsyncIterator[Visit]:
    """Open a page in a new session, which shares no cookies or storage with others."""
    context = await chromium.new_context(viewport=size or DESKTOP, color_scheme=scheme, **options)
    seen = Visit(await context.new_page(), context)
    seen.watch()
    try:
        yield seen
    finally:
        await context.close()


async def texts(page: Page, selector: str) -> Sequence[str]:
    """Return the texts of all elements that match the selector."""
    return await page.locator(selector).all_inner_texts()
