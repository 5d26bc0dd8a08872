"""Responses that take long. They are ended early when the client disconnects or the agent stops."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agent.errors import AgentStopping, Problem
from agent.untrusted.plain import plain_line
from agent.untrusted.wire import json_bytes

T = TypeVar("T")

STOP_GRACE_S = 3.0  # how long responses in progress may go on once the agent stops
SSE_DONE = b"data: [DONE]\n\n"
SSE_COMMENT = b": still here\n\n"  # keeps proxies and clients from closing a silent stream


class ClientLeft(Problem):
    """The client disconnected before its response was ready. Nobody receives the response made from this error."""

    status, type, code = 499, "invalid_request_error", "client_left"

    def __init__(self) -> None:
        super().__init__("The client disconnected.")


class LongResponses:
    """Runs the work behind long responses, and ends it when the agent stops.

    keep_alive_s: a stream that has sent nothing for this long sends a comment line, so that the connection stays open.
    """

    def __init__(self, keep_alive_s: float) -> None:
        self._keep_alive_s = keep_alive_s
        self._is_stopping = False
        self._in_progress: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()

    async def result(self, request: Request, work: Callable[[], Awaitable[T]]) -> T:
        """Await `work` and return its result.

        Raises ClientLeft when the client disconnects first, or AgentStopping when the agent stops first.
        """

        async def run() -> T:
            with self.in_progress():
                return await work()

        return await unless_gone(request.receive, run())

    def stream(self, events: AsyncGenerator[bytes, None]) -> Response:
        """Return a response that sends each item of `events`, an encoded server-sent event, as soon as it is ready."""
        return _EventStream(self, events, self._keep_alive_s)

    def stop(self) -> None:
        """Accept no new work, and end the work in progress after STOP_GRACE_S."""
        self._is_stopping = True
        asyncio.get_running_loop().call_later(STOP_GRACE_S, self._end)

    @contextmanager
    def in_progress(self) -> Iterator[None]:
        """Context manager: count the block as work that may go on for STOP_GRACE_S once the agent stops.

        Raises AgentStopping on entry if the agent is already stopping. When the time is over, the block is cancelled,
        and AgentStopping is raised in place of the cancellation. Other cancellations of the task are not changed.
        """
        task = asyncio.current_task()
        if self._is_stopping or task is None:
            raise AgentStopping
        self._in_progress.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise AgentStopping from None
        finally:
            self._in_progress.discard(task)
            self._ended.discard(task)

    def _end(self) -> None:
        for task in self._in_progress:
            self._ended.add(task)
            task.cancel()


class _EventStream(Response):
    """A response that sends server-sent events from a generator.

    The status line is sent together with the first event. If the generator raises a Problem (an error with an HTTP
    status) before its first event, the response can therefore still have that status. A later Problem is sent as the
    last event, `data: {"error": ...}`. The generator is asked for the next event only after the previous one was sent,
    so a slow client slows it down.
    """

    media_type = "text/event-stream"

    def __init__(self, responses: LongResponses, events: AsyncGenerator[bytes, None], keep_alive_s: float) -> None:
        super().__init__(
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )  # nginx must pass on events immediately
        del self.headers["content-length"]
        self._responses, self._events, self._keep_alive_s = responses, events, keep_alive_s
        self._comments: asyncio.Task[None] | None = None  # the task that sends comments; runs from the first event on
        self._last_sent = 0.0  # time of the event loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._send_events(send))
        except ClientLeft:
            return

    async def _send_events(self, send: Send) -> None:
        try:
            with self._responses.in_progress():
                async with aclosing(self._events):
                    async for event in self._events:
                        await self._put(event, send)
        except Problem as problem:
            if self._comments is None:
                raise
            await self._put(sse(problem.body()), send)
        finally:
            if self._comments is not None:
                self._comments.cancel()
                await asyncio.gather(self._comments, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _put(self, event: bytes, send: Send) -> None:
        self._last_sent = asyncio.get_running_loop().time()
        if self._comments is None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self._comments = asyncio.create_task(self._send_comments(send), name="keep a stream alive")
        await send({"type": "http.response.body", "body": event, "more_body": True})

    async def _send_comments(self, send: Send) -> None:
        """Send a comment line whenever nothing has been sent for `keep_alive_s`. Runs until it is cancelled."""
        while True:
            silence_s = asyncio.get_running_loop().time() - self._last_sent
            if silence_s >= self._keep_alive_s:
                await self._put(SSE_COMMENT, send)
            else:
                await asyncio.sleep(self._keep_alive_s - silence_s)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await `work` and return its result. If the client disconnects first, cancel `work` and raise ClientLeft.

    The body of the request must have been read before.
    """
    working = asyncio.create_task(work, name="answer a client")
    watching = asyncio.create_task(_disconnected(receive), name="watch a client")
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeft
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def sse_step(text: str) -> bytes:
    """Return a comment line that says what is being done for an answer. Clients that do not know it ignore it."""
    return f": step: {plain_line(text)}\n\n".encode()


def sse(data: Any) -> bytes:
    """Return one encoded server-sent event whose data is `data` as JSON."""
    return b"data: " + json_bytes(data) + b"\n\n"
