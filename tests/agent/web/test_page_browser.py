"""The page in a real Chromium, whose camera shows the drawn world: publishing, asking, stopping, losing the server.

Every test fails on a console error, an uncaught exception or a violation of the page's policy.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

pytest.importorskip("playwright", reason="the browser's tests need playwright: pip install '.[dev]'")

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from agent.cli.demo.server import DemoServer, running_server
from agent.web.chat import model_card
from model.video_model import VideoModel
from tests.support.agents import Served, checkpoint, remember, served
from tests.support.browser import PHONE, TOO_WIDE, Visit, browser, needs_chromium, texts, visit
from tests.support.network import free_port

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]

SLOW = {"max_new_tokens": 3000}  # an answer that is still being written when the test acts
VIEWS = ("cameras", "ask", "health")
LIVE = "Live: the agent receives this picture."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as chromium:
        yield chromium


@pytest_asyncio.fixture(loop_scope="module")
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    """An agent that remembers twelve frames of a gate."""
    async with served(
        tmp_path, cameras={"gate": {"metadata": {"site": "north", "x": 1, "y": 2, "heading": 90}}}
    ) as site:
        await remember(site.agent, "gate", 12)
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def seen(chromium: Browser) -> AsyncIterator[Visit]:
    async with visit(chromium) as seen:
        yield seen


async def publish(page: Page, name: str) -> None:
    await page.get_by_role("button", name="Use this device's camera").click()
    await page.get_by_label("Name of the camera").fill(name)
    await page.get_by_role("button", name="Start publishing").click()
    await expect(page.get_by_text(LIVE)).to_be_visible()


async def ask(page: Page, question: str) -> None:
    await page.get_by_label("Question", exact=True).fill(question)
    await page.keyboard.press("Enter")


async def test_publish_ask_and_look_at_the_evidence(site: Served, seen: Visit) -> None:
    page = await seen.open(site.url, site.token("owner"))
    assert "token" not in page.url
    await publish(page, "desk")
    card = page.locator(".card", has=page.get_by_role("heading", name="desk"))
    await expect(card.get_by_text(re.compile("warming up"))).to_be_visible()
    await expect(card.get_by_text(re.compile(r"^[2-9] frames"))).to_be_visible()
    assert await card.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 640
    while (source := (await camera(site, "desk"))["source"])["clock"] != "sender":  # three of its reports must agree
        assert source["clock"] == "arrival"
        await asyncio.sleep(0.05)
    assert (source["width"], source["height"]) == (1280, 720)

    await card.get_by_role("link", name="Ask about it").click()
    await expect(page.get_by_role("checkbox")).to_have_count(2)
    assert await page.get_by_role("checkbox").evaluate_all("boxes => boxes.map(box => [box.value, box.checked])") == [
        ["desk", True],
        ["gate", False],
    ]
    await ask(page, "What is there?")
    await expect(page.locator(".turn details")).to_be_visible()
    assert (await page.locator(".answer").inner_text()).strip()
    assert "all cameras" not in await page.locator(".turn").inner_text()
    await expect(page.locator(".evidence li").first).to_contain_text(re.compile(r"relevant|recent|filling"))

    await page.locator(".evidence button").first.click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text(re.compile("clock(arrival|sender)"))
    shown = await dialog.get_by_role("heading").inner_text()
    await expect(dialog.get_by_role("button", name="After →")).to_be_enabled()
    await page.keyboard.press("ArrowRight")
    await expect(dialog.get_by_role("heading")).not_to_have_text(shown)  # in hundredths: frames may share a second
    assert await dialog.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 1280
    async with page.expect_download() as saved:
        await dialog.get_by_role("link", name="Download").click()
    # in an hour that clocks show twice with the zone, such as CEST
    named = r"desk-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(-[A-Z0-9+-]+)?\.jpg"
    assert re.fullmatch(named, (await saved.value).suggested_filename)
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()

    await page.get_by_role("link", name="Cameras").click()
    await page.get_by_role("button", name="Stop").click()
    await until_offline(site, "desk")
    seen.unharmed()


async def camera(site: Served, name: str) -> Any:
    async with httpx.AsyncClient(base_url=site.url, headers=site.headers()) as http:
        return (await http.get(f"/v1/cameras/{name}")).json()


async def until_offline(site: Served, name: str) -> None:
    while (await camera(site, name))["state"] != "offline":
        await asyncio.sleep(0.05)


async def test_the_page_shows_the_frames_that_the_api_cites(site: Served, seen: Visit) -> None:
    page = await seen.open(site.url, site.token(), "ask")
    async with page.expect_response("**/v1/chat/completions") as answered:
        await ask(page, "Who came?")
    chunks = re.findall(r"^data: (\{.*)$", await (await answered.value).text(), re.MULTILINE)
    deltas = [choice["delta"] for chunk in chunks for choice in json.loads(chunk)["choices"]]
    cited = [each["kind"] for delta in deltas for each in delta.get("annotations", ())]
    await expect(page.locator(".turn details")).to_be_visible()
    assert cited
    assert set(await texts(page, ".evidence .chip")) == set(cited)
    assert len(await texts(page, ".evidence li")) == min(12, len(cited))
    await expect(page.locator(".notes li").first).to_contain_text("12 frames")
    await page.locator(".evidence button").last.click()  # its place is on a map, its metadata beside it
    await expect(page.get_by_role("img", name="Position x 1.0 m, y 2.0 m")).to_be_visible()
    await expect(page.get_by_role("dialog")).to_contain_text("north")
    seen.unharmed()


# Where a picture lies inside its element (object-fit: contain), and where its outline does.
SHOWN_AND_OUTLINED = """image => {
  const { x, y, width, height } = image.getBoundingClientRect();
  const scale = Math.min(width / image.naturalWidth, height / image.naturalHeight);
  const [w, h] = [image.naturalWidth * scale, image.naturalHeight * scale];
  const rect = image.parentElement.querySelector(".outline rect").getBoundingClientRect();
  return [[x + (width - w) / 2, y + (height - h) / 2, w, h], [rect.x, rect.y, rect.width, rect.height]];
}"""


async def test_what_a_question_names_is_outlined(tmp_path: Path, seen: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model marks every patch, so the outline is the border of the picture, in the small and the large one."""
    pointing = {"vilamp_live": {"pointing": {"scale": 0.0, "bias": 5.0}}}
    model = VideoModel.load(checkpoint(), num_threads=1, overwrite=pointing)
    monkeypatch.setattr("tests.support.agents.tiny_model", lambda: model)
    async with served(tmp_path) as site:
        await remember(site.agent, "gate", 6)
        page = await seen.open(site.url, site.token(), "ask")
        await ask(page, "Who came?")
        await expect(page.locator(".evidence .outline rect")).to_have_count(4)  # its keyframes
        small = await page.locator(".evidence img").first.evaluate(SHOWN_AND_OUTLINED)
        assert small[1] == pytest.approx(small[0], abs=3), small
        await page.locator(".evidence button").first.click()
        await expect(page.locator("dialog .outline rect")).to_have_count(1)
        large = await page.locator("dialog img").evaluate(SHOWN_AND_OUTLINED)
        assert large[1] == pytest.approx(large[0], abs=3), large
        assert large[1][2] > 2 * small[1][2]
        await page.get_by_role("button", name="After →").click()  # of that frame nothing was asked
        await expect(page.locator("dialog .outline")).to_have_count(0)
        seen.unharmed()


async def test_an_answer_can_be_stopped_and_followed_up(tmp_path: Path, seen: Visit) -> None:
    async with served(tmp_path, answering=SLOW) as site:
        await remember(site.agent, "gate", 4)
        page = await seen.open(site.url, site.token(), "ask")
        await ask(page, "Who came?")
        await expect(page.locator(".answer")).not_to_be_empty()
        await page.get_by_role("button", name="Stop").click()
        await expect(page.get_by_text("Stopped.")).to_be_visible()
        while site.agent.answering.queue.turns.num_inside:  # the answer has ended on the server too
            await asyncio.sleep(0.01)
        await expect(page.get_by_label("Question", exact=True)).to_be_focused()
        await page.get_by_role("button", name="New conversation").click()
        await expect(page.locator(".turn")).to_have_count(0)
    seen.unharmed()


async def test_a_follow_up_says_what_the_model_reads(site: Served, seen: Visit) -> None:
    page = await seen.open(site.url, site.token(), "ask")
    await ask(page, "Who came?")
    await expect(page.locator(".turn details")).to_have_count(1)
    await expect(page.get_by_text("reads each question alone")).to_be_visible()
    async with page.expect_request("**/v1/chat/completions") as sent:
        await ask(page, "And when?")
    messages = (await sent.value).post_data_json["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "user"]
    await expect(page.locator(".turn").last).to_contain_text("what was said before it was not read")
    seen.unharmed()


async def test_time_ranges_use_the_time_zone_of_the_camera(tmp_path: Path, seen: Visit) -> None:
    async with served(tmp_path, cameras={"gate": {"timezone": "Asia/Tokyo"}}) as site:
        long_ago = 1_606_061_045.0  # 2020-11-22 16:04:05 UTC, 01:04:05 on the next day in Tokyo
        await remember(site.agent, "gate", 12, start=long_ago)
        page = await seen.open(site.url, site.token(), "ask")
        await page.get_by_label("Time", exact=True).select_option("Since…")
        await page.get_by_label("Since, in the camera's time").fill("2020-11-23T01:04:10")
        await ask(page, "Who came?")
        await expect(page.locator(".notes li").first).to_contain_text(
            re.compile(r"^7 frames from (2020-11-23 )?01:04:10")
        )
        await page.get_by_label("Time", exact=True).select_option("Last 10 minutes")
        await ask(page, "Who came?")
        await expect(page.locator(".turn").last).to_contain_text("widen after/before")
    seen.unharmed(requests=False)


async def test_what_was_searched_is_shown_as_chips_that_can_be_removed_and_changed(tmp_path: Path, seen: Visit) -> None:
    cameras = {"gate": {"aliases": ["front door"]}, "yard": {}}
    async with served(tmp_path, cameras=cameras) as site:
        for name in cameras:
            await remember(site.agent, name, 6, start=time.time() - 60)
        page = await seen.open(site.url, site.token(), "ask")
        await ask(page, "Who was at the front door in the last hour?")
        first, second = page.locator(".turn").first, page.locator(".turn").nth(1)
        await expect(first.locator("details")).to_have_count(1)
        await expect(first.locator(".chip.searched")).to_have_count(2)
        await expect(first.locator(".chip.searched").first).to_have_text("gate×")
        await expect(first).to_contain_text("understood from “at the front door”, “in the last hour”")
        async with page.expect_request("**/v1/chat/completions") as sent:
            await first.get_by_role("button", name="Ask again without gate").click()
        assert (await sent.value).post_data_json["cameras"] == ["gate", "yard"]
        await expect(second.locator(".chip.searched")).to_have_count(1)
        await expect(second.locator("details")).to_have_count(1)
        async with page.expect_request("**/v1/chat/completions") as sent:
            await second.get_by_role("button", name="Ask again at any time").click()
        body = (await sent.value).post_data_json
        assert (body["cameras"], body["after"]) == (["gate", "yard"], 0)
        await expect(page.locator(".turn").last.locator("details")).to_have_count(1)
        await expect(page.locator(".turn").last).to_contain_text("all cameras")
        await first.get_by_role("button", name="Change").click()
        await expect(page.get_by_label("gate", exact=True)).to_be_checked()
        await expect(page.get_by_label("yard", exact=True)).not_to_be_checked()
        await expect(page.get_by_label("Question", exact=True)).to_have_value(
            "Who was at the front door in the last hour?"
        )
        await page.get_by_label("Time", exact=True).select_option("All stored frames")
        await ask(page, "Who came tomorrow?")
        await expect(page.locator(".turn").last).to_contain_text("in the future")
        await expect(page.locator(".turn").last).to_contain_text("understood from “tomorrow”")
    seen.unharmed(requests=False)


async def test_the_page_asks_for_a_token_and_explains_a_refusal(site: Served, seen: Visit) -> None:
    page = seen.page
    await page.goto(site.url)
    dialog = page.get_by_role("dialog", name="Token")
    await expect(dialog).to_be_visible()
    await dialog.get_by_role("textbox", name="Token").fill("not-a-token")
    await page.keyboard.press("Enter")
    await expect(dialog.get_by_role("alert")).to_contain_text("not known")
    await dialog.get_by_role("textbox", name="Token").fill(site.token())
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="gate")).to_be_visible()
    await page.reload()  # the tab remembers it
    await expect(page.get_by_role("heading", name="gate")).to_be_visible()
    await expect(page.get_by_role("button", name="Use this device's camera")).to_have_count(0)  # "ask" does not publish
    await page.get_by_role("link", name="Health").click()
    await expect(page.get_by_role("cell", name="gate")).to_be_visible()
    await expect(page.get_by_role("button", name="Export or erase…")).to_have_count(0)
    seen.unharmed(requests=False)
    assert all("401" in refused for refused in seen.refused)


async def test_a_token_that_is_no_longer_valid(tmp_path: Path, seen: Visit) -> None:
    port = free_port()
    async with served(tmp_path / "one", port=port) as site:
        page = await seen.open(site.url, site.token())
        await expect(page.get_by_text("No camera yet")).to_be_visible()
    async with served(tmp_path / "two", port=port) as site:
        await expect(page.get_by_role("dialog", name="Token")).to_contain_text("not known")
        await page.get_by_role("textbox", name="Token").fill(site.token())
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("No camera yet")).to_be_visible()
    seen.unharmed(requests=False)


async def test_a_phone_becomes_a_camera_by_opening_a_link(site: Served, seen: Visit, chromium: Browser) -> None:
    page = await seen.open(site.url, site.token("owner"))
    await page.get_by_role("button", name="Use this device's camera").click()
    await page.get_by_label("Name of the camera").fill("hall")
    await page.get_by_role("button", name="Make a link for another device").click()
    link = await page.get_by_label("Link for “hall”").input_value()
    async with visit(chromium, size=PHONE, is_mobile=True, has_touch=True) as phone:
        await phone.page.goto(link)
        await expect(phone.page.get_by_label("Name of the camera")).to_have_value("hall")
        assert "token" not in phone.page.url
        assert await texts(phone.page, "#tabs a") == ["Cameras"]
        await phone.page.get_by_role("button", name="Start publishing").tap()
        await expect(phone.page.get_by_text(LIVE)).to_be_visible()
        await expect(page.get_by_role("heading", name="hall")).to_be_visible()
        phone.unharmed()
    await until_offline(site, "hall")  # closing the page ends the session
    seen.unharmed()


async def test_two_browsers_publish_and_one_takes_over(site: Served, chromium: Browser) -> None:
    async with visit(chromium) as first, visit(chromium) as second:
        one = await first.open(site.url, site.token("owner"))
        two = await second.open(site.url, site.token("owner"))
        await publish(one, "left")
        await publish(two, "right")
        await expect(one.get_by_role("heading", name="right")).to_be_visible()
        await expect(two.get_by_role("heading", name="left")).to_be_visible()
        await two.get_by_role("button", name="Stop").click()
        await two.get_by_label("Name of the camera").fill("left")
        await two.get_by_role("button", name="Start publishing").click()
        await expect(two.get_by_text(LIVE)).to_be_visible()
        await expect(one.get_by_text("Another device publishes as “left” now.")).to_be_visible()
        assert (await camera(site, "left"))["state"] == "live"
        first.unharmed(requests=False)
        second.unharmed()


SLOW_DEVICES = """if (navigator.mediaDevices) navigator.mediaDevices.enumerateDevices = () =>
  new Promise(done => setTimeout(done, 2000, []));"""


async def test_a_missing_camera_and_an_insecure_page_are_explained(site: Served) -> None:
    async with browser(camera=False) as chromium:
        async with visit(chromium) as seen:
            await seen.page.add_init_script(SLOW_DEVICES)
            page = await seen.open(site.url, site.token("owner"))
            await page.get_by_role("button", name="Use this device's camera").click()
            await page.get_by_role("button", name="Start publishing").click()
            said = page.get_by_text(re.compile("There is no camera on this device|may not use the camera"))
            await expect(said).to_be_visible()
            await page.wait_for_timeout(3000)
            await expect(said).to_be_visible()  # the list of devices, which came meanwhile, has not wiped it out
            seen.unharmed()
        async with visit(chromium) as seen:
            page = await seen.open(site.url.replace("127.0.0.1", "camera.example"), site.token("owner"))
            await page.get_by_role("button", name="Use this device's camera").click()
            await page.get_by_role("button", name="Start publishing").click()
            await expect(page.get_by_text("Start the agent with `--tls self-signed`")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_serious(site: Served, chromium: Browser, scheme: str) -> None:
    async with visit(chromium, scheme=scheme) as seen:
        page = await seen.open(site.url, site.token("owner"), "ask")
        await ask(page, "Who came?")
        await expect(page.locator(".turn details")).to_be_visible()
        for view in VIEWS:
            await page.evaluate("view => { location.hash = view }", view)
            await expect(page.locator("#tabs a[aria-current]")).to_have_text(view.capitalize())
            if view == "cameras":
                await page.get_by_role("button", name="Use this device's camera").click()
            assert await serious(page) == [], view
        await page.get_by_role("link", name="Ask").click()
        await page.locator(".evidence button").first.click()
        await expect(page.get_by_role("button", name="Close")).to_be_visible()
        assert await serious(page) == [], "frame"
        seen.unharmed()


async def serious(page: Page) -> list[str]:
    found = await Axe().run(page)
    return [
        f"{each['id']}: {[node['html'] for node in each['nodes']]}"
        for each in found.response["violations"]
        if each["impact"] in ("serious", "critical")
    ]


async def test_every_view_fits_a_phone(site: Served, chromium: Browser) -> None:
    async with visit(chromium, size=PHONE, is_mobile=True, has_touch=True) as seen:
        page = await seen.open(site.url, site.token("owner"), "ask")
        await ask(page, "Who came?")
        await expect(page.locator(".turn details")).to_be_visible()
        for view in VIEWS:
            await page.evaluate("view => { location.hash = view }", view)
            await expect(page.locator("#tabs a[aria-current]")).to_have_text(view.capitalize())
            if view == "cameras":
                await page.get_by_role("button", name="Use this device's camera").click()
                device = page.get_by_label("Device", exact=True)
                await expect(device).to_contain_text("world")  # the film that this Chromium has for a camera
                await device.evaluate(
                    "select => { select.options[0].label = 'A camera of a very long name '.repeat(4) }"
                )
            await page.wait_for_timeout(100)
            assert await page.evaluate(TOO_WIDE, PHONE["width"]) == [], view
        seen.unharmed()


async def test_every_view_can_be_used_by_keyboard(site: Served, seen: Visit) -> None:
    page = await seen.open(site.url, site.token())
    await expect(page.get_by_role("heading", name="gate")).to_be_visible()
    for _ in range(12):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.textContent") == "Ask":
            break
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Question", exact=True)).to_be_focused()
    await page.keyboard.type("Who came?")
    await page.keyboard.press("Enter")
    await expect(page.locator(".turn details")).to_be_visible()
    for _ in range(12):
        await page.keyboard.press("Shift+Tab")
        if await page.evaluate("document.activeElement.matches('.evidence button')"):
            break
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    assert await page.evaluate("document.activeElement.matches('.evidence button')")  # back where it was opened
    seen.unharmed()


async def test_the_health_view_shows_the_metrics(site: Served, seen: Visit) -> None:
    page = await seen.open(site.url, site.token("owner"), "health")
    await expect(page.get_by_text("ready", exact=True)).to_be_visible()
    tile = page.locator(".tiles div", has=page.get_by_text("Frames encoded"))
    await expect(tile).to_contain_text("12")
    card = model_card(site.agent)["vilamp"]["card"]
    await expect(page.locator(".health")).to_contain_text(card or "no model card")
    await expect(page.locator(".reach li").first).to_contain_text(re.compile(r"reaches back to .*, will reach \d"))
    seen.unharmed()


async def test_a_time_range_is_exported_and_erased(site: Served, seen: Visit) -> None:
    page = await seen.open(site.url, site.token("owner"), "health")
    await page.get_by_role("button", name="Export or erase…").click()
    dialog = page.get_by_role("dialog")
    begins = await dialog.get_by_label("From").input_value()
    await dialog.get_by_label("To").fill(
        f"{begins[:-2]}{int(begins[-2:]) + 3:02}"
    )  # 4 of the 12 frames: both ends count
    async with page.expect_download() as saved:
        await dialog.get_by_role("button", name="Export").click()
    assert re.fullmatch(r"gate-.+\.zip", (await saved.value).suggested_filename)
    erase = dialog.get_by_role("button", name="Erase")
    await expect(erase).to_be_disabled()
    await dialog.get_by_label("Erase these frames for good").check()
    await erase.click()
    await expect(dialog.get_by_role("status")).to_contain_text("Erased: 4 frames")
    assert site.agent.store.stats("gate").frames == 8
    await dialog.get_by_role("button", name="Close").click()
    await expect(page.get_by_role("cell", name="8", exact=True).first).to_be_visible()
    seen.unharmed()


async def test_erased_frames_disappear_from_pages_and_caches(site: Served, seen: Visit) -> None:
    page = await seen.open(site.url, site.token("owner"))
    thumb = page.locator(".card img")
    await expect(thumb).to_be_visible()
    picture = await thumb.get_attribute("src")
    await page.evaluate("location.hash = 'ask'")
    await ask(page, "what is there?")
    await expect(page.locator(".evidence img").first).to_be_visible()
    assert await page.evaluate("url => fetch(url).then(response => response.status)", picture) == 200
    await page.evaluate("location.hash = 'health'")
    await page.get_by_role("button", name="Export or erase…").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Erase these frames for good").check()
    await dialog.get_by_role("button", name="Erase").click()
    await expect(dialog.get_by_role("status")).to_contain_text("Erased: 12 frames")
    assert (
        await page.evaluate("url => fetch(url, {cache: 'force-cache'}).then(response => response.status)", picture)
        == 404
    )
    await expect(page.locator(".evidence img")).to_have_count(0)
    assert await texts(page, ".evidence .gone") == ["Forgotten"] * await page.locator(".evidence li").count()
    await page.evaluate("location.hash = 'cameras'")
    await expect(page.locator(".card img[src]")).to_have_count(0)
    seen.unharmed(requests=False)


async def test_changing_the_token_closes_an_open_frame(site: Served, seen: Visit) -> None:
    page = await seen.open(site.url, site.token("owner"))
    await page.get_by_role("button", name="Open the newest frame of gate").click()
    large = page.locator("dialog.frame img.large")
    await expect(large).to_be_visible()
    await page.evaluate("token => { location.hash = `cameras&token=${token}` }", site.token("publisher"))
    await expect(page.get_by_text("This token publishes")).to_be_visible()
    await expect(page.locator("dialog.frame")).not_to_be_visible()
    assert await large.get_attribute("src") is None
    assert await page.locator("img[src*='/v1/']").count() == 0
    seen.unharmed()


async def test_the_page_recovers_when_the_server_is_killed(tmp_path: Path, seen: Visit) -> None:
    config: dict[str, object] = {
        "port": free_port(),
        "model": {"path": str(checkpoint()), "num_threads": 1},
        "answering": SLOW,
    }
    async with running_server(tmp_path, config) as server:
        page = await seen.open(server.url, owner(tmp_path))
        await publish(page, "desk")
        await expect(page.get_by_text(re.compile(r"^[3-9] frames"))).to_be_visible()
        await expect(page.locator("#state")).to_have_text("all well")
        await page.get_by_role("link", name="Ask", exact=True).click()
        await ask(page, "Who came?")
        await expect(page.locator(".answer")).not_to_be_empty()
        server.process.kill()
        await expect(page.get_by_text("The answer is incomplete")).to_be_visible()
        await expect(page.get_by_text("The agent does not answer. Trying again…")).to_be_visible()
        await expect(page.locator("#state")).to_have_text("state unknown")
    async with running_server(tmp_path, config) as again:
        await expect(page.get_by_text("The agent does not answer. Trying again…")).to_be_hidden(timeout=60_000)
        await page.get_by_role("link", name="Cameras").click()
        await expect(page.get_by_text(LIVE)).to_be_visible(timeout=60_000)  # published again, by itself
        await expect(page.locator("#state")).to_have_text("all well")
        assert (await remembered(again, tmp_path)) >= 3
        await page.get_by_role("link", name="Ask", exact=True).click()
        await ask(page, "And now?")
        await expect(page.locator(".answer").last).not_to_be_empty()
    seen.unharmed(requests=False)


def owner(folder: Path) -> str:
    from agent.web.auth import local_token

    return local_token(folder / "data", "admin") or ""


async def remembered(server: DemoServer, folder: Path) -> int:
    headers = {"Authorization": f"Bearer {owner(folder)}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as http:
        return int((await http.get("/v1/cameras/desk")).json()["frames"])
