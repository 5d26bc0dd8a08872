"""Request bodies: null means an omitted field, unsupported or misspelt fields are refused, compressed bodies are read."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from agent.ask.answer import Answering
from agent.ask.request import parse_moment, parse_request
from agent.errors import BadRequest, Busy
from agent.mqtt.asking import parse as parse_payload
from agent.untrusted.fields import check_spelling, nearest
from agent.untrusted.strict_json import parse_json
from agent.untrusted.wire import json_bytes, whole_text
from agent.web.body import _Unpacked
from agent.web.robot import _request_of
from agent.web.streams import sse
from tests.support.agents import START, Served, remember, served

QUESTION = [{"role": "user", "content": "When did a red car come?"}]
ASK: dict[str, Any] = {"messages": QUESTION, "camera": "door"}
CHAT = "/v1/chat/completions"
one_loop = pytest.mark.asyncio(loop_scope="module")  # one agent for the whole module


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with served(tmp_path_factory.mktemp("site")) as site:
        await remember(site.agent, "door", 6)
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def http(site: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=site.url, headers=site.headers("owner"), timeout=30) as http:
        yield http


def message_of(response: httpx.Response) -> str:
    return str(response.json()["error"]["message"])


# --- null ---

NULLABLE = (
    "model", "stream", "stream_options", "max_completion_tokens", "max_tokens", "temperature", "n", "cameras", "after",
    "before", "within", "response_format", "tools", "tool_choice", "functions", "function_call", "logprobs", "top_logprobs",
    "stop", "audio", "modalities", "web_search_options", "seed", "user", "metadata", "unheard_of",
)  # fmt: skip


@one_loop
async def test_null_means_an_omitted_field(http: httpx.AsyncClient) -> None:
    asked = {**ASK, **dict.fromkeys(NULLABLE), "messages": [{**QUESTION[0], "name": None, "tool_calls": None}]}
    assert (await http.post(CHAT, json=asked)).status_code == 200
    parts = [{"role": "user", "content": [{"type": "text", "text": "Who came?", "annotations": None}]}]
    some = {"stream_options": {"include_usage": None}, "within": {"x": 1, "y": 2, "radius_m": 3, "z": None}}
    assert parse_request(json.dumps({"messages": parts, **some}).encode()).question() == "Who came?"


@one_loop
async def test_null_means_an_omitted_field_in_rules(http: httpx.AsyncClient) -> None:
    made = await http.post(
        "/v1/rules",
        json={"name": "nulls", "condition": "a red car", "cameras": None, "gate": {"on": None}, "clear": None},
    )
    assert made.status_code == 201, made.text
    changed = await http.patch("/v1/rules/nulls", json={"clear": 5, "hold_s": None, "name": None})
    assert (changed.json()["clear"], changed.json()["hold_s"]) == (5, made.json()["hold_s"])
    assert (await http.patch("/v1/rules/nulls", json={"clear": None})).json()["clear"] == made.json()["clear"]
    snoozed = await http.post("/v1/rules/nulls/snooze", json={"minutes": 1, "until": None, "camera": None})
    assert snoozed.status_code == 200, snoozed.text
    trial = {"rule": "nulls", "cameras": None, "after": None, "before": None, "sweep": None, "stream": None}
    assert (await http.post("/v1/rules/dry-run", json={**trial, "max_judgements": None})).status_code == 200
    assert (await http.put("/v1/rules/nulls", json={"condition": "a dog", "snooze": None})).status_code == 200


def test_null_means_an_omitted_field_over_mqtt_and_data_channels() -> None:
    asked = parse_payload(
        b'{"question": "Who?", "id": null, "camera": null, "cameras": null, "after": null, "before": null}'
    )
    assert asked.named() == ()
    said = {"type": "ask", "id": "1", "question": "Who?", "temperature": None, "within": None, "after": None}
    assert _request_of(said, "robot").named_cameras() == ("robot",)


@one_loop
async def test_null_inside_metadata_is_a_value(http: httpx.AsyncClient, site: Served) -> None:
    told = await http.put("/v1/cameras/door/metadata", json={"zone": None, "x": 1})
    assert told.status_code == 204
    assert site.agent.cameras.intake_of("door")._published.at(site.agent.clock()) == {"zone": None, "x": 1}


# --- unsupported and misspelt fields ---


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "required"},
        {"functions": [{"name": "f"}]},
        {"function_call": {"name": "f"}},
        {"n": 2},
        {"n": 0},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"web_search_options": {}},
        {"stop": ["."]},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
@one_loop
async def test_unsupported_fields_are_refused(http: httpx.AsyncClient, fields: dict[str, Any], stream: bool) -> None:
    refused = await http.post(CHAT, json={**ASK, **fields, "stream": stream})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == next(iter(fields))
    assert "not supported" in message_of(refused) or "must be" in message_of(refused)


@one_loop
async def test_fields_without_effect_are_accepted(http: httpx.AsyncClient) -> None:
    harmless = {
        "response_format": {"type": "text"}, "tools": [], "tool_choice": "auto", "functions": [], "function_call": "none",
        "n": 1, "logprobs": False, "top_logprobs": 0, "modalities": ["text"], "stop": [], "top_p": 0.5, "seed": 3,
        "user": "ann", "presence_penalty": 0.1, "frequency_penalty": 0, "logit_bias": {}, "store": False, "metadata": {},
        "service_tier": "auto", "parallel_tool_calls": True, "reasoning_effort": "low", "verbosity": "low",
        "prediction": {"type": "content", "content": "x"}, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1,
    }  # fmt: skip
    assert (await http.post(CHAT, json={**ASK, **harmless})).status_code == 200


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("camra", "camera"), ("Camera", "camera"), ("camera_id", "camera"), ("cameraName", "camera"), ("camreas", "cameras"),
        ("befor", "before"), ("bfore", "before"), ("until", "before"), ("aftr", "after"), ("since", "after"),
        ("cam_id", "camera"),
        ("wihtin", "within"), ("steam", "stream"), ("max_token", "max_tokens"), ("temprature", "temperature"),
        ("top_k", None), ("chat_template_kwargs", None), ("guided_json", None), ("session_id", None), ("x", None),
    ],
)  # fmt: skip
@one_loop
async def test_misspelt_fields_are_refused_with_a_suggestion(
    http: httpx.AsyncClient, name: str, meant: str | None
) -> None:
    response = await http.post(CHAT, json={"messages": QUESTION, "max_tokens": 1, name: "door"})
    if meant is None:
        assert response.status_code == 200
        return
    assert response.status_code == 400
    assert f"did you mean '{meant}'?" in message_of(response)


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("GET", "/v1/cameras/door/frames?befor=1795363445", "before"),
        ("GET", "/v1/cameras/door/frames?Limit=3", "limit"),
        ("GET", "/v1/cameras/door/timeline?aftr=1795363445", "after"),
        ("GET", "/v1/cameras/door/export?after=1&before=1795363445&bfore=2", "before"),
        ("DELETE", "/v1/cameras/door/frames?all=true&befor=1795363445", "before"),
        ("GET", "/v1/alerts?camra=door", "camera"),
        ("GET", "/v1/alerts/stream?camra=door", "camera"),
        ("GET", "/v1/frames/1.jpg?widht=3", "width"),
    ],
)
@one_loop
async def test_misspelt_query_parameters_are_refused_with_a_suggestion(
    http: httpx.AsyncClient, method: str, path: str, meant: str
) -> None:
    refused = await http.request(method, path)
    assert refused.status_code == 400
    assert f"did you mean '{meant}'?" in message_of(refused)


@pytest.mark.parametrize(
    ("path", "name", "words"),
    [
        ("/v1/alerts?camera=door&camera=yard", "camera", "twice"),
        ("/v1/cameras/door/frames?after=1&after=2", "after", "twice"),
        ("/v1/rules?camera=door", "camera", "no effect"),
        ("/v1/memory?camera=door", "camera", "no effect"),
        ("/v1/cameras/door/export?after=1&before=2&question=dog", "question", "no effect"),
    ],
)
@one_loop
async def test_unused_query_parameters_are_refused(http: httpx.AsyncClient, path: str, name: str, words: str) -> None:
    refused = await http.get(path)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)
    assert words in message_of(refused)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"stream_options": {"include_usge": True}}, "include_usge", "did you mean 'include_usage'"),
        ({"extra_body": {"camera": "door"}}, "extra_body", "beside 'messages'"),
        ({"after": True}, "after", "unix seconds"),
        ({"before": False}, "before", "unix seconds"),
    ],
)
@one_loop
async def test_fields_in_the_wrong_form_are_refused(
    http: httpx.AsyncClient, fields: dict[str, Any], param: str, words: str
) -> None:
    refused = await http.post(CHAT, json={**ASK, **fields})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"].startswith(param)
    assert words in message_of(refused)


@one_loop
async def test_misspelt_rule_settings_are_refused_with_a_suggestion(http: httpx.AsyncClient) -> None:
    refused = await http.post("/v1/rules", json={"name": "a", "condition": "a car", "camras": ["door"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "camras")
    assert "did you mean 'cameras'?" in message_of(refused)


@given(st.text(max_size=12))
def test_correct_spelling_is_never_refused(name: str) -> None:
    check_spelling(["camera", "before"], {"camera", "before"})
    assert nearest(name, ()) is None
    assert nearest("camera", {"camera", "cameras", name}) == "camera"


# --- times ---


@pytest.mark.parametrize(
    "value", [START * 1e3, START * 1e6, START * 1e9, int(START * 1e3), str(int(START * 1e3)), 1e11]
)
@one_loop
async def test_time_in_milliseconds_is_refused_with_a_hint(http: httpx.AsyncClient, value: float | str) -> None:
    for name in ("after", "before"):
        refused = await http.post(CHAT, json={**ASK, name: value})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)
        assert "unix seconds" in message_of(refused)
        listed = await http.get(
            "/v1/cameras/door/frames", params={name: value if isinstance(value, str) else f"{value:.0f}"}
        )
        assert (listed.status_code, listed.json()["error"]["param"]) == (400, name)
    with pytest.raises(BadRequest, match="milliseconds: divide by 1000"):
        parse_moment(START * 1e3, "UTC", "after")


@one_loop
async def test_time_in_milliseconds_is_refused_in_rules(http: httpx.AsyncClient) -> None:
    await http.put("/v1/rules/late", json={"condition": "a car"})
    for refused in (
        await http.post("/v1/rules/late/snooze", json={"until": START * 1000}),
        await http.patch("/v1/rules/late", json={"snooze": START * 1000}),
    ):
        assert refused.status_code == 400
        assert "looks like milliseconds" in message_of(refused)


def test_times_of_any_age_are_accepted() -> None:
    assert parse_moment(-1e30, "UTC", "after") == 0
    assert parse_moment("0001-01-01", "UTC", "after") == 0
    assert parse_moment("9999-12-31T23:59:59Z", "UTC", "before") == 1e11
    assert parse_moment(f"{START:.1f}", "UTC", "before") == parse_moment(START, "UTC", "before") == START


# --- bodies ---

RAW = zlib.compressobj(wbits=-15)
# mtime=0: bodies become names of tests, which must be equal in all processes of a run
PACKED = {
    "gzip": gzip.compress(json.dumps(ASK).encode(), mtime=0),
    "x-gzip": gzip.compress(json.dumps(ASK).encode()[:9], mtime=0)
    + gzip.compress(json.dumps(ASK).encode()[9:], mtime=0),
    "deflate": zlib.compress(json.dumps(ASK).encode()),
    "Deflate": RAW.compress(json.dumps(ASK).encode()) + RAW.flush(),
    "identity": json.dumps(ASK).encode(),
}


@pytest.mark.parametrize("coding", PACKED)
@pytest.mark.parametrize("chunked", [False, True])
@one_loop
async def test_compressed_bodies_are_read(http: httpx.AsyncClient, coding: str, chunked: bool) -> None:
    async def in_pieces() -> AsyncIterator[bytes]:
        for place in range(0, len(PACKED[coding]), 7):
            yield PACKED[coding][place : place + 7]

    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    content = in_pieces() if chunked else PACKED[coding]
    answer = await http.post(CHAT, content=content, headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("coding", "content", "status"),
    [
        ("br", b"x", 415),
        ("zstd", b"x", 415),
        ("gzip, gzip", PACKED["gzip"], 415),
        ("gzip", b"not packed", 400),
        ("gzip", PACKED["gzip"][:-4], 400),
        ("gzip", PACKED["gzip"] + b"more", 400),
        ("deflate", PACKED["deflate"] + b"more", 400),
        ("gzip", b"", 400),
        ("gzip", gzip.compress(b" " * (64 << 20), mtime=0), 413),
        ("deflate", zlib.compress(b"[" * (64 << 20)), 413),
    ],
)
@one_loop
async def test_broken_compressed_bodies_are_refused(
    http: httpx.AsyncClient, coding: str, content: bytes, status: int
) -> None:
    refused = await http.post(CHAT, content=content, headers={"Content-Encoding": coding})
    assert refused.status_code == status, refused.text
    if status == 415:
        assert refused.headers["accept-encoding"] == "gzip, deflate"


@one_loop
async def test_decompression_stops_at_the_size_limit() -> None:
    """A body of 64 KiB expands to 64 MiB: only one part is decompressed at a time."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": gzip.compress(bytes(64 << 20)), "more_body": False}

    first = await _Unpacked(receive, ["gzip"]).receive()
    assert len(first["body"]) == 64 << 10


@one_loop
async def test_compressed_webrtc_offers_are_read(http: httpx.AsyncClient, site: Served) -> None:
    headers = {**site.headers("publisher"), "Content-Type": "application/sdp", "Content-Encoding": "gzip"}
    refused = await http.post("/whip/door", content=gzip.compress(b"hello"), headers=headers)
    assert refused.status_code == 400
    assert "v=0" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 200),
        ("application/json", 200),
        ("application/json; charset=UTF-8", 200),
        ('Application/JSON;charset="utf-8"', 200),
        ("application/x-www-form-urlencoded", 200),
        ("text/plain", 200),
        ("application/problem+json", 200),
        ("application/json; charset=utf-16", 415),
        ("multipart/form-data; boundary=x", 415),
        ("image/png", 415),
        ("", 415),
    ],
)
@one_loop
async def test_unsupported_content_types_are_refused(site: Served, content_type: str | None, status: int) -> None:
    headers = site.headers() if content_type is None else {**site.headers(), "Content-Type": content_type}
    async with httpx.AsyncClient(base_url=site.url, timeout=30) as http:
        answer = await http.post(CHAT, content=json.dumps(ASK).encode(), headers=headers)
        assert answer.status_code == status, answer.text
        twice = [*site.headers().items(), ("Content-Type", "application/json"), ("Content-Type", "text/plain")]
        assert (await http.post(CHAT, content=json.dumps(ASK).encode(), headers=twice)).status_code == 415


STRANGE = [
    b"", b"{", b"[]", b"null", b"\xff\xfe{\x00}\x00", b'{"messages": "\\ud800"}', b"\xef\xbb\xbf[]", b"[" * 100_000,
    b'{"a":' * 900 + b"1" + b"}" * 900, b'{"a": 1, "a": 2}', b'{"messages": [], "messages": []}', b'{"after": NaN}',
    b'{"after": -Infinity}', b'{"after": 1e999}', b'{"after": ' + b"9" * 5000 + b"}",
    b'{"\\udfff": 1}', '{"condition": "\ud800"}'.encode("utf-8", "surrogatepass"),
]  # fmt: skip


@pytest.mark.parametrize("content", STRANGE)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", CHAT), ("POST", "/v1/rules"), ("PUT", "/v1/rules/a"), ("PATCH", "/v1/rules/a"),
        ("POST", "/v1/rules/a/snooze"), ("POST", "/v1/rules/dry-run"), ("PUT", "/v1/cameras/door/metadata"),
    ],
)  # fmt: skip
@one_loop
async def test_malformed_json_is_refused(http: httpx.AsyncClient, method: str, path: str, content: bytes) -> None:
    refused = await http.request(method, path, content=content)
    assert 400 <= refused.status_code < 500, refused.text
    assert refused.json()["error"]["message"]


def test_duplicate_keys_are_refused() -> None:
    with pytest.raises(BadRequest, match="'camera' twice"):
        parse_json('{"messages": [], "camera": "door", "camera": "yard"}')
    assert parse_json('{"a": {"b": 1}, "b": ["\\ud83d\\ude00"]}') == {"a": {"b": 1}, "b": ["😀"]}


# --- responses ---


@given(st.text(st.characters(), max_size=20) | st.text(st.characters(categories=["Cs"]), max_size=4))
def test_any_unicode_text_can_be_sent(text: str) -> None:
    assert json.loads(sse({"a": text}).removeprefix(b"data: ")) == {"a": whole_text(text)}


def test_lone_surrogates_and_nan_are_replaced() -> None:
    assert json.loads(json_bytes({"a\ud800b": ["\ud83d", "\ud83d\ude00", float("nan"), (1, float("inf"))]})) == {
        "a\ufffdb": ["\ufffd", "😀", None, [1, None]]
    }


@pytest.mark.parametrize("stream", [False, True])
@one_loop
async def test_answer_with_a_lone_surrogate_is_sent(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """An answering server may send it."""
    from agent.ask.question import Piece

    asking = Answering.ask

    class Halved:
        def __init__(self, context: Any) -> None:
            self.context = context

        async def __aenter__(self) -> AsyncIterator[Any]:
            events = await self.context.__aenter__()

            async def halved() -> AsyncIterator[Any]:
                async for event in events:
                    yield Piece("\ud800!") if isinstance(event, Piece) else event

            return halved()

        async def __aexit__(self, *error: Any) -> Any:
            return await self.context.__aexit__(*error)

    monkeypatch.setattr(Answering, "ask", lambda self, question: Halved(asking(self, question)))
    answer = await http.post(CHAT, json={**ASK, "stream": stream})
    assert answer.status_code == 200
    assert "\ufffd!" in answer.text
    assert not stream or answer.text.endswith("data: [DONE]\n\n")


# --- overload ---


@one_loop
async def test_each_overload_error_names_its_limit(http: httpx.AsyncClient, site: Served) -> None:
    bounds = {"after": START, "before": START + 10}
    memory = next(route.endpoint.__self__ for route in site.app.routes if route.path.endswith("/export"))  # type: ignore[attr-defined]
    async with memory._exports.place():
        clip = await http.get("/v1/cameras/door/export", params=bounds)
    assert (clip.status_code, clip.headers["retry-after"]) == (429, "5")
    assert "clip" in message_of(clip)
    timeline = next(route.endpoint.__self__ for route in site.app.routes if route.path.endswith("/timeline"))  # type: ignore[attr-defined]
    async with asyncio.TaskGroup() as group, timeline._turns.turn():
        asked = [group.create_task(http.get("/v1/cameras/door/timeline")) for _ in range(20)]
        while not any(each.done() for each in asked):
            await asyncio.sleep(0.01)
    busy = next(each.result() for each in asked if each.result().status_code == 429)
    assert "timelines" in message_of(busy)
    assert "questions" in Busy(1).message


def test_mqtt_payloads_are_as_strict() -> None:
    for payload in (
        b'{"question": "a", "question": "b"}',
        b'{"question": "\\ud800"}',
        b'{"question": "a", "camra": "b"}',
    ):
        with pytest.raises(BadRequest):
            parse_payload(payload)
