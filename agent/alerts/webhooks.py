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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from agent.alerts.outbox import Outgoing, Sink, webhook_sink
from agent.alerts.store import AlertStore
from agent.metrics import Reader, Reading
from agent.runtime import pools
from agent.runtime.unreachable import why_unreachable
from agent.settings.webhooks import WebhookSettings
from memory.errors import StorageError

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 300.0
TIMEOUT_S = 10.0  # of one try
MAX_AGE_S = 86_400.0  # an event that was refused for a day is dropped
IDLE_S = 5.0  # the outbox is looked at so often, and at once after an alert
_ADVICE = {
    401: "look at its url: it often holds a key",
    403: "look at its url: it often holds a key",
    404: "look at its url",
    405: "look at its url",
    410: "it is no longer there: look at its url",
    413: "it takes no requests of this size",
}
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
        alert_store: AlertStore,
        clock: Callable[[], float],
        *,
        first_pause_s: float = FIRST_PAUSE_S,
        timeout_s: float = TIMEOUT_S,
        max_age_s: float = MAX_AGE_S,
    ) -> None:
        self.sink = webhook_sink(name)
        self.num_delivered = 0
        self._trouble: str | None = None  # with the receiver
        self._storage_trouble: str | None = None
        self._refused: str | None = None  # by the disk, in this round
        self._settings = settings
        self._alert_store = alert_store
        self._outbox = Sink(alert_store.outbox, alert_store.lock, self.sink)
        self._clock = clock
        self._first_pause_s = first_pause_s
        self._timeout_s = timeout_s
        self._max_age_s = max_age_s
        self._wake = asyncio.Event()

    @property
    def problem(self) -> str | None:
        """What an operator should know, in words; None: all is well."""
        return self._storage_trouble or self._trouble

    async def run(self) -> None:
        """For ever. May be run again after an error."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(self._wake.set)

        self._alert_store.listen(wake)
        try:
            async with await pools.alerts(self._client) as client:
                while True:
                    self._wake.clear()
                    await self._round(client)
                    try:
                        async with asyncio.timeout(IDLE_S):
                            await self._wake.wait()
                    except TimeoutError:
                        pass
        finally:
            self._alert_store.unlisten(wake)

    def _client(self) -> httpx.AsyncClient:
        """It trusts the authorities that come with httpx, and those of this machine."""
        trusted = httpx.create_ssl_context(trust_env=False)
        trusted.load_default_certs()
        timeout = httpx.Timeout(self._timeout_s)
        return httpx.AsyncClient(verify=trusted, timeout=timeout, trust_env=False, follow_redirects=False)

    async def _round(self, client: httpx.AsyncClient) -> None:
        """Deliver until nothing waits."""
        self._refused = None
        try:
            await pools.alerts(self._outbox.note_ages, self._clock())
            await self._note(self._outbox.tidy)
            await self._empty(client)
        except (StorageError, sqlite3.Error) as error:
            self._disk_refuses(error)
        self._storage_trouble = self._refused

    async def _note(self, done: Callable[..., None], *entry: Any) -> None:
        """Write down what became of an entry. When the disk refuses it is remembered, and the next one has its turn."""
        try:
            await pools.alerts(done, *entry)
        except (StorageError, sqlite3.Error) as error:
            self._disk_refuses(error)

    def _disk_refuses(self, error: Exception) -> None:
        self._refused = self._storage_trouble = f"what was delivered cannot be written down: {error}"
        log.warning("webhook: the disk refuses", extra={"sink": self.sink, "error": str(error)})

    async def _empty(self, client: httpx.AsyncClient) -> None:
        """Deliver until nothing waits."""
        num_failures, trying = 0, 0
        while entry := await pools.alerts(self._outbox.next):
            num_failures = num_failures if entry.seq == trying else 0
            trying = entry.seq
            if await pools.alerts(self._is_too_old, entry):
                await self._drop(entry, "expired")
                continue
            outcome = await self._post(client, entry)
            self._say(outcome.problem)
            if outcome.problem is None:
                self.num_delivered += 1
                await self._note(self._outbox.done, entry)
            elif outcome.never:
                await self._drop(entry, "refused")
            else:
                pause_s = min(self._first_pause_s * 2 ** min(num_failures, 20), LAST_PAUSE_S)
                num_failures += 1
                await asyncio.sleep(max(pause_s * random.uniform(0.5, 1.0), outcome.after_s))

    def _is_too_old(self, entry: Outgoing) -> bool:
        """Where only the clock on the wall tells, as after a restart, an event gets a try all the same: it may be set wrong."""
        if self._outbox.age_s(entry, self._clock()) <= self._max_age_s:
            return False
        return self._trouble is not None or self._outbox.is_age_certain(entry)

    async def _drop(self, entry: Outgoing, reason: str) -> None:
        log.warning(f"webhook: events are given up ({reason})", extra={"sink": self.sink, "event": entry.event_id})
        await self._note(self._outbox.drop, entry, reason)

    async def _post(self, client: httpx.AsyncClient, entry: Outgoing) -> _Outcome:
        now = int(self._clock())
        headers = {
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": "vilamp-live",
            "webhook-id": entry.event_id,
            "webhook-timestamp": str(now),
        }
        try:
            key = await pools.alerts(self._settings.key)
        except (OSError, ValueError) as error:
            return _Outcome(f"the secret cannot be read: {error}")
        if key is not None:
            headers["webhook-signature"] = signature(key, entry.event_id, now, entry.payload)
        return await self._send(client, entry.payload, headers)

    async def _send(self, client: httpx.AsyncClient, body: bytes, headers: dict[str, str]) -> _Outcome:
        """One try. Of the answer only the head is read: its body, however large, stays where it is."""
        url, limit_s, outcome = self._settings.url.get_secret_value(), self._timeout_s, None
        try:
            async with asyncio.timeout(limit_s):
                async with client.stream("POST", url, content=body, headers=headers) as response:
                    outcome = _judged(response, self._clock())
        except (TimeoutError, httpx.TimeoutException):
            return outcome or _Outcome(f"the receiver did not answer within {limit_s:g} s")
        except httpx.LocalProtocolError as error:  # no try could ever send it
            return _Outcome(f"the event cannot be sent: {error}", never=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = why_unreachable(error) or str(error) or type(error).__name__
            return outcome or _Outcome(f"the receiver cannot be reached: {why}")
        return outcome

    def _say(self, problem: str | None) -> None:
        if problem is not None and problem != self._trouble:  # once, not at every try
            log.warning("webhook", extra={"sink": self.sink, "error": problem})
        self._trouble = problem


def _judged(response: httpx.Response, now: float) -> _Outcome:
    """2xx: taken. What the body says is not read."""
    status = response.status_code
    if response.is_success:
        return _Outcome()
    advice = "it redirects, which is not followed: set its url to where it redirects" if response.is_redirect else ""
    advice = advice or _ADVICE.get(status, "")
    after_s = wished_pause_s(response.headers.get("retry-after", ""), now)
    return _Outcome(f"the receiver answers {status}{f' ({advice})' if advice else ''}", status in _NEVER, after_s)


def wished_pause_s(wish: str, now: float) -> float:
    """The value of Retry-After in seconds, LAST_PAUSE_S at most: a number, or a date; 0 for anything else."""
    if wish.isascii() and wish.isdigit():
        return min(float(wish), LAST_PAUSE_S)
    try:
        moment = parsedate_to_datetime(wish).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, moment - now), LAST_PAUSE_S)


def delivery_readers(alert_store: AlertStore, webhooks: Sequence[Webhook]) -> list[Reader]:
    """Return the metrics of the outbox and of what `webhooks` delivered."""

    def waiting() -> list[Reading]:
        with alert_store.lock:
            return [({"stage": sink}, float(alert_store.outbox.count(sink))) for sink in alert_store.sinks]

    def dropped() -> list[Reading]:
        counts = dict(alert_store.outbox.num_dropped)
        return [({"stage": sink, "reason": reason}, float(count)) for (sink, reason), count in counts.items()]

    def delivered() -> list[Reading]:
        return [({"stage": webhook.sink}, float(webhook.num_delivered)) for webhook in webhooks]

    return [
        Reader("vilamp_outbox_entries", "Events waiting for their sink.", ("stage",), waiting),
        Reader("vilamp_outbox_dropped_total", "Events given up.", ("stage", "reason"), dropped),
        Reader("vilamp_webhook_delivered_total", "Events that a webhook accepted.", ("stage",), delivered),
    ]
