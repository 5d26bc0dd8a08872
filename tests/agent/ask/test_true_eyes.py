"""Strategies over HTTP, with a server whose eyes are the built-in model's: its answers come from the pictures it gets."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.app import Agent
from agent.ask.question import Answer, Question, collect
from agent.ask.sentences import verdict_of
from agent.ask.strategies import NOT_LOOKED
from agent.errors import AnswererAway
from agent.reading.types import Reading
from tests.support.drives import rover
from tests.support.eyes import EyesServer, true_eyes


@pytest.fixture(scope="module")
def eyes() -> Iterator[EyesServer]:
    with true_eyes() as server:
        yield server


def looking(url: str, **answering: Any) -> dict[str, Any]:
    """Return settings of an agent that lets this server look."""
    return {
        "answerer": {"kind": "openai", "base_url": url, "model": "eyes", "probe": False, "tools": "off"},
        "model": {"num_threads": 1, "allow_builtin_encoder": True},
        "answering": {"timeout_s": 300, "max_look_s": 300, **answering},
    }


async def ask(agent: Agent, kind: Any, *things: str, text: str = "Hm?", **more: Any) -> Answer:
    question = Question(text, ("rover",), reading=Reading(kind, things, **more))
    return await agent.answering.answer(question)


async def test_every_kind_is_answered_from_pictures_in_few_calls(tmp_path: Path, eyes: EyesServer) -> None:
    async with rover(tmp_path, **looking(eyes.url)) as agent:
        eyes.counts()
        answer = await ask(agent, "count", "purple dog")
        assert verdict_of(answer.text) == "one"
        assert re.match(r"A purple dog came at 16:05:1\d", answer.text)
        spent = eyes.counts()
        assert spent["pictures"] > spent["calls"]
        assert any(step.startswith("looked at") for step in answer.steps)
        assert f"{spent['pictures']} pictures were looked at in {spent['calls']} calls" in answer.finished.notes[0]
        assert answer.finished.prompt_tokens >= 200 * spent["pictures"]
        assert verdict_of((await ask(agent, "count", "pink bicycle")).text) == "zero"
        assert (await ask(agent, "existence", "purple dog")).text.startswith("Yes, a purple dog came at 16:05:")
        assert re.search(r"first seen at 16:04:4\d", (await ask(agent, "first", "green box")).text)
        order = await ask(agent, "order", "purple dog", "green box", relation="before or after")
        assert verdict_of(order.text) == "after"


async def test_an_overview_joins_what_several_calls_saw(tmp_path: Path, eyes: EyesServer) -> None:
    async with rover(tmp_path, **looking(eyes.url, overview_pictures=12)) as agent:
        eyes.counts()
        answer = await ask(agent, "overview", text="What happened?")
        assert eyes.counts()["calls"] == 3  # two parts, then all
        for thing in ("green box", "purple dog"):
            assert thing in answer.text, answer.text
        assert [step for step in answer.steps if step.startswith("looking at part")] == [
            "looking at part 1 of 2: 8 pictures",
            "looking at part 2 of 2: 4 pictures",
        ]


async def test_limits_of_calls_pictures_and_seconds_hold(tmp_path: Path, eyes: EyesServer) -> None:
    for limit, most in (({"max_calls": 1}, 8), ({"max_pictures": 5}, 5), ({"max_look_s": 1e-6}, 0)):
        async with rover(tmp_path / str(most), **looking(eyes.url, **limit)) as agent:
            eyes.counts()
            answer = await ask(agent, "count", "pink bicycle")
            spent = eyes.counts()
            assert spent.get("pictures", 0) <= most, limit
            assert spent.get("calls", 0) <= 1
            # what nobody looked at is not denied
            assert answer.text.startswith(
                "I saw no pink bicycle" if most else "Something like a pink bicycle stood out"
            )
            assert any("relevance of the pictures alone" in note for note in answer.finished.notes) == (most == 0)


async def test_while_the_server_is_away_relevance_alone_answers_and_says_so(tmp_path: Path) -> None:
    async with rover(tmp_path, **looking("http://127.0.0.1:9/v1")) as agent:
        began = time.monotonic()
        answer = await ask(agent, "first", "green box")
        assert re.fullmatch(r"Something like a green box first stood out at 16:04:\d\d\.", answer.text)
        [note] = [note for note in answer.finished.notes if note.startswith(NOT_LOOKED)]
        assert "cannot be reached" in note
        assert time.monotonic() - began < 60
        with pytest.raises(AnswererAway, match="cannot be reached"):
            await ask(agent, "describe", text="What did he wear?")


async def test_evidence_precedes_the_looks(tmp_path: Path, eyes: EyesServer) -> None:
    async with rover(tmp_path, **looking(eyes.url)) as agent:
        question = Question("Hm?", ("rover",), reading=Reading("count", ("purple dog",)))
        async with agent.answering.ask(question) as events:
            kinds = [type(event).__name__ async for event in events]
        assert kinds.index("Seen") < kinds.index("Step") < kinds.index("Piece")
        async with agent.answering.ask(question) as events:
            assert (await collect(events)).seen.evidence
