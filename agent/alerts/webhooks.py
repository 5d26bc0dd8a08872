"""Webhooks: deliver every alert event as a signed HTTP POST, in order and at least once.

The request follows standardwebhooks.com: `webhook-id` is the event's id, the same if the event is delivered twice;
`webhook-timestamp` is the time of this try; `webhook-signature` is "v1," and the base64 of HMAC-SHA256 over
"<id>.<timestamp>.<body>". The body is the payload that MQTT carries, byte for byte: it links to pictures but contains none.

Overload policy: each receiver gets one event at a time. An event that it does not accept is tried again with growing
pauses while later events wait; the event is dropped and counted when it is too old, or when the status of the response
means that it will never be accepted. URLs come only from the configuration; redirects and proxies of the environment
are not followed.
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx

from agent.alerts.outbox import Outgoing, webhook_sink
from agent.alerts.store import AlertStore
from agent.metrics import Reader, Reading
from agent.runtime import pools
from agent.runtime.unreachable import why_unreachable
from agent.settings.webhooks import WebhookSettings
from memory.errors import StorageError
from streaming.backoff import backoff_s, retry_after_s

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 300.0  # shortest and longest pause between two tries of one event
TIMEOUT_S = 10.0  # of one try
MAX_AGE_S = 86_400.0  # an event that could not be delivered for a day is dropped
IDLE_S = 5.0  # between two reads of the outbox; a new alert triggers an earlier one
_CHECK_KEY = "check its url: it often holds a key"
_ADVICE = {
    401: _CHECK_KEY,
    403: _CHECK_KEY,
    404: "check its url",
    405: "check its url",
    410: "it is no longer there: check its url",
    413: "it accepts no requests of this size",
}
_NEVER = frozenset({400, 413, 414, 415, 422})  # statuses that mean that another try of this event is useless


def signature(key: bytes, event_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of the header `webhook-signature`. timestamp: unix seconds."""
    digest = hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The result of one try to deliver an event."""

    problem: str | None = None  # None: accepted
    never: bool = False  # True: no later try can succeed
    after_s: float = 0.0  # the pause that the receiver asks for


class Webhook:
    """Delivers every alert event to one receiver."""

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
        self._settings, self._alert_store, self._clock = settings, alert_store, clock
        self._outbox = alert_store.outbox
        self._first_pause_s, self._timeout_s, self._max_age_s = first_pause_s, timeout_s, max_age_s
        self._receiver_problem: str | None = None
        self._storage_problem: str | None = None
        self._refused: str | None = None  # the disk's error in this round of deliveries
        self._wake = asyncio.Event()

    @property
    def problem(self) -> str | None:
        """Why deliveries fail, as text for the operator; None if they work."""
        return self._storage_problem or self._receiver_problem

    async def run(self) -> None:
        """Deliver events until cancelled. May be called again after an error."""
        with self._alert_store.waking(self._wake):
            async with await pools.alerts(self._client) as client:
                while True:
                    self._wake.clear()
                    await self._round(client)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(IDLE_S):
                            await self._wake.wait()

    def _client(self) -> httpx.AsyncClient:
        """Return a client that trusts httpx's certificate authorities and those of this machine. Reads files, so it blocks."""
        trusted = httpx.create_ssl_context(trust_env=False)
        trusted.load_default_certs()
        timeout = httpx.Timeout(self._timeout_s)
        return httpx.AsyncClient(verify=trusted, timeout=timeout, trust_env=False, follow_redirects=False)

    async def _round(self, client: httpx.AsyncClient) -> None:
        """Deliver the waiting events until none is left for this receiver."""
        self._refused = None
        try:
            await pools.alerts(self._outbox.note_ages, self.sink, self._clock())
            try:
                await pools.alerts(self._outbox.tidy)
            except sqlite3.Error as error:
                self._disk_refuses(error)
            await self._deliver(client)
        except (StorageError, sqlite3.Error) as error:
            self._disk_refuses(error)
        self._storage_problem = self._refused

    def _disk_refuses(self, error: Exception) -> None:
        self._refused = self._storage_problem = f"deliveries cannot be recorded: {error}"
        log.warning("webhook: the disk refuses", extra={"sink": self.sink, "error": str(error)})

    async def _deliver(self, client: httpx.AsyncClient) -> None:
        num_failures, current = 0, 0  # failures of the entry `current`
        while entry := await pools.alerts(self._outbox.next, self.sink):
            num_failures = num_failures if entry.seq == current else 0
            current = entry.seq
            if await pools.alerts(self._is_too_old, entry):
                await self._remove(entry, "expired")
                continue
            outcome = await self._post(client, entry)
            if outcome.problem is not None and outcome.problem != self._receiver_problem:  # log it once, not every try
                log.warning("webhook", extra={"sink": self.sink, "error": outcome.problem})
            self._receiver_problem = outcome.problem
            if outcome.problem is None:
                self.num_delivered += 1
                await self._remove(entry)
            elif outcome.never:
                await self._remove(entry, "refused")
            else:
                pause_s = backoff_s(num_failures, random.random(), first_s=self._first_pause_s, longest_s=LAST_PAUSE_S)
                num_failures += 1
                await asyncio.sleep(max(pause_s, outcome.after_s))

    def _is_too_old(self, entry: Outgoing) -> bool:
        """Return True when the event is to be dropped because of its age.

        After a restart the age depends on the wall clock, which may be wrong: then the event is tried once before it is
        dropped.
        """
        if self._outbox.age_s(entry, self._clock()) <= self._max_age_s:
            return False
        return self._receiver_problem is not None or self._outbox.is_age_certain(entry)

    async def _remove(self, entry: Outgoing, dropped: str | None = None) -> None:
        """Remove an entry that was delivered or dropped. If the disk fails, the outbox skips the entry from now on.

        dropped: the reason, None if it was delivered.
        """
        try:
            if dropped is None:
                await pools.alerts(self._outbox.done, entry)
            else:
                extra = {"sink": self.sink, "event": entry.event_id}
                log.warning(f"webhook: events are dropped ({dropped})", extra=extra)
                await pools.alerts(self._outbox.drop, entry, dropped)
        except sqlite3.Error as error:
            self._disk_refuses(error)

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
        """Send the event once, and return the outcome. Reads only status and headers of the response, not its body."""
        url, limit_s, outcome = self._settings.url.get_secret_value(), self._timeout_s, None
        try:
            async with asyncio.timeout(limit_s):
                async with client.stream("POST", url, content=body, headers=headers) as response:
                    outcome = _judged(response, self._clock())
        except (TimeoutError, httpx.TimeoutException):
            return outcome or _Outcome(f"the receiver did not answer within {limit_s:g} s")
        except httpx.LocalProtocolError as error:  # no request can carry this event
            return _Outcome(f"the event cannot be sent: {error}", never=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = why_unreachable(error) or str(error) or type(error).__name__
            return outcome or _Outcome(f"the receiver cannot be reached: {why}")
        return outcome


def _judged(response: httpx.Response, now: float) -> _Outcome:
    """Return the outcome that the status and the headers of the response mean."""
    status = response.status_code
    if response.is_success:
        return _Outcome()
    advice = "it redirects, which is not followed: set its url to where it redirects" if response.is_redirect else ""
    advice = advice or _ADVICE.get(status, "")
    after_s = min(LAST_PAUSE_S, retry_after_s(response.headers.get("retry-after", ""), now))
    return _Outcome(f"the receiver answers {status}{f' ({advice})' if advice else ''}", status in _NEVER, after_s)


def delivery_readers(alert_store: AlertStore, webhooks: Sequence[Webhook]) -> list[Reader]:
    """Return the metrics of events waiting for delivery, and of the events that each of `webhooks` has delivered."""

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
        Reader("vilamp_outbox_dropped_total", "Events dropped undelivered.", ("stage", "reason"), dropped),
        Reader("vilamp_webhook_delivered_total", "Events that a webhook accepted.", ("stage",), delivered),
    ]
