"""A page that stays open: alerts on every view, catching up after being hidden, expired pictures and URLs, error
messages, and no leaking listeners."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

from tests.support.agents import START, Served, remember, served
from tests.support.axe import serious_problems
from tests.support.bridges import commit, event, jpeg
from tests.support.browser import PHONE, Visit, browser, needs_chromium, visit

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]

NUM_FRAMES = 6
# What the browser says of a tab that somebody looks at, or not.
HIDDEN = """hidden => {
  Object.defineProperty(document, "hidden", { get: () => hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as chromium:
        yield chromium


@pytest_asyncio.fixture(loop_scope="module")
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path, cameras={"yard": {"timezone": "Asia/Tokyo"}}) as site:
        await remember(site.agent, "yard", NUM_FRAMES)
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def seen(chromium: Browser) -> AsyncIterator[Visit]:
    async with visit(chromium) as seen:
        yield seen


async def fire(site: Served, *numbers: int) -> None:
    for number in numbers:
        await asyncio.to_thread(commit, site.agent.alert_store, event(number), jpeg())


async def listening(page: Page) -> None:
    """Wait until the stream of alerts is connected."""
    await page.goto(page.url.split("#")[0] + "#rules")
    await expect(page.locator(".alerts .chip.live")).to_be_visible()


# --- alerts ---


async def test_an_alert_is_announced_on_every_view(site: Served, chromium: Browser) -> None:
    async with visit(chromium, size=PHONE) as seen:
        async with seen.page.expect_response("**/v1/alerts/stream"):
            page = await seen.open(site.url, site.token(), "health")
        await fire(site, 1)
        notice = page.locator("#notice")
        await expect(notice).to_contain_text(re.compile(r"yard · (2026-11-23 )?01:04:05"))
        await expect(notice).to_contain_text("a bag is left by the door")
        assert await notice.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
        assert await serious_problems(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        await page.get_by_role("link", name="Timeline").click()
        await expect(notice).to_be_visible()
        await fire(site, 2)
        await notice.get_by_role("link", name="See all 2").click()
        await expect(notice).to_be_hidden()
        await expect(page.locator(".alert")).to_have_count(2)
        await fire(site, 3)
        await expect(page.locator(".alert.fresh")).to_have_count(1)  # there the list tells it
        await expect(notice).to_be_hidden()
        await page.get_by_role("link", name="Ask", exact=True).click()
        await fire(site, 4)
        await notice.get_by_role("button", name="Dismiss").click()
        await expect(notice).to_be_hidden()
        seen.unharmed()


async def test_a_hidden_tab_closes_its_stream_and_catches_up_later(site: Served, seen: Visit) -> None:
    page = await seen.open(site.url, site.token(), "rules")
    await listening(page)
    await page.evaluate(HIDDEN, True)
    await expect(page.locator(".alerts .chip.live")).to_have_count(0)
    await fire(site, *range(40))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/v1/alerts" in request.url else None)
    await page.evaluate(HIDDEN, False)
    await expect(page.locator(".alert")).to_have_count(30)
    await expect(page.locator(".alerts [role=status].unseen")).to_contain_text("a bag is left")
    assert len([url for url in asked if ".jpg" not in url]) < 10  # not one for each
    await expect(page.locator(".alert").first).to_contain_text("01:04:43")  # the newest of them
    seen.unharmed()


async def test_older_alerts_stay_when_a_new_one_arrives(site: Served, seen: Visit) -> None:
    await fire(site, *range(35))
    page = await seen.open(site.url, site.token("owner"), "rules")
    await listening(page)
    await page.get_by_role("button", name="Show older").click()
    await expect(page.locator(".alert")).to_have_count(35)
    await fire(site, 50)
    await expect(page.locator(".alert")).to_have_count(36)
    await expect(page.locator(".alert").first).to_contain_text("still on")
    await page.locator(".alert select").first.focus()
    await asyncio.to_thread(commit, site.agent.alert_store, event(50, "off"))
    await expect(page.locator(".alert").first).to_contain_text("for 1 s")
    await expect(page.locator(".alert select").first).to_be_focused()
    await asyncio.to_thread(commit, site.agent.alert_store, event(0, "off"))
    await expect(page.locator(".alert").last).to_contain_text("for 1 s")  # in its place
    seen.unharmed()


# --- pictures ---


async def test_a_camera_picture_that_failed_is_loaded_again(site: Served, seen: Visit) -> None:
    async def fail(route: Route) -> None:
        await route.abort()

    await seen.page.route("**/*.jpg*", fail)
    async with seen.page.expect_event("requestfailed"):
        page = await seen.open(site.url, site.token())
    picture = page.locator(".card img")
    await expect(picture).to_be_hidden()
    await page.unroute("**/*.jpg*", fail)
    await expect(picture).to_be_visible()
    seen.unharmed(requests=False)


async def test_expired_picture_urls_are_fetched_again(tmp_path: Path, seen: Visit) -> None:
    async with served(tmp_path, security={"url_ttl_s": 3}) as site:
        await remember(site.agent, "yard", NUM_FRAMES)
        page = await seen.open(site.url, site.token(), "ask")
        await ask(page)
        picture = page.locator(".evidence img").first
        address = await picture.evaluate("image => image.src")
        async with httpx.AsyncClient() as http:
            while (await http.get(address)).status_code == 200:
                await asyncio.sleep(0.1)
        await page.evaluate("path => { document.querySelector('.evidence img').src = path }", f"{address}&again=1")
        await expect(picture).not_to_have_attribute("src", f"{address}&again=1")
        assert await picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
        await page.locator(".evidence button").last.click()
        large = page.get_by_role("dialog").locator("img")
        await expect(large).to_be_visible()
        assert await large.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    seen.unharmed(requests=False)


async def ask(page: Page) -> None:
    await page.get_by_label("Question", exact=True).fill("Who came?")
    await page.keyboard.press("Enter")
    await expect(page.locator(".turn details")).to_be_visible()


async def test_a_deleted_frame_shows_a_message_and_no_picture(site: Served, seen: Visit) -> None:
    page = await seen.open(site.url, site.token("owner"), "ask")
    await ask(page)
    dialog = page.get_by_role("dialog")
    await page.locator(".evidence button").first.click()
    await expect(dialog.locator("img")).to_be_visible()
    await page.keyboard.press("Escape")
    await asyncio.to_thread(site.agent.store.erase, "yard", START + 3, START + NUM_FRAMES)
    await page.locator(".evidence button").last.click()
    await expect(dialog.get_by_role("alert")).to_contain_text("was deleted")
    await expect(dialog.locator("img")).to_be_hidden()
    await expect(dialog.get_by_role("link", name="Download")).to_be_hidden()
    assert await dialog.get_by_role("heading").inner_text() == "Frame"
    seen.unharmed(requests=False)


# --- tokens, errors ---


async def test_without_a_token_the_page_sends_no_requests_for_data(site: Served, seen: Visit) -> None:
    page = seen.page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/v1/" in request.url else None)
    await page.goto(site.url)
    dialog = page.get_by_role("dialog", name="Token")
    await expect(dialog).to_contain_text("Enter a token to see the cameras.")
    await expect(dialog.get_by_role("alert")).to_be_hidden()  # nothing has been done wrong yet
    assert await serious_problems(page) == []
    await dialog.get_by_role("textbox").fill(site.token())
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="yard")).to_be_visible()
    await page.get_by_role("button", name="use another").click()
    await expect(dialog).to_be_visible()
    asked.clear()
    await page.wait_for_timeout(1500)  # longer than the cameras' list is kept
    assert asked == []
    seen.unharmed(requests=False)


async def test_a_link_that_has_expired_says_so(site: Served, seen: Visit) -> None:
    token = site.auth.issue("publish:yard", time.time() - 100, 50)
    await seen.page.goto(f"{site.url}/#publish=yard&token={token.secret}")
    await expect(seen.page.get_by_role("dialog", name="Token")).to_contain_text("this link has expired")
    assert token.secret not in seen.page.url
    seen.unharmed(requests=False)


async def test_errors_of_the_server_are_shown(site: Served, seen: Visit) -> None:
    async def fail(route: Route) -> None:
        await route.fulfill(status=500, json={"error": {"message": "The disk is full."}})

    page = await seen.open(site.url, site.token())
    await page.route("**/v1/cameras", fail)
    await expect(page.locator("#banner")).to_contain_text("The disk is full.")
    await page.unroute("**/v1/cameras", fail)
    await expect(page.locator("#banner")).to_be_hidden()
    await page.route("**/readyz", lambda route: route.abort())
    await page.get_by_role("link", name="Health").click()
    await expect(page.get_by_role("alert")).to_contain_text("The agent does not answer")
    seen.unharmed(requests=False)


async def test_a_device_camera_that_is_disconnected_while_waiting(site: Served, chromium: Browser) -> None:
    async def fail(route: Route) -> None:
        await route.abort()

    async with visit(chromium, permissions=["camera"]) as seen:
        page = await seen.open(site.url, site.token("owner"))
        await page.route("**/whip/desk", fail)
        await page.get_by_role("button", name="Use this device's camera").click()
        await expect(page.get_by_label("Device", exact=True)).to_contain_text(
            "world.mjpeg"
        )  # known before anything is published
        await page.get_by_label("Name of the camera").fill("desk")
        await page.get_by_role("button", name="Start publishing").click()
        status = page.locator(".publish [role=status]")
        await expect(status).to_contain_text("does not answer; again in")
        await page.locator("video.preview").evaluate("video => video.srcObject.getTracks()[0].stop()")
        await page.unroute("**/whip/desk", fail)
        await expect(status).to_contain_text("disconnected or taken away")
        seen.unharmed(requests=False)


# --- keys, forms, waits ---


async def test_the_skip_link_and_the_tabs_keep_the_view(site: Served, seen: Visit) -> None:
    page = await seen.open(site.url, site.token())
    await page.get_by_role("link", name="Skip to content").focus()
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "main"
    await page.get_by_role("link", name="Timeline").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(".view.timeline")).to_be_visible()
    await expect(page.get_by_role("link", name="Timeline")).to_be_focused()
    await page.get_by_role("link", name="Health").click()
    row = page.get_by_role("button", name="Export…")
    await row.click()
    await page.keyboard.press("Escape")
    async with page.expect_response("**/v1/memory"):
        await row.focus()
    await page.evaluate("() => new Promise(requestAnimationFrame)")
    await expect(row).to_be_focused()  # though the table was renewed
    seen.unharmed()


async def test_an_invalid_hidden_field_is_revealed(site: Served, seen: Visit) -> None:
    page = await seen.open(site.url, site.token("owner"), "rules")
    await page.get_by_role("button", name="New rule").click()
    await page.get_by_label("Watch for").fill("a bag")
    more, confirmed = page.get_by_text("More", exact=True), page.get_by_label("Yes needed")
    await more.click()
    await confirmed.fill("")
    await page.get_by_text("Only at certain times").click()
    await page.locator("#rule-start").fill("")
    await page.get_by_text("Only at certain times").click()
    await more.click()
    await expect(confirmed).to_be_hidden()
    await page.get_by_role("button", name="Arm rule").click()
    await expect(confirmed).to_be_visible()
    await confirmed.fill("2")
    await page.get_by_role("button", name="Arm rule").click()
    await expect(page.locator(".rule")).to_contain_text("a bag")  # the times, which do not count, held nothing up
    seen.unharmed(requests=False)


async def test_sleep_removes_its_listener_from_the_signal(site: Served, seen: Visit) -> None:
    page = await seen.open(site.url, site.token())
    held = await page.evaluate(
        """async () => {
      const { sleep } = await import("/page/dom.js");
      const { signal } = new AbortController();
      let held = 0;
      const add = signal.addEventListener.bind(signal), remove = signal.removeEventListener.bind(signal);
      signal.addEventListener = (...given) => { held += 1; add(...given); };
      signal.removeEventListener = (...given) => { held -= 1; remove(...given); };
      for (let n = 0; n < 5; n += 1) await sleep(0.001, signal);
      return held;
    }"""
    )
    assert held == 0
    seen.unharmed()
