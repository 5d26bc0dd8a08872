"""Text that would steer a terminal or deceive a reader: cleaned at the wire and again by every command that prints it."""

import ast
import asyncio
import json
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from agent.cli.main import main
from agent.ingest.metadata import check_metadata
from agent.runtime.logs import JsonLines
from agent.untrusted.plain import PlainText, plain, plain_json, plain_line
from tests.support.agents import ListSource, frames, served, settings_in
from tests.support.clips import write_video
from tests.support.rules import RULE
from tests.support.streams import serve
from tests.support.vlm_server import spying

ROOT = Path(__file__).parents[3]
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
ZERO_WIDTH = "\u200b\u2060\u2061\u2062\u2063\u2064\ufeff\u00ad\u180e\u034f\u115f\u3164"
BAD = f"\x1b[31mred\x1b]52;c;cm0gLXJm\x07\x1b]8;;http://evil.example\x1b\\link\x9b2J\x9d0;t\x9c\x08\x00{BIDI}{ZERO_WIDTH}\U000e0041\ud800.\x7f"


def steers(text: str) -> list[str]:
    """The characters of `text` that no terminal should get."""
    return [
        ascii(char)
        for char in text
        if (unicodedata.category(char) in ("Cc", "Cs", "Cf") and char not in "\n\t\u200c\u200d")
        or char in BIDI + ZERO_WIDTH
        or "\U000e0000" <= char <= "\U000e0fff"
    ]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a\x1b[1;31mb\x1b[0m", "ab"),
        ("a\x1b]52;c;cm0=\x07b", "ab"),
        ("a\x1b]0;title\x1b\\b", "ab"),
        ("a\x1bP1;2q~\x1b\\b\x1b_x\x1b\\c", "abc"),
        ("a\x9b31mb\x9d0;t\x9cc\x85d", "abc\nd"),
        ("a\x1b(0b\x1bcc", "abc"),
        ("never ended \x1b]52;c;cm0=\nnext", "never ended \nnext"),
        ("1\r\n2\r3", "1\n2\n3"),
        ("user\u202egpj.exe", "usergpj.exe"),
        ("pass\u200bword \u200dx\u200cy", "password xy"),
        ("half \ud800.", "half \ufffd."),
        ("a\u2028b", None),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f\u200d\U0001f525", None),  # families and hearts
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u0915\u094d\u200d\u0937", None),  # Persian, Hindi
        ("Zürich 北京 Москва עברית\tтаб\n\u0e20\u0e32\u0e29\u0e32", None),
    ],
)
def test_what_is_left(text: str, left: str | None) -> None:
    assert plain(text) == (text if left is None else left)


TEXTS = st.text(st.one_of(st.sampled_from([*BAD, *"[]P;\\m0123456789abc \n\r", "\u200d", "\ufe0f"]), st.characters()))


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.lists(st.integers(0, 30), max_size=4))
def test_nothing_that_steers_is_left_however_it_is_cut(text: str, cuts: list[int]) -> None:
    assert steers(plain(text)) == []
    assert plain(plain(text)) == plain(text)
    text = text.replace("\r", "")  # a CR and its LF in two pieces are two line ends
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = PlainText()
    assert "".join(pieces.feed(text[a:b]) for a, b in pairwise(places)) == plain(text)


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_json_is_complete_and_harmless(text: str) -> None:
    shown = plain_json({"text": text})
    assert json.loads(shown) == json.loads(json.dumps({"text": text}))
    assert steers(shown) == []
    assert "\n" not in plain_line(text)


def test_a_long_sequence_does_not_swallow_the_answer() -> None:
    assert plain("\x1b]0;" + "x" * 5000 + " the answer").endswith(" the answer")


def test_every_command_prints_with_the_one_function() -> None:
    for path in (ROOT / "agent" / "cli").glob("*.py"):
        called = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        prints = sum(isinstance(func, ast.Name) and func.id == "print" for func in called)
        assert prints == (path.name == "common.py"), f"{path.name}: use say() of agent/cli/common.py"


# --- a server that is not what it says it is ---


def hostile(value: Any) -> Any:
    """Every text of a JSON value with something in it that steers."""
    if isinstance(value, str):
        return f"{BAD}{value}"
    if isinstance(value, dict):
        return {name: hostile(inner) for name, inner in value.items()}
    return [hostile(inner) for inner in value] if isinstance(value, list) else value


STATE = {"on": False, "since": None, "last_alert": None, "gate_score": 1.0, "gate_open": False, "judge_calls": 2,
         "suppressed": {BAD: 1}, "snoozed_until": 0.0}  # fmt: skip
RULE_SHOWN = hostile({"name": "bag", "condition": "a\nbag", "cameras": ["yard"], "source": "api"}) | {
    "problem": BAD, "enabled": True, "snoozed_until": 0.0, "state": {BAD: STATE}
}  # fmt: skip
ALERT = {
    "camera": BAD,
    "start_time": 1e9,
    "time": 1e9,
    "end_time": None,
    "confirmations": [2, 3],
    "score": 1.0,
    "frames": [{"id": 1}],
}
TRIAL = {
    "rule": {"condition": BAD, "gate": {"on": 8.0}}, "cameras": [BAD], "frames": 3, "after": 1e9, "until": 1e9 + 9,
    "alerts": [ALERT], "gate_openings": 1, "judge_calls": 1, "judge_calls_per_hour": 1.0, "judge_share": 0.5,
    "suppressed_counts": {BAD: 1}, "unencoded": 0, "complete": True, "sweep": [],
}  # fmt: skip
HELD = {"camera": BAD, "frames": 1, "encoded": 1, "hot": 1, "archive": 0, "bytes": 5, "oldest": 1e9, "newest": 1e9,
        "bytes_per_day": None, "cap_use": 0.5, "cap": BAD, "reach": BAD}  # fmt: skip
FOLDER = {"frames": 1, "bytes": 5, "max_frames": None, "max_bytes": None}
CITED = {
    "frame_id": 1,
    "camera": BAD,
    "time": 1e9,
    "score": 0.5,
    "kind": BAD,
    "url": "/v1/frames/1.jpg",
    "metadata": {"x": BAD},
}


def as_json(value: Any, status: int = 200) -> Response:
    """Surrogates stay in it, escaped."""
    return Response(json.dumps(value), status, media_type="application/json")


def sse(*events: Any) -> Response:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return StreamingResponse(iter([*lines, "data: [DONE]\n\n"]), media_type="text/event-stream")


async def answer(request: Request) -> Response:
    if (await request.json())["messages"][0]["content"] == "refuse":
        return as_json({"error": {"message": f"no\nvilamp: {BAD}", "code": "x"}}, 400)
    pieces = [
        {"choices": [{"delta": {"content": piece}}]} for piece in ("a \x1b]5", f"2;c;x\x07{BAD}", "\x1b[3", "1mb")
    ]
    last = {
        "choices": [{"delta": {"annotations": [CITED]}}],
        "vilamp": {"frames": 1, "notes": [f"a{BAD}"], "timings_ms": {BAD: 1.0}},
    }
    return sse(*pieces, last)


@asynccontextmanager
async def deceiver() -> AsyncIterator[str]:
    """A server in place of an agent's, with texts that steer wherever there is a text."""

    def give(value: Any, status: int = 200) -> Any:
        async def respond(request: Request) -> Response:
            return as_json(value, status)

        return respond

    async def trial(request: Request) -> Response:
        return sse({"result": TRIAL})

    routes = [
        Route("/v1/chat/completions", answer, methods=["POST"]),
        Route("/v1/rules", give({"data": [RULE_SHOWN]})),
        Route("/v1/rules/dry-run", trial, methods=["POST"]),
        Route("/v1/rules/{name}/snooze", give(RULE_SHOWN), methods=["POST"]),
        Route("/v1/memory", give({"data": [HELD], "folder": FOLDER})),
        Route("/v1/cameras/{camera}/frames", give({"erased": {BAD: 1}}), methods=["DELETE"]),
        Route("/{path:path}", give({"error": {"message": BAD}}, 404), methods=["POST", "DELETE"]),
    ]
    async with serve(Starlette(routes=routes)) as url:
        yield url


COMMANDS = (
    ("ask", "what?"), ("ask", "what?", "--all-evidence"), ("ask", "refuse"),
    ("rules", "list"), ("rules", "try", "a bag"), ("rules", "snooze", "bag", "5"),
    ("rules", "add", "bag", BAD.replace("\x00", "")), ("rules", "rm", "bag"),
    ("memory",), ("erase", "yard", "--all", "--yes"),
)  # fmt: skip
AS_JSON = (
    ("ask", "what?"),
    ("rules", "list"),
    ("rules", "try", "a bag"),
    ("memory",),
    ("erase", "yard", "--all", "--yes"),
)


async def test_no_command_lets_a_server_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with deceiver() as url:
        place = ("--server", url, "--data-dir", str(tmp_path))
        for words in COMMANDS:
            await asyncio.to_thread(main, [*words, *place])
            out = capsys.readouterr()
            assert steers(out.out + out.err) == [], words
            assert out.out or out.err, words
            assert "52;c;" not in out.out + out.err, words
            if "refuse" in words:
                assert len(out.err.strip().splitlines()) == 1  # no line that looks like ours
        for words in AS_JSON:
            assert await asyncio.to_thread(main, [*words, "--json", *place]) == 0
            out = capsys.readouterr()
            assert steers(out.out + out.err) == [], words
            assert json.loads(out.out), words


# --- the wire ---


def expected(text: str) -> None:
    assert steers(text) == []
    assert "red " in text
    assert "car now" in text
    assert "52;c" not in text


async def test_an_answer_is_cleaned_at_the_wire(tmp_path: Path) -> None:
    with spying() as spy:
        answerer = {"kind": "openai", "probe": False, "base_url": spy.url(), "model": "hostile"}
        async with served(tmp_path, answerer=answerer) as site:
            await site.agent.cameras.watch("door", ListSource("door", frames(2)))
            await site.agent.encoded()
            async with httpx.AsyncClient(base_url=site.url, headers=site.headers("owner")) as http:
                asked = {"messages": [{"role": "user", "content": "what do you see?"}]}
                body = (await http.post("/v1/chat/completions", json=asked)).json()
                expected(body["choices"][0]["message"]["content"])
                events = (await http.post("/v1/chat/completions", json={**asked, "stream": True})).text
                chunks = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
                expected(
                    "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks if each["choices"])
                )


async def test_rules_and_metadata_are_cleaned_at_the_wire(tmp_path: Path) -> None:
    async with served(tmp_path) as site, httpx.AsyncClient(base_url=site.url, headers=site.headers("owner")) as http:
        bad = BAD.replace("\ud800", "")
        made = await http.post("/v1/rules", json={**RULE, "name": "bag", "condition": f"a {bad}\nbag"})
        assert made.status_code in (200, 201), made.text
        assert made.json()["condition"] == "a redlink. bag"
        assert (await http.post("/v1/rules", json={**RULE, "name": "none", "condition": BIDI})).status_code in (
            400,
            422,
        )
    assert check_metadata({"na\x1b[1mme": {"deep": [bad, 1]}}) == {"name": {"deep": ["redlink.", 1]}}


def test_replay_prints_what_a_server_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "vilamp.yaml"
    with spying() as spy:
        answerer = {"kind": "openai", "probe": False, "base_url": spy.url(), "model": "hostile"}
        model = json.loads(settings_in(tmp_path).model.model_dump_json(include={"path", "num_threads"}))
        config.write_text(json.dumps({"answerer": answerer, "model": model}))
        video = write_video(tmp_path / "gate.mp4", num_seconds=2)
        code = main(
            [
                "replay",
                str(video),
                "--config",
                str(config),
                "--data-dir",
                str(tmp_path / "data"),
                "--ask",
                "what do you see?",
            ]
        )
    out = capsys.readouterr()
    assert code == 0, out.err
    expected(out.out)


def test_logs_hold_no_raw_controls() -> None:
    import logging

    record = logging.LogRecord("agent", logging.WARNING, "", 0, "said %s", (BAD,), None)
    assert steers(JsonLines().format(record)) == []
