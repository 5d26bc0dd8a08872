"""A follow-up sees the pictures of the answer before again, and "and then?" searches on from them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.ask.followup import frames_before
from agent.ask.question import Question, Said
from agent.ask.request import request_of
from tests.support.agents import START, remember, served
from tests.support.remote import WHO, asking, openai, parts_of
from tests.support.vlm_server import Spy

ASKED = Said("user", "Who came?")


def after_answer(text: str, frames: tuple[int, ...], **more: Any) -> Question:
    return replace(WHO, text=text, earlier=(ASKED, Said("assistant", "A man.", frames)), **more)


@pytest.mark.parametrize(
    ("text", "goes_on"),
    [
        ("and then?", True), ("What happened next?", True), ("what was he wearing?", True), ("was it red", True),
        ("Und dann?", True), ("¿y luego?", True), ("et ensuite ?", True), ("qué llevaba ella", True),
        ("How many dogs came today?", False), ("Did a car come at noon?", False), ("Who came " * 7 + "and then?", False),
    ],
)  # fmt: skip
def test_words_that_go_on_from_the_answer_before(text: str, goes_on: bool) -> None:
    assert frames_before(after_answer(text, (3, 4))) == ((3, 4) if goes_on else ())
    assert frames_before(replace(WHO, text=text)) == ()
    assert frames_before(after_answer(text, ())) == ()


async def test_the_pictures_of_the_answer_before_are_sent_again_and_marked(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, max_images=4), cameras={"door": {"timezone": "UTC"}}) as agent:
        first = await agent.answering.answer(WHO)
        ids = tuple(each.frame_id for each in first.seen.evidence)
        late = after_answer("what was he wearing?", ids[:1], after=START + 80)
        answer = await agent.answering.answer(late)
    texts, jpegs = parts_of(spy.seen()[-1])
    assert texts[0].startswith("Shown with the answer before, door, 2026-11-22 16:0")
    assert sum(text.startswith("Shown with") for text in texts) == 1
    assert len(jpegs) <= 4
    kinds = {each.frame_id: each.kind for each in answer.seen.evidence}
    assert kinds[ids[0]] == "before"
    assert "1 pictures of the answer before were sent again" in answer.finished.notes


async def test_and_then_searches_on_from_the_answer_before(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy)) as agent:
        await remember(agent, "yard", 12, start=START, step_s=10.0)
        frames = agent.store.window(("door",)).frame_ids[:5]
        both = {"cameras": ("door", "yard"), "cameras_by_default": True}
        answer = await agent.answering.answer(after_answer("and then?", tuple(map(int, frames)), **both))
        assert answer.finished.searched is not None
        assert (answer.finished.searched.cameras, answer.finished.searched.after) == (("door",), START + 40)
        assert "and then" in answer.finished.searched.words
        assert all(each.time >= START + 40 for each in answer.seen.evidence if each.kind != "before")
        named = await agent.answering.answer(after_answer("and then?", tuple(map(int, frames)), before=START + 30))
        assert named.finished.searched is not None
        assert named.finished.searched.after is None  # the asker's own times win
        asked = Said("user", "Who came on 22 November 2026?")
        earlier = (asked, Said("assistant", "A man.", tuple(map(int, frames))))
        on = await agent.answering.answer(replace(WHO, text="and then?", earlier=earlier))
        assert on.finished.searched is not None
        assert on.finished.searched.after == START + 40  # within the day of the question before
        assert on.finished.searched.before is not None


async def test_pictures_of_cameras_that_were_not_asked_about_are_never_sent(tmp_path: Path, spy: Spy) -> None:
    """Frame ids come from the client: they must not get pictures out of a camera that has to stay local."""
    cameras = {"open": {"egress": "allowed"}, "door": {"egress": "local_only"}}
    async with asking(tmp_path, openai(spy, host="0.0.0.0"), cameras=cameras) as agent:
        await remember(agent, "open", 3)
        secret = tuple(map(int, agent.store.window(("door",)).frame_ids))
        asked = replace(after_answer("what was he wearing?", (*secret, 10**9)), cameras=("open",))
        answer = await agent.answering.answer(asked)
    assert {each.camera for each in answer.seen.evidence} == {"open"}
    [sent] = spy.seen()
    assert all(text.startswith("open,") for text in parts_of(sent)[0][:-1])


async def test_clients_that_send_an_answer_back_whole(tmp_path: Path, spy: Spy) -> None:
    async with served(tmp_path, answerer=openai(spy)) as site:
        await remember(site.agent, "door", 12, step_s=10.0)
        async with httpx.AsyncClient(base_url=site.url, headers=site.headers()) as client:
            asked = [{"role": "user", "content": "Who came?"}]
            said = (await client.post("/v1/chat/completions", json={"messages": asked})).json()["choices"][0]["message"]
            asked += [said, {"role": "user", "content": "what was he wearing?"}]
            reply = (await client.post("/v1/chat/completions", json={"messages": asked})).json()
    cited = reply["choices"][0]["message"]["annotations"]
    assert len(cited) >= 4
    labels = parts_of(spy.seen()[-1])[0]
    assert any(label.startswith("Shown with the answer before") for label in labels) == any(
        each["kind"] == "before" for each in cited
    )


@pytest.mark.parametrize("odd", [3, "x", [3], [{"frame_id": "7"}], [{"frame_id": True}], [{"frame_id": -1}], [{}], {}])
def test_odd_annotations_are_ignored(odd: object) -> None:
    body = {
        "messages": [{"role": "assistant", "content": "A man.", "annotations": odd}, {"role": "user", "content": "so?"}]
    }
    assert request_of(json.loads(json.dumps(body))).earlier()[0].frames == ()
