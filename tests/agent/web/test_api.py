"""The HTTP API against a real server: what OpenAI clients, browsers and supervisors see."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from agent.keep.export import NothingToExport
from tests.support.agents import START, Served, remember, served

ASK = {"messages": [{"role": "user", "content": "Who came?"}]}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as site:
        await remember(site.agent, "door", 12)
        yield site


@pytest.fixture
async def http(site: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=30) as http:
        yield http


def client(site: Served, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{site.url}/v1", api_key=site.token(), max_retries=0, **options)


async def test_the_openai_client_gets_a_whole_answer(site: Served, http: httpx.AsyncClient) -> None:
    async with client(site) as ai:
        answer = await ai.chat.completions.create(model="vilamp", extra_body={"camera": "door"}, **ASK)  # type: ignore[call-overload]
        listed = [model.id async for model in ai.models.list()]
        model = await ai.models.retrieve(listed[0])
    choice = answer.choices[0]
    assert choice.finish_reason in ("stop", "length")
    assert "11 s of video so far" in choice.message.content
    assert answer.usage.completion_tokens <= 8
    assert answer.model == model.id == listed[0]
    citations = choice.message.annotations
    assert {citation.model_dump()["kind"] for citation in citations} <= {"relevant", "recent", "filling"}
    times = [citation.model_dump()["time"] for citation in citations]
    assert times == sorted(times)
    async with httpx.AsyncClient() as stranger:
        picture = await stranger.get(citations[0].model_dump()["url"])  # opens without a token
    assert picture.status_code == 200
    assert picture.content[:2] == b"\xff\xd8"
    assert set(answer.model_extra["vilamp"]["timings_ms"]) >= {
        "queue", "window", "embed", "select", "reencode", "merge", "first_token", "total",
    }  # fmt: skip


async def test_a_request_chooses_how_keyframes_are_selected(http: httpx.AsyncClient) -> None:
    asked = {**ASK, "camera": "door"}
    found = (await http.post("/v1/chat/completions", json={**asked, "selection": "visits"})).json()
    for visit in found["vilamp"]["visits"]:
        assert visit["start"] <= visit["peak"] <= visit["end"]
        assert visit["camera"] == "door"
    paper = (await http.post("/v1/chat/completions", json={**asked, "selection": "dks"})).json()
    assert paper["vilamp"]["visits"] == []
    refused = await http.post("/v1/chat/completions", json={**asked, "selection": "best"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "selection"
    assert "'visits', 'dks', 'top_k' or 'uniform'" in refused.json()["error"]["message"]


async def test_the_openai_client_streams(site: Served) -> None:
    async with client(site) as ai:
        stream = await ai.chat.completions.create(  # type: ignore[call-overload]
            model="vilamp", stream=True, stream_options={"include_usage": True}, extra_body={"camera": "door"}, **ASK
        )
        chunks = [chunk async for chunk in stream]
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == chunks[-1].usage.prompt_tokens + chunks[-1].usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")
    with_content = [chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content is not None]
    assert with_content[1].choices[0].delta.model_extra["annotations"]  # before the first word
    cited = ["annotations" in (chunk.choices[0].delta.model_extra or {}) for chunk in with_content]
    assert cited.count(True) == 1
    text = "".join(chunk.choices[0].delta.content for chunk in with_content)
    async with client(site) as ai:
        whole = await ai.chat.completions.create(model="vilamp", extra_body={"camera": "door"}, **ASK)  # type: ignore[call-overload]
    assert text == whole.choices[0].message.content


async def test_the_bytes_of_a_stream(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/chat/completions", json={**ASK, "stream": True})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    bodies = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert "usage" not in bodies[0]
    assert bodies[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert bodies[-1]["vilamp"]["frames"] == 12


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"messages": []}, 400, "invalid_request"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "invalid_request"),
        ({"camera": "nowhere"}, 404, "camera_not_found"),
        ({"model": "gpt-4"}, 404, "model_not_found"),
        ({"after": "soon"}, 400, "invalid_request"),
        ({"after": START + 2, "before": START + 1}, 400, "invalid_request"),
        ({"after": START + 1e6}, 422, "no_frames"),
        ({"before": "2020-01-01T00:00:00Z"}, 422, "no_frames"),
        ({"messages": [{"role": "user", "content": "x" * 3000}]}, 413, "question_too_long"),
        ({"messages": [{"role": "user", "content": "x" * (1 << 21)}]}, 413, "request_too_large"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_have_their_status_and_code(
    http: httpx.AsyncClient, fields: dict[str, Any], status: int, code: str, stream: bool
) -> None:
    response = await http.post("/v1/chat/completions", json={**ASK, **fields, "stream": stream})
    assert response.status_code == status
    error = response.json()["error"]
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"}
    assert "http" not in error["message"]


async def test_the_openai_client_raises_its_own_exceptions(site: Served) -> None:
    async with client(site) as ai:
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            await ai.chat.completions.create(model="vilamp", extra_body={"after": START + 1e6}, **ASK)  # type: ignore[call-overload]
        assert caught.value.code == "no_frames"
        with pytest.raises(openai.NotFoundError):
            await ai.models.retrieve("gpt-4")
    async with openai.AsyncOpenAI(base_url=f"{site.url}/v1", api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.chat.completions.create(model="vilamp", **ASK)  # type: ignore[call-overload]


async def test_cameras_and_frames(site: Served, http: httpx.AsyncClient) -> None:
    (door,) = (await http.get("/v1/cameras")).json()["data"]
    assert (door["id"], door["frames"], door["encoded"], door["state"]) == ("door", 12, 12, "offline")
    again = (await http.get("/v1/cameras/door")).json()
    assert {**again, "latest": door["latest"]} == door  # its URL may have been signed a second later
    assert door["latest"]["time"] == door["newest"]
    assert (await http.get("/v1/cameras/nowhere")).status_code == 404
    seen: list[float] = []
    page: dict[str, Any] = {"next_after": START + 2}
    while page["next_after"] is not None:
        page = (await http.get("/v1/cameras/door/frames", params={"after": page["next_after"], "limit": 4})).json()
        assert len(page["data"]) <= 4
        seen += [frame["time"] - START for frame in page["data"]]
    assert seen == [float(n) for n in range(2, 12)]
    frame = page["data"][-1]
    assert (await http.get(f"/v1/frames/{frame['frame_id']}")).json()["time"] == frame["time"]
    async with httpx.AsyncClient(base_url=site.url) as stranger:
        assert (await stranger.get(frame["url"])).status_code == 200
    for wrong in ("limit=0", "limit=x", "limit=10000", "after=soon"):
        assert (await http.get(f"/v1/cameras/door/frames?{wrong}")).status_code == 400
    assert (await http.get("/v1/frames/999999.jpg")).status_code == 404
    assert (await http.get("/v1/nothing")).json()["error"]["code"] == "not_found"
    assert (await http.delete("/v1/cameras")).status_code == 405


async def test_signed_urls_open_one_picture_for_a_while(site: Served) -> None:
    signed = site.auth.sign_path("/v1/frames/1.jpg", site.agent.clock(), 60)
    expired = site.auth.sign_path("/v1/frames/1.jpg", site.agent.clock() - 120, 60)
    async with httpx.AsyncClient(base_url=site.url) as http:
        assert (await http.get(signed)).status_code == 200
        assert (await http.get(signed.replace("/1.jpg", "/2.jpg"))).status_code == 403
        assert (await http.get(expired)).status_code == 403
        assert (await http.get(signed.replace("/1.jpg", "/1"))).status_code == 401


async def test_questions_beyond_the_limit_get_a_429_with_retry_after(tmp_path: Path) -> None:
    answering = {"max_questions": 2, "max_new_tokens": 500}
    async with served(tmp_path, answering=answering) as site:
        await remember(site.agent, "door", 4)
        async with httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=60) as http:
            responses = await asyncio.gather(*(http.post("/v1/chat/completions", json=ASK) for _ in range(6)))
    statuses = sorted(response.status_code for response in responses)
    assert statuses == [200, 200, 429, 429, 429, 429]
    busy = next(response for response in responses if response.status_code == 429)
    assert int(busy.headers["retry-after"]) >= 1
    assert busy.json()["error"]["code"] == "busy"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_disconnects_frees_the_lane(tmp_path: Path, stream: bool) -> None:
    async with served(tmp_path, answering={"max_questions": 1, "max_new_tokens": 3000}) as site:
        await remember(site.agent, "door", 4)
        turns = site.agent.answering.queue.turns
        async with httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=60) as http:
            going = asyncio.create_task(_read_a_little(http, stream))
            while turns.num_inside == 0:
                await asyncio.sleep(0.005)
            if stream:
                await going
            else:
                while site.agent.language.depth == 0:
                    await asyncio.sleep(0.005)
                going.cancel()
                await asyncio.gather(going, return_exceptions=True)
            while turns.num_inside:  # the test's time limit is the judge
                await asyncio.sleep(0.005)
            response = await http.post("/v1/chat/completions", json={**ASK, "max_tokens": 2})
            assert response.status_code == 200
            text = (await http.get("/metrics")).text
    assert 'vilamp_questions_total{reason="cancelled"} 1.0' in text
    assert 'vilamp_questions_total{reason="answered"} 1.0' in text


async def _read_a_little(http: httpx.AsyncClient, stream: bool) -> None:
    async with http.stream("POST", "/v1/chat/completions", json={**ASK, "stream": stream}) as response:
        async for line in response.aiter_lines():
            if '"content":' in line and '"content":""' not in line:
                return


async def test_a_silent_stream_is_kept_alive_by_comments(tmp_path: Path) -> None:
    async with served(tmp_path, keep_alive_s=0.05) as site:
        await remember(site.agent, "door", 4)
        async with (
            httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=60) as http,
            site.agent.answering.queue.turns.turn(),
            http.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as response,
        ):
            assert response.status_code == 200
            lines = response.aiter_lines()
            while (await anext(lines)) != ": still here":
                pass


async def test_an_error_in_mid_stream_ends_it_without_done(tmp_path: Path) -> None:
    async with served(tmp_path, answering={"timeout_s": 0.2}) as site:
        await remember(site.agent, "door", 4)
        async with (
            httpx.AsyncClient(base_url=site.url, headers=site.headers(), timeout=60) as http,
            site.agent.answering.queue.turns.turn(),  # so that the question's turn never comes
        ):
            response = await http.post("/v1/chat/completions", json={**ASK, "stream": True})
            whole = await http.post("/v1/chat/completions", json=ASK)
    assert response.status_code == 200
    last = response.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
    assert "[DONE]" not in response.text
    assert whole.status_code == 503
    assert whole.json()["error"]["code"] == "timeout"


async def test_an_export_stops_and_cleans_up_when_its_client_disconnects(
    site: Served, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folders: list[Path] = []

    def endless(*args: object, video: Path, cancelled: Callable[[], bool], **rest: object) -> None:
        folders.append(video.parent)
        while not cancelled():
            time.sleep(0.01)
        raise NothingToExport("stopped")

    monkeypatch.setattr("agent.web.memory.export", endless)
    window = {"after": START, "before": START + 10}
    with pytest.raises(httpx.ReadTimeout):
        await http.get("/v1/cameras/door/export", params=window, timeout=0.3)
    async with asyncio.timeout(10):
        while folders[0].exists():
            await asyncio.sleep(0.02)
    monkeypatch.undo()
    assert (await http.get("/v1/cameras/door/export", params=window)).status_code == 200
    assert not [record for record in caplog.records if record.exc_info]
