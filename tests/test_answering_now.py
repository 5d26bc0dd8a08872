"""A question about now looks at the newest frames; every other question, and every other asker, at all of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from agent.lanes import Priority
from agent.question import Question
from tests.agents import START, remember, running

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


async def test_cameras_that_send_slowly_have_their_newest_frames_and_those_that_stopped_have_none(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 200)
        await remember(agent, "yard", 20, step_s=10.0)  # the newest is 9 s behind the door's
        await remember(agent, "gone", 100)  # has sent nothing for the last 100 s
        answer = await agent.answering.answer(replace(NOW, cameras=("door", "yard", "gone")))
        by_camera = {each.camera for each in answer.seen.evidence}
        assert by_camera == {"door", "yard"}
        assert answer.seen.oldest == START + 160
        assert answer.seen.num_frames == 40 + 4
        alone = await agent.answering.answer(replace(NOW, cameras=("gone",)))
        assert [each.time - START for each in alone.seen.evidence] == [96, 97, 98, 99]


@pytest.mark.parametrize(
    ("question", "answering"),
    [
        (replace(NOW, text="What is at the door?"), {}),
        (replace(NOW, text="Is it still there now?"), {}),
        (replace(NOW, before=START + 1000), {}),  # the asker chose a stretch of the past
        (replace(NOW, priority=Priority.JUDGE), {}),  # a rule's judge has a window of its own
        (NOW, {"now_frames": 0}),
    ],
)
async def test_everything_else_looks_at_all_frames(
    tmp_path: Path, question: Question, answering: dict[str, int]
) -> None:
    async with running(tmp_path, answering={"max_new_tokens": 3, **answering}) as agent:
        await remember(agent, "door", 70)
        answer = await agent.answering.answer(question)
        assert answer.seen.num_frames == 70
        assert not any("about now" in note for note in answer.finished.notes)
