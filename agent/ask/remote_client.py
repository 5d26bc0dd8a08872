"""Send prompts to the configured server, and adapt to what it takes.

A request that fails before its first token is repeated after a pause that grows from try to try, unless another try
cannot help. While the server loads its model, and when it asks to wait, the client waits up to `answerer.timeout_s`. A
request that the server refuses is repeated once for each thing that can be changed (`agent.ask.remote_traits`). A
request that fails after its first token is not repeated, so that no answer begins twice.
"""

import asyncio
import json
import logging
import random
import re
import ssl
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import httpx

from agent.ask.egress import Egress, EgressRefused, HostUnknown, Resolver, guarded_client
from agent.ask.question import Step
from agent.ask.remote_prompt import Json, Prompt
from agent.ask.remote_reply import RemoteTally, Room, UsedForThinking, pieces_of
from agent.ask.remote_text import ThoughtsShown
from agent.ask.remote_traits import Refused, Traits, adapt, takes_no_pictures
from agent.ask.remote_wire import Misunderstood, complaint_of
from agent.errors import AnswererAway, AnswererRefused, NoAnswer, PicturesStayHere, Problem
from agent.runtime import pools
from agent.settings.settings import AnswererSettings
from agent.untrusted.plain import plain_line
from streaming.backoff import backoff_s, retry_after_s
from streaming.redact import redact_text

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 8.0
RETRIES = 2  # before the first token; with more, their pauses would last longer than a person waits
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # temporary errors: another try may succeed
_HINTS = {
    401: "answerer.api_key",
    403: "answerer.api_key",
    404: "answerer.model and answerer.base_url",
}
_LOADING = re.compile(r"\bloading\b|\bis being loaded|\bstarting up|\bwarming up", re.IGNORECASE)
_NO_QUOTA = re.compile(r"insufficient_quota|billing_hard_limit|insufficient (?:credit|balance|fund)", re.IGNORECASE)


class _Passing(Exception):
    """This try failed, but another may succeed. problem: the error to raise if no tries are left.

    after_s: the pause that the server asks for. loading: the server is loading its model.
    """

    def __init__(self, problem: Problem, after_s: float = 0.0, *, loading: bool = False) -> None:
        super().__init__(problem.message)
        self.problem, self.after_s, self.loading = problem, after_s, loading


class _Refusal(Exception):
    """The server refused the request. Another one may be accepted. words: its message and the body with the error."""

    def __init__(self, problem: Problem, words: str) -> None:
        super().__init__(problem.message)
        self.problem, self.words = problem, words


class ChatClient:
    """Sends prompts to one server. traits: what is known of it, which replies change."""

    def __init__(self, settings: AnswererSettings, *, resolve: Resolver) -> None:
        """resolve: looks up host names."""
        if settings.base_url is None or settings.model is None:
            raise ValueError("answerer: base_url and model are needed")
        self.traits = Traits()
        self.idle = asyncio.Event()  # set while no request is in progress
        self.idle.set()
        self._num_open = 0
        self.model = settings.model
        self.url = httpx.URL(settings.base_url + "/chat/completions")
        self._settings = settings
        self._timeout = httpx.Timeout(settings.timeout_s, connect=min(CONNECT_TIMEOUT_S, settings.timeout_s))
        self._resolve = resolve
        self._verify = ssl.create_default_context()

    def headers(self) -> dict[str, str]:
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

    def guarded(self, rule: Egress) -> httpx.AsyncClient:
        """Return an HTTP client that sends requests only where `rule` allows."""
        return guarded_client(rule, resolve=self._resolve, verify=self._verify, timeout=self._timeout)

    async def stream(self, prompt: Prompt, rule: Egress, tally: RemoteTally) -> AsyncGenerator[str | Step, None]:
        """Yield the pieces of the reply's text, and before them what delays it. rule: where pictures may be sent.

        If the model spends its whole token limit on reasoning, it is asked once more with the limit raised by
        answerer.thinking_tokens. Raises AnswererAway, AnswererRefused, NoAnswer or PicturesStayHere.
        """
        self._num_open += 1
        self.idle.clear()
        try:
            async with aclosing(self._stream(prompt, rule, tally)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._num_open -= 1
            if not self._num_open:
                self.idle.set()

    async def _stream(self, prompt: Prompt, rule: Egress, tally: RemoteTally) -> AsyncGenerator[str | Step, None]:
        headers = await pools.questions(self.headers)
        waiting, changed, begun = _Waiting(self._settings.timeout_s), set[str](), False
        may_think = prompt.may_think
        async with self.guarded(rule) as client:
            while True:
                may_think = may_think or self.traits.manner.thinks
                room = Room(prompt.max_tokens, self._settings.thinking_tokens if may_think else 0, prompt.may_think)
                sent, content, fields = await pools.questions(self._content, prompt, room)
                tally.shown = sent.shown
                tally.calls.clear()
                try:
                    async with aclosing(self._try(client, content, headers, tally, room, bool(prompt.tools))) as pieces:
                        async for piece in pieces:
                            begun = True
                            yield piece
                    if note := self.traits.truncation(len(tally.shown), tally.prompt_tokens):
                        tally.notes.append(note)
                    return
                except UsedForThinking:
                    if begun or may_think or not self._settings.thinking_tokens:
                        raise
                    log.info("answerer thinks, asking again with more tokens", extra={"tokens": room.tokens})
                    may_think, tally.finish_reason = True, "stop"
                    continue
                except _Refusal as refusal:
                    change = adapt(
                        self.traits,
                        Refused(refusal.words, fields, len(sent.shown), await pools.questions(sent.width), room.tokens),
                    )
                    if change is None or change.kind in changed:
                        raise refusal.problem from refusal
                    changed.add(change.kind)
                    tally.notes += [change.note] if change.note else []
                    log.info("answerer refused, asking in another way", extra={"change": change.kind})
                    continue
                except _Passing as failure:
                    if tally.has_begun:
                        raise failure.problem from failure
                    pause_s = waiting.pause_s(failure)
                    if words := waiting.words(failure, pause_s):
                        yield Step(words)
                await asyncio.sleep(pause_s)

    def _content(self, prompt: Prompt, room: Room) -> tuple[Prompt, bytes, frozenset[str]]:
        """Return what is sent of the prompt, as JSON too, and the names of its fields. room: the token limit.

        Blocks for tens of milliseconds if pictures are large.
        """
        traits = self.traits
        sent = prompt.fitting(traits.max_pictures, traits.max_width)
        tokens = min(room.tokens, traits.max_tokens or room.tokens)
        body: Json = sent.body(self.model, max_tokens=tokens, limit_name=traits.limit_name, refused=traits.refused)
        return sent, json.dumps(body).encode(), frozenset(body)

    async def _try(
        self,
        client: httpx.AsyncClient,
        content: bytes,
        headers: dict[str, str],
        tally: RemoteTally,
        room: Room,
        has_tools: bool,
    ) -> AsyncGenerator[str, None]:
        """Send one request and yield the reply's pieces of text.

        Raises _Passing if it fails and another try might succeed, _Refusal if another request might, else the Problem.
        """
        try:
            async with client.stream("POST", self.url, content=content, headers=headers) as response:
                if response.status_code != httpx.codes.OK:
                    raise await self._refusal(response)
                pieces = pieces_of(response, tally, room, self.traits.manner, has_tools=has_tools)
                async with aclosing(pieces):
                    async for piece in pieces:
                        yield piece
        except EgressRefused as error:
            raise stays_here(error) from None
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
        said, body = await complaint_of(response)
        said = without_key(said, response.request.headers)
        words = f"The server that answers says {status}{': ' if said else ''}{said}"
        if takes_no_pictures(body):
            hint = "answerer.model must be one that takes pictures; llama.cpp also needs --mmproj"
            return AnswererRefused(f"{words} ({hint})")
        if status == httpx.codes.TOO_MANY_REQUESTS and _NO_QUOTA.search(body):
            return AnswererRefused(f"{words} (the account's quota is used up: waiting does not help)")
        if status in _PASSING and not (status == httpx.codes.INTERNAL_SERVER_ERROR and "context" in said):
            loading = status == httpx.codes.SERVICE_UNAVAILABLE and _LOADING.search(body) is not None
            after_s = retry_after_s(response.headers.get("retry-after", ""), time.time())
            return _Passing(AnswererAway(words), after_s, loading=loading)
        hint = f" (see {_HINTS[status]})" if status in _HINTS else ""
        return _Refusal(AnswererRefused(words + hint), f"{said} {body}")


class _Waiting:
    """The pauses between the tries of one prompt, and how many are left."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._began = asyncio.get_running_loop().time()
        self._num_failures = 0

    def pause_s(self, failure: _Passing) -> float:
        """Return how long to wait before the next try. Raises the failure's problem if there is none."""
        left_s = self._began + self._timeout_s - asyncio.get_running_loop().time()
        pause_s = max(failure.after_s, pause(self._num_failures, random.random()))
        if failure.loading:
            pause_s = min(pause_s, left_s)
        if pause_s <= 0 or failure.after_s > left_s or (self._num_failures >= RETRIES and not failure.loading):
            problem = failure.problem
            if failure.after_s > left_s:
                words = f"{problem.message}. It asks to wait {failure.after_s:.0f} s."
                problem = AnswererAway(words)
            raise problem from failure
        self._num_failures += 1
        log.warning("answerer failed, trying again", extra={"attempt": self._num_failures, "pause_s": pause_s})
        return pause_s

    def words(self, failure: _Passing, pause_s: float) -> str:
        """Return what to tell the asker about the wait; "" if it is short."""
        if failure.loading:
            waited_s = asyncio.get_running_loop().time() - self._began
            return f"the server loads its model, {waited_s:.0f} s of at most {self._timeout_s:g} s"
        if failure.after_s >= 1:
            return f"the server is busy and asks to wait {pause_s:.0f} s"
        return ""


def without_key(said: str, headers: Mapping[str, str]) -> str:
    """Return the server's error text without the API key, which some servers repeat, and without passwords in URLs."""
    key = next((value for name, value in headers.items() if name.lower() == "authorization"), "").removeprefix(
        "Bearer "
    )
    return redact_text(said.replace(key, "***") if key else said)


def stays_here(error: EgressRefused) -> PicturesStayHere:
    """Return the error to raise if the cameras' settings do not allow the server's address."""
    return PicturesStayHere(
        f"Pictures of these cameras may not leave the private network, and {error}: "
        "set egress: allowed for each camera that is asked about, or use a local server."
    )


def _words(error: Exception) -> str:
    return plain_line(error).rstrip(".") or type(error).__name__


def pause(attempt: int, chance: float) -> float:
    """Return the seconds to wait before the next try: growing with `attempt`, at most 8 s (`streaming.backoff`).

    chance: a random number from [0, 1), by which the pause varies.
    """
    return backoff_s(attempt, chance, first_s=FIRST_PAUSE_S, longest_s=LAST_PAUSE_S)
