"""A server's model that looks through the memory by tools: within limits, and with a clear end whatever it calls."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.app import Agent
from agent.ask.answerer import Tally
from agent.ask.question import Answer, Seen, Step
from agent.ask.remote import RemoteAnswerer
from agent.ask.scope import Scope
from agent.ask.tool_loop import OFFERED, ToolLoop, ToolsFailed
from tests.support.agents import START, remember, served
from tests.support.processes import vilamp
from tests.support.remote import WHO, asking, openai
from tests.support.server_quirks import QUIRKS
from tests.support.vlm_server import Spy
from tests.support.waiting import until

WRONG = {
    "agent-wrong-tool": "there is no tool 'erase_memory'; there are browse, search and look",
    "agent-broken-json": "the arguments are not JSON",
    "agent-wrong-camera": "there is no camera '../../etc'; there are door",
    "agent-wrong-time": '"when the" is not a time',
    "agent-upside-down": "after must be earlier than before",
    "agent-unseen-frame": "no tool has returned frame 1000000000",
}
FAILING = {
    "agent-nonsense": "called tools in a wrong way",
    "agent-endless": "called a tool instead of answering",
    "agent-looks-at-nothing": "looked at no frame",
    "agent-refused": "does not support tools",
}


async def run(agent: Agent, **changes: Any) -> tuple[str, list[str], Seen | None]:
    """Return the text, the steps and the evidence of an answer by tools."""
    remote = agent.answerer
    assert isinstance(remote, RemoteAnswerer)
    remote._settings = agent.settings.answerer.model_copy(update={"tools": "on", **changes})
    loop = ToolLoop(agent.answering.tools, remote, agent.cameras.zone_of)
    text, steps, seen = "", [], None
    async for event in loop.events(WHO, Scope(("door",)), Tally(), START + 200):
        match event:
            case Step(words):
                steps.append(words)
            case Seen():
                seen = event
            case str():
                text += event
    return text, steps, seen


def results(spy: Spy) -> list[dict[str, Any]]:
    """Return what the tools returned to the model."""
    return [json.loads(each["content"]) for each in spy.seen()[-1]["body"]["messages"] if each["role"] == "tool"]


async def test_browse_search_look_and_answer(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "agent"), cameras={"door": {"timezone": "UTC"}}) as agent:
        text, steps, seen = await run(agent)
    assert text == "It was so: I see 5 pictures."
    assert steps == [
        "browses what happened", "searches for 'a person' on door", "looks at 5 frames: Who is it?",
    ]  # fmt: skip
    assert seen is not None
    assert (len(seen.evidence), seen.num_frames) == (5, 12)
    first, *_, last = [sent["body"] for sent in spy.seen()]
    assert first["tools"] == list(OFFERED)
    assert "Camera door: it is 2026-11-22 16:07:25" in first["messages"][0]["content"]
    assert [message["role"] for message in last["messages"][2:]] == ["assistant", "tool", "tool", "assistant", "tool"]
    assert [each["function"]["name"] for each in last["messages"][2]["tool_calls"]] == ["browse", "search"]
    _, found, looked = results(spy)
    assert [frame["frame_id"] for frame in found["frames"]] == sorted(each.frame_id for each in seen.evidence)
    assert looked == {"frames": 5, "answers": ["I see 5 pictures."]}


@pytest.mark.parametrize("model", WRONG)
async def test_a_wrong_call_is_told_what_is_wrong_and_does_nothing(tmp_path: Path, spy: Spy, model: str) -> None:
    async with asking(tmp_path, openai(spy, model)) as agent:
        text, steps, _ = await run(agent)
        assert agent.store.stats("door").frames == 12
    assert text == "It was so: I see 5 pictures."
    assert len(steps) == 4
    assert WRONG[model] in results(spy)[0]["error"]


@pytest.mark.parametrize("model", FAILING)
async def test_a_model_that_comes_to_no_answer_is_given_up(tmp_path: Path, spy: Spy, model: str) -> None:
    async with asking(tmp_path, openai(spy, model)) as agent:
        with pytest.raises(ToolsFailed, match=FAILING[model]):
            await run(agent)
    assert len(spy.seen()) <= 7  # rounds, and the last one without tools


async def test_rounds_pictures_and_seconds_are_limited(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "agent")) as agent:
        text, steps, seen = await run(agent, tool_rounds=2)
        assert text == "In the end: 3 results."
        assert steps[-1] == "answers from what was found"
        spy.forget()
        text, _, seen = await run(agent, tool_pictures=2)
        assert (text, len(seen.evidence) if seen else 0) == ("It was so: I see 2 pictures.", 2)
        with pytest.raises(ToolsFailed, match="looked at no frame"):
            await run(agent, tool_s=1e-9)


async def test_a_call_stays_within_the_question(tmp_path: Path, spy: Spy) -> None:
    """The scope of the question is never widened, whatever the model asks for."""
    async with asking(tmp_path, openai(spy, "agent", tools="on")) as agent:
        loop = ToolLoop(agent.answering.tools, agent.answerer, agent.cameras.zone_of)
        narrow = Scope(("door",), START + 30, START + 60)
        events = [event async for event in loop.events(WHO, narrow, Tally(), START + 200)]
    [seen] = [event for event in events if isinstance(event, Seen)]
    assert all(START + 30 <= each.time <= START + 60 for each in seen.evidence)
    assert seen.num_frames == 4


def test_all_models_with_tools_are_tested() -> None:
    assert {"agent", "agent-slowly", *WRONG, *FAILING} == {name for name in QUIRKS if name.startswith("agent")}


async def ask_open(agent: Agent) -> Answer:
    return await agent.answering.answer(replace(WHO, text="What was the person doing?"))


async def test_an_open_question_is_answered_by_tools_if_the_server_has_them(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "agent", tools="on")) as agent:
        answer = await ask_open(agent)
        assert answer.text.startswith("It was so: I see 5 pictures.")
        assert answer.steps[0] == "browses what happened"
        assert len(answer.seen.evidence) == 5
        spy.forget()
        now = await agent.answering.answer(replace(WHO, text="Who is there now?"))
        assert now.text.startswith("I see 4 pictures.")
    assert "tools" not in spy.seen()[0]["body"]
    async with asking(tmp_path / "auto", openai(spy, "agent")) as agent:  # nothing was found out about it
        assert (await ask_open(agent)).text.startswith("I see 4 pictures.")


@pytest.mark.parametrize("model", FAILING)
async def test_the_strategies_answer_if_tools_fail_and_a_note_says_why(tmp_path: Path, spy: Spy, model: str) -> None:
    async with asking(tmp_path, openai(spy, model, tools="on")) as agent:
        answer = await ask_open(agent)
    assert answer.text.startswith("I see 4 pictures.")
    assert any(note.startswith("answered without tools: ") for note in answer.finished.notes)
    assert any(FAILING[model] in note for note in answer.finished.notes)


async def test_steps_stream_as_comments(tmp_path: Path, spy: Spy) -> None:
    async with served(tmp_path, answerer=openai(spy, "agent", tools="on")) as site:
        await remember(site.agent, "door", 12, step_s=10.0)
        body = {"messages": [{"role": "user", "content": "What was the person doing?"}], "stream": True}
        async with httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=60) as client:
            text = (await client.post("/v1/chat/completions", json=body)).text
            places = [
                text.index(f": step: {step}") for step in ("browses", "searches for 'a person'", "looks at 5 frames")
            ]
            assert places == sorted(places)
            assert places[-1] < text.index("It was so")
            [*_, end] = [json.loads(line[6:])["vilamp"] for line in text.splitlines() if '"vilamp"' in line]
            assert end["steps"] == [
                "browses what happened", "searches for 'a person' on door", "looks at 5 frames: Who is it?",
            ]  # fmt: skip


async def test_a_client_that_leaves_ends_the_steps(tmp_path: Path, spy: Spy) -> None:
    async with served(tmp_path, answerer=openai(spy, "agent-slowly", tools="on")) as site:
        await remember(site.agent, "door", 12, step_s=10.0)
        body = {"messages": [{"role": "user", "content": "What was the person doing?"}], "stream": True}
        async with (
            httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=60) as client,
            client.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            async for line in answer.aiter_lines():
                if line.startswith(": step: browses"):
                    break
        await until(lambda: site.agent.answering.queue.turns.num_inside == 0)
        assert len(spy.seen()) < 4  # neither the look nor the answer was asked for


async def test_the_command_line_prints_steps_beside_the_answer(tmp_path: Path, spy: Spy) -> None:
    async with served(tmp_path, answerer=openai(spy, "agent", tools="on")) as site:
        await remember(site.agent, "door", 12, step_s=10.0)
        question = ("What was the person doing?", "--server", site.url)
        ran = await asyncio.to_thread(vilamp, "ask", *question, VILAMP_TOKEN=site.token(), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "... browses what happened\n... searches for 'a person' on door\n... looks at 5 frames" in ran.stderr
    assert "It was so: I see 5 pictures." in ran.stdout
    assert "browses" not in ran.stdout
