"""Handles a publisher's WebRTC data channel: JSON messages with metadata and questions, sent beside its video.

docs/robots.md describes the messages. Metadata, such as a robot's pose, is stored with the frames that the camera
sends. A question has the fields of `POST /v1/chat/completions`, and its answer is sent in pieces. Whether the publisher
may ask is decided when its session opens. Overload policy: a question is refused (`busy`) while MAX_QUESTIONS are in
progress. When the channel closes, its questions are cancelled.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from agent.app import Agent
from agent.ask.question import Evidence, Finished, Piece, Question, Seen, Step
from agent.ask.request import ChatRequest, question_of, request_of
from agent.errors import BadRequest, NotAllowed, NotFound, Problem
from agent.ingest.metadata import check_metadata, is_finite
from agent.runtime.supervisor import contained
from agent.untrusted.fields import check_spelling
from agent.untrusted.strict_json import parse_json
from agent.untrusted.wire import json_bytes
from agent.web.openai import citation, extension
from streaming.channel import MAX_MESSAGE_BYTES, MAX_SENT_BYTES, RATE_HZ, Channel, ChannelClosed, Refusal

MAX_QUESTIONS = 2  # in progress at the same time on one channel
MAX_ID_CHARS = 64
_NOTE_BYTES = 200  # reserved for the note that says how many citations were left out
_ASKED = {"question", *ChatRequest.model_fields} - {"messages", "model", "stream", "stream_options", "n"}
_FIELDS = {"metadata": {"time", "data"}, "ask": _ASKED, "cancel": set[str]()}  # allowed besides "type" and "id"
_FAILED = "The server failed; its log says more."
_REFUSALS = {
    "too_large": (
        "message_too_large",
        f"The message has more than {MAX_MESSAGE_BYTES} bytes and was not read.",
    ),
    "not_text": ("invalid_request", "The message is binary: send JSON as text."),
    "too_fast": ("too_fast", f"More than {RATE_HZ:g} messages a second: some were not read."),
}

Json = dict[str, Any]


class Conversation:
    """Receives and answers the messages on the data channel of one session."""

    def __init__(self, agent: Agent, camera: str, *, may_ask: bool, link: Callable[[Evidence], str]) -> None:
        """may_ask: whether questions are answered. link: returns the signed URL of a frame's picture."""
        self._agent = agent
        self._camera = camera
        self._may_ask = may_ask
        self._link = link
        self._questions: dict[str, asyncio.Task[None]] = {}

    async def run(self, channel: Channel) -> None:
        """Receive and answer messages until the channel closes."""
        with suppress(ChannelClosed):
            await _send(channel, {"type": "ready", "camera": self._camera, "may_ask": self._may_ask})
            async with asyncio.TaskGroup() as group:
                try:
                    async for message in channel.messages():
                        await self._receive(message, channel, group)
                except ChannelClosed:  # it closed while a message was being sent
                    channel.close()
                finally:
                    for question in self._questions.values():
                        question.cancel()

    async def _receive(self, message: str | Refusal, channel: Channel, group: asyncio.TaskGroup) -> None:
        if isinstance(message, Refusal):
            code, text = _REFUSALS[message.reason]
            await _send(channel, {"type": "error", "id": None, "code": code, "message": text})
            return
        request_id: str | None = None
        try:
            with contained("a message of a data channel", Problem, ChannelClosed) as outcome:
                fields = _fields_of(parse_json(message))
                request_id = _id_of(fields)
                match _type_of(fields):
                    case "metadata":
                        self._add_metadata(fields)
                    case "ask":
                        self._begin(fields, request_id, channel, group)
                    case "cancel":
                        self._cancel(request_id)
                        raise _Cancelled("The question was cancelled.")
            if outcome.error is not None:
                raise Problem(_FAILED)
        except Problem as problem:
            await _send(channel, _error(request_id, problem))

    def _add_metadata(self, fields: Json) -> None:
        moment = self._agent.clocks.read()
        time, metadata = fields.get("time", moment.time), check_metadata(fields.get("data"))
        max_skew_s = self._agent.settings.streaming.max_skew_s
        if isinstance(time, bool) or not isinstance(time, int | float) or not is_finite(time):
            raise BadRequest("'time' must be a number, unix seconds.", param="time")
        time = moment.believed(float(time))
        if abs(time - moment.time) > max_skew_s:
            advice = f"more than {max_skew_s:g} s (streaming.max_skew_s): set this machine's clock, or leave 'time' out"
            raise BadRequest(f"'time' differs from the agent's clock, {moment.time:.3f}, by {advice}.", param="time")
        self._agent.cameras.intake_of(self._camera).add_metadata(metadata, time, moment.time)

    def _begin(self, fields: Json, request_id: str | None, channel: Channel, group: asyncio.TaskGroup) -> None:
        if not self._may_ask:
            message = "The token that opened this session does not cover asking: give it the scope 'ask' too."
            raise NotAllowed(message, status=403)
        if request_id is None or request_id in self._questions:
            raise BadRequest("A question needs an 'id' that no other question in progress has.", param="id")
        if len(self._questions) >= MAX_QUESTIONS:
            raise _TooMany(
                f"This channel has {MAX_QUESTIONS} questions in progress: wait for an answer, or cancel one."
            )
        asked = _request_of(fields, self._camera)
        names_none = not {"camera", "cameras"} & fields.keys()
        task = group.create_task(self._answer(asked, names_none, request_id, channel), name=f"answer {self._camera}")
        self._questions[request_id] = task
        task.add_done_callback(lambda _: self._questions.pop(request_id))

    def _cancel(self, request_id: str | None) -> None:
        if request_id is None or request_id not in self._questions or not self._questions[request_id].cancel():
            raise NotFound("No question with this 'id' is in progress; its answer may have just been sent.", param="id")

    async def _answer(self, asked: ChatRequest, names_none: bool, request_id: str, channel: Channel) -> None:
        with suppress(ChannelClosed):
            try:
                with contained("an answer over a data channel", Problem, ChannelClosed) as outcome:
                    question = await question_of(self._agent.cameras, asked)
                    await self._stream(replace(question, cameras_by_default=names_none), request_id, channel)
                if outcome.error is not None:
                    raise Problem(_FAILED)
            except Problem as problem:
                await _send(channel, _error(request_id, problem))

    async def _stream(self, question: Question, request_id: str, channel: Channel) -> None:
        seen: Seen | None = None
        pieces: list[str] = []
        steps: list[str] = []
        async with self._agent.answering.ask(question) as events:
            async for event in events:
                match event:
                    case Seen():
                        seen = event
                        span = {"frames": seen.num_frames, "oldest": seen.oldest, "newest": seen.newest}
                        await _send(channel, {"type": "seen", "id": request_id, **span})
                    case Step(text):
                        steps.append(text)
                        await _send(channel, {"type": "step", "id": request_id, "text": text})
                    case Piece(text):
                        pieces.append(text)
                        await _send(channel, {"type": "piece", "id": request_id, "text": text})
                    case Finished() if seen is not None:
                        citations = [citation(evidence, self._link(evidence)) for evidence in seen.evidence]
                        answer = {"type": "answer", "id": request_id, "text": "".join(pieces)}
                        answer |= {"finish_reason": event.finish_reason, **extension(seen, event, steps)}
                        await channel.send(_fitting(answer, citations))


class _TooMany(Problem):
    """The channel has MAX_QUESTIONS questions in progress."""

    status, code = 429, "busy"


class _Cancelled(Problem):
    """The publisher cancelled its question."""

    code = "cancelled"


def _fields_of(message: Any) -> Json:
    """Return the fields of a message without those that are null. Null values inside metadata are kept.

    Raises BadRequest if the message is not a JSON object.
    """
    if not isinstance(message, dict):
        raise BadRequest(
            'A message is a JSON object with a type, such as {"type": "metadata", "data": {"x": 1, "y": 2}}.'
        )
    return {name: value for name, value in message.items() if value is not None}


def _type_of(fields: Json) -> str:
    """Return the message's type: "metadata", "ask" or "cancel".

    Raises BadRequest for any other type, and for a field that messages of this type do not have.
    """
    kind = fields.get("type")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise BadRequest("'type' must be metadata, ask or cancel.", param="type")
    unknown = sorted(fields.keys() - _FIELDS[kind] - {"type", "id"})
    if unknown:
        check_spelling(unknown, _FIELDS[kind] | {"type", "id"})
        raise BadRequest(f"{unknown[0][:40]!a} is not a field of {kind}: {', '.join(sorted(_FIELDS[kind]))}.")
    return kind


def _id_of(fields: Json) -> str | None:
    request_id = fields.get("id")
    if request_id is None:
        return None
    if not isinstance(request_id, str) or not 1 <= len(request_id) <= MAX_ID_CHARS or not request_id.isprintable():
        raise BadRequest(f"'id' must be 1 to {MAX_ID_CHARS} printable characters.", param="id")
    return request_id


def _request_of(fields: Json, camera: str) -> ChatRequest:
    """Return the question as a chat request. It is about `camera` unless it names cameras. Raises BadRequest."""
    body = {name: value for name, value in fields.items() if name not in ("type", "id", "question")}
    if not isinstance(fields.get("question"), str):
        raise BadRequest("'question' must be text.", param="question")
    if "camera" not in body and "cameras" not in body:
        body["camera"] = camera
    asked = request_of({"messages": [{"role": "user", "content": fields["question"]}], **body})
    asked.question()  # raises BadRequest for an empty question
    return asked


def _fitting(answer: Json, citations: list[Json]) -> str:
    """Return the answer as JSON text with as many citations as fit into one message.

    Those with the best scores are kept, in the order of `citations`.
    """
    room = MAX_SENT_BYTES - len(_text(answer).encode()) - _NOTE_BYTES
    kept: list[int] = []
    for place in sorted(range(len(citations)), key=lambda place: -float(citations[place]["score"])):
        room -= len(_text(citations[place]).encode()) + 1
        if room < 0:
            break
        kept.append(place)
    left_out = len(citations) - len(kept)
    note = [f"citations left out because the message is full: {left_out}"] if left_out else []
    shown = [citations[place] for place in sorted(kept)]
    return _text({**answer, "citations": shown, "notes": [*answer["notes"], *note]})


def _error(request_id: str | None, problem: Problem) -> Json:
    return {"type": "error", "id": request_id, "code": problem.code or "error", "message": problem.message}


async def _send(channel: Channel, message: Json) -> None:
    await channel.send(_text(message))


def _text(message: Json) -> str:
    return json_bytes(message).decode()
