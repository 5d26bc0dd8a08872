"""The timeline in a real browser: its marks against the API; mouse, wheel, keyboard and touch; ranges."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import numpy as np
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Error, Locator, Page, Route, expect

from agent.times import format_clock, instant_of, load_zone
from tests.support.agents import Served, served, tiny_model
from tests.support.axe import serious_problems
from tests.support.browser import PHONE, browser, needs_chromium, visit
from tests.support.histories import QUESTION, write_history

NUM_FRAMES, STEP_S = 240, 5.0
pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]


def relevance(n: int) -> float:
    """Relevance with two moments at which the thing asked about was visible."""
    return 0.1 + 0.3 * np.exp(-(((n - 60) / 5) ** 2)) + 0.4 * np.exp(-(((n - 180) / 3) ** 2))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """One site for all tests; only the last test that uses it changes its memory."""
    info = tiny_model().info
    changed = replace(info, defaults=replace(info.defaults, recent=2))
    answering = {"num_keyframes": 12, "max_new_tokens": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model(), "info", changed)
        async with served(tmp_path_factory.mktemp("site"), answering=answering) as site:
            times = time.time() - 30 - STEP_S * np.arange(NUM_FRAMES)[::-1]
            kept = np.abs(np.arange(NUM_FRAMES) - 120) > 10  # a gap in the middle
            await asyncio.to_thread(
                write_history, site.agent, "gate", times[kept], lambda n: relevance(int(np.flatnonzero(kept)[n]))
            )
            yield site


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser(camera=False) as started:
        yield started


@asynccontextmanager
async def timeline(chromium: Browser, site: Served, **options: Any) -> AsyncIterator[Page]:
    """Open the timeline, and fail on any error in the browser."""
    async with visit(chromium, **options) as seen:
        yield await seen.open(site.url, site.token(), "timeline")
        seen.unharmed()


async def api(site: Served, camera: str = "gate", **query: Any) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=site.url, headers=site.headers()) as http:
        answer: dict[str, Any] = (await http.get(f"/v1/cameras/{camera}/timeline", params=query)).json()
    return answer


async def ask(page: Page, question: str = QUESTION) -> Locator:
    """Type a question and return the strip when its keyframes are shown."""
    await page.get_by_label("Relevance to").fill(question)
    await page.keyboard.press("Enter")
    await page.get_by_text("would see").wait_for()
    return page.locator(".timeline .strip")


async def view(strip: Locator) -> tuple[float, float]:
    """Return the visible time range when it has stopped changing."""
    seen, before = (0.0, 0.0), (1.0, 1.0)
    while seen != before:
        before = seen
        await asyncio.sleep(0.05)
        after, until = [await strip.get_attribute(f"data-{end}") for end in ("after", "before")]
        seen = (float(after or 0), float(until or 0))
    return seen


async def test_the_timeline_shows_the_marks_of_the_api(chromium: Browser, site: Served) -> None:
    async with timeline(chromium, site) as page:
        strip = await ask(page)
        await page.get_by_text("as a list").click()
        expected = await api(site, question=QUESTION)
        kinds = await page.locator(".marks .chip").all_text_contents()
        assert kinds == [keyframe["kind"] for keyframe in expected["keyframes"]]
        scores = await page.locator(".marks tr:has(.chip) td:nth-child(3)").all_text_contents()
        assert scores == [f"{keyframe['score']:.3f}" for keyframe in expected["keyframes"]]
        assert await page.get_by_text("nothing received for").count() == len(expected["gaps"])
        after, before = await view(strip)
        width = await strip.locator("canvas").evaluate("canvas => canvas.clientWidth")
        seen = await page.evaluate(MARKS)
        for keyframe in expected["keyframes"]:
            x = (keyframe["time"] - after) / (before - after) * width
            assert any(abs(x - place) < 6 for place in seen), (keyframe["kind"], x, seen)


# Places of painted pixels in the lane of the keyframes' marks.
MARKS = """async () => {
  const canvas = document.querySelector(".timeline .strip canvas"), ratio = canvas.width / canvas.clientWidth;
  const { AXIS, MARKS, palette } = await import("/page/draw.js");
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const row = Math.round((canvas.clientHeight - AXIS - MARKS / 2) * ratio);
  const line = copy.getImageData(0, row, canvas.width, 1).data;
  const found = [], colours = palette(canvas);
  for (const kind of ["relevant", "recent", "filling"]) {
    copy.fillStyle = colours[kind];
    copy.fillRect(0, 0, 1, 1);
    const wanted = copy.getImageData(0, 0, 1, 1).data;
    for (let x = 0; x < canvas.width; x += 1) {
      if ([0, 1, 2].every(n => Math.abs(line[4 * x + n] - wanted[n]) < 40) && line[4 * x + 3] > 120) found.push(x / ratio);
    }
  }
  return found;
}"""


# For each of some points of the strip, the colour there.
COLOURS = """points => {
  const canvas = document.querySelector(".timeline .strip canvas"), ratio = canvas.width / canvas.clientWidth;
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return points.map(([x, y]) => [...copy.getImageData(Math.round(x * ratio), Math.round(y * ratio), 1, 1).data]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_visits_are_bands_whose_mark_opens_the_peak(chromium: Browser, site: Served, scheme: Any) -> None:
    async with timeline(chromium, site, scheme=scheme) as page:
        strip = await ask(page)
        visits = (await api(site, question=QUESTION))["visits"]
        assert len(visits) >= 2  # tests that ran before may have left more frames
        assert all(each["is_clear"] for each in visits)
        box = await strip.bounding_box()
        assert box is not None
        after, before = await view(strip)

        def x_of(time: float) -> float:
            return (time - after) / (before - after) * box["width"]

        await page.mouse.move(0, 0)
        beside = await page.evaluate(COLOURS, [[x_of(visits[0]["start"]) - 8, 30], [x_of(visits[0]["peak"]), 16]])
        for visit in visits:
            spots = [[x_of((visit["start"] + visit["peak"]) / 2) - 2, 24], [x_of(visit["peak"]), 16]]
            band, mark = await page.evaluate(COLOURS, spots)
            assert band != beside[0], visit
            assert mark == beside[1], visit
        visit = visits[1]
        await page.mouse.move(box["x"] + x_of(visit["peak"]) + 5, box["y"] + 16)
        card = page.locator(".timeline .frame-card")
        await expect(card).to_contain_text(re.compile(r"visit .*\d\d:\d\d:\d\d to \d\d:\d\d:\d\d"))
        async with page.expect_response(re.compile(rf"/v1/frames/{visit['frame_id']}\b")):
            await page.mouse.down()
            await page.mouse.up()
        await expect(page.locator("dialog.frame")).to_be_visible()
        await page.keyboard.press("Escape")
        await page.get_by_text("as a list").click()
        rows = page.locator(".marks tr", has_text="stands out")
        assert await rows.count() == len(visits)
        await rows.first.get_by_role("button").click()
        await expect(page.locator("dialog.frame")).to_be_visible()


async def test_noise_looks_like_noise(chromium: Browser, site: Served) -> None:
    """A camera that shows nothing relevant is drawn low, whatever its scores are, and the page says so."""
    noise = np.random.default_rng(4).normal(0.2, 0.001, 300)
    times = time.time() - 30 - np.arange(300)[::-1]
    await asyncio.to_thread(write_history, site.agent, "quiet", times, lambda n: float(noise[n]))
    async with timeline(chromium, site) as page:
        await page.get_by_label("Camera").select_option("quiet")
        await ask(page)
        await expect(page.get_by_text("Nothing stands out of this camera's noise.")).to_be_visible()
        heights = await page.evaluate(HEIGHTS, await api(site, "quiet", question=QUESTION))
        assert max(heights) < 0.45
        await page.get_by_label("Camera").select_option("gate")
        await expect(page.get_by_text(re.compile(r"\d visits, of which \d stand out."))).to_be_visible()
        heights = await page.evaluate(HEIGHTS, await api(site, "gate", question=QUESTION))
        assert max(heights) > 0.9
        assert np.median(heights) < 0.1


# The height of each point of a timeline as a share of the axis.
HEIGHTS = """async layer => {
  const { low, high } = (await import("/page/draw.js")).scaleOf(layer);
  return layer.points.map(point => (point.max - low) / (high - low));
}"""


async def test_an_answer_names_the_visits_that_stand_out(chromium: Browser, site: Served) -> None:
    async with timeline(chromium, site) as page:
        visits = (await api(site, question=QUESTION))["visits"]
        await page.route("**/v1/chat/completions", choose_by_visits)
        await page.evaluate("location.hash = 'ask'")
        await page.get_by_label("Question", exact=True).fill(QUESTION)
        await page.keyboard.press("Enter")
        named = page.locator(".turn .visits")
        await expect(named).to_contain_text("Stood out: ")
        await expect(named.get_by_role("button")).to_have_count(len(visits))
        assert await serious_problems(page) == []
        async with page.expect_response(re.compile(rf"/v1/frames/{visits[1]['frame_id']}\b")):
            await named.get_by_role("button").nth(1).click()
        await expect(page.locator("dialog.frame")).to_be_visible()


async def choose_by_visits(route: Route) -> None:
    await route.continue_(post_data={**(route.request.post_data_json or {}), "selection": "visits"})


async def test_wheel_drag_and_buttons_move_the_view(chromium: Browser, site: Served) -> None:
    async with timeline(chromium, site) as page:
        strip = await ask(page)
        box = await strip.bounding_box()
        assert box is not None
        after, before = await view(strip)
        x, y = box["x"] + box["width"] / 4, box["y"] + 120
        pointed = after + (before - after) / 4
        await page.mouse.move(x, y)
        await page.mouse.wheel(0, -300)
        closer = await view(strip)
        assert closer[1] - closer[0] < 0.8 * (before - after)
        assert closer[0] + (closer[1] - closer[0]) / 4 == pytest.approx(pointed, abs=(before - after) / 200)
        await page.mouse.down()
        await page.mouse.move(x + 100, y, steps=5)
        await page.mouse.up()
        moved = await view(strip)
        assert moved[0] < closer[0]
        assert moved[1] - moved[0] == pytest.approx(closer[1] - closer[0], rel=1e-3)
        for _ in range(25):
            await page.get_by_role("button", name="Zoom in").click()
        nearest = await view(strip)
        assert nearest[1] - nearest[0] == pytest.approx(1.0, abs=0.01)
        await page.get_by_role("button", name="All").click()
        assert await view(strip) == pytest.approx((after, before), abs=1.0)


async def test_detail_is_fetched_when_the_view_rests(chromium: Browser, site: Served) -> None:
    async with timeline(chromium, site) as page:
        await ask(page)
        async with page.expect_response(lambda answer: "timeline?" in answer.url) as coming:
            await page.get_by_role("button", name="Zoom in").click()
        detail = await (await coming.value).json()
        assert detail["bin_s"] < STEP_S
        assert {point["count"] for point in detail["points"]} == {1}


async def test_the_keyboard_can_do_what_the_mouse_does(chromium: Browser, site: Served) -> None:
    async with timeline(chromium, site) as page:
        strip = await ask(page)
        whole = await view(strip)
        await strip.focus()
        await page.keyboard.press("+")
        closer = await view(strip)
        assert closer[1] - closer[0] == pytest.approx((whole[1] - whole[0]) / 1.6, rel=1e-3)
        await page.keyboard.press("ArrowRight")
        assert (await view(strip))[0] > closer[0]
        await page.keyboard.press("Home")
        assert await view(strip) == pytest.approx(whole, abs=1.0)
        for _ in range(30):
            await page.keyboard.press(",")
        first = (await api(site, question=QUESTION))["keyframes"][0]
        card = page.locator(".timeline .frame-card")
        await card.get_by_text(f"{first['score']:.3f}").wait_for()
        await page.keyboard.press("[")
        for _ in range(30):
            await page.keyboard.press(".")
        await page.keyboard.press("]")
        assert await page.get_by_role("button", name="Ask about it").is_visible()
        await page.keyboard.press("Escape")
        assert not await page.get_by_role("button", name="Ask about it").is_visible()


async def test_the_frame_under_the_pointer_is_shown(chromium: Browser, site: Served) -> None:
    async with timeline(chromium, site) as page:
        strip = await ask(page)
        box = await strip.bounding_box()
        assert box is not None
        after, before = await view(strip)
        best = max((await api(site, question=QUESTION, points=1200))["points"], key=lambda point: point["max"])
        x = box["x"] + (best["time"] - after) / (before - after) * box["width"]
        async with page.expect_response(lambda answer: ".jpg" in answer.url) as coming:
            await page.mouse.move(x, box["y"] + 100)
        assert (await coming.value).status == 200
        shown = page.locator(".timeline .frame-card")
        assert float(await shown.locator(".score").text_content() or 0) > 0.35
        await page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)  # the gap
        await shown.wait_for(state="hidden")


async def test_a_dragged_range_becomes_the_range_of_questions(chromium: Browser, site: Served) -> None:
    async with timeline(chromium, site) as page:
        strip = await ask(page)
        box = await strip.bounding_box()
        assert box is not None
        after, before = await view(strip)
        await page.keyboard.down("Shift")
        await page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 90)
        await page.mouse.down()
        await page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 90, steps=4)
        async with page.expect_response(lambda answer: "points=1&" in answer.url) as coming:
            await page.mouse.up()
        await page.keyboard.up("Shift")
        asked = (await coming.value).url
        chosen = httpx.URL(asked).params
        assert float(chosen["after"]) == pytest.approx(after + 0.6 * (before - after), abs=5)
        assert float(chosen["before"]) == pytest.approx(after + 0.8 * (before - after), abs=5)
        expected = await api(site, question=QUESTION, after=chosen["after"], before=chosen["before"])
        await page.get_by_text("as a list").click()
        await page.get_by_text("over the chosen range").wait_for()
        assert await page.locator(".marks .chip").count() == len(expected["keyframes"])
        await page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 90)  # the range's end is a handle
        await page.mouse.down()
        await page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 90, steps=4)
        async with page.expect_response(lambda answer: "points=1&" in answer.url) as coming:
            await page.mouse.up()
        longer = httpx.URL((await coming.value).url).params
        assert float(longer["after"]) == pytest.approx(float(chosen["after"]), abs=0.01)
        assert float(longer["before"]) > float(chosen["before"]) + 60
        await page.get_by_role("button", name="Ask about it").click()
        assert page.url.endswith("#ask")


async def test_a_late_response_about_another_range_is_ignored(chromium: Browser, site: Served) -> None:
    held: asyncio.Future[Route] = asyncio.get_running_loop().create_future()

    async def hold(route: Route) -> None:
        if held.done():
            await route.continue_()
        else:
            held.set_result(route)  # the first one waits

    async with timeline(chromium, site) as page:
        strip = await ask(page)
        await page.get_by_text("as a list").click()
        await view(strip)  # it stands still
        await page.route(re.compile("points=1&"), hold)
        await strip.focus()
        await page.keyboard.press("[")  # the second half
        first = await held
        async with page.expect_response(lambda answer: "points=1&" in answer.url) as coming:
            await page.keyboard.press("Shift+ArrowLeft")
            await page.keyboard.press("]")
        asked = httpx.URL((await coming.value).url).params
        expected = [f"{each['score']:.3f}" for each in (await api(site, **dict(asked)))["keyframes"]]
        scores = page.locator(".marks tr:has(.chip) td:nth-child(3)")
        await expect(scores).to_have_text(expected)
        with suppress(Error):  # the page has given it up
            await first.continue_()
        await page.evaluate("() => fetch('/readyz').then(answer => answer.text())")  # time for it to come
        await expect(scores).to_have_text(expected)


async def test_touch_gestures_on_a_phone(chromium: Browser, site: Served) -> None:
    async with timeline(chromium, site, size=PHONE, has_touch=True, is_mobile=True) as page:
        strip = await ask(page)
        await strip.scroll_into_view_if_needed()
        assert await page.evaluate("document.documentElement.scrollWidth") <= 375
        box = await strip.bounding_box()
        assert box is not None
        whole = await view(strip)
        await page.touchscreen.tap(box["x"] + box["width"] * 0.75, box["y"] + 60)
        card = page.locator(".timeline .frame-card")
        await card.get_by_role("button", name="Open").wait_for()
        devtools = await page.context.new_cdp_session(page)
        middle, y = box["x"] + box["width"] / 2, box["y"] + 100
        for kind, apart in (("touchStart", 30), ("touchMove", 60), ("touchMove", 120), ("touchEnd", None)):
            fingers = [] if apart is None else [{"x": middle - apart / 2, "y": y}, {"x": middle + apart / 2, "y": y}]
            await devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
        after, before = await view(strip)
        assert before - after == pytest.approx((whole[1] - whole[0]) / 4, rel=0.1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_no_accessibility_problem(chromium: Browser, site: Served, scheme: Any) -> None:
    async with timeline(chromium, site, scheme=scheme) as page:
        await ask(page)
        await page.get_by_text("as a list").click()
        assert await serious_problems(page) == []


async def test_an_empty_timeline_says_why(chromium: Browser, tmp_path: Path) -> None:
    async with served(tmp_path) as site, timeline(chromium, site) as page:
        await page.get_by_text("No camera has sent anything yet.").wait_for()
    async with served(tmp_path / "2", cameras={"new": {}}) as site, timeline(chromium, site) as page:
        await page.get_by_text("No frames of new are stored.").wait_for()


async def test_new_frames_appear_by_themselves(chromium: Browser, site: Served) -> None:
    async with timeline(chromium, site) as page:
        strip = await ask(page)
        before = (await view(strip))[1]
        await asyncio.to_thread(write_history, site.agent, "gate", time.time() + 200 + np.arange(10.0), relevance)
        await page.wait_for_function(
            "end => document.querySelector('.timeline .strip').dataset.before > end + 60", arg=before
        )


# --- geometry, in the browser ---


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def geometry(chromium: Browser, site: Served) -> AsyncIterator[Page]:
    async with timeline(chromium, site) as page:
        yield page


async def test_ticks_are_round_in_local_time(geometry: Page) -> None:
    ticks = """async ([after, before, width, zone]) =>
      (await import("/page/ticks.js")).ticks({ after, before }, width, zone).map(({ x, label }) => [Math.round(x), label])"""
    five_minutes = [1795366700.0, 1795367000.0]  # 16:58:20 to 17:03:20 UTC
    assert await geometry.evaluate(ticks, [*five_minutes, 600, "UTC"]) == [
        [80, "16:59"], [200, "17:00"], [320, "17:01"], [440, "17:02"], [560, "17:03"],
    ]  # fmt: skip
    kolkata = await geometry.evaluate(ticks, [*five_minutes, 600, "Asia/Kolkata"])
    assert [label for _, label in kolkata] == ["22:29", "22:30", "22:31", "22:32", "22:33"]
    spring = 1774738800.0  # 2026-03-29 00:00 in Zurich; 02:00 does not exist
    night = await geometry.evaluate(ticks, [spring - 1, spring + 6 * 3600, 600, "Europe/Zurich"])
    assert [label for _, label in night] == ["Sun 29 Mar", "01:00", "03:00", "04:00", "05:00", "06:00", "07:00"]
    second = await geometry.evaluate(ticks, [1795366700.0, 1795366701.0, 600, "UTC"])
    assert [label for _, label in second][:3] == ["16:58:20.0", "16:58:20.2", "16:58:20.4"]
    year = await geometry.evaluate(ticks, [spring, spring + 365 * 86400, 600, "UTC"])
    assert 2 <= len(year) <= 7


async def test_ticks_in_the_night_when_clocks_are_set_back(geometry: Page) -> None:
    ticks = """async ([after, before, width, zone]) =>
      (await import("/page/ticks.js")).ticks({ after, before }, width, zone).map(({ x, label }) => [Math.round(x), label])"""
    autumn = 1792879200.0  # 2026-10-25 00:00 in Berlin, a day of 25 hours
    night = await geometry.evaluate(ticks, [autumn, autumn + 6 * 3600, 900, "Europe/Berlin"])
    assert night == [
        [0, "Sun 25 Oct"], [150, "01:00"], [300, "02:00 CEST"], [450, "02:00 CET"], [600, "03:00"], [750, "04:00"],
        [900, "05:00"],
    ]  # fmt: skip
    days = await geometry.evaluate(ticks, [autumn, autumn + 49 * 3600, 490, "Europe/Berlin"])
    assert [each for each in days if ":" not in each[1]] == [
        [0, "Sun 25 Oct"],
        [250, "Mon 26 Oct"],
        [490, "Tue 27 Oct"],
    ]
    fine = await geometry.evaluate(ticks, [autumn + 9000, autumn + 12600, 900, "Europe/Berlin"])
    assert [label for _, label in fine] == [
        "02:30 CEST", "02:40 CEST", "02:50 CEST", "02:00 CET", "02:10 CET", "02:20 CET", "02:30 CET",
    ]  # fmt: skip


async def test_the_page_converts_local_times_as_the_agent_does(geometry: Page) -> None:
    read = """async ([texts, zone]) => { const { unix } = await import("/page/dom.js");
      return texts.map(text => [unix(text, zone), unix(text, zone, true)]) }"""
    told = """async ([times, zone]) => { const { ambiguity } = await import("/page/dom.js");
      return times.map(time => ambiguity(time, zone) !== "") }"""
    changes = (
        ("Europe/Berlin", 1792890000), ("Europe/Berlin", 1774746000), ("Australia/Lord_Howe", 1775314800),
        ("Australia/Lord_Howe", 1791041400), ("Asia/Kathmandu", 1777961700), ("America/New_York", 1793512800),
    )  # fmt: skip
    for zone, change in changes:
        times = [float(change + step) for step in (*range(-9000, 9001, 900), -1, 1)]
        local = [datetime.fromtimestamp(each, ZoneInfo(zone)).replace(tzinfo=None, fold=0) for each in times]
        local += [local[0] + timedelta(minutes=15 * n) for n in range(20)]  # those that are passed over, too
        python = [[instant_of(each, load_zone(zone), latest=latest) for latest in (False, True)] for each in local]
        assert await geometry.evaluate(read, [[each.isoformat() for each in local], zone]) == python, zone
        assert await geometry.evaluate(told, [times, zone]) == [len(format_clock(each, zone)) > 8 for each in times], (
            zone
        )


async def test_zooming_keeps_the_moment_and_the_limits(geometry: Page) -> None:
    zoom = "async ([view, factor, at, limits]) => (await import('/page/ticks.js')).zoomed(view, factor, at, limits)"
    limits = {"after": 0, "before": 1000}
    closer = await geometry.evaluate(zoom, [{"after": 100, "before": 300}, 0.5, 150, limits])
    assert closer == {"after": 125, "before": 225}
    assert await geometry.evaluate(zoom, [closer, 100, 150, limits]) == limits
    least = await geometry.evaluate(zoom, [closer, 1e-6, 150, limits])
    assert least["before"] - least["after"] == pytest.approx(1)
    assert least["after"] <= 150 <= least["before"]
