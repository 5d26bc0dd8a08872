"""Long responses: comments in silences, and the end when the client disconnects or the agent stops."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message

from agent.errors import AgentStopping, BadRequest
from agent.web import streams
from agent.web.server import SHUTDOWN_GRACE_S
from agent.web.streams import ClientLeft, LongResponses, unless_gone
from tests.support.agents import remember, served
from tests.support.remote import openai
from tests.support.vlm_server import spying


async def stays() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def test_work_ends_while_the_client_stays() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await unless_gone(stays, work()) == 7


async def test_what_work_raises_is_raised() -> None:
    async def work() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await unless_gone(stays, work())


async def test_work_is_cancelled_when_the_client_disconnects() -> None:
    cleaned = asyncio.Event()
    messages = iter(["http.request", "http.disconnect"])

    async def leaves() -> Message:
        await asyncio.sleep(0)
        return {"type": next(messages)}

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    with pytest.raises(ClientLeft):
        await unless_gone(leaves, work())
    assert cleaned.is_set()


async def sent_by(events: AsyncGenerator[bytes, None], sent: list[Message], keep_alive_s: float = 10) -> None:
    """Send `events` to a client that stays."""

    async def send(message: Message) -> None:
        sent.append(message)

    await LongResponses(keep_alive_s).stream(events)({"type": "http"}, stays, send)


async def test_comments_are_sent_in_silences() -> None:
    sent: list[Message] = []

    async def events() -> AsyncGenerator[bytes, None]:
        yield b"1"
        while len(sent) < 4:
            await asyncio.sleep(0.001)
        yield b"2"

    await sent_by(events(), sent, 0.01)
    start, *bodies, end = sent
    assert (start["type"], start["status"], end["more_body"]) == ("http.response.start", 200, False)
    first, *comments, last = [body["body"] for body in bodies]
    assert (first, last) == (b"1", b"2")
    assert set(comments) == {streams.SSE_COMMENT}


async def test_a_problem_before_the_first_event_is_raised_and_a_later_one_is_the_last_event() -> None:
    async def events(*made: bytes) -> AsyncGenerator[bytes, None]:
        for event in made:
            yield event
        raise BadRequest("no")

    sent: list[Message] = []
    with pytest.raises(BadRequest):
        await sent_by(events(), sent)
    assert not sent
    await sent_by(events(b"1"), sent)
    assert json.loads(sent[-2]["body"].removeprefix(b"data: "))["error"]["message"] == "no"
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_cancelling_a_stream_closes_its_events() -> None:
    began, closed = asyncio.Event(), asyncio.Event()

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            yield b"1"
            began.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    task = asyncio.create_task(sent_by(events(), []))
    await began.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert closed.is_set()


async def test_stopping_ends_work_with_an_error_and_accepts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STOP_GRACE_S", 0.01)
    responses = LongResponses(10)
    begun = asyncio.Event()

    async def work(seconds: float) -> str:
        with responses.in_progress():
            begun.set()
            await asyncio.sleep(seconds)
        return "done"

    long, short = asyncio.create_task(work(60)), asyncio.create_task(work(0))
    await begun.wait()
    cancelled = asyncio.create_task(work(60))
    await asyncio.sleep(0)
    cancelled.cancel()
    responses.stop()
    with pytest.raises(AgentStopping, match="being stopped"):
        await long
    assert await short == "done"
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    with pytest.raises(AgentStopping):
        await work(0)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_in_progress_ends_with_an_error_when_the_agent_stops(
    tmp_path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(streams, "STOP_GRACE_S", 0.05)
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Who came?"}], "stream": stream}
    with spying() as spy:
        answering = {"max_new_tokens": 8000}
        async with served(tmp_path, answerer=openai(spy, "endless"), answering=answering) as site:
            await remember(site.agent, "door", 3)
            async with httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=60) as http:
                asked = asyncio.create_task(http.post("/v1/chat/completions", json=body))
                while not await asyncio.to_thread(spy.seen):
                    await asyncio.sleep(0.02)
                site.app.state.end_streams()
                answer = await asked
    if stream:
        *_, last, rest = answer.text.split("\n\n")
        assert (answer.status_code, rest) == (200, "")
        error = json.loads(last.removeprefix("data: "))["error"]
    else:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        error = answer.json()["error"]
    assert error["code"] == "stopping"
    assert not [record for record in caplog.records if record.exc_info]


def test_the_grace_is_shorter_than_that_of_the_server() -> None:
    assert streams.STOP_GRACE_S < SHUTDOWN_GRACE_S
