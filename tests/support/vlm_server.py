"""A vision-language server with the OpenAI chat API, run as a process. Its answer says how many pictures it got.

    python -m tests.support.vlm_server            prints its port, serves on 127.0.0.1 until its input ends
    python -m tests.support.vlm_server CERT KEY   the same over TLS

The model name in a request chooses its behaviour; `tests.support.server_quirks` has those of real servers.
`GET /seen` returns all requests so far.
"""

import asyncio
import json
import socket
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.server_quirks import QUIRKS

# An answer with terminal escapes (colours, clipboard, text direction), split over several pieces.
HOSTILE = (
    "\x1b[3",
    "1mred\x1b[0m ",
    "\x1b]52;c;",
    "cm0gLXJm\x07",
    "\x9d0;title\x9c",
    "car\u202e \u200bnow\x9b2J",
    "\x08\x07\u2066!",
    "<img src=x onerror=document.title=1>",
)

SEEN: list[dict[str, Any]] = []
ENDED: Counter[str] = Counter()  # streams by how they ended: whole, cancelled


def event(text: str | None = None, reason: str | None = None, **more: Any) -> str:
    delta = {} if text is None else {"content": text}
    chunk = {"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def delta(**fields: Any) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': fields, 'finish_reason': None}]})}\n\n"


THINKING: dict[str, tuple[str, ...]] = {  # thoughts before the answer "yes", in the forms that servers use
    "reasoning": (delta(reasoning="no, "), delta(content=None, reasoning="that is no dog")),
    "reasoning-content": (delta(reasoning_content="no, "), delta(content="", reasoning_content="no")),
    "parts": (delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "no"}]}]),),
    "inline": (event("<thi"), event("nk>no, no"), event(" no</th"), event("ink>\n\n")),
    "brackets": (event("[THINK]no[/THINK]"),),
    "aloud": (event("Let me see: "), event("no dog.\n</think>"), event("\n")),
}
SAYING: dict[str, tuple[str, ...]] = {  # empty, broken or refused answers, with status 200
    "blank": (event(" \n"), event("\u200b"), event(reason="stop")),
    "empty": (event(reason="stop"),),
    "control": (event("<|im_"), event("end|>"), event("<|im_start|>"), event(reason="stop")),
    "escapes": (event("\x1b[31m\x1b[0m"), event(reason="stop")),
    "filtered": (event(reason="content_filter"),),
    "refused": (delta(content=None, refusal="I cannot help "), delta(refusal="with that."), event(reason="stop")),
    "only-thoughts": (event("<think>no dog"), event(reason="stop")),
    "all-thoughts": (delta(reasoning="and so on"), event(reason="length")),
    "hidden-thoughts": (delta(content=""), event(reason="max_tokens")),
    "newlines-only": (event("\n") * 20, event(reason="length")),
    "tool": (
        delta(content=None, tool_calls=[{"index": 0, "id": "1", "function": {"name": "look", "arguments": "{}"}}]),
        event(reason="tool_calls"),
    ),
    "broken-off": (event("I saw a"), event(reason="error")),
    "object-error": (event("I saw"), 'data: {"object": "error", "message": "out of memory", "code": 500}\n\n'),
    "leaking": (event("yes<|im_end|>\n<|im_start|>user"), event(reason="stop")),
    "half-filtered": (event("I saw a"), event(reason="content_filter")),
    "prose": (event("The picture shows a dog."), event(reason="stop")),
    "surrogates": (
        'data: {"choices": [{"delta": {"content": "a \\ud800 \\ud83d"}}]}\n\n',
        'data: {"choices": [{"delta": {"content": "\\ude00 <b> \\udfff"}, "finish_reason": "stop"}]}\n\n',
    ),
    "silly-counts": (
        event("yes", reason="stop"),
        f'data: {{"choices": [], "usage": {{"prompt_tokens": {"9" * 4300}, "completion_tokens": {"9" * 5000}, "x": NaN}}}}\n\n',
    ),
    "deep": (f'data: {"[" * 200_000}\n\n',),
}  # fmt: skip


def packed(model: str) -> Response:
    """Return a small compressed answer that expands to 64 MiB."""
    body = zlib.compressobj(wbits=31)
    content = body.compress(b"\n" * (64 << 20)) + body.flush()
    status = 400 if model == "packed-error" else 200
    return Response(content, status, {"Content-Encoding": "gzip"}, media_type="text/event-stream")


async def flood(model: str) -> AsyncIterator[bytes]:
    """Send an endless answer."""
    yield event("tick").encode()
    while True:
        yield {"newlines": b"\n", "comments": b": x\n", "one-line": b"x"}[model] * (1 << 16)
        await asyncio.sleep(0)


async def words(model: str, num_pictures: int) -> AsyncIterator[str]:
    for text in THINKING.get(model, ()) + SAYING.get(model, ()):
        yield text
    if model in SAYING:
        yield "data: [DONE]\n\n"
        return
    usage = {"prompt_tokens": 100 + num_pictures, "completion_tokens": 4, "total_tokens": 104 + num_pictures}
    yield event("", role="assistant")
    if model == "late":
        await asyncio.sleep(30)
    if model == "lost-once" and sum(seen["model"] == model for seen in SEEN) == 1:
        raise ConnectionError("gone before the first word")
    yield ": a comment\r\n\r\n"
    for word in (
        ("Yes", ".") if model == "yes" or model in THINKING else ("I ", "see ", f"{num_pictures} ", "pictures.")
    ):
        yield event(word)
        if model == "lost":
            raise ConnectionError("gone in the middle")
        if model == "broken":
            yield 'data: {"error": {"message": "out of   memory"}}\n\n'
        if model == "not-json":
            yield "data: {oops\n\n"
        if model == "short":
            return
    if model == "hostile":
        for piece in HOSTILE:
            yield event(piece)
    if model == "odd":
        yield (
            "data: "
            + json.dumps({"choices": [{"delta": {"content": " Ok\u2028\u2028."}}]}, ensure_ascii=False)
            + "\r\n\r\n"
        )
    if model == "cut":
        yield event(reason="length")
        return  # neither usage nor [DONE]
    while model in ("endless", "chatty"):
        yield event("tick " * (100 if model == "chatty" else 1))
        await asyncio.sleep(0.01)
    yield event(reason="stop")
    yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
    yield "data: [DONE]\n\n"


async def counted(model: str, num_pictures: int) -> AsyncIterator[str]:
    try:
        async for text in words(model, num_pictures):
            yield text
        ENDED["whole"] += 1
    except asyncio.CancelledError:
        ENDED["cancelled"] += 1
        raise


async def complete(request: Request) -> Response:
    body = await request.json()
    model, content = body["model"], body["messages"][-1]["content"]
    SEEN.append({"path": request.url.path, "headers": dict(request.headers), "model": model, "body": body})
    tries = sum(seen["model"] == model for seen in SEEN)
    if model in QUIRKS:
        answer = QUIRKS[model](body, tries)
        return (
            answer if isinstance(answer, Response) else StreamingResponse(iter(answer), media_type="text/event-stream")
        )
    if (model == "busy-twice" and tries <= 2) or model == "overloaded":
        return JSONResponse({"error": {"message": "too many requests"}}, 503, {"Retry-After": "0"})
    if model == "locked":
        return JSONResponse({"error": {"message": f"bad key {request.headers.get('authorization')}"}}, 401)
    if model == "detail":
        return JSONResponse({"detail": "no such adapter"}, 400)
    if model == "absent":
        return JSONResponse({"error": "model 'absent' not found, try pulling it first"}, 404)
    if model == "elsewhere":
        return RedirectResponse(f"http://0.0.0.0:{request.url.port}/elsewhere", 307)
    if model == "page":
        return Response("<html>hello</html>", media_type="text/html")
    if model in ("packed", "packed-error"):
        return packed(model)
    if model in ("newlines", "comments", "one-line"):
        return StreamingResponse(flood(model), media_type="text/event-stream")
    if model == "hides-thoughts" and body["max_tokens"] < 1000:
        return StreamingResponse(counted("hidden-thoughts", 0), media_type="text/event-stream")
    if model == "hides-thoughts":
        return StreamingResponse(counted("inline", 0), media_type="text/event-stream")
    if model == "thinks-long" and body["max_tokens"] < 1000:
        return StreamingResponse(counted("all-thoughts", 0), media_type="text/event-stream")
    if model == "prose-first" and body["max_tokens"] < 1000:
        return StreamingResponse(counted("cut", 0), media_type="text/event-stream")
    if model in ("thinks-long", "prose-first"):
        return StreamingResponse(counted("inline" if model == "thinks-long" else "aloud", 0))
    if model == "silent":
        await asyncio.sleep(30)
    if model.startswith("takes-"):
        await asyncio.sleep(float(model.removeprefix("takes-")))
    pictures = [part for part in content if part["type"] == "image_url"]
    return StreamingResponse(counted(model, len(pictures)), media_type="text/event-stream")


async def models(request: Request) -> Response:
    """List two models. Agents call this to check the server, so it is not recorded in SEEN."""
    return JSONResponse(
        {"object": "list", "data": [{"id": "any", "object": "model"}, {"id": "sees", "object": "model"}]}
    )


async def anything(request: Request) -> Response:
    SEEN.append({"path": request.url.path, "headers": dict(request.headers), "model": None, "body": None})
    return Response("?", 404)


async def seen(request: Request) -> Response:
    return JSONResponse({"seen": SEEN, "ended": ENDED})


async def forget(request: Request) -> Response:
    SEEN.clear()
    ENDED.clear()
    return Response()


def main(cert: str | None = None, key: str | None = None) -> None:
    app = Starlette(
        routes=[
            Route("/seen", seen),
            Route("/forget", forget, methods=["POST"]),
            Route("/v1/chat/completions", complete, methods=["POST"]),
            Route("/v1/models", models),
            Route("/{rest:path}", anything, methods=["GET", "POST"]),
        ]
    )
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(app, log_level="critical", ssl_certfile=cert, ssl_keyfile=key, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)

    def end_with_input() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=end_with_input, daemon=True).start()
    server.run(sockets=[listener])


class Spy:
    """The server process, as tests use it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/v1"

    def told(self) -> Any:
        return httpx.get(f"http://127.0.0.1:{self.port}/seen", trust_env=False).json()

    def seen(self) -> list[dict[str, Any]]:
        """Return the requests so far, in order."""
        return list(self.told()["seen"])

    def forget(self) -> None:
        httpx.post(f"http://127.0.0.1:{self.port}/forget", trust_env=False)


@contextmanager
def spying(*files: Path) -> Iterator[Spy]:
    """Run the server as a process."""
    command = [sys.executable, "-m", "tests.support.vlm_server", *map(str, files)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Spy(process)
        finally:
            process.stdin and process.stdin.close()
            process.wait(10)


if __name__ == "__main__":
    main(*sys.argv[1:])
