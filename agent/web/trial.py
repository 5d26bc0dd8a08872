"""The answer to a dry run: one JSON object, or server-sent events with its progress and then the object.

A client that goes away ends the dry run.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agent.alerts.dryrun import Trial, describe
from agent.alerts.engine import Engine
from agent.errors import Problem
from agent.runtime import pools
from agent.untrusted.wire import JsonResponse
from agent.web.client_gone import unless_gone, with_silences
from agent.web.openai import SSE_DONE, SSE_STILL_HERE, sse
from agent.web.stopping import Stopping

PROGRESS_S = 0.5  # progress is told so often, at most


class TrialResponse(Response):
    """Tries the rule while it is being sent."""

    media_type = "text/event-stream"

    def __init__(
        self,
        engine: Engine,
        trial: Trial,
        link: Callable[[int], str],
        *,
        stream: bool,
        keep_alive_s: float,
        stopping: Stopping,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._engine, self._trial, self._link = engine, trial, link
        self._stream, self._keep_alive_s, self._stopping = stream, keep_alive_s, stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await unless_gone(receive, self._events(send) if self._stream else self._whole(scope, receive, send))

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stopping.work():
            outcome = await self._engine.try_rule(self._trial, lambda done, num_asked: None)
        body = await pools.alerts(describe, outcome, self._link)
        await JsonResponse(body)(scope, receive, send)

    async def _events(self, send: Send) -> None:
        """What cannot be tried at all has a status of its own; what fails later is the last event."""
        begun = False
        try:
            with self._stopping.work():
                async with aclosing(with_silences(self._steps(), self._keep_alive_s)) as steps:
                    async for step in steps:
                        if not begun:
                            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                            begun = True
                        await self._put(send, SSE_STILL_HERE if step is None else sse(step))
            await self._put(send, SSE_DONE)
        except Problem as problem:
            if not begun:
                raise
            await self._put(send, sse(dict(problem.body())))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _steps(self) -> AsyncGenerator[dict[str, Any], None]:
        progress = (0.0, 0)

        def report(done: float, num_asked: int) -> None:
            nonlocal progress
            progress = (done, num_asked)

        trying = asyncio.create_task(self._engine.try_rule(self._trial, report), name="try a rule")
        try:
            told = None
            while not (await asyncio.wait({trying}, timeout=PROGRESS_S))[0]:
                if progress != told:
                    told = progress
                    yield {"progress": {"done": round(progress[0], 4), "judge_calls_made": progress[1]}}
            yield {"result": await pools.alerts(describe, trying.result(), self._link)}
        finally:
            trying.cancel()
            await asyncio.gather(trying, return_exceptions=True)

    async def _put(self, send: Send, body: bytes) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": True})
