"""Time the page in Chromium from pressing Enter to the first character of the answer on the screen.

    python -m benchmarks.page [--questions 12] [--out out/benchmarks]

A drawn world is in the memory of an agent with the built-in model. Times are the browser's: from the key's own time stamp
to the animation frame after the text has changed. Writes bench-page.json. Needs Chromium.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

from playwright.async_api import Page, expect

from benchmarks.machine import add_out, machine, measured_path, report, show, summary_ms, write_result
from tests.support.browser import browser, visit
from tests.support.screenshots import agent_with_history

QUESTIONS = (
    "Did a red car ever come?",
    "When did the first dog appear?",
    "What was left behind?",
    "How many people came?",
)
WATCH = """() => {
  addEventListener("keydown", event => { if (event.key === "Enter") window.pressed = event.timeStamp; }, true);
  new MutationObserver(() => {
    const last = [...document.querySelectorAll(".answer")].at(-1);
    if (window.pressed !== null && last?.textContent) {
      const pressed = window.pressed;
      window.pressed = null;
      requestAnimationFrame(now => window.measured.push(now - pressed));
    }
  }).observe(document.querySelector("main"), { childList: true, subtree: true, characterData: true });
  window.measured = [];
  window.pressed = null;
}"""


async def first_characters(page: Page, count: int) -> list[float]:
    """Return milliseconds, one per question."""
    await page.evaluate(WATCH)
    for number in range(count):
        await page.get_by_label("Question", exact=True).fill(QUESTIONS[number % len(QUESTIONS)])
        await page.keyboard.press("Enter")
        await expect(page.locator(".turn details")).to_have_count(number + 1, timeout=120_000)
    measured: list[float] = await page.evaluate("window.measured")
    return measured


async def measure(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="vilamp-bench-") as data:
        async with agent_with_history(Path(data)) as site, browser(camera=False) as chromium, visit(chromium) as seen:
            page = await seen.open(site.url, site.token(), "ask")
            measured = await first_characters(page, count + 1)
            seen.unharmed()
            frames = sum(site.agent.store.stats(camera).frames for camera in site.agent.cameras.names())
    summary = summary_ms([each / 1000 for each in measured[1:]])  # the first question warms caches
    return {
        "frames": frames,
        "questions": count,
        "first_character_ms": summary,
        "first_question_ms": round(measured[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=12, help="asked one after another, beside the first")
    add_out(parser)
    args = parser.parse_args()
    here = machine()
    show(here)
    measured = asyncio.run(measure(args.questions))
    report("Enter to first character", measured["first_character_ms"])
    write_result(measured_path(args.out, "bench-page.json"), here, measured)


if __name__ == "__main__":
    main()
