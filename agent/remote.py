"""Answers from an OpenAI-compatible vision-language server: it is sent the keyframes with their times and places, and the
question.

Overload policy: pictures beyond the budget are left out, the least important first (recent before relevant before
filling, then by score). Failures before the first token are tried again with growing pauses where a new try may help; after it,
never, so that no answer begins twice. Closing the stream closes the request.

Where pictures may go is not decided here (`agent/egress.py`); which frames are keyframes neither.
"""

import asyncio
import io
import json
import logging
import random
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import cast

import httpx
from PIL import Image

from agent import pools
from agent.config import AnswererSettings
from agent.egress import Egress, EgressRefused, HostUnknown, Resolver, checked_addresses, guarded_client, strictest
from agent.intake import JPEG_QUALITY
from agent.problems import AnswererAway, AnswererRefused, PicturesStayHere, Problem
from agent.question import FinishReason, Question
from agent.remote_wire import Misunderstood, Shown, complaint, read_line, request_body
from agent.times import format_time
from agent.whereabouts import whereabouts
from memory.errors import FrameGone
from memory.window import Window
from model.select import Keyframes

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 8.0
MAX_COMPLAINT_BYTES = 64 << 10
MAX_LINE_BYTES = 1 << 20
CHARS_PER_TOKEN = 32  # far above any tokenizer's mean: a server that ignores max_tokens is cut off here
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses that a later try may not meet
_MIN_WIDTH = 16


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
    prompt_tokens: int = 0
    completion_tokens: int | None = None  # None: the server did not say


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
        while sum(len(jpegs[int(row)]) for row in kept.rows) > self.settings.max_image_bytes:
            kept = best_keyframes(kept, len(kept.rows) - 1)
        in_time = sorted(map(int, kept.rows), key=lambda row: (float(window.times[row]), row))
        shown = tuple(Shown(self._label(window, row), jpegs[row]) for row in in_time)
        return Pictures(kept, shown, len(readable.rows) - len(kept.rows))

    def _readable(self, window: Window, keyframes: Keyframes) -> Iterable[tuple[int, bytes]]:
        for row in map(int, keyframes.rows):
            try:
                yield row, fitted(window.jpeg(row), self.settings.max_image_width, self.settings.max_image_bytes)
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
        """The answer's pieces. Raises AnswererAway, AnswererRefused or PicturesStayHere."""
        body = request_body(
            self.model,
            question.text,
            pictures.shown,
            max_tokens=limit,
            temperature=question.temperature,
            earlier=question.earlier,
            limit_name=self.settings.limit_name,
        )
        content = await pools.questions(lambda: json.dumps(body).encode())
        headers = await pools.questions(self.headers)
        rule, begun = self._rule(question.cameras), False
        async with guarded_client(rule, resolve=self._resolve, verify=self._verify, timeout=self._timeout) as client:
            for attempt in count():
                try:
                    async with aclosing(self._try(client, content, headers, tally, limit)) as pieces:
                        async for piece in pieces:
                            begun = True
                            yield piece
                    return
                except _Passing as failure:
                    if begun or attempt >= self.settings.retries:
                        raise failure.problem from failure
                    pause_s = pause(attempt, failure.after_s, random.random())
                log.warning("answerer failed, trying again", extra={"attempt": attempt + 1, "pause_s": pause_s})
                await asyncio.sleep(pause_s)

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
        self, client: httpx.AsyncClient, content: bytes, headers: dict[str, str], tally: Tally, limit: int
    ) -> AsyncGenerator[str, None]:
        """One request. Raises _Passing where another may go better, else the Problem."""
        try:
            async with client.stream("POST", self._url, content=content, headers=headers) as response:
                if response.status_code != httpx.codes.OK:
                    raise await self._refusal(response)
                async with aclosing(_pieces(response, tally, limit * CHARS_PER_TOKEN)) as pieces:
                    async for piece in pieces:
                        yield piece
        except EgressRefused as error:
            raise _stays_here(error) from None
        except Misunderstood as error:
            raise AnswererRefused(f"The server that answers cannot be understood: {error}.") from None
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
        said = self._without_key(await _complaint_of(response), response.request)
        words = f"The server that answers says {status}{': ' if said else ''}{said}"
        if status in _PASSING:
            return _Passing(AnswererAway(words), _seconds(response.headers.get("retry-after", "")))
        hints = {401: "answerer.api_key", 403: "answerer.api_key", 404: "answerer.model and answerer.base_url"}
        hint = f" (see {hints[status]})" if status in hints else ""
        return AnswererRefused(words + hint)

    def _without_key(self, said: str, request: httpx.Request) -> str:
        """Some servers repeat the key they refuse."""
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        return said.replace(key, "***") if key else said


async def _pieces(response: httpx.Response, tally: Tally, max_chars: int) -> AsyncGenerator[str, None]:
    """Text of the stream, until it says that it has ended. Raises httpx.RemoteProtocolError when it just stops."""
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
            if num_chars > max_chars:
                tally.finish_reason = "length"
                return
            if step.text:
                yield step.text
    if not heard:
        raise Misunderstood("it sent no event stream")
    if not ended:
        raise httpx.RemoteProtocolError("it stopped in the middle of the answer")


async def _lines(response: httpx.Response) -> AsyncGenerator[str, None]:
    """Lines as event streams have them: ended by LF or CRLF only (httpx also splits at U+2028, which JSON may hold)."""
    rest = b""
    async with aclosing(cast(AsyncGenerator[bytes, None], response.aiter_bytes())) as chunks:
        async for chunk in chunks:
            *whole, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                raise Misunderstood(f"it sent a line of more than {MAX_LINE_BYTES} bytes")
            for line in whole:
                yield line.decode("utf-8", "replace").rstrip("\r")
    yield rest.decode("utf-8", "replace")


async def _complaint_of(response: httpx.Response) -> str:
    """The server's own words in an error body; "" when there are none."""
    body = b""
    async with aclosing(cast(AsyncGenerator[bytes, None], response.aiter_bytes())) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_COMPLAINT_BYTES:
                return ""
    try:
        return complaint(json.loads(body))
    except (ValueError, RecursionError):
        return ""


def _stays_here(error: EgressRefused) -> PicturesStayHere:
    return PicturesStayHere(
        f"Pictures of these cameras may not leave the private network, and {error}: "
        "set egress: allowed for each camera that is asked about, or use a local server."
    )


def _words(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


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
