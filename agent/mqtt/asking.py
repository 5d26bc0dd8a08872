"""Questions over MQTT: takes a question from `<prefix>/ask` and publishes one JSON answer.

The answer goes to `<prefix>/answer/<id>`, or to the response topic of the question (MQTT 5). Off unless configured,
because whoever may publish to the broker may ask. Overload policy: at most MAX_OPEN questions over MQTT at a time,
besides the limit for all questions to the agent; beyond either limit the answer is an error with code "busy". A
retained question is ignored, because the broker would deliver it again at every connection. A question without a usable
id or response topic is counted and ignored.

Does not hold the connection: the caller passes a function that publishes.
"""

import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.ask.answer import Answering
from agent.ask.coverage import scope_json
from agent.ask.question import Answer, Question
from agent.ask.request import Moment, parse_span
from agent.ask.understanding import reading_json
from agent.errors import BadRequest, Busy, ModelFailed, Problem
from agent.mqtt.topics import Topics, usable_id
from agent.runtime import pools
from agent.runtime.supervisor import contained
from agent.untrusted.fields import wrong_field
from agent.untrusted.strict_json import parse_object, without_nulls
from agent.untrusted.wire import json_bytes

log = logging.getLogger(__name__)

MAX_OPEN = 16
MAX_BYTES = 64 << 10
MAX_CORRELATION_BYTES = 1024
_BUSY_S = 5.0

Publish = Callable[[str, bytes, Properties | None], Awaitable[None]]
Json = dict[str, Any]


class Asked(BaseModel):
    """The payload of a question."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    question: str = Field(min_length=1)
    id: str | None = None
    camera: str | None = None
    cameras: list[str] | None = Field(default=None, min_length=1)
    after: Moment | None = None
    before: Moment | None = None

    def named(self) -> tuple[str, ...]:
        """Return the names of the cameras asked about, without repeats; empty: all cameras. Raises BadRequest."""
        if self.camera is not None and self.cameras is not None:
            raise BadRequest("Send either 'camera' or 'cameras', not both.", param="cameras")
        return tuple(dict.fromkeys(self.cameras or ([self.camera] if self.camera is not None else [])))


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where an answer is published: the topic, and the MQTT 5 properties of the message."""

    topic: str
    properties: Properties | None = None


class Asking:
    """Answers the questions that arrive on `<prefix>/ask`."""

    def __init__(
        self,
        topics: Topics,
        answering: Answering,
        *,
        existing: Callable[[tuple[str, ...]], tuple[str, ...]],
        zone_of: Callable[[str], str],
        sign: Callable[[str], str],
        model: str,
    ) -> None:
        self.num_ignored: Counter[str] = Counter()  # by reason
        self._topics, self._answering = topics, answering
        self._existing, self._zone_of, self._sign, self._model = existing, zone_of, sign, model
        self._num_open = 0

    async def handle(self, message: aiomqtt.Message, publish: Publish) -> None:
        """Answer one question, or publish an error if it cannot be answered. Raises only what `publish` raises."""
        payload = bytes(message.payload) if isinstance(message.payload, bytes | bytearray) else b""
        reply_to = self._reply_to(message, payload)
        if message.retain or reply_to is None:
            reason = "retained" if message.retain else "no_reply_topic"
            self.num_ignored[reason] += 1
            log.warning("question over MQTT is not answered", extra={"reason": reason})
            return
        given = {"id": _id_of(payload)}
        with contained("question over MQTT") as outcome:
            try:
                body = await self._answered(payload)
            except Problem as problem:
                told: Json = dict(problem.body())
                body = told.pop("vilamp", {}) | told
        if outcome.error is not None:  # a bug: it ends this question only
            body = dict(ModelFailed("The question could not be answered; the log says why.").body())
        await publish(reply_to.topic, json_bytes({**given, **body}), reply_to.properties)

    async def _answered(self, payload: bytes) -> Json:
        if self._num_open >= MAX_OPEN:
            raise Busy(_BUSY_S)
        self._num_open += 1
        try:
            asked = parse(payload)
            cameras = await pools.questions(self._existing, asked.named())
            after, before = parse_span(asked.after, asked.before, self._zone_of(cameras[0]) if cameras else "UTC")
            answer = await self._answering.answer(
                Question(asked.question.strip(), cameras, after, before, cameras_by_default=not asked.named())
            )
        finally:
            self._num_open -= 1
        searched = answer.finished.searched
        return self._body(answer, searched.cameras if searched else cameras)

    def _body(self, answer: Answer, cameras: tuple[str, ...]) -> Json:
        evidence = [
            {**asdict(each), "score": round(each.score, 4), "url": self._sign(f"/v1/frames/{each.frame_id}.jpg")}
            for each in answer.seen.evidence
        ]
        return {
            "answer": answer.text,
            "cameras": list(cameras),
            "model": self._model,
            "finish_reason": answer.finished.finish_reason,
            "frames": answer.seen.num_frames,
            "oldest": answer.seen.oldest,
            "newest": answer.seen.newest,
            "evidence": evidence,
            "notes": list(answer.finished.notes),
            **scope_json(answer.finished.searched),
            **reading_json(answer.finished.reading),
            "timings_ms": answer.finished.timings_ms,
        }

    def _reply_to(self, message: aiomqtt.Message, payload: bytes) -> ReplyTo | None:
        """Return where to publish the answer: the MQTT 5 response topic, or else the topic of the question's id.

        None: there is neither, or the response topic is not below `<prefix>/answer/`.
        """
        named = getattr(message.properties, "ResponseTopic", None)
        if named is not None:
            return ReplyTo(named, _correlated(message.properties)) if self._topics.may_answer_on(named) else None
        question_id = _id_of(payload)
        return None if question_id is None else ReplyTo(self._topics.answer(question_id))


def parse(payload: bytes) -> Asked:
    """Parse the payload of a question. Raises BadRequest, which names the first field that is wrong."""
    if len(payload) > MAX_BYTES:
        raise BadRequest(f"The question has {len(payload)} bytes; at most {MAX_BYTES} are accepted.")
    try:
        return Asked.model_validate(without_nulls(parse_object(payload)))
    except ValidationError as error:
        raise wrong_field(error, Asked.model_fields, "payload") from None


def _id_of(payload: bytes) -> str | None:
    """Return the question's id, even if the rest of the question is invalid. None if there is none usable in a topic."""
    try:
        given = json.loads(payload[:MAX_BYTES])
    except (ValueError, RecursionError):
        return None
    found = given.get("id") if isinstance(given, dict) else None
    return found if usable_id(found) else None


def _correlated(given: Properties | None) -> Properties | None:
    """Return properties that repeat the question's correlation data (MQTT 5). None if it has none, or too much of it."""
    data = getattr(given, "CorrelationData", None)
    if data is None or len(data) > MAX_CORRELATION_BYTES:
        return None
    properties = Properties(PacketTypes.PUBLISH)
    properties.CorrelationData = data
    return properties
