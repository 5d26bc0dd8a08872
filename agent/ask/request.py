"""Parse questions from requests.

The fields are those of an OpenAI chat completion, and `camera` or `cameras`, `after`, `before`, `within` and
`selection`. They are the same over HTTP, MQTT and WebRTC. The last user message is the question. The request contains
the earlier messages, because the agent stores no conversations. A null field counts as absent. OpenAI fields that would
change the answer but are not supported are refused (`agent/untrusted/fields.py`); other unknown fields are ignored.
"""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, NoReturn, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from agent.ask.question import Question, Said
from agent.errors import BadRequest
from agent.runtime import pools
from agent.times import MAX_UNIX_S, instant_of, load_zone, unit_hint
from agent.untrusted.fields import OPENAI_FIELDS, check_spelling, refuse_unsupported, wrong_field
from agent.untrusted.strict_json import parse_object, without_nulls
from memory.window import Within
from model.config import SelectionRule

MAX_EARLIER = 8  # messages before the question
MAX_EARLIER_CHARS = 8000
MAX_FRAMES = 64  # cited by an earlier answer
_SECONDS = re.compile(r"\d{10,19}(\.\d+)?", re.ASCII)  # a number with fewer digits is more likely a year or a date


class Part(BaseModel):
    """One part of a message's content. Only parts of type "text" are used."""

    type: str
    text: str = ""


class Message(BaseModel):
    """One message of the conversation."""

    role: str
    content: str | list[Part] | None = None
    annotations: Any = None  # of an answer of this agent, as it sent them

    def text(self) -> str:
        """Return the message's text, stripped. Several parts are joined by line breaks."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content).strip()
        return (self.content or "").strip()

    def frames(self) -> tuple[int, ...]:
        """Return the ids of the frames that an earlier answer cited. Anything else in `annotations` is ignored."""
        cited = self.annotations if isinstance(self.annotations, list) else []
        ids = [each.get("frame_id") for each in cited[:MAX_FRAMES] if isinstance(each, dict)]
        return tuple(each for each in ids if isinstance(each, int) and not isinstance(each, bool) and 0 < each < 2**63)

    def other_parts(self) -> list[str]:
        """Return the types of the parts that are not text, such as "image_url"."""
        return (
            [part.type[:40] for part in self.content if part.type != "text"] if isinstance(self.content, list) else []
        )


def _no_flag(value: object) -> object:
    """Return `value`; raise ValueError for true and false, which pydantic would accept as the seconds 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("Input should be unix seconds or an ISO 8601 text")
    return value


Moment = Annotated[float | str, BeforeValidator(_no_flag)]


class StreamOptions(BaseModel):
    """The OpenAI field `stream_options`: what to send in a stream besides the text."""

    include_usage: bool = False


class Near(BaseModel):
    """A circle around (x, y): only frames whose metadata has coordinates inside it are searched."""

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
    n: int | None = None  # only 1 is supported
    camera: str | None = None
    cameras: list[str] | None = None
    after: Moment | None = None
    before: Moment | None = None
    within: Near | None = None
    selection: SelectionRule | None = None  # how keyframes are chosen; None: as configured

    def question(self) -> str:
        """Return the text of the last user message. Raises BadRequest if there is none or it is empty."""
        asked = [message for message in self.messages if message.role == "user"]
        if asked and (others := asked[-1].other_parts()):
            advice = "send the question as text; it is asked about what the cameras saw."
            raise BadRequest(f"Parts of type '{others[0]}' are not taken: {advice}", param="messages")
        if not asked or not asked[-1].text():
            raise BadRequest("The question is empty: send a user message with text.", param="messages")
        return asked[-1].text()

    def earlier(self) -> tuple[Said, ...]:
        """Return the newest user and assistant messages before the question, oldest first.

        At most MAX_EARLIER messages, with at most MAX_EARLIER_CHARS characters together.
        """
        asked = max(place for place, message in enumerate(self.messages) if message.role == "user")
        said: list[Said] = []
        room = MAX_EARLIER_CHARS
        for message in reversed(self.messages[:asked]):
            text = message.text()
            room -= len(text)
            if len(said) == MAX_EARLIER or room < 0:
                break
            if message.role in ("user", "assistant") and text:
                is_user = message.role == "user"
                said.append(Said("user" if is_user else "assistant", text, () if is_user else message.frames()))
        return tuple(reversed(said))

    def named_cameras(self) -> tuple[str, ...]:
        """Return the names of the cameras asked about, without repetitions; () if the request names none.

        Raises BadRequest if both `camera` and `cameras` are given, or `cameras` is empty.
        """
        if self.camera is not None and self.cameras is not None:
            raise BadRequest("Send either 'camera' or 'cameras', not both.", param="cameras")
        if self.cameras is not None and not self.cameras:
            raise BadRequest("'cameras' is empty: name at least one, or leave it out.", param="cameras")
        return tuple(dict.fromkeys(self.cameras or ([self.camera] if self.camera is not None else [])))

    def place(self) -> Within | None:
        """Return the circle to which the search is restricted, None if the request names none."""
        near = self.within
        return None if near is None else Within(near.x, near.y, near.radius_m)

    def max_new_tokens(self) -> int | None:
        """Return the requested token limit: `max_completion_tokens`, or the older `max_tokens`; None without both."""
        return self.max_completion_tokens or self.max_tokens


def parse_request(body: bytes) -> ChatRequest:
    """Parse a JSON body. Raises BadRequest that names the first wrong field."""
    return request_of(parse_object(body))


def request_of(body: Mapping[str, Any]) -> ChatRequest:
    """Validate the fields of a parsed body. Raises BadRequest that names the first wrong field."""
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
    """Return a time in unix seconds, given as a number of unix seconds or as an ISO 8601 text; None for None.

    A text without a UTC offset is local time in `zone`. A local time that occurs twice (when clocks are set back) means
    the later one for `before` and the earlier one otherwise, so that the range includes both. Times before 1970 or
    after the year 5138 are clipped. param: the field's name. Raises BadRequest.
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


def parse_span(after: float | str | None, before: float | str | None, zone: str) -> tuple[float | None, float | None]:
    """Return `after` and `before` in unix seconds (see `parse_moment`).

    Raises BadRequest if one is invalid or `after` is not earlier than `before`.
    """
    start, end = parse_moment(after, zone, "after"), parse_moment(before, zone, "before")
    if start is not None and end is not None and start >= end:
        raise BadRequest("'after' must be earlier than 'before'.", param="after")
    return start, end


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
    """Raise BadRequest for a number that is too large to be unix seconds. The message names the likely unit."""
    advice = unit_hint(value) or f"it must be below {MAX_UNIX_S:.0f}"
    raise BadRequest(f"'{param}' is a number of unix seconds, and {advice}.", param=param)


class Cameras(Protocol):
    """The cameras that can be asked about."""

    def existing(self, named: tuple[str, ...]) -> tuple[str, ...]:
        """Return `named`, or all cameras if `named` is empty. Raises UnknownCamera."""

    def zone_of(self, camera: str) -> str:
        """Return the time zone of the camera, such as "Europe/Zurich"."""


async def question_of(cameras: Cameras, asked: ChatRequest) -> Question:
    """Return the question of a request, after checking all fields. Raises BadRequest or UnknownCamera."""
    text = asked.question()
    names = await pools.questions(cameras.existing, asked.named_cameras())
    after, before = parse_span(asked.after, asked.before, cameras.zone_of(names[0]) if names else "UTC")
    limit, temperature = asked.max_new_tokens(), asked.temperature or 0.0
    return Question(
        text,
        names,
        after,
        before,
        limit,
        temperature,
        asked.place(),
        asked.earlier(),
        selection=asked.selection,
        cameras_by_default=not asked.named_cameras(),
    )
