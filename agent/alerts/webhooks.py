"""Webhooks: every alert event as an HTTP POST, signed, in order, at least once, through the outbox.

The request is that of standardwebhooks.com: `webhook-id` is the event's id (the same for a duplicate), `webhook-timestamp`
the time of this try, `webhook-signature` "v1," and the base64 of HMAC-SHA256 over "<id>.<timestamp>.<body>". The body is
the payload that MQTT carries, to the byte. An event carries no picture, only signed URLs of them.

Overload policy: one event at a time; one that is not taken is tried again with growing pauses while the others wait behind
it, until it is too old, or its receiver says that it will never take it; then it is dropped and counted. Addresses come from the
configuration only; redirects and the environment's proxies are not followed.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from agent import pools
from agent.alerts.book import Book
from agent.alerts.outbox import Outgoing, webhook_sink
from agent.alerts.webhook_settings import WebhookSettings
from memory.errors import StorageError

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 300.0
IDLE_S = 5.0  # the outbox is looked at so often, and at once after an alert
_NEVER = frozenset({400, 413, 414, 415, 422})  # the receiver does not take this event, whenever it comes


def signature(key: bytes, event_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`."""
    digest = hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one try: taken, or why not; never: no use to try again; after_s: the receiver's wish."""

    problem: str | None = None
    never: bool = False
    after_s: float = 0.0


class Webhook:
    """Delivers to one receiver."""

    def __init__(
        self,
        name: str,
        settings: WebhookSettings,
        book: Book,
        clock: Callable[[], float],
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self.sink = webhook_sink(name)
        self.problem: str | None = None  # in words for an operator
        self.num_delivered = 0
        self._settings = settings
        self._book = book
        self._clock = clock
        self._first_pause_s = first_pause_s
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._wake.set)

        self._book.listen(wake)
        timeout = httpx.Timeout(self._settings.timeout_s)
        async with httpx.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False) as client:
            while True:
                self._wake.clear()
                try:
                    await self._empty(client)
                except (StorageError, sqlite3.Error) as error:
                    self._say(str(error))
                try:
                    async with asyncio.timeout(IDLE_S):
                        await self._wake.wait()
                except TimeoutError:
                    pass

    async def _empty(self, client: httpx.AsyncClient) -> None:
        """Deliver until nothing waits."""
        num_failures, trying = 0, 0
        while entries := await pools.alerts(self._pending):
            entry = entries[0]
            num_failures = num_failures if entry.seq == trying else 0
            trying = entry.seq
            if self._clock() - entry.created > self._settings.max_age_s:
                await pools.alerts(self._drop, entry, "expired")
                continue
            outcome = await self._post(client, entry)
            self._say(outcome.problem)
            if outcome.problem is None:
                self.num_delivered += 1
                await pools.alerts(self._done, entry.seq)
            elif outcome.never:
                await pools.alerts(self._drop, entry, "refused")
            else:
                pause_s = min(self._first_pause_s * 2 ** min(num_failures, 20), LAST_PAUSE_S)
                num_failures += 1
                await asyncio.sleep(max(pause_s * random.uniform(0.5, 1.0), outcome.after_s))

    async def _post(self, client: httpx.AsyncClient, entry: Outgoing) -> _Outcome:
        now = int(self._clock())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "vilamp-live",
            "webhook-id": entry.event_id,
            "webhook-timestamp": str(now),
        }
        try:
            key = await pools.alerts(self._settings.key)
            if key is not None:
                headers["webhook-signature"] = signature(key, entry.event_id, now, entry.payload)
            async with asyncio.timeout(self._settings.timeout_s):
                url = self._settings.url.get_secret_value()
                async with client.stream("POST", url, content=entry.payload, headers=headers) as response:
                    return _judged(response)
        except TimeoutError:
            return _Outcome(f"the receiver did not answer within {self._settings.timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _Outcome(f"the receiver cannot be reached: {str(error) or type(error).__name__}")
        except (OSError, ValueError) as error:
            return _Outcome(f"the secret cannot be read: {error}")

    def _say(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem:  # once, not at every try
            log.warning("webhook", extra={"sink": self.sink, "error": problem})
        self.problem = problem

    def _pending(self) -> list[Outgoing]:
        with self._book.lock:
            return self._book.outbox.pending(self.sink, 1)

    def _done(self, seq: int) -> None:
        with self._book.lock:
            self._book.outbox.done(seq)

    def _drop(self, entry: Outgoing, reason: str) -> None:
        log.warning("webhook: event dropped", extra={"sink": self.sink, "event": entry.event_id, "reason": reason})
        with self._book.lock:
            self._book.outbox.drop(entry, reason)


def _judged(response: httpx.Response) -> _Outcome:
    """2xx: taken. What the body says is not read."""
    if response.is_success:
        return _Outcome()
    wish = response.headers.get("retry-after", "")
    after_s = min(float(wish), LAST_PAUSE_S) if wish.isascii() and wish.isdigit() else 0.0
    return _Outcome(f"the receiver answers {response.status_code}", response.status_code in _NEVER, after_s)
