"""Answers in work when the agent stops: they end with words, not with a torn connection."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.errors import AgentStopping
from agent.web import stopping as module
from agent.web.server import SHUTDOWN_GRACE_S
from agent.web.stopping import Stopping
from tests.agent.ask.test_remote import openai
from tests.support.agents import remember, served
from tests.support.vlm_server import spying


async def test_work_is_ended_with_words_and_none_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.01)
    stopping = Stopping()
    begun = asyncio.Event()

    async def work(seconds: float) -> str:
        with stopping.work():
            begun.set()
            await asyncio.sleep(seconds)
        return "done"

    long, short = asyncio.create_task(work(60)), asyncio.create_task(work(0))
    await begun.wait()
    cancelled = asyncio.create_task(work(60))
    await asyncio.sleep(0)
    cancelled.cancel()
    stopping.stop()
    with pytest.raises(AgentStopping, match="being stopped"):
        await long
    assert await short == "done"
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    with pytest.raises(AgentStopping):
        await work(0)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_streams_ends_with_an_error_event(
    tmp_path: Path, stream: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.05)
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


def test_the_grace_is_shorter_than_the_servers() -> None:
    assert module.GRACE_S < SHUTDOWN_GRACE_S
