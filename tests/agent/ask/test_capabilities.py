"""What a server can do is found out with pictures of the agent's own, kept, shown, and used."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.app import Agent
from agent.ask.capabilities import Capabilities, names, seen_of, words
from agent.web.chat import model_card
from tests.support.agents import remember, served
from tests.support.remote import WHO, asking, openai
from tests.support.server_quirks import colour_of, pictures_in
from tests.support.vlm_server import Spy

pytestmark = pytest.mark.usefixtures("often")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.ask.probe.EVERY_S", 0.05)
    monkeypatch.setattr("agent.ask.probe.WHILE_AWAY_S", 0.05)


async def until(done: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not done():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def probed(folder: Path, spy: Spy, model: str, **more: Any) -> AsyncIterator[tuple[Agent, dict[str, Any]]]:
    """Run an agent until it knows what the server can do."""
    async with asking(folder, openai(spy, model, probe=True, **more)) as agent:
        await until(lambda: agent.answerer.capabilities)
        assert agent.answerer.capabilities is not None
        yield agent, agent.answerer.capabilities


async def test_a_server_that_can_do_everything(tmp_path: Path, spy: Spy) -> None:
    async with probed(tmp_path, spy, "sees") as (agent, found):
        assert (found["sees"], found["json_schema"], found["tools"], found["thinks"], found["usage"]) == (
            True, True, True, False, True,
        )  # fmt: skip
        assert (found["pictures"], found["problem"], found["warnings"], found["listed"]) == (8, "", (), True)
        assert 0 < found["seconds_one"] < 30
        assert 0 < found["seconds_all"] < 30
        assert found["together"] in (1, 2, 4)
        assert agent.answerer.problem is None
        assert model_card(agent)["vilamp"]["server"] == found
    ours = pictures_in(spy.seen()[1]["body"])
    assert [colour_of(jpeg) for jpeg in ours] == ["orange", "purple"]


async def test_a_server_that_can_do_little_and_its_first_question(tmp_path: Path, spy: Spy) -> None:
    async with probed(tmp_path, spy, "sees-one") as (agent, found):
        assert (found["sees"], found["json_schema"], found["tools"], found["thinks"]) == (True, False, False, True)
        assert found["pictures"] == 1
        assert "takes one picture a request, fewer than answerer.max_images (8)" in found["warnings"][0]
        spy.forget()
        await agent.answering.answer(WHO)
        [sent] = spy.seen()
        assert len(pictures_in(sent["body"])) == 1
        assert sent["body"]["max_tokens"] == 8 + 2048  # it thinks


async def test_a_context_that_is_too_short_is_found_by_the_token_counts(tmp_path: Path, spy: Spy) -> None:
    async with probed(tmp_path, spy, "sees-few") as (agent, found):
        assert (found["pictures"], agent.answerer.max_keyframes) == (3, 3)
        assert "takes 3 pictures a request" in found["warnings"][0]


async def test_pictures_that_take_too_long_are_fewer(tmp_path: Path, spy: Spy) -> None:
    async with probed(tmp_path, spy, "sees-slowly", timeout_s=2.0) as (agent, found):
        assert 2 <= found["pictures"] < 8
        assert agent.answerer.max_keyframes == found["pictures"]
        assert "with 8 pictures: The server that answers was silent for 2 s." in found["warnings"][0]


async def test_findings_are_kept_for_the_same_server_alone(tmp_path: Path, spy: Spy) -> None:
    async with probed(tmp_path, spy, "sees"):
        pass
    kept = json.loads((tmp_path / "server.json").read_text())
    assert (kept["model"], kept["pictures"]) == ("sees", 8)
    spy.forget()
    async with asking(tmp_path, openai(spy, "sees", probe=True)) as agent:
        assert agent.answerer.capabilities is not None
        await asyncio.sleep(0.3)
        assert spy.seen() == []
    async with probed(tmp_path, spy, "sees", max_images=2) as (_, found):
        assert found["pictures"] == 2
        assert spy.seen()
    (tmp_path / "server.json").write_text('{"model": 3}')
    async with probed(tmp_path, spy, "sees") as (_, found):
        assert found["pictures"] == 8


@pytest.mark.parametrize(
    ("model", "words"),
    [("blind", "does not see: shown a digit on orange, it says 'The picture shows"), ("absent", "says 404"),
     ("llama-no-mmproj", "must be one that takes pictures")],
)  # fmt: skip
async def test_a_server_that_cannot_answer_is_a_problem_in_words(
    tmp_path: Path, spy: Spy, model: str, words: str
) -> None:
    async with served(tmp_path, answerer=openai(spy, model, probe=True)) as site, httpx.AsyncClient() as client:
        await remember(site.agent, "door", 3)
        await until(lambda: site.agent.answerer.problem)
        ready = (await client.get(f"{site.url}/readyz")).json()
        assert ready["degraded"]
        assert words in ready["checks"]["answerer"]
    assert not (tmp_path / "server.json").exists()


def test_pictures_seen_by_token_counts() -> None:
    assert seen_of(8, 600, 1100, 4100) == 8
    assert seen_of(8, 600, 1100, 2048) == 3
    assert seen_of(8, 600, 1100, 600) == 1
    assert seen_of(8, 0, 0, 0) == 8  # no counts
    assert seen_of(8, 100, 100, 100) == 8  # pictures are not counted


def test_answers_that_name_a_picture() -> None:
    assert names("8 on Orange.", "orange", "8")
    assert names("It shows 8", "orange", "8")
    assert not names("18 yellow", "orange", "8")
    assert not names("", "orange", "8")


def test_findings_in_words() -> None:
    found = Capabilities(
        "http://x/v1", "m", 8, 0.0, sees=True, pictures=8, seconds_one=1.5, seconds_all=6.0, tools=True
    )
    assert words(found) == (
        "takes 8 pictures a request (1.5 s for one picture, 6 s for 8 pictures), one request at a time",
        "JSON schema: no, tools: yes, thinks: no",
    )
    assert "not been asked" in words(None)[0]
    assert [found.expected_s(number) for number in (1, 8, 4)] == [1.5, 6.0, pytest.approx(3.43, abs=0.01)]
    assert Capabilities("http://x/v1", "m", 8, 0.0).expected_s(4) == 0.0


@pytest.mark.parametrize(("concurrency", "least_s", "most_s"), [(1, 2.4, 30), (4, 0.6, 2.3)])
async def test_several_questions_at_once(
    tmp_path: Path, spy: Spy, concurrency: int, least_s: float, most_s: float
) -> None:
    slow = openai(spy, "takes-0.6", concurrency=concurrency)
    async with asking(tmp_path, slow, answering={"max_questions": 4}) as agent:
        assert agent.answerer.concurrency == concurrency
        began = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(agent.answering.answer(WHO) for _ in range(4)))
        assert least_s <= asyncio.get_running_loop().time() - began <= most_s
    assert [answer.text for answer in answers] == ["I see 4 pictures."] * 4


async def test_the_findings_say_how_many_at_once(tmp_path: Path, spy: Spy) -> None:
    async with probed(tmp_path, spy, "sees") as (agent, found):
        assert agent.answerer.concurrency == found["together"]
