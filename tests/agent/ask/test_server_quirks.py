"""Quirks of real servers: each is adapted to, or reported with words that say what to do."""

import json
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from agent.ask.question import Answer, Finished, Piece, Seen, Step
from agent.ask.remote_traits import Refused, Traits, adapt
from agent.errors import AnswererAway, AnswererRefused, NoAnswer, Problem
from agent.reading.types import Reading
from tests.support.agents import remember, served
from tests.support.remote import WHO, asking, openai
from tests.support.server_quirks import QUIRKS, pictures_in
from tests.support.vlm_server import Spy

ADAPTED = {  # quirk -> requests for two questions, the pictures of the last one, words of a note
    "ollama-truncates": (2, 2, "context of 2048 tokens is too short: it did not see all 4 pictures"),
    "vllm-one-picture": (3, 1, "takes one picture a request"),
    "vllm-context": (3, 2, "at most 2 pictures fit into the server's context"),
    "mistral": (3, 4, ""),
    "o-series": (3, 4, ""),
    "capped": (3, 4, ""),
    "capped-openai": (3, 4, ""),
    "capped-vllm": (3, 4, ""),
    "proxy-whole-body": (2, 4, ""),
    "no-usage-no-done": (2, 4, ""),
}
FAILING: dict[str, tuple[type[Problem], str, int]] = {  # quirk -> error, its words, requests
    "ollama-not-pulled": (AnswererRefused, "says 404: model 'qwen' not found, try pulling it first", 1),
    "vllm-old-error": (AnswererRefused, "says 400: The model `x` is broken", 1),
    "llama-no-mmproj": (AnswererRefused, "mmproj .*answerer.model must be one that takes pictures", 1),
    "llama-loads-for-ever": (AnswererAway, "says 503: Loading model", 2),
    "mistral-refuses": (AnswererRefused, "says 422: safe_prompt: Field required", 1),
    "slow-down-long": (AnswererAway, r"says 429: Rate limit reached. It asks to wait 20 s", 1),
    "no-quota": (AnswererRefused, "quota is used up: waiting does not help", 1),
    "proxy-whole-refusal": (NoAnswer, "refuses: I cannot identify people", 1),
    "lm-studio-error": (AnswererRefused, "reports: Model unloaded", 1),
    "content-filter": (NoAnswer, "content filter .* withheld", 1),
    "refusal-field": (NoAnswer, "refuses: I cannot identify people", 1),
    "empty-content": (NoAnswer, "no text that can be read", 1),
    "only-thinks": (NoAnswer, r"used all its \d+ tokens for thinking", 2),
}
SPEAKING = ("ollama-reasoning", "vllm-reasoning", "inline-thoughts", "leaks-tokens")
OTHERS = {
    "truncates-oddly",
    "llama-context",
    "llama-loading",
    "slow-down",
    "markdown",
    "sees",
    "sees-one",
    "sees-few",
    "blind",
    "sees-slowly",
    "mumbles",
    "wrong-times",
    "left-for-a-count",
    "reads",
}


@pytest.mark.parametrize("quirk", ADAPTED)
async def test_what_a_server_does_not_take_is_changed_and_remembered(tmp_path: Path, spy: Spy, quirk: str) -> None:
    num_requests, num_pictures, note = ADAPTED[quirk]
    async with asking(tmp_path, openai(spy, quirk)) as agent:
        first = await agent.answering.answer(WHO)
        second = await agent.answering.answer(WHO)
        assert agent.answerer.max_keyframes == (8 if num_pictures == 4 else num_pictures)
    sent = spy.seen()
    assert len(sent) == num_requests
    assert len(pictures_in(sent[-1]["body"])) == num_pictures == len(second.seen.evidence)
    assert second.text == f"I see {num_pictures} pictures."
    assert any(note in each for each in first.finished.notes)
    assert f"the answer rests on {num_pictures} pictures alone" in second.finished.notes


@pytest.mark.parametrize("quirk", FAILING)
async def test_what_cannot_be_changed_is_an_error_with_the_servers_words(
    tmp_path: Path, spy: Spy, quirk: str
) -> None:  # fmt: skip
    kind, words, num_requests = FAILING[quirk]
    async with asking(tmp_path, openai(spy, quirk, timeout_s=1.0)) as agent:
        with pytest.raises(kind, match=words):
            await agent.answering.answer(WHO)
    assert num_requests <= len(spy.seen()) <= num_requests + 12 * (quirk == "llama-loads-for-ever")


@pytest.mark.parametrize("quirk", SPEAKING)
async def test_thoughts_and_leaked_tokens_are_never_shown(tmp_path: Path, spy: Spy, quirk: str) -> None:
    async with asking(tmp_path, openai(spy, quirk)) as agent:
        assert [(await agent.answering.answer(WHO)).text for _ in range(2)] == ["Yes.", "Yes."]


def test_every_quirk_is_tested() -> None:
    by_tools = {name for name in QUIRKS if name.startswith("agent")}  # tests/agent/ask/test_tool_loop.py
    assert OTHERS | by_tools | {*ADAPTED, *FAILING, *SPEAKING} == set(QUIRKS)


async def test_one_picture_is_the_most_relevant_and_the_evidence_says_so(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "vllm-one-picture")) as agent:
        events = []
        async with agent.answering.ask(WHO) as stream:
            events = [event async for event in stream]
    before, after = (event.evidence for event in events if isinstance(event, Seen))
    best = max((each for each in before if each.kind == "relevant"), key=lambda each: each.score)
    assert after == (best,)
    kinds = [type(event) for event in events]
    assert kinds.index(Seen) < kinds.index(Step) < kinds.index(Piece) < kinds.index(Finished)


async def test_same_token_counts_for_different_pictures_mean_a_cut_prompt(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "truncates-oddly")) as agent:
        few = await agent.answering.answer(replace(WHO, num_keyframes=3))
        assert not any("too short" in note for note in few.finished.notes)
        many = await agent.answering.answer(WHO)
        assert any("1501 tokens is too short" in note for note in many.finished.notes)
        assert (await agent.answering.answer(WHO)).text == "I see 2 pictures."


async def test_a_single_picture_is_sent_smaller(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "llama-context", max_images=1)) as agent:
        answer = await agent.answering.answer(WHO)
    assert answer.text == "I see 1 pictures."
    assert len(spy.seen()) == 2
    assert any("the server's context is too short" in note for note in answer.finished.notes)


async def test_a_server_that_loads_is_waited_for_and_the_wait_is_shown(tmp_path: Path, spy: Spy) -> None:
    async with served(tmp_path, answerer=openai(spy, "llama-loading", timeout_s=60)) as site:
        await remember(site.agent, "door", 12, step_s=10.0)
        body = {"messages": [{"role": "user", "content": "Who came?"}], "stream": True}
        async with httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=60) as client:
            text = (await client.post("/v1/chat/completions", json=body)).text
    assert text.index('"annotations"') < text.index(": step: the server loads its model, 0 s of at most 60 s")
    assert text.index(": step: the server loads its model") < text.index("I see 4 pictures.")
    [_, end] = [json.loads(line[6:])["vilamp"] for line in text.splitlines() if '"vilamp"' in line]
    assert end["steps"][:2] == ["the server reads 4 pictures", "the server loads its model, 0 s of at most 60 s"]
    assert len(spy.seen()) == 5


async def test_a_busy_server_is_given_the_time_that_it_asks_for(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "slow-down")) as agent:
        began = time.monotonic()
        answer: Answer = await agent.answering.answer(WHO)
        assert time.monotonic() - began >= 2
    assert answer.text == "I see 4 pictures."
    assert "the server is busy and asks to wait 2 s" in answer.steps


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Too many images in request. Limit is 5 images", "pictures"),
        ("This model only supports one image", "pictures"),
        ("Invalid max_tokens value, the valid range of max_tokens is [1, 512]", "tokens"),
        ("The decoder prompt (length 5000) is longer than the maximum model length of 4096.", "context"),
        ("prompt is too long: 5000 tokens > 4096 maximum", "context"),
        ("response_format is not supported", "response_format"),
        ("no such model", None),
        ("", None),
    ],
)
def test_words_of_refusals(words: str, kind: str | None) -> None:
    sent = Refused(words, frozenset({"response_format", "temperature"}), num_pictures=8, width=640, tokens=600)
    change = adapt(Traits(), sent)
    assert (None if change is None else change.kind) == kind


def test_a_guessed_limit_of_pictures_is_tried_again() -> None:
    """A prompt may have 2048 tokens by chance."""
    traits = Traits()
    assert traits.truncation(8, 2048) is not None
    assert traits.max_pictures == 4
    for number in range(100):
        assert traits.truncation(4, 1100 + number) is None
    assert traits.max_pictures == 5
    assert traits.truncation(5, 2048) is not None  # it was no chance
    assert traits.max_pictures == 2
    assert traits.truncation(0, 4096) is traits.truncation(3, 512) is None  # no pictures, or too short to be a context
    learned = Traits(max_pictures=1)
    for number in range(300):
        learned.truncation(1, 1100 + number)
    assert learned.max_pictures == 1  # the server said so


async def test_a_time_that_no_picture_has_is_marked(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "wrong-times")) as agent:
        answer = await agent.answering.answer(WHO)
    assert "A man came at 03:33:33.\n\n(no picture that was looked at is from 03:33:33.)" in answer.text


async def test_a_side_for_a_count_is_refused_and_not_printed(tmp_path: Path, spy: Spy) -> None:
    counted = replace(WHO, text="How many cars came?", reading=Reading("count", ("car",)))
    async with asking(tmp_path, openai(spy, "left-for-a-count"), answering={"in_steps": False}) as agent:
        shown = []
        with pytest.raises(
            NoAnswer, match="does not fit the question: it should say a number, and is a side"
        ) as refused:
            async with agent.answering.ask(counted) as events:
                shown = [event async for event in events if isinstance(event, Piece)]
    assert shown == []
    assert "left" not in str(refused.value)
