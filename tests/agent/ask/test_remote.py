"""Answers from a vision-language server that behaves well or badly, in a process of its own."""

import asyncio
import io
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from openai import AsyncOpenAI
from PIL import Image

from agent.ask.pictures import fitted
from agent.ask.question import Piece, Question, Said
from agent.ask.remote_client import pause
from agent.ask.remote_prompt import Prompt, Shown, question_messages
from agent.ask.remote_wire import Delta, Misunderstood, complaint, read_line
from agent.errors import AnswererAway, AnswererRefused, AnswerTimeout, PicturesStayHere, Problem
from agent.ingest.jpeg import encode_jpeg
from agent.settings.settings import AnswererSettings, TlsSettings, effective
from agent.settings.source import ConfigError, load_settings
from agent.web.chat import model_card
from agent.web.tls import prepare_tls
from tests.support.agents import START, picture, remember, served
from tests.support.remote import PUBLIC, WHO, Names, asking, openai, parts_of
from tests.support.vlm_server import Spy, spying

# --- what is sent, what comes back ---


async def test_keyframes_are_sent_with_times_and_the_answer_comes_back(tmp_path: Path, spy: Spy) -> None:
    answerer = openai(spy, api_key="sk-of-mine")
    async with asking(tmp_path, answerer, cameras={"door": {"timezone": "Europe/Zurich"}}) as agent:
        answer = await agent.answering.answer(WHO)
        [sent] = spy.seen()
        texts, jpegs = parts_of(sent)
        times = [evidence.time for evidence in answer.seen.evidence]
        assert texts[:-1] == [f"door, 2026-11-22 17:{4 + (5 + t) // 60:02}:{(5 + t) % 60:02} CET:" for t in
                              (round(time - START) for time in times)]  # fmt: skip
        assert texts[-1] == "Who came?"
        assert jpegs == [agent.store.jpeg(evidence.frame_id) for evidence in answer.seen.evidence]
    assert sent["path"] == "/v1/chat/completions"
    assert sent["headers"]["authorization"] == "Bearer sk-of-mine"
    assert (sent["body"]["max_tokens"], sent["body"]["temperature"], sent["body"]["stream"]) == (8, 0.0, True)
    kinds = [part["type"] for part in sent["body"]["messages"][-1]["content"]]
    assert kinds == ["text", "image_url"] * 4 + ["text"]
    assert answer.text == "I see 4 pictures."
    finished = answer.finished
    assert (finished.finish_reason, finished.prompt_tokens, finished.completion_tokens) == ("stop", 104, 4)
    assert "the answer rests on 4 pictures alone" in finished.notes
    assert list(finished.timings_ms)[:5] == ["queue", "window", "embed", "select", "pictures"]
    assert "merge" not in finished.timings_ms


async def test_label_of_a_picture_has_its_place(tmp_path: Path, spy: Spy) -> None:
    placed = {"zone": "porch", "x": 1.5, "y": -2, "heading": 270, "serial": "A-7"}
    async with asking(tmp_path, openai(spy), cameras={"door": {"timezone": "UTC", "metadata": placed}}) as agent:
        await agent.answering.answer(WHO)
        texts, _ = parts_of(spy.seen()[0])
        assert len(texts) > 2
        assert all(text.endswith(" UTC, porch, x 1.5 m, y -2 m, heading 270 degrees:") for text in texts[:-1])


async def test_now_in_a_conversation_searches_all_frames(tmp_path: Path, spy: Spy) -> None:
    now, said = replace(WHO, text="Who is there now?"), (Said("user", "Who came at noon?"), Said("assistant", "Two."))
    async with asking(tmp_path, openai(spy)) as agent:
        assert (await agent.answering.answer(now)).seen.num_frames == 4
        assert (await agent.answering.answer(replace(now, earlier=said))).seen.num_frames == 12


async def test_pictures_of_several_cameras_are_in_order_of_time(tmp_path: Path, spy: Spy) -> None:
    async with asking(
        tmp_path, openai(spy), cameras={"yard": {"timezone": "UTC"}, "door": {"timezone": "UTC"}}
    ) as agent:
        await remember(agent, "yard", 12, start=START + 5, step_s=10.0)
        answer = await agent.answering.answer(Question("Who came?", ("door", "yard")))
        texts, jpegs = parts_of(spy.seen()[0])
        in_time = sorted(answer.seen.evidence, key=lambda evidence: evidence.time)
        assert [text.partition(",")[0] for text in texts[:-1]] == [evidence.camera for evidence in in_time]
        assert jpegs == [agent.store.jpeg(evidence.frame_id) for evidence in in_time]


async def test_the_budget_keeps_the_newest_and_the_most_relevant(
    tmp_path: Path, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering = {"num_keyframes": 12, "max_new_tokens": 8}
    async with asking(tmp_path, openai(spy, max_images=4), answering=answering) as agent:
        answer = await agent.answering.answer(replace(WHO, recent=12))
        recent = [evidence.time - START for evidence in answer.seen.evidence if evidence.kind == "recent"]
        assert (len(answer.seen.evidence), recent) == (4, [100.0, 110.0])
    monkeypatch.setattr("agent.ask.remote.MAX_IMAGE_BYTES", 16 << 10)
    many = openai(spy, max_images=12, max_image_width=7680)
    async with asking(tmp_path / "large", many, answering=answering) as agent:
        noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
        for step in range(4):
            agent.store.append("wall", START + step, encode_jpeg(noise + np.uint8(step)))
        await agent.encoded()
        assert len(agent.store.jpeg(agent.store.window(("wall",)).frame_ids[0])) > 16384 / 4
        answer = await agent.answering.answer(Question("Who came?", ("wall",), recent=12))
        jpegs = parts_of(spy.seen()[-1])[1]
        assert sum(map(len, jpegs)) <= 16384
        assert 1 <= len(jpegs) == len(answer.seen.evidence) < 4
        assert any("left out" in note for note in answer.finished.notes)


def test_pictures_are_scaled_down_to_the_budget() -> None:
    jpeg = encode_jpeg(picture(3, width=640, height=480))
    assert fitted(jpeg, 640, 1 << 20) is jpeg
    with Image.open(io.BytesIO(fitted(jpeg, 100, 1 << 20))) as small:
        assert small.size == (100, 75)
    noise = encode_jpeg(np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8))
    assert len(noise) > 20_000
    assert len(fitted(noise, 7680, 20_000)) <= 20_000
    for damaged in (b"", b"\xff\xd8 no picture", jpeg[: len(jpeg) // 2]):
        with pytest.raises(OSError, match=r"."):
            fitted(damaged, 640, 1 << 20)


async def test_the_official_client_sees_citations_whoever_answers(tmp_path: Path, spy: Spy) -> None:
    async with served(tmp_path, answerer=openai(spy)) as site:
        await remember(site.agent, "door", 12, step_s=10.0)
        async with AsyncOpenAI(base_url=site.url + "/v1", api_key=site.token(), max_retries=0) as client:
            message: list[dict[str, Any]] = [{"role": "user", "content": "Who came?"}]
            whole = await client.chat.completions.create(model="vilamp", messages=message)  # type: ignore[arg-type]
            assert whole.choices[0].message.content == "I see 4 pictures."
            citations: Any = whole.choices[0].message.annotations
            assert [cited.model_extra["camera"] for cited in citations] == ["door"] * 4
            stream = await client.chat.completions.create(model="vilamp", messages=message, stream=True)  # type: ignore[call-overload]
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert text == "I see 4 pictures."
            card = (await client.models.list()).data[0]
            assert card.model_extra is not None
            assert card.model_extra["vilamp"]["answerer"] == "good"


# --- a server that behaves badly ---


@pytest.mark.parametrize(
    ("model", "text", "tries"),
    [
        ("busy-twice", "I see 4 pictures.", 3),
        ("lost-once", "I see 4 pictures.", 2),
        ("odd", "I see 4 pictures. Ok\u2028\u2028.", 1),
        ("cut", "I see 4 pictures.", 1),
    ],
)
async def test_passing_failures_are_retried(tmp_path: Path, spy: Spy, model: str, text: str, tries: int) -> None:
    async with asking(tmp_path, openai(spy, model)) as agent:
        answer = await agent.answering.answer(WHO)
        assert answer.text == text
        assert answer.finished.finish_reason == ("length" if model == "cut" else "stop")
        assert answer.finished.completion_tokens == 4
        assert len(spy.seen()) == tries


@pytest.mark.parametrize(
    ("model", "kind", "words", "tries"),
    [
        ("overloaded", AnswererAway, "says 503: too many requests", 3),
        ("lost", AnswererAway, "went away", 1),
        ("short", AnswererAway, "stopped in the middle", 1),
        ("silent", AnswererAway, "silent for 0.5 s", 1),
        ("late", AnswererAway, "silent for 0.5 s", 1),
        ("locked", AnswererRefused, r"says 401: bad key Bearer \*\*\* \(see answerer.api_key\)", 1),
        ("absent", AnswererRefused, "says 404: model 'absent' not found, try pulling it first", 1),
        ("elsewhere", AnswererRefused, "says 307", 1),
        ("page", AnswererRefused, "no event stream", 1),
        ("not-json", AnswererRefused, "not JSON", 1),
        ("broken", AnswererRefused, "reports: out of memory", 1),
    ],
)
async def test_other_failures_are_reported_at_once(
    tmp_path: Path, spy: Spy, model: str, kind: type[Problem], words: str, tries: int
) -> None:  # fmt: skip
    answerer = openai(spy, model, timeout_s=0.5, api_key="sk-secret")
    async with asking(tmp_path, answerer) as agent:
        with pytest.raises(kind, match=words) as failed:
            await agent.answering.answer(WHO)
        assert failed.value.status == (503 if kind is AnswererAway else 502)
        assert [sent["path"] for sent in spy.seen()] == ["/v1/chat/completions"] * tries
        assert agent.answering.queue.turns.num_inside == 0


async def test_a_server_that_ignores_the_limit_is_cut_off(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "chatty")) as agent:
        answer = await agent.answering.answer(WHO)
        assert answer.finished.finish_reason == "length"
        assert len(answer.text) <= 8 * 32
    await cancelled(spy)


async def test_unreachable_server_is_a_503_until_it_is_back(tmp_path: Path, spy: Spy) -> None:
    with spying() as other:
        async with served(tmp_path, answerer=openai(other)) as site, httpx.AsyncClient() as client:
            await remember(site.agent, "door", 12, step_s=10.0)

            async def ask() -> httpx.Response:
                body = {"messages": [{"role": "user", "content": "Who came?"}]}
                return await client.post(f"{site.url}/v1/chat/completions", json=body, headers=site.headers())

            assert (await ask()).status_code == 200
            other.process.kill()
            other.process.wait()
            away = await ask()
            assert (away.status_code, away.json()["error"]["code"]) == (503, "answerer_away")
            assert "cannot be reached" in away.json()["error"]["message"]
            assert away.headers["retry-after"] == "5"
            ready = await client.get(f"{site.url}/readyz")  # memory goes on: not this server's failure
            assert ready.status_code == 200


async def test_a_server_killed_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    with spying() as other:
        async with asking(tmp_path, openai(other, "endless"), answering={"max_new_tokens": 8000}) as agent:

            async def kill_at_the_first_word() -> None:
                async with agent.answering.ask(WHO) as events:
                    async for event in events:
                        if isinstance(event, Piece):
                            other.process.kill()

            with pytest.raises(AnswererAway, match="went away"):
                await kill_at_the_first_word()


async def cancelled(spy: Spy) -> None:
    """Until the server has noticed that the reader has gone."""
    until = time.monotonic() + 20
    while not (ended := (await asyncio.to_thread(spy.told))["ended"]).get("cancelled"):
        assert time.monotonic() < until, ended
        await asyncio.sleep(0.02)


async def test_closing_an_answer_early_closes_the_request(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "endless"), answering={"max_new_tokens": 8000}) as agent:
        async with agent.answering.ask(WHO) as events:
            async for event in events:
                if isinstance(event, Piece):
                    break
        await cancelled(spy)
        assert agent.answering.queue.turns.num_inside == 0


async def test_client_that_disconnects_closes_the_request(tmp_path: Path, spy: Spy) -> None:
    answering = {"max_new_tokens": 8000}
    async with served(tmp_path, answerer=openai(spy, "endless"), answering=answering) as site:
        await remember(site.agent, "door", 3)
        body = {"messages": [{"role": "user", "content": "Who came?"}], "stream": True}
        async with (
            httpx.AsyncClient() as client,
            client.stream("POST", f"{site.url}/v1/chat/completions", json=body, headers=site.headers()) as answer,
        ):
            async for line in answer.aiter_lines():
                if "tick" in line:
                    break
        await cancelled(spy)


async def test_remote_answer_ends_at_the_deadline(tmp_path: Path, spy: Spy) -> None:
    answering = {"max_new_tokens": 8000, "timeout_s": 1.0}
    async with asking(tmp_path, openai(spy, "endless"), answering=answering) as agent:
        with pytest.raises(AnswerTimeout):
            await agent.answering.answer(WHO)
    await cancelled(spy)


# --- egress ---


async def test_pictures_are_sent_only_if_the_camera_allows_it(tmp_path: Path, spy: Spy) -> None:
    """0.0.0.0 is no private address, and reaches the spy all the same: only the rule makes the difference."""
    cameras = {"open": {"egress": "allowed"}, "door": {"egress": "local_only"}, "wall": {}}
    async with asking(tmp_path, openai(spy, host="0.0.0.0"), cameras=cameras) as agent:
        for camera in ("open", "wall", "unlisted"):
            await remember(agent, camera, 3)
        for refused in (
            ("door",),
            ("wall",),
            ("unlisted",),
            ("open", "door"),
            ("door", "open"),
            agent.cameras.existing(()),
        ):
            with pytest.raises(PicturesStayHere, match="egress: allowed"):
                await agent.answering.answer(Question("Who came?", refused))
        assert spy.seen() == []
        assert (await agent.answering.answer(Question("Who came?", ("open",)))).text.startswith("I see 3 pictures.")
        assert len(spy.seen()) == 1


@pytest.mark.parametrize(
    "answers",
    [
        [["127.0.0.1", PUBLIC]],  # one of its addresses is public
        [["127.0.0.1"], ["0.0.0.0"]],  # local when asked first, and then no longer
        [["127.0.0.1"], ["::ffff:0.0.0.0", "127.0.0.1"]],
    ],
)
async def test_names_with_public_addresses_are_refused(tmp_path: Path, spy: Spy, answers: list[Sequence[str]]) -> None:
    async with asking(tmp_path, openai(spy, host="vlm.example"), resolve=Names(*answers)) as agent:
        with pytest.raises(PicturesStayHere):
            await agent.answering.answer(WHO)
        assert spy.seen() == []


async def test_the_connection_goes_to_the_address_that_was_checked(tmp_path: Path, spy: Spy) -> None:
    names = Names(["127.0.0.99", "127.0.0.1"])  # nothing listens on the first
    async with asking(tmp_path, openai(spy, host="vlm.example"), resolve=names) as agent:
        assert (await agent.answering.answer(WHO)).text == "I see 4 pictures."
        assert spy.seen()[0]["headers"]["host"] == f"vlm.example:{spy.port}"
        assert set(names.asked) == {("vlm.example", spy.port)}


async def test_a_refusal_has_its_status_before_a_stream_begins(tmp_path: Path, spy: Spy) -> None:
    async with served(tmp_path, answerer=openai(spy, host="0.0.0.0")) as site, httpx.AsyncClient() as client:
        await remember(site.agent, "door", 3)
        body = {"messages": [{"role": "user", "content": "Who came?"}], "stream": True}
        refused = await client.post(f"{site.url}/v1/chat/completions", json=body, headers=site.headers())
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "egress_refused")
        assert spy.seen() == []


async def test_proxies_of_the_environment_are_not_used(
    tmp_path: Path, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with spying() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://0.0.0.0:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "")
        async with asking(tmp_path, openai(spy)) as agent:
            assert (await agent.answering.answer(WHO)).text == "I see 4 pictures."
        assert (len(spy.seen()), proxy.seen()) == (1, [])


async def test_over_tls_the_certificate_is_that_of_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("agent.ask.remote_client.FIRST_PAUSE_S", 0.01)
    files = prepare_tls(TlsSettings(self_signed=True, hosts=("vlm.example",)), tmp_path, now=time.time())
    assert files is not None
    monkeypatch.setenv("SSL_CERT_FILE", str(files.cert))
    with spying(files.cert, files.key) as spy:
        for host in ("vlm.example", "other.example"):
            answerer = {"kind": "openai", "probe": False, "base_url": spy.url(host, "https"), "model": "good"}
            async with asking(tmp_path / host, answerer, resolve=Names(["127.0.0.1"])) as agent:
                if host == "vlm.example":
                    assert (await agent.answering.answer(WHO)).text == "I see 4 pictures."
                else:
                    with pytest.raises(AnswererAway, match="certificate"):
                        await agent.answering.answer(WHO)


# --- the key ---


async def test_the_key_is_read_from_its_file_at_every_question(tmp_path: Path, spy: Spy) -> None:
    file = tmp_path / "key"
    async with asking(tmp_path / "data", openai(spy, api_key_file=str(file))) as agent:
        with pytest.raises(AnswererRefused, match="key file"):
            await agent.answering.answer(WHO)
        for key in ("first-key", "second-key"):
            file.write_text(key + "\n")
            await agent.answering.answer(WHO)
        file.write_text("two\nlines")
        with pytest.raises(AnswererRefused, match="not printable"):
            await agent.answering.answer(WHO)
    assert [sent["headers"]["authorization"] for sent in spy.seen()] == ["Bearer first-key", "Bearer second-key"]


# --- the pure parts ---


def test_lines_of_a_stream_are_parsed() -> None:
    assert read_line("") is read_line(": comment") is read_line("event: x") is None
    assert read_line("data: [DONE]") == Delta(done=True)
    assert read_line('data:{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}') == Delta("a")
    assert read_line('data: {"choices":[{"delta":{"content":null},"finish_reason":"content_filter"}]}') == Delta(
        finish_reason="content_filter"
    )
    assert read_line('data: {"choices":[{"delta":{"reasoning":"a","content":[{"type":"text","text":"b"}]}}]}') == Delta(
        "b", thought=True
    )
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    assert read_line(f"data: {json.dumps(usage)}") == Delta(prompt_tokens=3, completion_tokens=2)
    strange: list[Any] = [
        {}, {"choices": None}, {"choices": [None]}, {"choices": [{"delta": 3}]}, {"choices": {}, "usage": [1]},
        {"choices": [{"delta": {"content": ["a"]}}], "usage": {"prompt_tokens": -1, "completion_tokens": True}},
    ]  # fmt: skip
    for chunk in strange:
        assert read_line(f"data: {json.dumps(chunk)}") == Delta()
    for line in ("data: ", "data: 3", "data: {", "data: " + "[" * 100_000):
        with pytest.raises(Misunderstood):
            read_line(line)


def test_messages_in_error_bodies_of_all_forms() -> None:
    assert complaint({"error": {"message": "too\n many"}}) == "too many"
    assert complaint({"error": "no model"}) == "no model"
    assert len(complaint({"error": "x" * 1000})) == 200
    assert complaint([]) == complaint({"error": None}) == complaint({"error": {"message": 3}}) == ""


def test_request_body() -> None:
    prompt = Prompt(question_messages("Who?", [Shown("t1:", b"a"), Shown("t2:", b"b")]), 5, 0.5)
    body = prompt.body("m", max_tokens=5, limit_name="max_tokens", refused=frozenset())
    texts = [part.get("text") or part["image_url"]["url"] for part in body["messages"][1]["content"]]
    assert texts == ["t1:", "data:image/jpeg;base64,YQ==", "t2:", "data:image/jpeg;base64,Yg==", "Who?"]
    assert body["messages"][0]["role"] == "system"


async def test_a_follow_up_comes_with_what_was_said(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy)) as agent:
        said = (Said("user", "Did a car come?"), Said("assistant", "Yes."))
        answer = await agent.answering.answer(replace(WHO, earlier=said))
        assert not any("one question at a time" in note for note in answer.finished.notes)
        assert model_card(agent)["vilamp"]["conversations"] is True
    (sent,) = spy.seen()
    roles = [(each["role"], each["content"]) for each in sent["body"]["messages"][1:3]]
    assert roles == [("user", "Did a car come?"), ("assistant", "Yes.")]
    assert sent["body"]["messages"][3]["content"][-1]["text"] == WHO.text


def test_pauses_between_tries() -> None:
    assert [pause(0, 0), pause(2, 1), pause(9, 1)] == [0.25, 2, 8]


def test_settings_of_the_server() -> None:
    assert AnswererSettings().kind == "local"
    good = {"kind": "openai", "model": "m"}
    for url in ("http://127.0.0.1:11434/v1", "https://[fd00::1]:8000/v1/", "http://vlm.lan/openai/v1"):
        assert AnswererSettings.model_validate({**good, "base_url": url}).base_url == url.rstrip("/")
    for url in ("ftp://a/v1", "http://", "127.0.0.1:11434", "http://a:b@c/v1", "http://a/v1?k=1", "http://a:99999/",
                "http://a b/", "http://ä/v1", "http://[::1/v1"):  # fmt: skip
        with pytest.raises(ValueError, match="must be an address"):
            AnswererSettings.model_validate({**good, "base_url": url})
    with pytest.raises(ValueError, match="needs base_url and model"):
        AnswererSettings.model_validate({"kind": "openai", "model": "m"})
    with pytest.raises(ValueError, match="not both"):
        AnswererSettings.model_validate({"api_key": "a", "api_key_file": "b"})
    with pytest.raises(ConfigError) as refused:
        load_settings(None, environ={}, overrides={"answerer": {"api_key": ["sk-secret"]}})
    assert "sk-secret" not in str(refused.value)
    hidden = effective(load_settings(None, environ={"VILAMP_ANSWERER__API_KEY": "sk-secret"}))
    assert set(hidden["answerer"]["api_key"]) == {"*"}


async def test_a_model_that_says_neither_yes_nor_no_is_not_taken_for_no(tmp_path: Path, spy: Spy) -> None:
    async with asking(tmp_path, openai(spy, "any")) as agent:  # says "I see 1 pictures." of every picture
        answer = await agent.answering.answer(replace(WHO, text="Was there a person?"))
    assert "I saw no person" not in answer.text
    assert "person stood out" in answer.text
    assert any("whether it shows person" in step for step in answer.steps)
