"""The health badge: each problem in words on every view, and green only when there is none."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

pytest.importorskip("playwright", reason="the browser's tests need playwright: pip install '.[dev]'")

from playwright.async_api import Browser, expect

from tests.support.agents import ListSource, frames, remember, served
from tests.support.axe import serious_problems
from tests.support.browser import PHONE, TOO_WIDE, Visit, browser, needs_chromium, texts, visit
from tests.support.network import free_port
from tests.support.proxies import documented_location, needs_nginx, nginx
from tests.support.rules import RULE
from tests.support.vlm_server import spying

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]
LONG = "a" * 64
MARKUP = "<img/src=x/onerror=document.title=1>"
VIEWS = ("cameras", "ask", "timeline", "rules", "health")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser(camera=False) as chromium:
        yield chromium


@pytest_asyncio.fixture(loop_scope="module")
async def seen(chromium: Browser) -> AsyncIterator[Visit]:
    async with visit(chromium) as seen:
        yield seen


async def test_each_problem_is_shown_on_every_view(tmp_path: Path, seen: Visit) -> None:
    cameras = {"gate": {"url": f"rtsp://127.0.0.1:9/{MARKUP}"}, LONG: {}}
    rules = {"r" * 64: {**RULE, "condition": "x" * 300}}
    async with served(tmp_path, cameras=cameras, rules=rules) as site:
        page = await seen.open(site.url, site.token("owner"))
        badge, told = page.locator("#state"), page.locator("#problems li")
        await expect(told.filter(has_text=f"camera {LONG}: nobody publishes to it")).to_be_visible()
        await expect(told.filter(has_text="camera gate: ")).to_contain_text("refused")
        await expect(badge).to_have_text(re.compile(r"^\d problems$"))
        await expect(badge).to_have_class("chip stalled")
        assert [each for each in await texts(page, ".card .chip") if "live" in each] == []
        for size in (PHONE, None):
            if size is not None:
                await page.set_viewport_size(size)
            for view in VIEWS:
                await page.evaluate("view => { location.hash = view }", view)
                await page.locator(f".view.{view}").wait_for()
                await expect(told.first).to_be_visible()
                if size is not None:
                    assert await page.evaluate(TOO_WIDE, size["width"]) == [], view
        await expect(page.locator(".health .chip")).to_have_text(["ready", "degraded"])
        assert await serious_problems(page) == []
        assert await page.locator("#problems img, .card .problem img").count() == 0
        assert await page.title() != "1"

        site.agent.encoding.test_problem = "the encoder gives the same vector for every picture"
        await expect(badge).to_have_text("not ready")
        await expect(badge).to_have_class("chip bad")
        await expect(told.filter(has_text="encoder")).to_contain_text("same vector for every picture")
        await expect(page.locator(".health .chip")).to_have_text("not ready")
        seen.errors.clear()  # 503 is logged by the browser, as it should be
        seen.unharmed(requests=False)


async def test_no_text_becomes_markup(tmp_path: Path, seen: Visit) -> None:
    """Markup in answers, metadata, rules, model names and problems is shown as text."""
    with spying() as spy:
        answerer = {"kind": "openai", "probe": False, "base_url": spy.url(), "model": "hostile"}
        cameras = {"door": {"metadata": {MARKUP: MARKUP, "deep": [MARKUP]}}}
        async with served(
            tmp_path, answerer=answerer, cameras=cameras, rules={"bag": {**RULE, "condition": MARKUP}}
        ) as site:
            await remember(site.agent, "door", 3)
            site.agent.cameras.intake_of("door").problem = f"broken {MARKUP}"
            page = await seen.open(site.url, site.token("owner"))
            await expect(page.locator("#problems")).to_contain_text(MARKUP)
            await expect(page.locator(".card .problem")).to_contain_text(MARKUP)
            await page.get_by_role("button", name="Open the newest frame of door").click()
            await expect(page.locator("dialog.frame dl")).to_contain_text(f'["{MARKUP}"]')
            await page.keyboard.press("Escape")
            await page.evaluate("location.hash = 'rules'")
            await expect(page.locator(".rules-list")).to_contain_text(MARKUP)
            await page.evaluate("location.hash = 'ask'")
            await page.get_by_label("Question", exact=True).fill(f"What can you see now? {MARKUP}")
            await page.keyboard.press("Enter")
            await expect(page.locator(".answer")).to_contain_text("red car now!<img src=x onerror=document.title=1>")
            await expect(page.locator(".turn h3")).to_have_text(f"What can you see now? {MARKUP}")
            assert await page.locator("img[src=x]").count() == 0
            assert await page.title() != "1"
            seen.unharmed()


async def test_the_badge_is_green_only_when_there_is_no_problem(tmp_path: Path, seen: Visit) -> None:
    async with served(tmp_path, cameras={"door": {}}) as site:
        page = await seen.open(site.url, site.token("owner"))
        badge = page.locator("#state")
        await expect(badge).to_have_class("chip stalled")
        watching = asyncio.create_task(site.agent.cameras.watch("door", ListSource("door", frames(3), stay=True)))
        await expect(badge).to_have_text("all well")
        await expect(badge).to_have_class("chip live")
        await expect(page.locator("#problems")).to_be_hidden()
        site.agent.cameras.intake_of("door").problem = "its pictures cannot be decoded"
        await expect(badge).to_have_text("1 problem")
        await expect(page.locator(".card .chip")).to_have_class("chip stalled")
        await expect(page.locator(".card .problem")).to_contain_text("cannot be decoded")
        await page.evaluate("token => { location.hash = `cameras&token=${token}` }", site.token("publisher"))
        await expect(page.get_by_text("This token publishes")).to_be_visible()
        await expect(badge).to_be_hidden()  # it may not know the cameras
        await expect(page.locator("#problems")).to_be_hidden()
        watching.cancel()
        seen.unharmed()


@needs_nginx
async def test_the_badge_is_not_green_when_a_proxy_answers_for_the_agent(tmp_path: Path, seen: Visit) -> None:
    """The agent stops behind a proxy, which then answers 502 with its own page; later the agent returns."""
    port, own = free_port(), free_port()
    location = documented_location(f"http://127.0.0.1:{own}", "/vilamp", stripped=True)
    with nginx(tmp_path, port, location):
        async with served(tmp_path / "data", port=own) as site:
            page = await seen.open(f"http://127.0.0.1:{port}/vilamp", site.token("owner"))
            badge, banner = page.locator("#state"), page.locator("#banner")
            await expect(badge).to_have_text("all well")
            for view in VIEWS:
                await page.evaluate("view => { location.hash = view }", view)
                await page.locator(f".view.{view} > *").first.wait_for(state="attached")  # its code has come
        await expect(banner).to_contain_text("502 Bad Gateway")
        await expect(badge).to_have_text("state unknown")
        await expect(badge).to_have_class("chip offline")
        await expect(page.locator(".health > .problem")).to_contain_text("502")
        async with served(tmp_path / "data", port=own):
            await expect(badge).to_have_text("all well")
            await expect(banner).to_be_hidden()
            await expect(page.locator(".health > .problem")).to_be_hidden()
            await page.evaluate("location.hash = 'rules'")
            await expect(page.locator(".rules > .problem, .alerts > .problem")).to_have_count(2)
            for each in await page.locator(".rules > .problem, .alerts > .problem").all():
                await expect(each).to_be_hidden()
    seen.unharmed(requests=False)
