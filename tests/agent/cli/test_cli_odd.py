"""Odd arguments, and servers that are not agents, give a message and an exit code, never a traceback."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agent.cli.main import main

BODIES = {
    "list": b"[]",
    "object": b"{}",
    "page": b"<html>hello</html>",
    "number": b"3",
    "half": b'{"data": [{"camera": 3}], "folder": null}',
    "deep": b"[" * 100_000,
    "events": b'data: {}\n\ndata: 3\n\ndata: {"choices": [3]}\n\n',
    "error": b'data: {"error": 3}\n\n',
    "cited": b'data: {"choices": [{"delta": {"annotations": [{}]}}]}\n\n',
    "packed": b"no gzip",
}


class Odd(BaseHTTPRequestHandler):
    """Answers everything with 200 and the body that the path's first part names."""

    def do_GET(self) -> None:
        name = self.path.split("/")[1]
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = BODIES[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if name == "packed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def odd() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def tried(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    try:
        code = main(args)
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, capsys.readouterr().err


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    "args",
    [
        ["ask", "who?"], ["rules", "list"], ["rules", "snooze", "a", "5"], ["rules", "try", "a dog"], ["memory"],
        ["erase", "door", "--all", "--yes"],
    ],
)  # fmt: skip
def test_servers_that_are_not_agents_give_one_message(
    odd: str, args: list[str], body: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VILAMP_TOKEN", "t")
    code, said = tried([*args, "--server", f"{odd}/{body}"], capsys)
    assert code == 1
    assert said.startswith(f"vilamp {args[0]}: http://127.0.0.1:")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["ask", " "], 2, "the question is empty"),
        (["ask", "x", "--server", "http://[::1"], 2, "is not a server"),
        (["ask", "x", "--server", "http://127.0.0.1:99999"], 2, "is not a server"),
        (["ask", "x", "--server", "http://a b"], 2, "is not a server"),
        (["ask", "x", "--server", "ftp://ann:hunter2@h/"], 2, '"ftp://***@h/" is not a server'),
        (["ask", "x", "--server", "http://ann:hunter2@127.0.0.1:9"], 1, "http://***@127.0.0.1:9: no agent answers"),
        (["ask", "\udcff", "--server", "http://127.0.0.1:9"], 1, "not text in UTF-8"),
        (["check-config", "/"], 2, "Is a directory"),
        (["check-config", "/dev/zero"], 2, "larger than"),
        (["rules", "try", "a dog", "--set", "a"], 2, "write SETTING=VALUE"),
        (["rules", "try", "a dog", "--set", "a=" + "[" * 10_000], 2, "the value cannot be read"),
        (["rules", "try", "a dog", "--set", "a=2026-01-01"], 2, "the value cannot be read"),
        (["replay", "rtsp://ann:hunter2@h/x"], 1, "rtsp://***@h/x: no such file"),
        (["model", "check", "--frames", "-1"], 2, "--frames"),
        (["model", "check", "--frames", "9" * 30], 2, "--frames"),
        (["demo", "--seconds", "nan"], 2, "--seconds"),
        (["demo", "--speed", "inf"], 2, "--speed"),
        (["eval-alerts", "--minutes", "nan"], 2, "--minutes: nan is not between"),
        (["eval-alerts", "--judge-only-minutes", "nan"], 2, "--judge-only-minutes: nan is not between"),
        (["serve", "--num-threads", "0"], 2, "model.num_threads"),
    ],
)
def test_odd_arguments_give_a_message(
    args: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, said = tried(args, capsys)
    assert ended == code
    assert words in said
    assert "hunter2" not in said
