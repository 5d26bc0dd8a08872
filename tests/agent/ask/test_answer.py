"""Answers of one agent: evidence, notes, timings, and the errors for questions that cannot be answered."""

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest

from agent.ask.question import Finished, Piece, Question, Searched, Seen
from agent.errors import AnswerTimeout, Busy, NoFrames, NotEncodedYet, QuestionTooLong
from tests.support.agents import START, ListSource, frames, remember, running


async def test_an_answer_rests_on_frames_of_the_window(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 20)
        await remember(agent, "yard", 10)
        question = Question("Who came?", ("door", "yard"), after=START + 3, before=START + 7)
        answer = await agent.answering.answer(question)
        assert answer.seen.num_frames == 10
        assert (answer.seen.oldest, answer.seen.newest) == (START + 3, START + 7)
        assert len(answer.seen.evidence) == 4  # the checkpoint's K
        for evidence in answer.seen.evidence:
            record = agent.store.record(evidence.frame_id)
            assert (record.camera, record.time) == (evidence.camera, evidence.time)
            assert START + 3 <= evidence.time <= START + 7
            assert -1.001 <= evidence.score <= 1.001
        times = {camera: [e.time for e in answer.seen.evidence if e.camera == camera] for camera in ("door", "yard")}
        assert all(seen == sorted(seen) for seen in times.values())
        again = await agent.answering.answer(question)
        assert (again.text, again.seen) == (answer.text, answer.seen)


async def test_recent_frames_are_reserved_when_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path, answering={"num_keyframes": 3, "max_new_tokens": 4}) as agent:
        await remember(agent, "door", 30)
        answer = await agent.answering.answer(Question("What is there now?", ("door",), recent=2))
        assert [e.time - START for e in answer.seen.evidence if e.kind == "recent"] == [28.0, 29.0]
        assert len(answer.seen.evidence) == 3


@pytest.mark.parametrize("redundancy", ["raw", "background"])
@pytest.mark.parametrize("count", [1, 2, 5])
async def test_answer_says_how_short_the_history_is(tmp_path: Path, count: int, redundancy: str) -> None:
    async with running(tmp_path, answering={"redundancy": redundancy, "max_new_tokens": 3}) as agent:
        await remember(agent, "door", count)
        answer = await agent.answering.answer(Question("Who came?", ("door",)))
        assert answer.finished.notes[0] == f"{count - 1} s of video so far"
        assert answer.text.endswith(f"({count - 1} s of video so far.)")
        assert len(answer.seen.evidence) == min(count, 4)


async def test_short_window_of_a_long_history_gets_no_note(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 12, step_s=10.0)
        whole = await agent.answering.answer(Question("Who came?", ("door",)))
        short = await agent.answering.answer(Question("Who came?", ("door",), after=START + 100))
        assert not any("so far" in note for note in (*whole.finished.notes, *short.finished.notes))


async def test_events_come_in_order_and_every_stage_is_timed(tmp_path: Path) -> None:
    async with running(tmp_path, answering={"max_new_tokens": 5}) as agent:
        await remember(agent, "door", 6)
        async with agent.answering.ask(Question("Who came?", ("door",))) as events:
            told = [event async for event in events]
        assert isinstance(told[0], Searched)
        assert isinstance(told[1], Seen)
        assert isinstance(told[-1], Finished)
        assert all(isinstance(event, Piece) for event in told[2:-1])
        finished = told[-1]
        assert list(finished.timings_ms)[:6] == ["queue", "window", "embed", "select", "reencode", "merge"]
        assert finished.timings_ms["total"] >= sum(v for k, v in finished.timings_ms.items() if k != "total") * 0.5
        assert finished.completion_tokens <= 5
        assert finished.prompt_tokens > 0


async def test_questions_without_frames_too_long_or_too_many_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path, answering={"max_questions": 1}) as agent:
        answering = agent.answering
        with pytest.raises(NoFrames):
            await answering.answer(Question("Who came?", ("door",)))
        await remember(agent, "door", 3)
        with pytest.raises(NoFrames):
            await answering.answer(Question("Who came?", ("door",), after=START + 100))
        with pytest.raises(QuestionTooLong):
            await answering.answer(Question("x" * 2001, ("door",)))
        async with answering.ask(Question("Who came?", ("door",))):
            with pytest.raises(Busy):
                await answering.answer(Question("Who came?", ("door",)))
        assert (await answering.answer(Question("Who came?", ("door",)))).seen.num_frames == 3


async def test_question_about_frames_not_encoded_yet_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        for frame in frames(3):
            agent.store.append("door", frame.time, b"\xff\xd8 not a picture")
        with pytest.raises(NotEncodedYet, match="3 frames"):
            await agent.answering.answer(Question("Who came?", ("door",)))


async def test_a_question_longer_than_the_text_encoder_reads_is_answered_with_a_note(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 3)
        answer = await agent.answering.answer(Question("Who came? " * 60, ("door",)))
        assert any("longer than the text encoder reads" in note for note in answer.finished.notes)


async def test_waiting_question_ends_at_its_deadline(tmp_path: Path) -> None:
    async with running(tmp_path, answering={"timeout_s": 0.05}) as agent:
        await remember(agent, "door", 3)
        async with agent.answering.queue.turns.turn():
            with pytest.raises(AnswerTimeout):
                await agent.answering.answer(Question("Who came?", ("door",)))
        assert agent.answering.queue.turns.num_inside == 0


async def test_closing_an_answer_early_frees_the_lane(tmp_path: Path) -> None:
    async with running(tmp_path, answering={"max_new_tokens": 2000, "max_questions": 1}) as agent:
        await remember(agent, "door", 3)
        async with agent.answering.ask(Question("Who came?", ("door",))) as events:
            async for event in events:
                if isinstance(event, Piece):
                    break
        question = Question("Who came?", ("door",), max_new_tokens=2)
        assert (await agent.answering.answer(question)).finished.completion_tokens <= 2


async def test_after_a_restart_keyframes_are_encoded_again_and_the_answer_is_the_same(tmp_path: Path) -> None:
    question = Question("Did a dog come?", ("door",), max_new_tokens=4)
    async with running(tmp_path, answering={"num_keyframes": 8}) as agent:
        await remember(agent, "door", 8)
        before = await agent.answering.answer(question)
    async with running(tmp_path, answering={"num_keyframes": 8}) as agent:
        during = await agent.answering.answer(question)  # the patches may or may not be back yet
        await agent.encoded()
        assert agent.store.pending_patches(10) == []
        after = await agent.answering.answer(question)
    assert before.seen.evidence == during.seen.evidence == after.seen.evidence
    assert before.text == during.text == after.text


async def test_frames_keep_arriving_while_a_question_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path, answering={"max_new_tokens": 60}) as agent:
        await remember(agent, "door", 5)
        feeding = asyncio.create_task(agent.cameras.watch("door", ListSource("door", frames(25, start=START + 5))))
        answers = [await agent.answering.answer(Question("Who came?", ("door",))) for _ in range(3)]
        await feeding
        await agent.encoded()
        assert agent.store.stats("door").encoded == 30
        counts = [answer.seen.num_frames for answer in answers]
        assert counts == sorted(counts)
        window = agent.store.window(("door",))
        assert np.all(np.diff(window.times) > 0)


def test_only_one_file_asks_which_answerer_is_configured() -> None:
    """All others use the `Answerer` protocol, so that a new answerer needs no change elsewhere in the agent."""
    agent = Path(__file__).parents[3] / "agent"
    asks = re.compile(r"answerer\.kind|isinstance\([^)]*Answerer\b|import (?:LocalAnswerer|RemoteAnswerer)")
    found = {str(path.relative_to(agent)) for path in agent.rglob("*.py") if asks.search(path.read_text())}
    found -= {"settings/settings.py", "cli/setup/models.py"}  # these check and write the configuration
    assert found == {"ask/model.py", "evaluation/arms.py"}  # an evaluation is always of the local one
