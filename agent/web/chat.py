"""`POST /v1/chat/completions` and `GET /v1/models`: questions from any OpenAI client.

A refused question gets an HTTP status that says why, also when a stream was requested. An error after the stream has
begun is sent as one last event, `data: {"error": ...}`, and the stream ends without `[DONE]`. If the client
disconnects, its answer is cancelled.
"""

import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agent.app import Agent
from agent.ask.coverage import scope_json
from agent.ask.question import Finished, Piece, Question, Searched, Seen, Step
from agent.ask.request import ChatRequest, parse_request, question_of
from agent.errors import UnknownModel, shown
from agent.untrusted.plain import plain
from agent.untrusted.wire import JsonResponse
from agent.web.body import read_body
from agent.web.guard import Guard, origin_of
from agent.web.openai import Envelope, Json, citation, extension
from agent.web.streams import SSE_DONE, LongResponses, sse, sse_step

MAX_BODY_BYTES = 1 << 20
PUBLIC_NAME = "vilamp"  # a model name that always works, whichever model is loaded


class ChatRoutes:
    """Endpoints that answer questions and describe the model that answers them."""

    def __init__(self, agent: Agent, guard: Guard, responses: LongResponses) -> None:
        self.agent = agent
        self.guard = guard
        self.responses = responses

    def routes(self) -> list[Route]:
        return [
            Route("/v1/chat/completions", self.complete, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{model}", self.model),
        ]

    async def complete(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        asked = parse_request(await read_body(request, MAX_BODY_BYTES))
        if asked.model not in (None, "", PUBLIC_NAME, self.agent.model.info.name):
            raise UnknownModel(
                f"There is no model '{shown(asked.model)}' here; GET /v1/models lists what is.", param="model"
            )
        question = await question_of(self.agent.cameras, asked)
        completion = _Completion(self.agent, self.guard, origin_of(request), asked, question)
        if asked.stream:
            return self.responses.stream(completion.events())
        return JsonResponse(await self.responses.result(request, completion.body))

    async def models(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        return JsonResponse({"object": "list", "data": [model_card(self.agent)]})

    async def model(self, request: Request) -> Response:
        self.guard.check(request, "ask")
        card = model_card(self.agent)
        if request.path_params["model"] not in (PUBLIC_NAME, card["id"]):
            raise UnknownModel(f"There is no model '{shown(request.path_params['model'])}' here.", param="model")
        return JsonResponse(card)


class _Completion:
    """One answer in OpenAI's chat-completions format, as a single JSON body or as a stream of events."""

    def __init__(self, agent: Agent, guard: Guard, origin: str, asked: ChatRequest, question: Question) -> None:
        self._agent, self._guard, self._origin = agent, guard, origin
        self._question = question
        self._wants_usage = asked.stream_options is not None and asked.stream_options.include_usage
        name = agent.model.info.name
        self._envelope = Envelope(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), name)

    async def body(self) -> Json:
        """Wait for the answer and return it as one JSON body."""
        answer = await self._agent.answering.answer(self._question)
        return self._envelope.completion(answer, self._citations(answer.seen))

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the answer as server-sent events.

        If the question is refused, a Problem (an error with an HTTP status) is raised before the first event.
        """
        async with self._agent.answering.ask(self._question) as events:
            yield self._chunk({"role": "assistant", "content": ""})
            seen: Seen | None = None
            steps: list[str] = []
            async for event in events:
                match event:
                    case Searched():
                        yield self._chunk({}, vilamp=scope_json(event))
                    case Seen():
                        seen = event
                        yield self._chunk({"content": "", "annotations": self._citations(seen)})
                    case Step(text):
                        steps.append(text)
                        yield sse_step(text)
                    case Piece(text):
                        yield self._chunk({"content": text})
                    case Finished() if seen is not None:
                        yield self._chunk({}, event.finish_reason, vilamp=extension(seen, event, steps))
                        if self._wants_usage:
                            yield sse(self._envelope.usage_chunk(event))
        yield SSE_DONE

    def _chunk(self, delta: Json, finish_reason: str | None = None, **more: Json) -> bytes:
        usage = {"usage": None} if self._wants_usage else {}
        return sse({**self._envelope.chunk(delta, finish_reason), **usage, **more})

    def _citations(self, seen: Seen) -> list[Json]:
        return [citation(each, self._guard.frame_link(each.frame_id, self._origin)) for each in seen.evidence]


def model_card(agent: Agent) -> dict[str, Any]:
    """Return the JSON that `/v1/models` shows for the loaded model."""
    info, answerer = agent.model.info, agent.answerer
    return {
        "id": info.name,
        "object": "model",
        "created": int(agent.started),
        "owned_by": "vilamp",
        "vilamp": {
            "card": plain(info.card),
            "answerer": answerer.model_name,
            "server": answerer.capabilities,
            "conversations": answerer.reads_conversations,
            "patches_per_frame": info.patches_per_frame,
            "keyframe_tokens": info.keyframe_tokens,
            "embedding_dim": info.embedding_dim,
            "context_tokens": info.context_tokens,
            "max_visual_tokens": info.max_visual_tokens,
        },
    }
