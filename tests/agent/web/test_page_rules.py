"""Rules in a real browser: dry run, arming, the alert as it happens, snoozing, and suppressed alerts."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from agent.alerts.machine import Vote
from agent.runtime.lanes import Priority
from agent.settings.rules import RuleSettings
from tests.support.agents import Served, served
from tests.support.axe import serious_problems
from tests.support.browser import PHONE, browser, needs_chromium, visit
from tests.support.rules import LOW, Says, Scene

pytestmark = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]
MEDIUM, HIGH = 0.25, 0.8  # the gate opens for either; set high, for the second alone
STEP_S = 2
NOISE = 0.02  # what the camera's pictures differ by: a gate of 30 spreads is above MEDIUM
PAST = ((LOW, 36), (MEDIUM, 5), (LOW, 45), (HIGH, 5), (LOW, 10))  # similarity, frames


class Sees(Says):
    """A judge that says yes when a frame is more similar to the condition than usual."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, float] = {}  # by second: similarity

    async def vote(
        self, rule: RuleSettings, camera: str, frame_id: int, time: float, priority: Priority = Priority.JUDGE
    ) -> Vote:
        return Vote(frame_id, time, "yes" if self.seen[round(time)] > 2 * LOW else "no", ((frame_id, time),))


class Yard(Scene):
    """Frames with some noise, from which the gate measures its spread."""

    async def show(self, similarity: float, count: int = 1, **_: Any) -> None:
        for _ in range(count):
            self.now[0] += STEP_S
            assert isinstance(self.judge, Sees)
            # noise of the frame's number, not of its time: the spread, and so the scores, are those of every run
            shown = similarity + NOISE * float(np.sin(7 * len(self.judge.seen)))
            self.judge.seen[round(self.now[0])] = shown
            await self.remember(shown, self.now[0])
            await self.agent.alerts.settled()


@pytest_asyncio.fixture(loop_scope="module")
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path, rules={"night-van": {"condition": "a van at night", "cameras": ["gate"]}}) as site:
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def yard(site: Served) -> Yard:
    """A history in which the condition was met twice, the first time barely."""
    yard = Yard(site.agent, Sees(), [round(time.time()) - STEP_S * sum(count for _, count in PAST)])
    site.agent.alerts.judge = yard.judge
    for similarity, count in PAST:
        await yard.show(similarity, count)
    return yard


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser(camera=False) as started:
        yield started


@asynccontextmanager
async def rules(chromium: Browser, site: Served, token: str = "owner", **options: Any) -> AsyncIterator[Page]:
    """Open the view for rules, and fail on any error in the browser."""
    async with visit(chromium, **options) as seen:
        yield await seen.open(site.url, site.token(token), "rules")
        seen.unharmed()


async def api(site: Served, path: str, **body: Any) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=site.url, headers=site.headers("owner")) as http:
        answer = await (http.post(path, json=body) if body else http.get(path))
    assert answer.is_success, answer.text
    result: dict[str, Any] = answer.json()
    return result


async def write(page: Page, condition: str = "a red car") -> None:
    """Start a new rule and wait for its dry run."""
    await page.get_by_role("button", name="New rule").click()
    await page.get_by_label("Watch for").fill(condition)
    await expect(page.get_by_text("Would have fired 2 times")).to_be_visible()


async def test_a_rule_is_tried_armed_and_its_alert_arrives(chromium: Browser, site: Served, yard: Yard) -> None:
    async with rules(chromium, site) as page:
        await write(page)
        assert await page.get_by_label("Name").input_value() == "a-red-car"
        dry = await api(site, "/v1/rules/dry-run", rule={"condition": "a red car"}, cameras=["yard"])
        assert len(dry["alerts"]) == await page.locator(".dry-found li").count() == 2
        await page.get_by_role("button", name="Arm rule").click()
        rule = page.locator(".rule", has_text="a-red-car")
        await expect(rule.locator(".chip")).to_have_text("watching")
        await expect(page.locator(".alerts .chip.live")).to_be_visible()
        await expect(page.get_by_text("No alert so far.")).to_be_visible()
        await yard.show(HIGH, 3)
        alert = page.locator(".alert.fresh")
        await expect(alert).to_contain_text("a-red-car · yard")
        await expect(rule.locator(".chip.bad")).to_have_text("alert: yard")
        picture = alert.locator("img")
        await page.wait_for_function("image => image.naturalWidth > 0", arg=await picture.element_handle())
        (known,) = (await api(site, "/v1/alerts"))["data"]
        await expect(alert).to_contain_text(known["message"])
        await yard.show(LOW, 20)
        await expect(alert).not_to_be_visible()  # told again, with its end
        await expect(page.locator(".alert")).to_contain_text("for ")


async def test_the_gate_changes_the_count(chromium: Browser, site: Served, yard: Yard) -> None:
    async with rules(chromium, site) as page:
        await write(page)
        await page.get_by_label("Gate").focus()
        await page.keyboard.press("End")
        await expect(page.get_by_text("Would have fired once")).to_be_visible()
        await expect(page.locator(".sweep tr[aria-current]")).to_contain_text("30.0")
        await page.get_by_role("button", name="Ask the model for every gate").click()
        await expect(page.locator(".sweep")).not_to_contain_text("?")
        shown = [row.split() for row in await page.locator(".sweep tbody tr").all_inner_texts()]
        rule = {"condition": "a red car", "gate": {"on": 30.0, "off": 15.0}}
        sweep = (await api(site, "/v1/rules/dry-run", rule=rule, cameras=["yard"], sweep=True))["sweep"]
        assert shown == [
            [f"{row['on']:.1f}", *(str(row[name]) for name in ("gate_openings", "alerts", "judge_calls"))]
            for row in sweep
        ]
        assert sweep[0]["alerts"] > sweep[-1]["alerts"]
        await page.locator(".sweep tbody button").first.click()
        await expect(page.locator("output")).to_have_text("15.0 spreads")


async def test_the_dry_run_marks_when_the_rule_would_have_fired(chromium: Browser, site: Served, yard: Yard) -> None:
    async with rules(chromium, site) as page:
        await write(page)
        dry = await api(site, "/v1/rules/dry-run", rule={"condition": "a red car"}, cameras=["yard"])
        strip = page.locator(".editor .strip")
        after, before = [float(await strip.get_attribute(f"data-{end}") or 0) for end in ("after", "before")]
        found = await page.evaluate(FLAGS)
        places = [(alert["start_time"] - after) / (before - after) * found["width"] for alert in dry["alerts"]]
        for place in places:
            assert any(abs(place + 4 - x) < 5 for x in found["places"]), (places, found)


# Columns in the lane of the flags that are painted in the colour of an alert.
FLAGS = """async () => {
  const canvas = document.querySelector(".editor .strip canvas"), ratio = canvas.width / canvas.clientWidth;
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const line = copy.getImageData(0, Math.round(7 * ratio), canvas.width, 1).data;
  copy.fillStyle = getComputedStyle(canvas).getPropertyValue("--bad");
  copy.fillRect(0, 0, 1, 1);
  const wanted = copy.getImageData(0, 0, 1, 1).data, places = [];
  for (let x = 0; x < canvas.width; x += 1) {
    if ([0, 1, 2].every(n => Math.abs(line[4 * x + n] - wanted[n]) < 20) && line[4 * x + 3] > 200) places.push(x / ratio);
  }
  return { places, width: canvas.clientWidth };
}"""


async def test_snoozing_from_an_alert_and_the_reason_for_a_suppressed_one(
    chromium: Browser, site: Served, yard: Yard
) -> None:
    await api(site, "/v1/rules", name="red-car", condition="a red car", hold_s=1, cooldown_s=1)
    await yard.show(HIGH, 3)
    await yard.show(LOW, 20)
    async with rules(chromium, site) as page:
        await page.get_by_label("Snooze red-car at yard").select_option("1 hour")
        await expect(page.locator(".rule", has_text="red-car").get_by_text("Held back")).not_to_be_visible()
        async with asyncio.timeout(10):
            while not (await api(site, "/v1/rules/red-car"))["state"]["yard"]["snoozed_until"]:
                await asyncio.sleep(0.05)
        await yard.show(HIGH, 3)
        await page.get_by_role("button", name="snoozed 1").click()
        await expect(page.locator(".held")).to_contain_text("the rule was snoozed")
        await page.get_by_role("button", name="Show the frame").click()
        await expect(page.get_by_role("dialog")).to_be_visible()


async def test_a_rule_is_switched_snoozed_changed_and_deleted(chromium: Browser, site: Served) -> None:
    await api(site, "/v1/rules", name="red-car", condition="a red car")
    async with rules(chromium, site) as page:
        rule = page.locator(".rule", has_text="red-car")
        await rule.get_by_role("switch").uncheck()
        await expect(rule.locator(".chip")).to_have_text("disabled")
        await rule.get_by_role("switch").check()
        await rule.get_by_label("Snooze red-car").select_option("8 hours")
        await expect(rule.locator(".chip")).to_contain_text("snoozed for 8.0 h")
        await rule.get_by_label("Snooze red-car").select_option("End snooze")
        await expect(rule.locator(".chip")).to_have_text("watching")
        await rule.get_by_role("button", name="Edit").click()
        await page.get_by_text("More", exact=True).click()
        await page.get_by_label("Pause after it (s)").fill("7")
        await page.get_by_text("Only at certain times").click()
        await page.get_by_role("checkbox", name="sun").uncheck()
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_role("button", name="Save")).not_to_be_visible()
        kept = await api(site, "/v1/rules/red-car")
        days = ["mon", "tue", "wed", "thu", "fri", "sat"]
        assert kept["cooldown_s"] == 7
        assert kept["schedule"] == [{"days": days, "start": "20:00", "end": "06:00"}]
        page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
        await rule.get_by_role("button", name="Delete").click()
        await expect(rule).not_to_be_visible()
        assert [each["name"] for each in (await api(site, "/v1/rules"))["data"]] == ["night-van"]


async def test_a_refused_rule_shows_the_message_of_the_server(chromium: Browser, site: Served, yard: Yard) -> None:
    async with visit(chromium) as seen:
        page = await seen.open(site.url, site.token("owner"), "rules")
        await write(page)
        await page.get_by_label("Name").fill("night-van")
        await page.get_by_role("button", name="Arm rule").click()
        await expect(page.get_by_role("alert")).to_contain_text("configuration file")
        seen.unharmed(requests=False)


async def test_the_ask_scope_can_read_rules_but_not_change_them(chromium: Browser, site: Served) -> None:
    async with rules(chromium, site, token="asker") as page:
        await expect(page.locator(".rule", has_text="night-van")).to_be_visible()
        assert await page.get_by_role("switch").count() == 0
        assert await page.get_by_role("button", name="New rule").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_no_accessibility_problem(chromium: Browser, site: Served, yard: Yard, scheme: Any) -> None:
    await api(site, "/v1/rules", name="red-car", condition="a red car")
    await yard.show(HIGH, 3)
    async with rules(chromium, site, scheme=scheme, size=PHONE) as page:
        await expect(page.locator(".alert")).to_be_visible()
        await write(page)
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert await serious_problems(page) == []
