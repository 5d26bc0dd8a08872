"""`POST /v1/chat/completions` and `GET /v1/models`: questions as any OpenAI client asks them.

A refused question gets its real status. Once streaming has begun, an error is one `data: {"error": ...}` and the end of
the stream, without `[DONE]`. A client that goes away cancels its answer.
"""

import secrets
import time
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from agent.app import Agent
from agent.ask.question import Event, Finished, Piece, Question, Seen
from agent.ask.request import ChatRequest, parse_request, question_of
from agent.errors import Problem, UnknownModel
from agent.untrusted.wire import JsonResponse, shown
from agent.web.body import read_body
from agent.web.client_gone import unless_gone, with_silences
from agent.web.guard import Guard, origin_of
from agent.web.openai import (
    SSE_DONE,
    SSE_STILL_HERE,
    Envelope,
    Json,
    citation,
    extension,
    sse,
)
from agent.web.stopping import Stopping

MAX_BODY_BYTES = 1 << 20
PUBLIC_NAME = "vilamp"  # the model's name for those who do not care which


class ChatRoutes:
    """The endpoints, over one agent."""

    def __init__(self, agent: Agent, guard: Guard, keep_alive_s: float, stopping: Stopping) -> None:
        self.agent = agent
        self.stopping = stopping
        self.guard = guard
        self.keep_alive_s = keep_alive_s

    def routes(self) -> list[Route]:
        """Every route of this file."""
        return [
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{model}", self.model),
        ]

    async def complete(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        asked = parse_request(await read_body(request, MAX_BODY_BYTES))
        if asked.model not in (None, "", PUBLIC_NAME, self.agent.model_card()["id"]):
            raise UnknownModel(
                f"There is no model '{shown(asked.model)}' here; GET /v1/models lists what is.", param="model"
            )
        return ChatResponse(self, request, asked, await question_of(self.agent, asked))

    async def models(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        return JsonResponse({"object": "list", "data": [self.agent.model_card()]})

    async def model(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        card = self.agent.model_card()
        if request.path_params["model"] not in (PUBLIC_NAME, card["id"]):
            raise UnknownModel(f"There is no model '{shown(request.path_params['model'])}' here.", param="model")
        return JsonResponse(card)


class ChatResponse(Response):
    """Makes the answer while sending it."""

    media_type = "text/event-stream"

    def __init__(self, routes: ChatRoutes, request: Request, asked: ChatRequest, question: Question) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._routes = routes
        self._asked = asked
        self._question = question
        self._origin = origin_of(request)
        name = str(routes.agent.model_card()["id"])
        self._envelope = Envelope(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._asked.stream:
            await unless_gone(receive, self._stream(send))
        else:
            await unless_gone(receive, self._whole(scope, receive, send))

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._routes.stopping.work():
            answer = await self._routes.agent.answering.answer(self._question)
        body = self._envelope.completion(answer, self._citations(answer.seen))
        await JsonResponse(body)(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        begun = False
        try:
            with self._routes.stopping.work():
                async with self._routes.agent.answering.ask(self._question) as events:
                    begun = True
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    await self._put(send, sse(self._chunk({"role": "assistant", "content": ""})))
                    async with aclosing(with_silences(events, self._routes.keep_alive_s)) as steps:
                        seen: Seen | None = None
                        async for event in steps:
                            seen = event if isinstance(event, Seen) else seen
                            await self._put(send, self._text_of(event, seen))
            await self._put(send, SSE_DONE)
        except Problem as problem:
            if not begun:
                raise
            await self._put(send, sse(dict(problem.body())))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _put(self, send: Send, body: bytes) -> None:
        if body:
            await send({"type": "http.response.body", "body": body, "more_body": True})

    def _text_of(self, event: Event | None, seen: Seen | None) -> bytes:
        """What goes over the wire for one event; None stands for a silence."""
        match event:
            case None:
                return SSE_STILL_HERE
            case Seen():
                return b""
            case Piece(text):
                return sse(self._chunk({"content": text}))
            case Finished():
                return b"" if seen is None else self._ending(seen, event)

    def _ending(self, seen: Seen, finished: Finished) -> bytes:
        """The last content chunk with the citations, the reason of the end, and the usage where asked for."""
        last = self._chunk({"content": "", "annotations": self._citations(seen)})
        end = self._chunk({}, finished.finish_reason)
        end["vilamp"] = extension(seen, finished)
        usage = sse(self._envelope.usage_chunk(finished)) if self._wants_usage else b""
        return sse(last) + sse(end) + usage

    @property
    def _wants_usage(self) -> bool:
        return self._asked.stream_options is not None and self._asked.stream_options.include_usage

    def _chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        chunk = self._envelope.chunk(delta, finish_reason)
        return {**chunk, "usage": None} if self._wants_usage else chunk

    def _citations(self, seen: Seen) -> list[Json]:
        guard = self._routes.guard
        return [citation(e, guard.link(f"/v1/frames/{e.frame_id}.jpg", self._origin)) for e in seen.evidence]
