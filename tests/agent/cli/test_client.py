"""The HTTP client against real servers that refuse, break off or are not agents."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from agent.cli.ask import searched_line, zone_of
from agent.cli.client import Client, Reply, ServerError
from agent.cli.parser import parse
from agent.settings.settings import Settings
from agent.times import local_zone_name


@contextmanager
def answering(status: int, body: str, *, seen: list[str] | None = None) -> Iterator[Client]:
    """A client of a server that gives this answer to everything; `seen` collects paths and Authorization headers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.do_GET()

        def do_GET(self) -> None:
            if seen is not None:
                seen.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with Client(f"http://127.0.0.1:{server.server_port}", "secret") as client:
            yield client
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sse(*chunks: dict[str, object] | str) -> str:
    return "".join(f"data: {c if isinstance(c, str) else json.dumps(c)}\n\n" for c in chunks)


FAILED = {"error": {"message": "it failed", "code": "model_failed"}}


def delta(**fields: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


CITED = {"type": "frame_citation", "frame_id": 7, "camera": "gate", "time": 1e9, "score": 0.3, "url": "http://x/7"}

VISIT = {
    "camera": "gate", "start": 1e9, "peak": 1e9 + 2, "end": 1e9 + 5, "prominence": 0.2, "strength": 9.0,
    "is_clear": True, "frame_id": 7,
}  # fmt: skip


def test_streamed_answers_are_assembled() -> None:
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    extension = {"vilamp": {"frames": 9, "notes": ["a note"], "timings_ms": {"total": 5.0}, "visits": [VISIT]}}
    body = sse(delta(role="assistant", content=""), delta(content="a red"), delta(content=" car")) + ": still here\n\n"
    body += sse(delta(content="", annotations=[{**CITED, "kind": "relevant"}]), {**end, **extension}, "[DONE]")
    with answering(200, body) as client:
        *pieces, reply = client.ask("what?", cameras=["gate"], after=1.0)
    assert pieces == ["a red", " car"]
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish_reason, reply.num_frames) == ("a red car", "stop", 9)
    assert (reply.notes, reply.timings_ms) == (["a note"], {"total": 5.0})
    assert [asdict(each) for each in reply.visits] == [VISIT]
    assert [(each.frame_id, each.kind) for each in reply.citations] == [(7, "relevant")]


@pytest.mark.parametrize(
    ("status", "body", "complaint", "code"),
    [
        (422, '{"error": {"message": "nothing there", "code": "no_frames"}}', "nothing there", "no_frames"),
        (502, "<html>bad gateway</html>", "502 Bad Gateway", None),
        (200, sse(delta(content="a")), "is incomplete", None),
        (200, sse(delta(content="a"), FAILED), "it failed", "model_failed"),
        (200, "<html>welcome</html>", "is incomplete", None),
        (200, sse("{broken"), "not a ViLaMP agent", None),
    ],
)  # fmt: skip
def test_failures_carry_the_message_of_the_server(status: int, body: str, complaint: str, code: str | None) -> None:
    with answering(status, body) as client, pytest.raises(ServerError, match=complaint) as failed:
        list(client.ask("what?"))
    assert failed.value.code == code


def test_token_is_sent_to_its_server_only() -> None:
    seen: list[str] = []
    with answering(200, "jpeg", seen=seen) as client:
        assert client.get_bytes("http://elsewhere.example/v1/frames/7.jpg?exp=1&sig=x") == b"jpeg"
    assert seen == ["/v1/frames/7.jpg?exp=1&sig=x Bearer secret"]


def test_unreachable_server() -> None:
    with (
        Client("http://127.0.0.1:9", None) as client,
        pytest.raises(ServerError, match="start one with `vilamp serve`"),
    ):
        client.get_json("/v1/cameras")


def test_answers_that_are_not_json() -> None:
    with answering(200, "hello") as client, pytest.raises(ServerError, match="not a ViLaMP agent"):
        client.get_json("/v1/cameras")


def test_times_are_in_the_zone_of_the_camera_asked_about() -> None:
    cameras = [{"id": "gate", "timezone": "Asia/Tokyo"}, {"id": "yard", "timezone": "Europe/Oslo"}]
    with answering(200, json.dumps({"data": cameras})) as client:
        assert zone_of(parse(["ask", "?"]), client) == "Asia/Tokyo"
        assert zone_of(parse(["ask", "?", "--camera", "yard"]), client) == "Europe/Oslo"
        assert zone_of(parse(["ask", "?", "--camera", "yard", "--timezone", "UTC"]), client) == "UTC"
    for status, body in ((500, "{}"), (200, "[]"), (200, '{"data": [{"id": "gate"}]}')):
        with answering(status, body) as client:
            assert zone_of(parse(["ask", "?"]), client) == local_zone_name()
    settings = Settings.model_validate({"cameras": {"gate": {"timezone": "Asia/Tokyo"}}})
    assert zone_of(parse(["export", "gate", "clip.mp4", "--after", "-1h"]), settings=settings) == "Asia/Tokyo"


def test_the_first_line_says_what_was_searched() -> None:
    scope = {"cameras": ["gate"], "after": 1795280400.0, "before": 1795302000.0, "words": ["yesterday evening"]}
    assert searched_line(scope, "Europe/Zurich", 1795364645.0) == "searched gate, Sat 18:00-24:00"
    many = {**scope, "cameras": [f"cam-{n}" for n in range(9)], "after": None, "before": None}
    assert searched_line(many, "UTC", 1795364645.0) == "searched 9 cameras, all of memory"
    first: list[object] = []
    with answering(200, sse({"vilamp": {"scope": scope, "coverage": []}}, delta(content="Yes."), "[DONE]")) as client:
        pieces = client.ask("Who came?", on_scope=first.append)
        assert next(pieces) == "Yes."
        assert first == [scope]
