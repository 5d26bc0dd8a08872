"""What the agent does with a question that was read: the same answer in any words, or a refusal with offers."""

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from agent.ask.question import Question, Said
from agent.web.app import build_app
from agent.web.auth import Auth
from tests.support.agents import START, remember, running
from tests.support.drives import rover

ASKED = Question("what is the capital of Peru?", ("door",))


async def test_a_question_that_no_camera_can_answer_is_refused_with_offers(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 3)
        answer = await agent.answering.answer(ASKED)
        reading = answer.finished.reading
        assert reading is not None
        assert reading.kind == "out of scope"
        assert len(reading.offers) == 3
        assert answer.text.startswith("I did not understand")
        assert all(f"- {offer}" in answer.text for offer in reading.offers)
        assert (answer.seen.num_frames, answer.seen.evidence) == (0, ())
        for offer in reading.offers:  # what is offered is answered
            again = (await agent.answering.answer(replace(ASKED, text=offer))).finished.reading
            assert again is not None
            assert again.kind not in ("unclear", "out of scope"), offer


async def test_a_question_that_no_camera_can_answer_is_refused_whatever_time_it_names(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 3)
        answer = await agent.answering.answer(replace(ASKED, text="will it rain in Paris on Sunday?"))
        assert answer.text.startswith("I did not understand")


async def test_a_follow_up_needs_a_question_before_it_and_a_model_that_reads_it(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 3)
        said = (Said("user", "did a dog come?"), Said("assistant", "yes"))
        for earlier in ((), said):  # the tiny model reads each question alone
            answer = await agent.answering.answer(replace(ASKED, text="and then?", earlier=earlier))
            assert answer.finished.reading is not None
            assert answer.finished.reading.kind == "unclear"


async def test_the_reading_is_in_the_response(tmp_path: Path) -> None:
    async with running(tmp_path) as agent:
        await remember(agent, "door", 3)
        auth = Auth.open(tmp_path, enabled=False, extra=())
        app = build_app(agent, auth, agent.settings, keep_alive_s=1.0, url="http://agent")
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://agent") as http:
            for text, kind, things in (("did a lorry come?", "existence", ["lorry"]), (ASKED.text, "out of scope", [])):
                body = {"messages": [{"role": "user", "content": text}]}
                reading = (await http.post("/v1/chat/completions", json=body)).json()["vilamp"]["reading"]
                assert (reading["kind"], reading["things"]) == (kind, things)
                assert len(reading["offers"]) == (3 if kind == "out of scope" else 0)
                assert reading["reader"] == "encoder"


@pytest.mark.parametrize(
    "text",
    [
        "in which room was the green person?",
        "In welchem Raum war die grüne Person?",
        "¿En qué habitación estaba la persona verde?",
        "which room did you see the green man in",
    ],
)
async def test_the_answer_does_not_depend_on_the_words(tmp_path: Path, text: str) -> None:
    async with rover(tmp_path) as agent:
        answer = await agent.answering.answer(Question(text, ("rover",)))
        assert answer.text.startswith("The green person was seen at ")
        assert "hall" in answer.text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("so, what is standing around in front of you right now?", "what is here now?"),
        ("was the box green or blue?", "what colour was the box?"),
        ("did somebody forget a thing of theirs in the last hour?", "what was left behind?"),
    ],
)
async def test_the_model_is_asked_in_its_own_words(tmp_path: Path, text: str, plain: str) -> None:
    """Also where words of time and place were found, or looked for, before."""
    async with rover(tmp_path) as agent:
        question = Question(text, ("rover",), before=START + 3600)
        read = await agent.answering.understand(question, agent.answering._known())
        assert read.words is not None
        assert (read.core, read.text) == (plain, plain)
        answers = [await agent.answering.answer(replace(question, text=each)) for each in (text, plain)]
        assert answers[0].text == answers[1].text
