"""Measure the timeline in a real browser with 10,000 frames in the memory: frames per second of a drag, and response times.

    python -m benchmarks.timeline [--frames 10000]          needs Chromium

The server runs in a process of its own with the built-in model; browser, server and this script share the machine's cores.
A drag is real mouse input. The page records the times between animation frames with requestAnimationFrame while the strip is
redrawn. Chromium runs without a GPU. Requests are timed over HTTP on loopback.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from playwright.async_api import Page

from agent.cli.demo.server import DemoServer, running_server
from benchmarks import features
from benchmarks.machine import add_out, machine, measured_path, show, write_result
from model.video_model import VideoModel
from tests.support.browser import browser, visit

QUESTION = "a red car"
NUM_DRAWN = 64  # pictures that are encoded; a longer history repeats them with noise
DRAG_S, MOVES_HZ = 6.0, 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    add_out(parser)
    args = parser.parse_args()
    here = machine()
    show(here)
    with tempfile.TemporaryDirectory(prefix="vilamp-bench-") as folder:
        fill(Path(folder) / "data" / "memory", args.frames)
        measured = asyncio.run(measure(Path(folder), args.frames))
    print(json.dumps(measured, indent=1))
    write_result(measured_path(args.out, "bench-timeline.json"), here, measured)


def fill(folder: Path, num_frames: int) -> None:
    """Fill a memory with `num_frames` frames of one camera for the server."""
    model = VideoModel.load(features.BUILTIN, num_threads=1)
    pictures = features.jpegs(min(NUM_DRAWN, num_frames), width=640, height=360)
    with features.open_store(folder, model, num_frames) as store:
        features.fill(store, pictures, features.encoded(model, pictures), num_frames)


async def measure(folder: Path, num_frames: int) -> dict[str, Any]:
    """Return all figures of one server and one browser."""
    config: dict[str, object] = {
        "port": 0,
        "cameras": {features.CAMERA: {"max_frames": num_frames}},
        "model": {"num_threads": 1},
    }
    async with running_server(folder, config) as server, browser(camera=False) as chromium, visit(chromium) as seen:
        page = await seen.open(server.url, server.ask_token, "timeline")
        measured = {"chromium": chromium.version, "frames": num_frames, "drag": await drags(page)}
        seen.unharmed()
        measured["request_ms"] = await requests(server)
    return measured


async def requests(server: DemoServer) -> dict[str, float]:
    """Return milliseconds of the endpoint: for a new question, the same again, and zoomed in."""
    headers = {"Authorization": f"Bearer {server.ask_token}"}
    measured = {}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=120) as http:
        for name, query in (
            ("first_look", {}),
            ("again", {}),
            ("zoomed", {"after": features.START + 100, "before": features.START + 400}),
            ("without_keyframes", {"keyframes": "false"}),
        ):
            started = time.perf_counter()
            answer = await http.get(f"/v1/cameras/{features.CAMERA}/timeline", params={"question": "a dog", **query})
            measured[name] = round(1000 * (time.perf_counter() - started), 1)
            answer.raise_for_status()
    return measured


async def drags(page: Page) -> dict[str, Any]:
    """Show the history's relevance to a question, then drag it: with most frames in view, and with a tenth."""
    await page.get_by_label("Relevance to").fill(QUESTION)
    await page.keyboard.press("Enter")
    await page.get_by_text("would see").wait_for(timeout=60_000)
    measured = {}
    for name, num_zooms in (("most_in_sight", 1), ("a_tenth_in_sight", 6)):
        await page.get_by_role("button", name="All").click()
        await page.locator(".timeline .strip").focus()
        for _ in range(num_zooms):
            await page.keyboard.press("+")
        await asyncio.sleep(1.0)
        measured[name] = rates(await drag(page))
    return measured


_RECORD = """() => {
  window.beats = [];
  const beat = at => { window.beats.push(at); window.beating = requestAnimationFrame(beat); };
  requestAnimationFrame(beat);
}"""
_STOP = "() => { cancelAnimationFrame(window.beating); return window.beats; }"


async def drag(page: Page) -> list[float]:
    """Return the times (ms) between animation frames while the strip is dragged to and fro."""
    box = await page.locator(".timeline .strip").bounding_box()
    if box is None:
        raise RuntimeError("the strip is not on the page")
    middle, y = box["x"] + box["width"] / 2, box["y"] + 100
    await page.mouse.move(middle, y)
    await page.mouse.down()
    await page.evaluate(_RECORD)
    loop = asyncio.get_running_loop()
    began = loop.time()
    while (at := loop.time() - began) < DRAG_S:
        await page.mouse.move(middle + 0.4 * box["width"] * np.sin(2 * np.pi * at / 3), y)
        await asyncio.sleep(1 / MOVES_HZ)
    beats: list[float] = await page.evaluate(_STOP)
    await page.mouse.up()
    return beats


def rates(beats_ms: list[float]) -> dict[str, float]:
    """Return frames per second, and how even they are."""
    gaps = np.diff(beats_ms)
    return {
        "fps_mean": round(float(1000 / gaps.mean()), 1),
        "gap_median_ms": round(float(np.median(gaps)), 1),
        "gap_p99_ms": round(float(np.percentile(gaps, 99)), 1),
        "gap_worst_ms": round(float(gaps.max()), 1),
        "share_over_34_ms": round(float((gaps > 34).mean()), 4),
    }


if __name__ == "__main__":
    main()
