"""Parse what a server replies in the OpenAI chat-completions format: a stream of events, one JSON body, or an error.

The number of bytes and lines of a stream is limited. Unknown fields are ignored.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import httpx

from agent.ask.question import FinishReason
from agent.untrusted.plain import plain_line
from agent.untrusted.wire import whole_text

Json = dict[str, Any]

MAX_LINE_BYTES = 1 << 20
MAX_ANSWER_BYTES = 32 << 20
MAX_LINES = 1 << 18
MAX_COMPLAINT_BYTES = 64 << 10
MAX_COMPLAINT_CHARS = 200
MAX_COUNT = 10**12  # largest number of tokens that is believed; larger ones are ignored
_MAX_DIGITS = 20
_MAX_DEPTH = 4
_MESSAGES = ("error", "message", "detail", "msg")  # fields in which servers put the words of an error


class Misunderstood(ValueError):
    """The server sent something other than a chat-completion stream, or an error inside one."""


# Fields in which servers send the model's reasoning ("thoughts"), which is not part of the answer
_THOUGHTS = ("reasoning", "reasoning_content", "reasoning_details", "thinking", "thinking_blocks")


@dataclass(frozen=True, slots=True)
class Call:
    """A part of the call of a tool: its number in the reply, and what this part adds to its fields."""

    number: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Delta:
    """The content of one line of the event stream. A field that is None or "" was not in the line."""

    text: str = ""
    thought: bool = False  # the line carries reasoning of the model
    calls: tuple[Call, ...] = ()
    refusal: str = ""  # the model's reason not to answer
    finish_reason: FinishReason | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    done: bool = False


async def lines(response: httpx.Response) -> AsyncGenerator[str, None]:
    """Yield the non-empty lines of the body, split at LF and CRLF only.

    httpx's own `aiter_lines` also splits at U+2028, which JSON may contain. Raises Misunderstood if a line exceeds
    MAX_LINE_BYTES or the body MAX_LINES.
    """
    rest = bytearray()
    num_lines = 0
    async with aclosing(_raw(response)) as chunks:
        async for chunk in chunks:
            first, *others = chunk.split(b"\n")
            rest += first
            num_lines += len(others)
            if len(rest) > MAX_LINE_BYTES:
                raise Misunderstood(f"it sent a line of more than {MAX_LINE_BYTES} bytes")
            if num_lines > MAX_LINES:
                raise Misunderstood(f"it sent an answer of more than {MAX_LINES} lines")
            if not others:
                continue
            for line in (bytes(rest), *others[:-1]):
                if text := line.decode("utf-8", "replace").rstrip("\r"):
                    yield text
            rest = bytearray(others[-1])
    yield rest.decode("utf-8", "replace")


async def _raw(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Yield the body in chunks, as sent. Raises Misunderstood if it exceeds MAX_ANSWER_BYTES or is compressed.

    A compressed body is refused because it could unpack to any size.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Misunderstood("it sent a compressed answer, though none was asked for: switch compression off there")
    num_bytes = 0
    async with aclosing(cast(AsyncGenerator[bytes, None], response.aiter_raw())) as chunks:
        async for chunk in chunks:
            num_bytes += len(chunk)
            if num_bytes > MAX_ANSWER_BYTES:
                raise Misunderstood(f"it sent an answer of more than {MAX_ANSWER_BYTES} bytes")
            yield chunk
            await asyncio.sleep(0)  # let other tasks run during a flood of chunks


async def body_of(response: httpx.Response, max_bytes: int) -> bytes:
    """Return the body of a response. Raises Misunderstood if it is compressed or longer than `max_bytes`."""
    body = bytearray()
    async with aclosing(_raw(response)) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > max_bytes:
                raise Misunderstood(f"it sent more than {max_bytes} bytes")
    return bytes(body)


async def complaint_of(response: httpx.Response) -> tuple[str, str]:
    """Return the error message in the body of a response (see `complaint`), and the body as text.

    Both are "" if the body is too long. The message is "" if there is none.
    """
    try:
        body = await body_of(response, MAX_COMPLAINT_BYTES)
        return complaint(parse(body)), body.decode("utf-8", "replace")
    except (ValueError, RecursionError):  # Misunderstood is a ValueError
        return "", ""


def read_line(line: str) -> Delta | None:
    """Parse one line of an event stream. Return None for comments and for fields other than `data`.

    Raises Misunderstood if the line is not a valid chunk, or reports an error.
    """
    if not line.startswith("data:"):
        return None
    data = line.removeprefix("data:").strip()
    if data == "[DONE]":
        return Delta(done=True)
    return read_chunk(data)


def read_chunk(data: str) -> Delta:
    """Parse one chunk of a reply, or a whole reply, which has `message` where a chunk has `delta`.

    Raises Misunderstood if it is not valid, or reports an error.
    """
    try:
        chunk = parse(data)
    except (ValueError, RecursionError):
        raise Misunderstood("it sent an event that is not JSON") from None
    if not isinstance(chunk, dict):
        raise Misunderstood("it sent an event that is not an object")
    if chunk.get("error") or (chunk.get("object") == "error" and complaint(chunk)):
        raise Misunderstood(f"it reports: {complaint(chunk)}")
    choices = chunk.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    given = choice.get("delta") or choice.get("message")
    delta = given if isinstance(given, dict) else {}
    usage = chunk.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    text, thought = _text_of(delta.get("content"))
    refusal = delta.get("refusal")
    return Delta(
        text=text,
        thought=thought or any(delta.get(name) for name in _THOUGHTS),
        calls=_calls(delta.get("tool_calls") or delta.get("function_call")),
        refusal=refusal if isinstance(refusal, str) else "",
        finish_reason=_reason(choice.get("finish_reason")),
        prompt_tokens=_count(counts.get("prompt_tokens")),
        completion_tokens=_count(counts.get("completion_tokens")),
    )


def _calls(given: object) -> tuple[Call, ...]:
    """Return the parts of calls in a delta. A part without a function counts as a call without a name."""
    calls = []
    for place, each in enumerate(given if isinstance(given, list) else [given] if given else []):
        called = each if isinstance(each, dict) else {}
        inner = called.get("function")
        function = inner if isinstance(inner, dict) else called
        number, arguments = called.get("index"), function.get("arguments")
        calls.append(
            Call(
                number=number if isinstance(number, int) else place,
                id=_text(called.get("id")),
                name=_text(function.get("name")),
                arguments=json.dumps(arguments) if isinstance(arguments, dict) else _text(arguments),
            )
        )
    return tuple(calls)


def _text(given: object) -> str:
    return given if isinstance(given, str) else ""


def parse(text: str | bytes) -> Any:
    """Parse JSON from a server. Integers with too many digits become 0. Raises ValueError, RecursionError."""
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) <= _MAX_DIGITS else 0)


def _text_of(content: object) -> tuple[str, bool]:
    """Return the text of a delta's content (a string or a list of parts), and whether the content has reasoning."""
    if isinstance(content, str):
        return content, False
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if part.get("type") == "text"]
    thought = any(part.get("type") in _THOUGHTS for part in parts)
    return "".join(text for text in texts if isinstance(text, str)), thought


def _reason(said: object) -> FinishReason | None:
    if not isinstance(said, str) or not said:
        return None
    match said.lower().replace("-", "_"):
        case "length" | "max_tokens" | "model_length":
            return "length"
        case "content_filter" | "safety":
            return "content_filter"
        case "error" | "abort" | "aborted" | "cancelled":
            raise Misunderstood(f"it broke the answer off, giving '{said[:20]}' as the reason")
    return "stop"


def _count(said: object) -> int | None:
    return said if isinstance(said, int) and not isinstance(said, bool) and 0 <= said <= MAX_COUNT else None


def complaint(body: object) -> str:
    """Return the message in an error body of any common format, at most 200 characters; "" if there is none."""
    return plain_line(whole_text(_said(body)))[:MAX_COMPLAINT_CHARS]


def _said(value: object, depth: int = 0) -> str:
    """Return the words in an error: text, the first of the fields that servers use, or the entries of a list.

    An entry of a list, as servers built on FastAPI send, has the place of the mistake and its message.
    """
    if isinstance(value, str) or depth > _MAX_DEPTH:
        return value if isinstance(value, str) else ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_said(each, depth + 1) for each in value)))
    if not isinstance(value, dict):
        return ""
    said = next(filter(None, (_said(value.get(name), depth + 1) for name in _MESSAGES)), "")
    place = value.get("loc")
    where = ".".join(str(each) for each in place if each != "body") if isinstance(place, list) else ""
    return f"{where}: {said}" if where and said else said
