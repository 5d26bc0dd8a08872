"""Answers from an OpenAI-compatible vision-language server: it is sent the keyframes with their times and places, and the
question.

Overload policy: pictures beyond the budget are left out, the least important first (recent before relevant before
filling, then by score). Failures before the first token are tried again with growing pauses where a new try may help; after it,
never, so that no answer begins twice. Closing the stream closes the request. Bytes and lines of an answer have limits, and a
compressed answer is refused, as small ones unpack to any size. What the model thinks is never passed on (`remote_text`), and a
server that says nothing a reader sees has failed: NoAnswer says why.

Where pictures may go is not decided here (`agent/ask/egress.py`); which frames are keyframes neither.
"""

import asyncio
import io
import json
import logging
import random
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import cast

import httpx
from PIL import Image

from agent.ask.egress import Egress, EgressRefused, HostUnknown, Resolver, checked_addresses, guarded_client, strictest
from agent.ask.pictures import whereabouts
from agent.ask.question import FinishReason, Question
from agent.ask.remote_text import HELD_CHARS, Speech, ThoughtsShown
from agent.ask.remote_wire import Misunderstood, Shown, Step, complaint, parse, read_line, request_body
from agent.errors import AnswererAway, AnswererRefused, NoAnswer, PicturesStayHere, Problem
from agent.ingest.jpeg import JPEG_QUALITY
from agent.runtime import pools
from agent.settings.settings import AnswererSettings
from agent.times import format_time
from agent.untrusted.plain import plain_line
from memory.errors import FrameGone
from memory.window import Window
from model.select import Keyframes
from streaming.redact import redact_text

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 8.0
MAX_COMPLAINT_BYTES = 64 << 10
MAX_LINE_BYTES = 1 << 20
MAX_ANSWER_BYTES = 32 << 20
MAX_LINES = 1 << 18
_MAX_REFUSAL_CHARS = 200
CHARS_PER_TOKEN = 32  # far above any tokenizer's mean: a server that ignores max_tokens is cut off here
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses that a later try may not meet
_MIN_WIDTH = 16
RETRIES = 2  # before the first token; the pauses between them stay within the seconds a person waits
MAX_IMAGE_BYTES = 4 * 2**20  # of all pictures of a question: servers commonly refuse bodies of more than 5 to 20 MB


@dataclass(frozen=True, slots=True)
class Pictures:
    """What is shown to the server. `keyframes` are those sent, rows rising; `shown` is in order of time."""

    keyframes: Keyframes
    shown: tuple[Shown, ...]
    num_left_out: int  # keyframes beyond the byte budget


@dataclass(slots=True)
class Tally:
    """How an answer went, filled in while it is streamed."""

    finish_reason: FinishReason = "stop"
    called_tool: bool = False
    has_begun: bool = False  # the server has said something, which may still be kept back
    prompt_tokens: int = 0
    completion_tokens: int | None = None  # None: the server did not say
    notes: list[str] = field(default_factory=list)  # what the asker should know, known at the end


class _UsedForThinking(NoAnswer):
    """The model was still thinking at its last token: with more of them it may answer."""


class _Passing(Exception):
    """This try failed; the next may not. `problem` is what to say when there is none."""

    def __init__(self, problem: Problem, after_s: float = 0.0) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.after_s = after_s  # the server's wish


class RemoteAnswerer:
    """One configured server."""

    def __init__(
        self,
        settings: AnswererSettings,
        *,
        egress_of: Callable[[str], Egress],
        zone_of: Callable[[str], str],
        resolve: Resolver,
    ) -> None:
        if settings.base_url is None or settings.model is None:
            raise ValueError("answerer: base_url and model are needed")
        self.settings = settings
        self.model = settings.model
        self._url = httpx.URL(settings.base_url + "/chat/completions")
        self._timeout = httpx.Timeout(settings.timeout_s, connect=min(CONNECT_TIMEOUT_S, settings.timeout_s))
        self._egress_of = egress_of
        self._zone_of = zone_of
        self._resolve = resolve
        self._verify = ssl.create_default_context()
        self._manner = _Manner()

    async def check(self, cameras: Iterable[str]) -> None:
        """Raise, before an answer begins, the Problem that would keep these cameras' pictures from the server."""
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        try:
            await checked_addresses(self._url.host, port, self._rule(cameras), self._resolve)
        except EgressRefused as error:
            raise _stays_here(error) from None
        except HostUnknown as error:
            raise AnswererAway(f"The server that answers cannot be reached: {error}.") from None

    def _rule(self, cameras: Iterable[str]) -> Egress:
        return strictest(map(self._egress_of, cameras))

    # --- pictures ---

    def pictures(self, window: Window, keyframes: Keyframes) -> Pictures:
        """The keyframes' JPEGs within the budget, labelled; those that can no longer be read are left out. Blocks."""
        from model.features import best_keyframes  # torch is imported only where a model has been loaded

        jpegs = dict(self._readable(window, keyframes))
        places = [place for place, row in enumerate(keyframes.rows) if int(row) in jpegs]
        kinds = tuple(keyframes.kinds[place] for place in places)
        readable = Keyframes(keyframes.rows[places], kinds, keyframes.scores[places])
        kept = best_keyframes(readable, self.settings.max_images)
        while sum(len(jpegs[int(row)]) for row in kept.rows) > MAX_IMAGE_BYTES:
            kept = best_keyframes(kept, len(kept.rows) - 1)
        in_time = sorted(map(int, kept.rows), key=lambda row: (float(window.times[row]), row))
        shown = tuple(Shown(self._label(window, row), jpegs[row]) for row in in_time)
        return Pictures(kept, shown, len(readable.rows) - len(kept.rows))

    def _readable(self, window: Window, keyframes: Keyframes) -> Iterable[tuple[int, bytes]]:
        for row in map(int, keyframes.rows):
            try:
                yield row, fitted(window.jpeg(row), self.settings.max_image_width, MAX_IMAGE_BYTES)
            except (FrameGone, OSError) as error:
                log.warning("keyframe is damaged", extra={"frame_id": int(window.frame_ids[row]), "error": str(error)})

    def _label(self, window: Window, row: int) -> str:
        camera = window.cameras[int(window.camera_index[row])]
        taken = [camera, format_time(float(window.times[row]), self._zone_of(camera))]
        if place := whereabouts(window.metadata(row)):
            taken.append(place)
        return ", ".join(taken) + ":"

    # --- words ---

    async def stream(
        self, question: Question, pictures: Pictures, tally: Tally, *, limit: int
    ) -> AsyncGenerator[str, None]:
        """The answer's pieces. Raises AnswererAway, AnswererRefused, NoAnswer or PicturesStayHere.

        A model that used all its tokens for thinking is asked once more, with answerer.thinking_tokens beside them.
        """
        headers = await pools.questions(self.headers)
        rule, begun, num_failures = self._rule(question.cameras), False, 0
        async with guarded_client(rule, resolve=self._resolve, verify=self._verify, timeout=self._timeout) as client:
            while True:
                may_think = question.may_think or self._manner.thinks
                room = _Room(limit, self.settings.thinking_tokens if may_think else 0, question.may_think)
                content = await pools.questions(self._content, question, pictures, room)
                try:
                    async with aclosing(self._try(client, content, headers, tally, room)) as pieces:
                        async for piece in pieces:
                            begun = True
                            yield piece
                    return
                except _UsedForThinking:
                    if begun or may_think or not self.settings.thinking_tokens:
                        raise
                    log.info("answerer thinks, asking again with more tokens", extra={"tokens": room.tokens})
                    tally.finish_reason = "stop"
                    continue
                except _Passing as failure:
                    if tally.has_begun or num_failures >= RETRIES:
                        raise failure.problem from failure
                    pause_s = pause(num_failures, failure.after_s, random.random())
                num_failures += 1
                log.warning("answerer failed, trying again", extra={"attempt": num_failures, "pause_s": pause_s})
                await asyncio.sleep(pause_s)

    def _content(self, question: Question, pictures: Pictures, room: "_Room") -> bytes:
        """The request's body. Takes tens of milliseconds for large pictures."""
        body = request_body(
            self.model,
            question.text,
            pictures.shown,
            max_tokens=room.tokens,
            temperature=question.temperature,
            earlier=question.earlier,
            limit_name=self.settings.limit_name,
        )
        return json.dumps(body).encode()

    def headers(self) -> dict[str, str]:
        """What every request carries, the key included. Blocks. Raises AnswererRefused when the key cannot be read."""
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}
        settings = self.settings
        key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
        if settings.api_key_file is not None:
            try:
                key = settings.api_key_file.read_text("ascii").strip()
            except (OSError, UnicodeDecodeError):
                raise AnswererRefused("The key file of the server that answers cannot be read.") from None
        if not key.isascii() or not key.replace(" ", "").isprintable():
            raise AnswererRefused("The key of the server that answers is not printable ASCII.")
        return {**headers, "Authorization": f"Bearer {key}"} if key else headers

    async def _try(
        self, client: httpx.AsyncClient, content: bytes, headers: dict[str, str], tally: Tally, room: "_Room"
    ) -> AsyncGenerator[str, None]:
        """One request. Raises _Passing where another may go better, else the Problem."""
        try:
            async with client.stream("POST", self._url, content=content, headers=headers) as response:
                if response.status_code != httpx.codes.OK:
                    raise await self._refusal(response)
                async with aclosing(_pieces(response, tally, room, self._manner)) as pieces:
                    async for piece in pieces:
                        yield piece
        except EgressRefused as error:
            raise _stays_here(error) from None
        except Misunderstood as error:
            said = without_key(str(error), headers)
            raise AnswererRefused(f"The server that answers cannot be understood: {said}.") from None
        except ThoughtsShown:
            raise NoAnswer(
                "What was shown so far was not the answer: the server's model had been thinking, and only the end of its "
                "thoughts is marked. This is known now, ask again."
            ) from None
        except (HostUnknown, httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _Passing(AnswererAway(f"The server that answers cannot be reached: {_words(error)}.")) from error
        except httpx.TimeoutException:
            said = f"The server that answers was silent for {self.settings.timeout_s:g} s."
            raise AnswererAway(said) from None
        except httpx.TransportError as error:
            raise _Passing(AnswererAway(f"The server that answers went away: {_words(error)}.")) from error
        except httpx.HTTPError as error:
            raise AnswererRefused(f"The server that answers cannot be understood: {_words(error)}.") from error

    async def _refusal(self, response: httpx.Response) -> Exception:
        """What a status other than 200 means."""
        status = response.status_code
        said = without_key(await _complaint_of(response), response.request.headers)
        words = f"The server that answers says {status}{': ' if said else ''}{said}"
        if status in _PASSING:
            return _Passing(AnswererAway(words), _seconds(response.headers.get("retry-after", "")))
        hints = {401: "answerer.api_key", 403: "answerer.api_key", 404: "answerer.model and answerer.base_url"}
        hint = f" (see {hints[status]})" if status in hints else ""
        return AnswererRefused(words + hint)


def without_key(said: str, headers: Mapping[str, str]) -> str:
    """Some servers repeat the key they refuse; what they say may hold addresses, too."""
    key = next((value for name, value in headers.items() if name.lower() == "authorization"), "").removeprefix(
        "Bearer "
    )
    return redact_text(said.replace(key, "***") if key else said)


@dataclass(slots=True)
class _Manner:
    """What a server's answers so far have shown of its model."""

    thinks: bool = False
    aloud: bool = False  # only the end of its thoughts is marked
    is_known: bool = False  # it has answered in full

    def speech(self, *, may_think: bool) -> Speech:
        held_chars = float("inf") if may_think else 0 if self.is_known else HELD_CHARS
        return Speech(held_chars=held_chars, aloud=self.aloud)

    def learn(self, speech: Speech) -> None:
        self.thinks |= speech.thought
        self.aloud |= speech.aloud


@dataclass(frozen=True, slots=True)
class _Room:
    """How much a server may say: tokens of its answer, and others for thoughts before it."""

    answer: int
    thoughts: int
    may_think: bool  # it may be thinking without a mark

    @property
    def tokens(self) -> int:
        return self.answer + self.thoughts


async def _pieces(response: httpx.Response, tally: Tally, room: _Room, manner: _Manner) -> AsyncGenerator[str, None]:
    """Text of the answer, until the stream says that it has ended. Raises NoAnswer where there is none that a reader sees,
    httpx.RemoteProtocolError when the stream just stops."""
    speech = manner.speech(may_think=room.may_think)
    refusal, num_shown, max_shown = "", 0, room.answer * CHARS_PER_TOKEN
    num_tokens = 0
    try:
        async with aclosing(_steps(response, tally, room.tokens * CHARS_PER_TOKEN)) as steps:
            async for step in steps:
                refusal = (refusal + step.refusal)[:_MAX_REFUSAL_CHARS]
                speech.thought |= step.thought
                num_tokens += bool(step.text)
                tally.called_tool |= step.tool
                piece = speech.hear(step.text)[: max_shown - num_shown]
                tally.has_begun |= speech.has_begun
                num_shown += len(piece)
                if piece:
                    yield piece
                if num_shown >= max_shown:
                    tally.finish_reason = "length"
                    return
        if piece := speech.end(was_cut=tally.finish_reason == "length")[: max_shown - num_shown]:
            num_shown += len(piece)
            yield piece
        speech.thought |= (
            tally.finish_reason == "length" and not num_tokens
        )  # some servers keep all thoughts to themselves
        manner.is_known |= tally.finish_reason == "stop"
        tally.completion_tokens = num_tokens if tally.completion_tokens is None else tally.completion_tokens
    finally:
        manner.learn(speech)
    if not num_shown or refusal:
        raise _silence(tally, speech, room, refusal)
    if tally.finish_reason == "content_filter":
        tally.notes.append("the server's content filter cut this answer short")


async def _steps(response: httpx.Response, tally: Tally, max_chars: int) -> AsyncGenerator[Step, None]:
    """What the stream adds, step by step; numbers and reasons go into `tally`. Ends after `max_chars` of text."""
    heard, ended, num_chars = False, False, 0
    async with aclosing(_lines(response)) as lines:
        async for line in lines:
            step = read_line(line)
            if step is None:
                continue
            heard = True
            if step.done:
                return
            if step.finish_reason is not None:
                tally.finish_reason, ended = step.finish_reason, True
            tally.prompt_tokens = step.prompt_tokens or tally.prompt_tokens
            tally.completion_tokens = step.completion_tokens or tally.completion_tokens
            num_chars += len(step.text)
            yield replace(step, text=step.text[:max_chars]) if num_chars > max_chars else step
            if num_chars > max_chars:
                tally.finish_reason = "length"
                return
    if not heard:
        raise Misunderstood("it sent no event stream")
    if not ended:
        raise httpx.RemoteProtocolError("it stopped in the middle of the answer")


def _silence(tally: Tally, speech: Speech, room: _Room, refusal: str) -> NoAnswer:
    """Why there is no answer, in words."""
    if refusal:
        return NoAnswer(f"The server that answers refuses: {redact_text(' '.join(refusal.split()))}")
    if tally.finish_reason == "content_filter":
        return NoAnswer("The content filter of the server that answers withheld its answer: ask in other words.")
    if speech.thought and tally.finish_reason == "length":
        said = f"The server's model used all its {room.tokens} tokens for thinking and gave no answer"
        return _UsedForThinking(f"{said}: raise answerer.thinking_tokens, or switch its thinking off at the server.")
    if speech.thought:
        return NoAnswer("The server's model thought, and then gave no answer: ask again, or in other words.")
    if tally.called_tool:
        return NoAnswer("The server's model called a tool instead of answering: switch tools off at the server.")
    advice = "ask again; if it stays so, see the server's log, and whether its chat template is that of the model."
    return NoAnswer(f"The server that answers gave no text that can be read: {advice}")


async def _lines(response: httpx.Response) -> AsyncGenerator[str, None]:
    """Lines as event streams have them, but empty ones: ended by LF or CRLF only (httpx also splits at U+2028, which JSON may
    hold). Raises Misunderstood beyond the limits."""
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
    """The body as it is on the wire, never unpacked. Raises Misunderstood beyond MAX_ANSWER_BYTES, or where it is packed."""
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
            await asyncio.sleep(0)  # a flood of chunks would keep everything else waiting


async def _complaint_of(response: httpx.Response) -> str:
    """The server's own words in an error body; "" when there are none."""
    body = bytearray()
    try:
        async with aclosing(_raw(response)) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_COMPLAINT_BYTES:
                    return ""
        return complaint(parse(bytes(body)))
    except (ValueError, RecursionError):  # Misunderstood is a ValueError
        return ""


def _stays_here(error: EgressRefused) -> PicturesStayHere:
    return PicturesStayHere(
        f"Pictures of these cameras may not leave the private network, and {error}: "
        "set egress: allowed for each camera that is asked about, or use a local server."
    )


def _words(error: Exception) -> str:
    return plain_line(error).rstrip(".") or type(error).__name__


def _seconds(text: str) -> float:
    """A Retry-After header in seconds; 0 where it is absent or a date."""
    return float(text) if text.isascii() and text.isdigit() else 0.0


def pause(attempt: int, after_s: float, chance: float) -> float:
    """Seconds before the next try: doubling from 0.5 s, or the server's wish, at most 8 s; `chance` in [0, 1) spreads it.

    Worked example: pause(0, 0, 0) = 0.25; pause(2, 0, 1) = 2; pause(0, 3, 0) = 3; pause(9, 0, 1) = 8.
    """
    own_s = FIRST_PAUSE_S * 2.0**attempt * (0.5 + 0.5 * chance)
    return min(LAST_PAUSE_S, max(own_s, after_s))


def fitted(jpeg: bytes, max_width: int, max_bytes: int) -> bytes:
    """`jpeg` itself when it is small enough, else scaled down until it is. Raises OSError when it is no picture."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        if picture.width <= max_width and len(jpeg) <= max_bytes:
            picture.load()  # damaged data must not be sent
            return jpeg
        picture.draft("RGB", (max_width, max(1, round(picture.height * max_width / picture.width))))
        image = picture.convert("RGB")
    width = min(image.width, max_width)
    while True:
        height = max(1, round(image.height * width / image.width))
        buffer = io.BytesIO()
        image.resize((width, height)).save(buffer, "JPEG", quality=JPEG_QUALITY)
        if buffer.tell() <= max_bytes or width <= _MIN_WIDTH:
            return buffer.getvalue()
        width //= 2
