"""Answers on the page in a browser: their Markdown, and what is shown before the first word."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.support.agents import remember, served
from tests.support.browser import Visit, browser, needs_chromium, visit
from tests.support.remote import openai
from tests.support.vlm_server import Spy
from tests.support.waiting import until

pytestmark = needs_chromium


@pytest.fixture
async def seen() -> AsyncIterator[Visit]:
    async with browser(camera=False) as chromium, visit(chromium) as page:
        yield page


async def test_markdown_is_rendered_and_nothing_foreign_is_linked_or_fetched(
    tmp_path: Path, spy: Spy, seen: Visit
) -> None:  # fmt: skip
    async with served(tmp_path, answerer=openai(spy, "markdown")) as site:
        await remember(site.agent, "door", 3)
        page = await seen.open(site.url, site.token("owner"), "ask")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.get_by_label("Question", exact=True).fill("What was the person doing?")
        await page.keyboard.press("Enter")
        answer = page.locator(".answer")
        await expect(answer.locator("strong")).to_have_text("Two cars")
        await expect(answer.locator("ul > li")).to_have_text(["a red one", "a blue one"])
        await expect(answer.locator("em")).to_have_text("red")
        await expect(answer.locator("code")).to_have_text("blue")
        await expect(answer).to_contain_text("more seen <img src=https://evil.example/z onerror=alert(1)> <b>bold</b>")
        assert await answer.locator("a, img, b").count() == 0
        assert asked
        assert not any("evil.example" in url for url in asked)
        seen.unharmed()


async def test_evidence_and_the_reason_of_a_wait_are_shown_before_the_first_word(
    tmp_path: Path, spy: Spy, seen: Visit
) -> None:  # fmt: skip
    async with served(tmp_path, answerer=openai(spy, "llama-loads-for-ever", timeout_s=60)) as site:
        await remember(site.agent, "door", 3)
        page = await seen.open(site.url, site.token("owner"), "ask")
        await page.get_by_label("Question", exact=True).fill("What was the person doing?")
        await page.keyboard.press("Enter")
        await expect(page.locator(".turn .evidence li")).not_to_have_count(0)
        await expect(page.locator(".turn [role=status]")).to_contain_text("the server loads its model")
        await expect(page.locator(".answer")).to_be_empty()
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator(".turn [role=status]")).to_have_text("Stopped.")
        seen.unharmed()


async def test_the_health_view_shows_what_the_server_can_do(tmp_path: Path, spy: Spy, seen: Visit) -> None:
    async with served(tmp_path, answerer=openai(spy, "sees-one", probe=True)) as site:
        await until(lambda: site.agent.answerer.capabilities)
        page = await seen.open(site.url, site.token("owner"), "health")
        facts = page.locator(".facts-list").nth(1)
        await expect(facts).to_contain_text("Sees pictures")
        await expect(facts).to_contain_text("it takes one picture a request, fewer than answerer.max_images (8)")
        await expect(facts).to_contain_text("thinks")
        seen.unharmed()
