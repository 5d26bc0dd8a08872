"""A server that is silent, thinks, refuses or floods: an error with its reason, never a wrong answer, on every channel."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, AsyncOpenAI

from agent.alerts.judge import Judge
from agent.errors import AnswererRefused, NoAnswer
from agent.settings.rules import RuleSettings
from tests.support.agents import START, remember, running, served
from tests.support.processes import vilamp
from tests.support.remote import WHO, asking, openai
from tests.support.vlm_server import SAYING, THINKING, Spy

RULE = RuleSettings.model_validate({"condition": "A bag is left by the door.", "judge": {"window_s": 40}})
SILENT = {
    "blank": "no text that can be read",
    "empty": "no text that can be read",
    "control": "no text that can be read",
    "escapes": "no text that can be read",
    "filtered": "content filter",
    "refused": "refuses: I cannot help with that",
    "only-thoughts": "thought, and then gave no answer",
    "hidden-thoughts": r"used all its \d+ tokens for thinking",
    "newlines-only": "no text that can be read",
    "tool": "called a tool instead of answering",
    "all-thoughts": r"used all its \d+ tokens for thinking",
}


@pytest.mark.parametrize("model", SILENT)
async def test_empty_answer_is_an_error_with_its_reason(tmp_path: Path, spy: Spy, model: str) -> None:
    async with asking(tmp_path, openai(spy, model)) as agent:
        with pytest.raises(NoAnswer, match=SILENT[model]) as failed:
            await agent.answering.answer(WHO)
        assert (failed.value.status, failed.value.code) == (502, "no_answer")
        assert "no dog" not in str(failed.value)
        assert agent.answering.queue.turns.num_inside == 0


@pytest.mark.parametrize(
    ("model", "words"),
    [("broken-off", "broke the answer off"), ("object-error", "out of memory"), ("detail", "400: no such adapter")],
)
async def test_answer_the_server_breaks_off_is_an_error(tmp_path: Path, spy: Spy, model: str, words: str) -> None:
    async with asking(tmp_path, openai(spy, model)) as agent:
        with pytest.raises(AnswererRefused, match=words):
            await agent.answering.answer(WHO)


@pytest.mark.parametrize("model", THINKING)
async def test_thoughts_are_not_shown(tmp_path: Path, spy: Spy, model: str) -> None:
    async with asking(tmp_path, openai(spy, model)) as agent:
        for _ in range(2):
            assert (await agent.answering.answer(WHO)).text == "Yes."
        first, second = (sent["body"]["max_tokens"] for sent in spy.seen())
        assert (first, second) == (8, 8 + 2048)  # what has been seen to think gets room for it


async def test_a_model_that_used_its_tokens_for_thinking_is_asked_once_more(tmp_path: Path, spy: Spy) -> None:
    for model in ("thinks-long", "hides-thoughts"):
        spy.forget()
        async with asking(tmp_path / model, openai(spy, model, thinking_tokens=4000)) as agent:
            assert (await agent.answering.answer(WHO)).text == "Yes."
            assert [sent["body"]["max_tokens"] for sent in spy.seen()] == [8, 4008]
    spy.forget()
    async with asking(tmp_path / "none", openai(spy, "thinks-long", thinking_tokens=0)) as agent:
        with pytest.raises(NoAnswer, match=r"answerer\.thinking_tokens"):
            await agent.answering.answer(WHO)
        assert len(spy.seen()) == 1


@pytest.mark.parametrize(
    ("model", "text", "reason"),
    [
        ("leaking", "yes", "stop"),
        ("half-filtered", "I saw a", "content_filter"),
        ("surrogates", "a \ufffd \N{GRINNING FACE} <b> \ufffd", "stop"),
        ("silly-counts", "yes", "stop"),
    ],
)
async def test_odd_but_valid_answers_are_accepted(tmp_path: Path, spy: Spy, model: str, text: str, reason: str) -> None:
    async with served(tmp_path, answerer=openai(spy, model)) as site:
        await remember(site.agent, "door", 3)
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": "Who came?"}],
            "stream_options": {"include_usage": True},
        }
        async with httpx.AsyncClient(base_url=site.url, headers=site.headers()) as client:
            whole = (await client.post("/v1/chat/completions", json=body)).json()
            [choice] = whole["choices"]
            assert (choice["message"]["content"].split("\n\n")[0], choice["finish_reason"]) == (text, reason)
            assert whole["usage"]["total_tokens"] < 1e13
            assert any("filter" in note for note in whole["vilamp"]["notes"]) == (model == "half-filtered")
            streamed = (await client.post("/v1/chat/completions", json={**body, "stream": True})).text
            assert streamed.endswith("data: [DONE]\n\n")


async def test_every_channel_reports_the_reason(tmp_path: Path, spy: Spy) -> None:
    async with served(tmp_path, answerer=openai(spy, "blank")) as site:
        await remember(site.agent, "door", 3)
        message: Any = [{"role": "user", "content": "Who came?"}]
        async with AsyncOpenAI(base_url=site.url + "/v1", api_key=site.token(), max_retries=0) as client:
            with pytest.raises(APIStatusError, match="no text that can be read") as failed:
                await client.chat.completions.create(model="vilamp", messages=message)
            assert failed.value.status_code == 502
        async with httpx.AsyncClient(base_url=site.url, headers=site.headers()) as http:
            body = {"messages": message, "stream": True}
            events = (await http.post("/v1/chat/completions", json=body)).text.split("\n\n")
            *_, last, rest = events
            assert rest == ""
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "no_answer"
        ran = await asyncio.to_thread(
            vilamp, "ask", "Who came?", "--server", site.url, VILAMP_TOKEN=site.token(), cwd=tmp_path
        )
        assert ran.returncode == 1
        assert "no text that can be read" in ran.stderr


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("packed", "compressed answer"),
        ("packed-error", "says 400"),
        ("newlines", "more than .* (bytes|lines)"),
        ("comments", "more than .* (bytes|lines)"),
        ("one-line", "a line of more than"),
        ("deep", "not JSON"),
    ],
)
async def test_floods_are_cut_off_without_blocking_the_agent(
    tmp_path: Path, spy: Spy, model: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.ask.remote_wire.MAX_LINES", 1 << 17)
    monkeypatch.setattr("agent.ask.remote_wire.MAX_ANSWER_BYTES", 4 << 20)
    async with asking(tmp_path, openai(spy, model)) as agent:
        longest_s = 0.0
        loop = asyncio.get_running_loop()

        async def watch() -> None:
            nonlocal longest_s
            while True:
                before = loop.time()
                await asyncio.sleep(0.01)
                longest_s = max(longest_s, loop.time() - before)

        watching = asyncio.create_task(watch())
        with pytest.raises(AnswererRefused, match=words):
            await agent.answering.answer(WHO)
        watching.cancel()
        assert longest_s < 5  # half a minute when a large one was unpacked


async def test_local_answer_without_words_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end of text is the likeliest first token of some questions."""
    async with running(tmp_path) as agent:
        await remember(agent, "door", 3)
        monkeypatch.setattr(agent.model, "stream", lambda *_, **__: iter(["", " \n"]))
        answer = await agent.answering.answer(WHO)
        assert "(The model found no words" in answer.text


# --- the judge ---


async def vote(agent: Any) -> Any:
    return await Judge(agent.answering).vote(RULE, "door", 12, START + 110)


@pytest.mark.parametrize("model", [*THINKING, "thinks-long"])
async def test_verdict_of_a_thinking_judge_is_read(tmp_path: Path, spy: Spy, model: str) -> None:
    async with asking(tmp_path, openai(spy, model)) as agent:
        assert (await vote(agent)).verdict == "yes"


async def test_judge_cut_off_is_given_tokens_to_think(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "prose-first")) as agent:
        judge = Judge(agent.answering)
        votes = [await judge.vote(RULE, "door", 12, START + 110) for _ in range(3)]
        assert [(each.verdict, each.was_read) for each in votes] == [("unclear", False), ("yes", True), ("yes", True)]


async def test_prose_is_not_a_verdict(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "prose")) as agent:
        given = await vote(agent)
        assert (given.verdict, given.was_read) == ("unclear", False)


def test_every_behaviour_of_the_test_server_is_used() -> None:
    others = {"leaking", "half-filtered", "prose", "surrogates", "silly-counts", "deep", "broken-off", "object-error"}
    assert others | set(SILENT) == set(SAYING)
