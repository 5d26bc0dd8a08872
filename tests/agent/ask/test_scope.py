"""A question about now searches the newest frames, every other question all frames; each builds one window."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.ask.question import Question, Said
from agent.runtime.lanes import Priority
from memory.window import Window, Within
from tests.support.agents import START, remember, running
from tests.support.waiting import until

NOW = Question("What can you see right now?", ("door",))


async def test_a_question_about_now_looks_at_the_newest_frames(tmp_path: Path) -> None:
    async with running(tmp_path, cameras={"door": {"timezone": "UTC"}}) as agent:
        await remember(agent, "door", 100)
        answer = await agent.answering.answer(NOW)
        assert answer.seen.num_frames == 4
        assert [each.time - START for each in answer.seen.evidence] == [96, 97, 98, 99]
        note = "the question is about now: only frames from 2026-11-22 16:05:41 UTC on were looked at"
        assert any(each.startswith(note) for each in answer.finished.notes)
        assert not any("so far" in each for each in answer.finished.notes)  # the history itself is long
        later = await agent.answering.answer(replace(NOW, after=START + 98))
        assert later.seen.num_frames == 2


async def test_now_covers_every_camera_that_still_sends(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 900)
        await remember(agent, "yard", 85, step_s=10.0)  # the newest is 59 s behind the door's
        await remember(agent, "roof", 7, step_s=120.0)  # 179 s behind, which is not unusual for it
        await remember(agent, "gone", 820)  # 80 s behind, and it sent every second
        answer = await agent.answering.answer(replace(NOW, cameras=("door", "gone", "yard", "roof")))
        newest = {"door": [896, 897, 898, 899], "yard": [810, 820, 830, 840], "roof": [360, 480, 600, 720]}
        times = {name: [e.time - START for e in answer.seen.evidence if e.camera == name] for name in newest}
        assert answer.seen.num_frames == 12
        assert all(set(times[name]) <= set(newest[name]) for name in newest)
        assert {e.camera for e in answer.seen.evidence} <= set(newest)
        [note] = [each for each in answer.finished.notes if "about now" in each]
        assert note.endswith("; cameras without a frame of now: gone")
        alone = await agent.answering.answer(replace(NOW, cameras=("gone",)))
        assert [each.time - START for each in alone.seen.evidence] == [816, 817, 818, 819]


async def test_earlier_messages_are_ignored_by_a_model_that_does_not_read_them(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 70)
        said = (Said("user", "Did a dog come?"), Said("assistant", "yes"))
        assert (await agent.answering.answer(replace(NOW, earlier=said))).seen.num_frames == 4


@pytest.mark.parametrize(
    ("question", "answering"),
    [
        (replace(NOW, text="Who came?"), {}),
        (replace(NOW, text="Is it still there now?"), {}),
        (replace(NOW, before=START + 1000), {}),  # the asker chose a stretch of the past
        (replace(NOW, within=Within(0.0, 0.0, 5.0)), {}),  # a place, which the newest frames need not show
        (replace(NOW, priority=Priority.JUDGE), {}),  # a rule's judge has a window of its own
        (NOW, {"now_frames": 0}),
    ],
)
async def test_other_questions_search_all_frames(tmp_path: Path, question: Question, answering: dict[str, int]) -> None:
    here = {"door": {"metadata": {"x": 1.0, "y": 2.0}}}
    async with running(tmp_path, answering={"max_new_tokens": 3, **answering}, cameras=here) as agent:
        await remember(agent, "door", 70)
        answer = await agent.answering.answer(question)
        assert answer.seen.num_frames == 70
        assert not any("about now" in note for note in answer.finished.notes)


@pytest.mark.parametrize("text", ["What can you see right now?", "Who came?"])
async def test_each_question_builds_one_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 70)
        window, built = agent.store.window, []

        def counted(*args: Any) -> Window:
            built.append(args)
            return window(*args)

        monkeypatch.setattr(agent.store, "window", counted)
        assert (await agent.answering.answer(replace(NOW, text=text))).seen.num_frames in (4, 70)
        assert len(built) == 1


async def test_waiting_question_sees_frames_that_arrive_before_its_turn(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 3)
        async with agent.answering.queue.turns.turn():
            waiting = asyncio.create_task(agent.answering.answer(replace(NOW, text="Is a dog here?")))
            await until(lambda: agent.answering.queue.turns.num_inside == 1)
            await remember(agent, "door", 2, start=START + 3)
        assert (await waiting).seen.num_frames == 5
