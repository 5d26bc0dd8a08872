"""Answer with an OpenAI-compatible server: send it the question and the keyframes with their times and places.

All pictures of a request together have at most MAX_IMAGE_BYTES; the least important ones beyond that are left out. A
request that fails before its first token is repeated after a pause that grows from try to try, unless another try
cannot help. A request that fails after its first token is not repeated, so that no answer begins twice. Closing the
stream closes the request. `agent.ask.egress` decides where pictures may be sent.
"""

import asyncio
import json
import logging
import random
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

import httpx
import numpy as np
from numpy.typing import NDArray

from agent.ask.answerer import Context, Looked, Tally, Task
from agent.ask.egress import Egress, EgressRefused, HostUnknown, Resolver, checked_addresses, guarded_client, strictest
from agent.ask.keyframes import Chosen, Search, relevant, seen
from agent.ask.pictures import fitted, label, read_each
from agent.ask.probe import Probe
from agent.ask.question import Question
from agent.ask.remote_reply import Manner, RemoteTally, Room, UsedForThinking, pieces_of
from agent.ask.remote_text import ThoughtsShown
from agent.ask.remote_wire import Misunderstood, Shown, complaint_of, request_body
from agent.errors import AnswererAway, AnswererRefused, NoAnswer, NoFrames, PicturesStayHere, Problem
from agent.runtime import pools
from agent.runtime.stopwatch import Stopwatch
from agent.settings.settings import AnswererSettings
from agent.untrusted.plain import plain_line
from memory.window import Window
from model.config import JudgeManner
from model.select import Keyframes
from streaming.backoff import backoff_s
from streaming.redact import redact_text

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 8.0
RETRIES = 2  # before the first token; with more, their pauses would last longer than a person waits
MAX_IMAGE_BYTES = 4 * 2**20  # of all pictures of a question: servers often refuse bodies of more than 5 to 20 MB
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # temporary errors: another try may succeed


@dataclass(frozen=True, slots=True)
class RemoteContext(Context):
    """The prepared answer, with the pictures to send in order of time."""

    tally: RemoteTally
    shown: tuple[Shown, ...]


class _Passing(Exception):
    """This try failed, but another may succeed. problem: the error to raise if no tries are left."""

    def __init__(self, problem: Problem, after_s: float = 0.0) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.after_s = after_s  # the pause that the server asks for


class RemoteAnswerer:
    """Answers questions with the configured server; see `Answerer` for the methods."""

    reads_conversations = True
    needs_patches = False
    judge_manner: JudgeManner = "instruct"

    def __init__(
        self,
        settings: AnswererSettings,
        *,
        max_new_tokens: int,
        egress_of: Callable[[str], Egress],
        probe_egress: Egress,
        zone_of: Callable[[str], str],
        resolve: Resolver,
    ) -> None:
        """max_new_tokens: limit for any answer. egress_of: returns the rule where a camera's pictures may be sent.

        probe_egress: the rule for health checks, which carry no pictures. resolve: looks up host names.
        """
        if settings.base_url is None or settings.model is None:
            raise ValueError("answerer: base_url and model are needed")
        self.model_name = settings.model
        self._settings = settings
        self._max_new_tokens = max_new_tokens
        self._url = httpx.URL(settings.base_url + "/chat/completions")
        self._timeout = httpx.Timeout(settings.timeout_s, connect=min(CONNECT_TIMEOUT_S, settings.timeout_s))
        self._egress_of = egress_of
        self._zone_of = zone_of
        self._resolve = resolve
        self._verify = ssl.create_default_context()
        self._manner = Manner()
        self._probe = Probe(settings.base_url, headers=self._headers, egress=probe_egress, resolve=resolve)

    @property
    def max_keyframes(self) -> int | None:
        return self._settings.max_images

    @property
    def problem(self) -> str | None:
        return self._probe.problem

    def tasks(self) -> Iterable[Task]:
        return (("answerer", self._probe.run),)

    @property
    def pictures_per_look(self) -> int:
        return self._settings.max_images

    async def look(self, window: Window, rows: NDArray[np.int64], question: Question, tally: Tally) -> Looked:
        """Send these pictures in one request and return the whole answer; see `Answerer.look`."""
        keyframes, shown, _ = await pools.questions(
            self._pictures, window, relevant(rows, np.zeros(len(rows), np.float32))
        )
        if len(rows) and not shown:
            return Looked("", keyframes.rows)
        context = RemoteContext(seen(window, keyframes), (), RemoteTally(), tuple(shown))
        asked = replace(question, earlier=())
        async with aclosing(self.stream(asked, context)) as pieces:
            text = "".join([piece async for piece in pieces if isinstance(piece, str)])
        tally.prompt_tokens += context.tally.prompt_tokens
        tally.completion_tokens = (tally.completion_tokens or 0) + (context.tally.completion_tokens or 0)
        return Looked(text, keyframes.rows)

    def no_words(self) -> str:
        raise NoAnswer("The server that answers gave no text that can be read.")

    async def check(self, cameras: Iterable[str]) -> None:
        """Raise PicturesStayHere if pictures of these cameras may not be sent to the server.

        Raises AnswererAway if the server's host name cannot be resolved.
        """
        port = self._url.port or (443 if self._url.scheme == "https" else 80)
        try:
            await checked_addresses(self._url.host, port, self._rule(cameras), self._resolve)
        except EgressRefused as error:
            raise _stays_here(error) from None
        except HostUnknown as error:
            raise AnswererAway(f"The server that answers cannot be reached: {error}.") from None

    def search(self, question: Question) -> Search:
        """Return a search by the question and the user's previous message, joined into one text.

        A question such as "and what colour was it?" does not name its subject; the previous message often does.
        """
        before = [said.text for said in question.earlier if said.role == "user"][-1:]
        return Search((" ".join((*before, question.text)),))

    async def prepare(
        self, window: Window, chosen: Sequence[Chosen], question: Question, watch: Stopwatch
    ) -> RemoteContext:
        with watch.stage("pictures"):
            keyframes, shown, num_left_out = await pools.questions(self._pictures, window, chosen[0].keyframes)
        if not shown:
            raise NoFrames("The pictures chosen for this question can no longer be read.")
        notes = [f"the answer rests on {len(shown)} pictures alone"]
        if num_left_out:
            notes.append(f"{num_left_out} keyframes were left out: all pictures together would exceed 4 MiB")
        return RemoteContext(seen(window, keyframes), tuple(notes), RemoteTally(), tuple(shown))

    def _pictures(self, window: Window, keyframes: Keyframes) -> tuple[Keyframes, list[Shown], int]:
        """Return the keyframes to send, their pictures by time, and how many more exceeded MAX_IMAGE_BYTES. Blocks.

        Keyframes whose picture is damaged or erased are left out and not counted.
        """
        from model.features import best_keyframes  # imports torch, which the agent has loaded by now

        limits = self._settings
        fit = partial(fitted, max_width=limits.max_image_width, max_bytes=MAX_IMAGE_BYTES)
        jpegs = dict(read_each(window, keyframes.rows, fit))
        readable = keyframes.at([place for place, row in enumerate(keyframes.rows) if int(row) in jpegs])
        kept = best_keyframes(readable, limits.max_images)
        while sum(len(jpegs[int(row)]) for row in kept.rows) > MAX_IMAGE_BYTES:
            kept = best_keyframes(kept, len(kept.rows) - 1)
        by_time = sorted(map(int, kept.rows), key=lambda row: (float(window.times[row]), row))
        shown = [Shown(label(window, row, self._zone_of), jpegs[row]) for row in by_time]
        return kept, shown, len(readable.rows) - len(kept.rows)

    async def stream(self, question: Question, context: RemoteContext) -> AsyncGenerator[str, None]:
        """Yield the answer's pieces of text. Raises AnswererAway, AnswererRefused, NoAnswer or PicturesStayHere.

        If the model spends its whole token limit on reasoning, it is asked once more with the limit raised by
        answerer.thinking_tokens.
        """
        headers, rule = await pools.questions(self._headers), self._rule(question.cameras)
        limit = min(question.max_new_tokens or self._max_new_tokens, self._max_new_tokens)
        tally, begun, num_failures = context.tally, False, 0
        async with guarded_client(rule, resolve=self._resolve, verify=self._verify, timeout=self._timeout) as client:
            while True:
                may_think = question.may_think or self._manner.thinks
                room = Room(limit, self._settings.thinking_tokens if may_think else 0, question.may_think)
                content = await pools.questions(self._content, question, context.shown, room)
                try:
                    async with aclosing(self._try(client, content, headers, tally, room)) as pieces:
                        async for piece in pieces:
                            begun = True
                            yield piece
                    return
                except UsedForThinking:
                    if begun or may_think or not self._settings.thinking_tokens:
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

    def _content(self, question: Question, shown: Sequence[Shown], room: Room) -> bytes:
        """Return the request's body as JSON.

        room: the token limit. Blocks for tens of milliseconds if pictures are large.
        """
        body = request_body(
            self.model_name,
            question.text,
            shown,
            max_tokens=room.tokens,
            temperature=question.temperature,
            earlier=question.earlier,
            limit_name=self._settings.limit_name,
        )
        return json.dumps(body).encode()

    def _rule(self, cameras: Iterable[str]) -> Egress:
        return strictest(map(self._egress_of, cameras))

    def _headers(self) -> dict[str, str]:
        """Return the headers of every request, which include the API key, if one is configured. Blocks.

        Raises AnswererRefused if the key cannot be read.
        """
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}
        settings = self._settings
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
        self, client: httpx.AsyncClient, content: bytes, headers: dict[str, str], tally: RemoteTally, room: Room
    ) -> AsyncGenerator[str, None]:
        """Send one request and yield the answer's pieces of text.

        Raises _Passing if it fails and another try might succeed, else the Problem.
        """
        try:
            async with client.stream("POST", self._url, content=content, headers=headers) as response:
                if response.status_code != httpx.codes.OK:
                    raise await self._refusal(response)
                async with aclosing(pieces_of(response, tally, room, self._manner)) as pieces:
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
            said = f"The server that answers was silent for {self._settings.timeout_s:g} s."
            raise AnswererAway(said) from None
        except httpx.TransportError as error:
            raise _Passing(AnswererAway(f"The server that answers went away: {_words(error)}.")) from error
        except httpx.HTTPError as error:
            raise AnswererRefused(f"The server that answers cannot be understood: {_words(error)}.") from error

    async def _refusal(self, response: httpx.Response) -> Exception:
        """Return the exception to raise for a response with a status other than 200."""
        status = response.status_code
        said = without_key(await complaint_of(response), response.request.headers)
        words = f"The server that answers says {status}{': ' if said else ''}{said}"
        if status in _PASSING:
            return _Passing(AnswererAway(words), _seconds(response.headers.get("retry-after", "")))
        hints = {401: "answerer.api_key", 403: "answerer.api_key", 404: "answerer.model and answerer.base_url"}
        hint = f" (see {hints[status]})" if status in hints else ""
        return AnswererRefused(words + hint)


def without_key(said: str, headers: Mapping[str, str]) -> str:
    """Return the server's error text without the API key, which some servers repeat, and without passwords in URLs."""
    key = next((value for name, value in headers.items() if name.lower() == "authorization"), "").removeprefix(
        "Bearer "
    )
    return redact_text(said.replace(key, "***") if key else said)


def _stays_here(error: EgressRefused) -> PicturesStayHere:
    return PicturesStayHere(
        f"Pictures of these cameras may not leave the private network, and {error}: "
        "set egress: allowed for each camera that is asked about, or use a local server."
    )


def _words(error: Exception) -> str:
    return plain_line(error).rstrip(".") or type(error).__name__


def _seconds(text: str) -> float:
    """Return the value of a Retry-After header in seconds; 0 if it is "" or a date."""
    return float(text) if text.isascii() and text.isdigit() else 0.0


def pause(attempt: int, after_s: float, chance: float) -> float:
    """Return the seconds to wait before the next try: growing with `attempt`, at most 8 s (`streaming.backoff`).

    after_s: the pause that the server asks for, which is the minimum. chance: a random number from [0, 1), by which the
    pause varies.
    """
    return min(LAST_PAUSE_S, max(after_s, backoff_s(attempt, chance, first_s=FIRST_PAUSE_S, longest_s=LAST_PAUSE_S)))
