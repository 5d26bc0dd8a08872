"""Take screenshots of every view of the page for the documentation: `make screenshots`.

An agent with the built-in model remembers two drawn worlds; Chromium opens each view in light, in dark and at the size of a
phone. The pictures are PNG files with fewer colours, to keep them small.
"""

import asyncio
import io
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.async_api import Page, expect

from agent.app import Agent
from agent.ask.model import load_model
from agent.keep.memory import open_memory
from agent.settings.settings import Settings
from agent.web.app import build_app
from agent.web.auth import Auth
from agent.web.server import Server, configuration, listening, url_of
from model.world.draw import draw
from model.world.scene import Scene
from streaming.frame import Frame
from tests.support.agents import ListSource, Served
from tests.support.browser import DESKTOP, PHONE, browser, visit

STEP_S, NUM_FRAMES = 2.0, 240  # eight minutes
# Scenes by day; a red truck comes to the gate after five minutes, long after a rule's warm-up.
GATE, YARD, DENSITY = 128, 13, 0.6
QUESTION, CONDITION = "did a red truck ever come?", "a red truck"
# The name that Chromium gives its fake camera is the path of a file.
NAMED = """const list = navigator.mediaDevices?.enumerateDevices.bind(navigator.mediaDevices);
if (list) navigator.mediaDevices.enumerateDevices = async () => (await list()).map(({ kind, deviceId }) =>
  ({ kind, deviceId, label: "Camera of this machine" }));"""


def history(seed: int, now: float) -> list[Frame]:
    """Draw the last eight minutes of a world."""
    scene = Scene.from_seed(seed, duration_s=NUM_FRAMES * STEP_S, style="fixed", split="eval", density=DENSITY)
    begin = now - NUM_FRAMES * STEP_S
    pictures = (np.asarray(draw(scene, n * STEP_S, 640, 360)) for n in range(NUM_FRAMES))
    return [Frame(begin + n * STEP_S, picture, "sender") for n, picture in enumerate(pictures)]


@asynccontextmanager
async def agent_with_history(folder: Path) -> AsyncIterator[Served]:
    """Run an agent with the built-in model, two cameras with a history and two without."""
    zone = {"timezone": "Europe/Zurich"}
    gate = {**zone, "recorder_url": "https://recorder.example/gate"}
    cameras = {"gate": gate, "yard": zone, "robot": zone, "desk": zone}
    settings = Settings.model_validate({"data_dir": folder, "port": 0, "cameras": cameras, "model": {"num_threads": 1}})
    model = load_model(settings)
    auth = Auth.open(folder)
    async with Agent(settings, open_memory(settings, model), model).running() as agent:
        with listening(settings) as listener:
            url = url_of(listener, None)
            app = build_app(agent, auth, settings, url=url)
            began = asyncio.Event()

            async def started(url: str) -> None:
                began.set()

            server = Server(configuration(app, settings, None), started)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            await began.wait()
            for name, seed in (("gate", GATE), ("yard", YARD)):
                agent.cameras.publish(name, ListSource(name, history(seed, time.time() - 20), stay=True))
            while min(agent.store.stats(name).frames for name in ("gate", "yard")) < NUM_FRAMES:
                await asyncio.sleep(0.1)
            await agent.encoded()
            yield Served(agent, auth, url, app, server)
            server.should_exit = True
            await serving


async def cameras(page: Page) -> None:
    await page.get_by_role("button", name="Use this device's camera").click()
    await page.get_by_label("Name of the camera").fill("desk")
    await page.get_by_role("button", name="Start publishing").click()
    await expect(page.get_by_text("Live: the agent")).to_be_visible()
    await page.wait_for_timeout(4000)


async def wall(page: Page) -> None:
    await page.get_by_role("button", name="Close").click()
    await page.wait_for_timeout(500)


async def ask(page: Page) -> None:
    await page.get_by_role("checkbox", name="gate").wait_for()
    for name in ("desk", "robot", "yard"):
        await page.get_by_role("checkbox", name=name).uncheck()
    await page.get_by_label("Question", exact=True).fill(QUESTION)
    await page.keyboard.press("Enter")
    await expect(page.locator(".turn details")).to_be_visible(timeout=60_000)
    await page.wait_for_timeout(500)


async def frame(page: Page) -> None:
    scores = [float(score) for score in await page.locator(".evidence .caption .soft").all_inner_texts()]
    await page.locator(".evidence button.picture").nth(scores.index(max(scores))).click()
    await expect(page.get_by_role("button", name="After →")).to_be_enabled()


async def settle(page: Page) -> None:
    await page.keyboard.press("Escape")
    await page.wait_for_timeout(1500)


async def timeline(page: Page) -> None:
    await page.keyboard.press("Escape")
    await page.get_by_label("Relevance to").fill(CONDITION)
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("would see")).to_be_visible(timeout=60_000)
    strip = page.locator(".timeline .strip")
    await strip.focus()
    await page.keyboard.press("Home")
    for _ in range(8):  # to the visit that stands out, in the second half
        await page.keyboard.press(".")
        await page.wait_for_timeout(300)
        if await page.locator(".timeline .frame-card .score", has_text=re.compile(r"^0\.[3-9]")).is_visible():
            break
    await page.wait_for_timeout(1500)


async def rules(page: Page) -> None:
    new = page.get_by_role("button", name="New rule")
    await new.click()
    await page.get_by_label("Watch for").fill(CONDITION)
    await page.locator("#dry-camera").select_option("gate")
    await expect(page.get_by_text("Would have fired once")).to_be_visible(timeout=120_000)
    if page.viewport_size == PHONE:  # the dry run is below the form
        await page.locator(".trial").evaluate("node => scrollBy(0, node.getBoundingClientRect().top - 100)")
    await page.wait_for_timeout(1500)


# The screenshots in order: name, tab, and the steps before it.
SHOTS: tuple[tuple[str, str, Any], ...] = (
    ("publish", "cameras", cameras),
    ("cameras", "cameras", wall),
    ("ask", "ask", ask),
    ("frame", "ask", frame),
    ("timeline", "timeline", timeline),
    ("rules", "rules", rules),
    ("health", "health", settle),
)
LOOKS: tuple[tuple[str, str, dict[str, int]], ...] = (
    ("light", "light", DESKTOP),
    ("dark", "dark", DESKTOP),
    ("phone", "light", PHONE),
)


def save(png: bytes, path: Path) -> None:
    """Save with 32 levels per colour channel, which halves the file without a visible change."""
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").point(lambda value: min(255, (value + 4) // 8 * 8)).save(path, optimize=True)


async def main(folder: Path, only: tuple[str, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vilamp-screenshots-") as data:
        async with agent_with_history(Path(data)) as site, browser() as chromium:
            for look, scheme, size in LOOKS:
                if only and look not in only:
                    continue
                async with visit(chromium, size=size, scheme=scheme, timezone_id="Europe/Zurich") as seen:
                    await seen.page.add_init_script(NAMED)
                    page = await seen.open(site.url, site.token("owner"))
                    for name, tab, prepare in SHOTS:
                        await page.evaluate("tab => { location.hash = tab }", tab)
                        await prepare(page)
                        save(await page.screenshot(), folder / f"page-{name}-{look}.png")
                        print(f"page-{name}-{look}.png")
                    seen.unharmed()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tests.support.screenshots FOLDER [light] [dark] [phone]")
    asyncio.run(main(Path(sys.argv[1]), tuple(sys.argv[2:])))
