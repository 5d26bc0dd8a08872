"""The OpenAI chat-completions format, both ways: a request body -> ChatRequest; an answer -> bodies and chunks.

Pure: bytes and values in, values out. The extension fields are `camera` or `cameras`, `after`, `before` (unix seconds
or ISO 8601) on the way in and `annotations` and `vilamp` on the way out. The last user message is asked; what was said
before it comes with the request, as the agent holds no conversations. A field that is null counts as left out. Fields
of the format that would change the answer and are not supported are refused (`agent/untrusted/fields.py`); others have no effect.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from agent.ask.question import Answer, Evidence, Finished, Said, Seen
from agent.errors import BadRequest
from agent.times import MAX_UNIX_S, instant_of, load_zone, unit_hint
from agent.untrusted.fields import OPENAI_FIELDS, check_spelling, refuse_unsupported, wrong_field
from agent.untrusted.strict_json import parse_object, without_nulls
from agent.untrusted.wire import json_bytes
from memory.views import Within

Json = dict[str, Any]

MAX_EARLIER = 8  # messages before the question
MAX_EARLIER_CHARS = 8000
_SECONDS = re.compile(r"\d{10,19}(\.\d+)?", re.ASCII)  # of fewer digits a year or a date is likelier


class Part(BaseModel):
    """A piece of a message's content; only text can be asked."""

    type: str
    text: str = ""


class Message(BaseModel):
    """One message of the conversation."""

    role: str
    content: str | list[Part] | None = None

    def text(self) -> str:
        """Its text, parts joined by line breaks, without surrounding space."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content).strip()
        return (self.content or "").strip()

    def strange_parts(self) -> list[str]:
        """Types of its parts that are no text, such as pictures."""
        return (
            [part.type[:40] for part in self.content if part.type != "text"] if isinstance(self.content, list) else []
        )


def _no_flag(value: object) -> object:
    """true and false would count as the seconds 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("Input should be unix seconds or an ISO 8601 text")
    return value


Moment = Annotated[float | str, BeforeValidator(_no_flag)]


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    include_usage: bool = False


class Near(BaseModel):
    """A place, in the numbers x and y of frames' metadata."""

    model_config = ConfigDict(allow_inf_nan=False, extra="forbid")

    x: float
    y: float
    radius_m: float = Field(gt=0)


class ChatRequest(BaseModel):
    """The body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(allow_inf_nan=False)

    messages: list[Message] = Field(min_length=1)
    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    n: int | None = None  # 1: one answer per question
    camera: str | None = None
    cameras: list[str] | None = None
    after: Moment | None = None
    before: Moment | None = None
    within: Near | None = None

    def question(self) -> str:
        """The last user message. Raises BadRequest when there is none or it is empty."""
        asked = [message for message in self.messages if message.role == "user"]
        if asked and (strange := asked[-1].strange_parts()):
            advice = "send the question as text; it is asked about what the cameras saw."
            raise BadRequest(f"Parts of type '{strange[0]}' are not taken: {advice}", param="messages")
        if not asked or not asked[-1].text():
            raise BadRequest("The question is empty: send a user message with text.", param="messages")
        return asked[-1].text()

    def earlier(self) -> tuple[Said, ...]:
        """What was said before the question: the newest turns, as many as fit into MAX_EARLIER and MAX_EARLIER_CHARS."""
        asked = max(place for place, message in enumerate(self.messages) if message.role == "user")
        said: list[Said] = []
        room = MAX_EARLIER_CHARS
        for message in reversed(self.messages[:asked]):
            text = message.text()
            room -= len(text)
            if len(said) == MAX_EARLIER or room < 0:
                break
            if message.role in ("user", "assistant") and text:
                said.append(Said("user" if message.role == "user" else "assistant", text))
        return tuple(reversed(said))

    def named_cameras(self) -> tuple[str, ...]:
        """Cameras asked about, each once; empty: the request names none."""
        if self.camera is not None and self.cameras is not None:
            raise BadRequest("Send either 'camera' or 'cameras', not both.", param="cameras")
        if self.cameras is not None and not self.cameras:
            raise BadRequest("'cameras' is empty: name at least one, or leave it out.", param="cameras")
        return tuple(dict.fromkeys(self.cameras or ([self.camera] if self.camera is not None else [])))

    def place(self) -> Within | None:
        """Where the frames asked about were taken."""
        near = self.within
        return None if near is None else Within(near.x, near.y, near.radius_m)

    def max_new_tokens(self) -> int | None:
        """The limit asked for, under its new or its old name."""
        return self.max_completion_tokens or self.max_tokens


def parse_request(body: bytes) -> ChatRequest:
    """The request in a body. Raises BadRequest with the name of the first field that is wrong."""
    return request_of(parse_object(body))


def request_of(body: Mapping[str, Any]) -> ChatRequest:
    """The request with these fields; null is a field left out. Raises BadRequest as `parse_request` does."""
    given = without_nulls(body)
    refuse_unsupported(given)
    check_spelling(given, ChatRequest.model_fields, OPENAI_FIELDS)
    options = given.get("stream_options")
    check_spelling(options if isinstance(options, dict) else (), StreamOptions.model_fields)
    try:
        return ChatRequest.model_validate(given)
    except ValidationError as error:
        raise wrong_field(error, ChatRequest.model_fields) from None


def parse_moment(value: float | str | None, zone: str, param: str) -> float | None:
    """Unix seconds of a number or an ISO 8601 text; a text without an offset is local time in `zone`.

    Of a local time that clocks there show twice, `before` means the last, so that a window holds both.
    A moment before 1970 or after 5138 becomes that edge. Raises BadRequest.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = _moment_of(value.strip(), zone, param)
    elif value >= MAX_UNIX_S:
        value = _too_late(value, param)
    if not math.isfinite(value):
        raise BadRequest(f"'{param}' is not a finite number.", param=param)
    return min(max(value, 0.0), MAX_UNIX_S)


def _moment_of(text: str, zone: str, param: str) -> float:
    if _SECONDS.fullmatch(text):
        seconds = float(text)
        return seconds if seconds < MAX_UNIX_S else _too_late(seconds, param)
    try:
        return instant_of(datetime.fromisoformat(text), load_zone(zone), latest=param == "before")
    except (ValueError, OverflowError):
        advice = f"'{param}' is neither unix seconds nor ISO 8601, such as 2026-11-22T17:04:05+01:00."
        raise BadRequest(advice, param=param) from None


def _too_late(value: float, param: str) -> NoReturn:
    """The refusal of a number that no clock shows in seconds."""
    advice = unit_hint(value) or f"it must be below {MAX_UNIX_S:.0f}"
    raise BadRequest(f"'{param}' is a number of unix seconds, and {advice}.", param=param)


def citation(evidence: Evidence, url: str) -> Json:
    """One annotation: a frame the answer rests on."""
    return {"type": "frame_citation", **asdict(evidence), "score": round(evidence.score, 4), "url": url}


def _usage(finished: Finished) -> Json:
    prompt, completion = finished.prompt_tokens, finished.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def extension(seen: Seen, finished: Finished) -> Json:
    """The `vilamp` object: what the format has no place for."""
    return {
        "frames": seen.num_frames,
        "oldest": seen.oldest,
        "newest": seen.newest,
        "notes": list(finished.notes),
        "timings_ms": finished.timings_ms,
    }


@dataclass(frozen=True, slots=True)
class Envelope:
    """What all bodies of one completion share."""

    id: str
    created: int
    model: str

    def completion(self, answer: Answer, annotations: Sequence[Json]) -> Json:
        """The body of an answer that is not streamed."""
        message = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": list(annotations)}
        reason = answer.finished.finish_reason
        return {
            **self._head("chat.completion"),
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
            "usage": _usage(answer.finished),
            "vilamp": extension(answer.seen, answer.finished),
        }

    def chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        """One step of a streamed answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def usage_chunk(self, finished: Finished) -> Json:
        """The last chunk, for those who asked for it."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(finished)}

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def sse(data: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + json_bytes(data) + b"\n\n"


SSE_DONE = b"data: [DONE]\n\n"
SSE_STILL_HERE = b": still here\n\n"  # a comment: keeps proxies and clients from giving up
