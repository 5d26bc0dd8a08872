"""What a question's words name is what is searched, at every door, and the answer says what memory covers of it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.app import Agent
from agent.ask.coverage import coverage_of
from agent.ask.question import Question, Said, Searched
from agent.errors import NoFrames, UnclearScope
from agent.reading.types import Reading, ScopeWords
from agent.runtime.lanes import Priority
from agent.runtime.stopwatch import Stopwatch
from memory.window import Within
from tests.support.agents import START, remember, running, served
from tests.support.remote import WHO, asking, openai
from tests.support.vlm_server import Spy

MINUTES = 10
NOW = START + 60 * MINUTES  # 2026-11-22 16:14:05 UTC, a Sunday
CAMERAS: dict[str, Any] = {
    "gate": {"timezone": "UTC", "aliases": ["front door", "Tor"]},
    "yard": {"timezone": "UTC", "aliases": ["back door"]},
}
ANY = Question("Who came?", ("gate", "yard"), cameras_by_default=True)


@asynccontextmanager
async def two_cameras(folder: Path, **changes: Any) -> AsyncIterator[Agent]:
    """Run an agent at NOW with a picture every 5 s of the gate for ten minutes, and of the yard for the last two."""
    async with running(folder, clock=lambda: NOW, **{"cameras": CAMERAS, **changes}) as agent:
        await remember(agent, "gate", 120, step_s=5.0)
        await remember(agent, "yard", 24, start=NOW - 120, step_s=5.0)
        yield agent


async def test_the_words_say_which_times_and_cameras_are_searched(tmp_path: Path) -> None:
    async with two_cameras(tmp_path) as agent:
        answer = await agent.answering.answer(replace(ANY, text="Did a dog come to the Tor in the last minute?"))
        assert (answer.seen.num_frames, answer.seen.oldest) == (12, NOW - 60)
        assert {each.camera for each in answer.seen.evidence} == {"gate"}
        searched = answer.finished.searched
        assert searched is not None
        assert (searched.cameras, searched.after, searched.before) == (("gate",), NOW - 60, None)
        assert searched.words == ("in the last minute",)
        at_gate = await agent.answering.answer(replace(ANY, text="Who was at the front door?"))
        assert (at_gate.seen.num_frames, at_gate.finished.searched and at_gate.finished.searched.words) == (
            120,
            ("at the front door",),
        )


async def test_fields_that_the_asker_set_win(tmp_path: Path) -> None:
    async with two_cameras(tmp_path) as agent:
        asked = Question("Who was at the gate in the last minute?", ("yard",), after=NOW - 30)
        answer = await agent.answering.answer(asked)
        assert (answer.seen.oldest, answer.seen.num_frames) == (NOW - 30, 6)
        assert {each.camera for each in answer.seen.evidence} == {"yard"}


async def test_a_rule_is_not_narrowed_by_its_words(tmp_path: Path) -> None:
    async with two_cameras(tmp_path) as agent:
        asked = replace(ANY, text="Did a dog come to the gate last night?", priority=Priority.JUDGE)
        answer = await agent.answering.judge(asked)
        assert (answer.seen.num_frames, answer.finished.searched) == (144, None)


async def test_several_stretches_of_time_are_all_searched(tmp_path: Path) -> None:
    async with running(tmp_path, clock=lambda: NOW, cameras=CAMERAS) as agent:
        await remember(agent, "gate", 6, start=NOW - 86400, step_s=5.0)
        await remember(agent, "gate", 6, start=NOW - 120, step_s=5.0)
        for text in ("Did a dog come today or yesterday?", "Did a dog come yesterday or today?"):
            answer = await agent.answering.answer(replace(ANY, text=text))
            assert answer.seen.num_frames == 12, text
            searched = answer.finished.searched
            assert searched is not None
            assert searched.after == START - 57845 - 86400  # Saturday 00:00
        compared = replace(ANY, text="Were there more dogs today than yesterday?")
        read = await agent.answering.understand(compared, agent.answering._known())
        assert (read.after, read.words and read.words.others) == (START - 57845, ((START - 144245, START - 57845),))
        own = await agent.answering.understand(replace(compared, after=NOW - 300), agent.answering._known())
        assert (own.after, own.words and own.words.others) == (NOW - 300, ())
        said = (Said("user", "Did a dog come yesterday or today?"), Said("assistant", "Yes.", (12,)))
        then = await agent.answering.understand(replace(ANY, text="And then?", earlier=said), agent.answering._known())
        assert (then.after, then.before) == (NOW - 95, NOW)


async def test_a_stretch_that_is_compared_keeps_its_place_and_may_be_empty(tmp_path: Path) -> None:
    async with two_cameras(tmp_path) as agent:
        words = ScopeWords("more dogs?", others=((START, START + 60), (START - 900, START - 600)))
        asked = replace(ANY, after=START + 300, reading=Reading("compare", ("dog",)), words=words)
        window = agent.store.window(asked.cameras, asked.after)
        inquiry = await agent.answering._inquiry(asked, window, agent.answering._known(), Stopwatch())
        assert [each.num_frames for each in inquiry.others] == [13]
        assert inquiry.notes == ["Sun 15:49-15:54 is left out of the comparison: nothing was recorded"]
        near = replace(asked, within=Within(0.0, 0.0, 10.0))
        inquiry = await agent.answering._inquiry(near, window, None, Stopwatch())
        assert (inquiry.others, len(inquiry.notes)) == ((), 2)  # no frame was sent with a place


async def test_coverage_says_what_was_recorded(tmp_path: Path) -> None:
    async with two_cameras(tmp_path) as agent:
        answer = await agent.answering.answer(replace(ANY, text="Who came in the last 5 minutes?"))
        assert answer.finished.searched is not None
        gate, yard = answer.finished.searched.coverage
        assert (gate.camera, gate.frames, gate.share, gate.gaps, gate.begins) == ("gate", 60, 1.0, (), START)
        assert (yard.frames, yard.share, yard.gaps) == (24, 0.4, ((NOW - 300, NOW - 120),))
        notes = answer.finished.notes
        assert "memory of yard begins Sun 16:12" in notes
        assert not any("gate" in note for note in notes)
        early = await agent.answering.answer(replace(ANY, text="Who came between 16:05 and 16:07?"))
        assert "cameras without a frame of that time: yard" in early.finished.notes


async def test_a_gap_of_the_recording_is_told(tmp_path: Path) -> None:
    async with running(tmp_path, clock=lambda: NOW, cameras=CAMERAS) as agent:
        await remember(agent, "gate", 12, step_s=5.0)
        await remember(agent, "gate", 24, start=NOW - 120, step_s=5.0)
        answer = await agent.answering.answer(replace(ANY, text="Who came today?"))
        assert "gate has a gap from Sun 16:05 to Sun 16:12 (7 min 5 s)" in answer.finished.notes
        window = agent.store.window(("gate",))
        [whole] = coverage_of(agent.store, window, START, NOW, NOW)
        assert whole.share == pytest.approx(1 - 425 / 600, abs=0.001)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Who came tomorrow?", "it begins Mon 00:00, in the future"),
        ("Who came before 10 am?", "memory of gate begins Sun 16:04; memory of yard begins Sun 16:12"),
        ("Who came to the yard before 16:10?", "memory of yard begins Sun 16:12"),
        ("Who came last week?", "memory of gate begins Sun 16:04"),
    ],
)
async def test_an_empty_window_says_why(tmp_path: Path, text: str, message: str) -> None:
    async with two_cameras(tmp_path) as agent:
        with pytest.raises(NoFrames) as refused:
            await agent.answering.answer(replace(ANY, text=text))
        assert message in refused.value.message
        told = refused.value.body()["vilamp"]
        assert told["scope"]["words"]
        assert {each["frames"] for each in told["coverage"]} == {0}
        assert {each["begins"] for each in told["coverage"]} <= {START, NOW - 120}


async def test_words_that_nobody_can_follow_are_an_error(tmp_path: Path) -> None:
    doors = {"gate": {"aliases": ["door"]}, "yard": {"aliases": ["the door", "door"]}}
    async with two_cameras(tmp_path, cameras=doors) as agent:
        with pytest.raises(UnclearScope, match="2 cameras are called 'door': gate, yard"):
            await agent.answering.answer(replace(ANY, text="Who was at my door?"))
        answer = await agent.answering.answer(replace(ANY, text="Who was at the gate door?"))
        assert answer.finished.searched is not None
        assert answer.finished.searched.cameras == ("gate",)


async def test_odd_questions_are_answered(tmp_path: Path) -> None:
    async with two_cameras(tmp_path) as agent:
        for text in (
            "la\u200bst minute, ga\u200bte: who came?",
            "who came\x00 at the gate?",
            "who came in the last minute " * 60,
            "last minute: who came?",
        ):
            answer = await agent.answering.answer(replace(ANY, text=text))
            assert answer.finished.searched is not None


async def test_what_was_searched_comes_first_in_a_stream_and_in_every_answer(tmp_path: Path) -> None:
    async with served(tmp_path, clock=lambda: NOW, cameras=CAMERAS) as site:
        await remember(site.agent, "gate", 24, start=NOW - 120, step_s=5.0)
        async with httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=30) as http:
            body = {"messages": [{"role": "user", "content": "Who was at the front door in the last minute?"}]}
            whole = (await http.post("/v1/chat/completions", json=body)).json()["vilamp"]
            stream = await http.post("/v1/chat/completions", json={**body, "stream": True})
            future = {"messages": [{"role": "user", "content": "Who came tomorrow?"}]}
            refused = await http.post("/v1/chat/completions", json=future)
    words = ["at the front door", "in the last minute"]
    assert whole["scope"] == {"cameras": ["gate"], "after": NOW - 60, "before": None, "words": words}
    assert whole["coverage"][0]["frames"] == 12
    chunks = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: {")]
    first = next(place for place, chunk in enumerate(chunks) if "vilamp" in chunk)
    assert chunks[first]["vilamp"] == {"scope": whole["scope"], "coverage": whole["coverage"]}
    assert not any(chunk["choices"][0]["delta"].get("content") for chunk in chunks[: first + 1])
    assert chunks[-1]["vilamp"]["scope"] == whole["scope"]
    assert refused.status_code == 422
    assert refused.json()["vilamp"]["scope"]["words"] == ["tomorrow"]


async def test_a_server_is_told_the_time_the_cameras_and_what_memory_covers(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy), cameras={"door": {"timezone": "Europe/Zurich"}}) as agent:
        await agent.answering.answer(WHO)
        system = spy.seen()[0]["body"]["messages"][0]["content"]
        assert "It is now 20" in system
        assert "(Europe/Zurich). The question is about all of memory." in system
        assert (
            "Camera door (Europe/Zurich): 12 pictures from 2026-11-22 17:04:05 CET to 2026-11-22 17:05:55 CET" in system
        )


async def test_searched_precedes_every_other_event(tmp_path: Path) -> None:
    async with two_cameras(tmp_path) as agent, agent.answering.ask(ANY) as events:
        kinds = [type(event) async for event in events]
        assert kinds.index(Searched) == 0
        assert kinds.count(Searched) == 1
