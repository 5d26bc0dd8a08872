"""Requests given directly to an ASGI application, without a socket: fast enough for thousands of them."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

Pairs = Iterable[tuple[str, str]]


@dataclass
class Reply:
    """A response. `body` is empty if only the head was read."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    messages: list[Message] = field(default_factory=list)


def scope_of(method: str, target: str, headers: Pairs = (), client: str = "192.0.2.1") -> Scope:
    """Build the ASGI scope that uvicorn makes of a request. `target`: percent-encoded path with its query."""
    raw_path, _, query = target.partition("?")
    given = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
        "scheme": "http", "server": ("127.0.0.1", 8080), "client": (client, 40_000), "root_path": "",
        "path": unquote(raw_path), "raw_path": raw_path.encode("latin-1"), "query_string": query.encode("latin-1"),
        "headers": [(b"host", b"127.0.0.1:8080"), *given] if b"host" not in dict(given) else given, "state": {},
    }  # fmt: skip


async def ask(app: ASGIApp, scope: Scope, body: bytes = b"", *, whole: bool = True) -> Reply:
    """Return the response. `whole=False` returns the head only and disconnects, for streams that do not end."""
    sent = False
    began, gone = asyncio.Event(), asyncio.Event()
    messages: list[Message] = []

    async def receive() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        messages.append(message)
        if message["type"] == "http.response.start":
            began.set()

    running = asyncio.ensure_future(_run(app, scope, receive, send))
    try:
        if whole:
            await running
        else:
            waiting = asyncio.ensure_future(began.wait())
            await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            gone.set()
            await running
    finally:
        gone.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    start = next(message for message in messages if message["type"] == "http.response.start")
    parts = [message.get("body", b"") for message in messages if message["type"] == "http.response.body"]
    told = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
    return Reply(start["status"], told, b"".join(parts), messages)


async def _run(app: ASGIApp, scope: Scope, receive: object, send: object) -> None:
    await app(scope, receive, send)  # type: ignore[arg-type]
