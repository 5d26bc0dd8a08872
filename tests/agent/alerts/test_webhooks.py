"""Webhooks against a real HTTP server: signatures, order, retries and dropped events."""

import asyncio
import base64
import hashlib
import hmac
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.alerts.store import AlertStore
from agent.alerts.webhooks import Webhook, _judged, _Outcome
from agent.settings.webhooks import WebhookSettings
from tests.support.bridges import START, commit, event
from tests.support.certificates import authority
from tests.support.waiting import until

SECRET = "0123456789abcdef"
NOW = START + 60.0  # a minute after the first event


@dataclass
class Request:
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A receiver that answers with the given statuses in turn, then with 204. 0: it closes the connection."""

    statuses: list[int] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def ids(self) -> list[str]:
        return [request.headers["webhook-id"] for request in self.requests]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {
                    name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
                }
                self.requests.append(Request(headers, await reader.readexactly(int(headers["content-length"]))))
                status = self.statuses.pop(0) if self.statuses else 204
                if not status:
                    break
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiving(*statuses: int) -> AsyncIterator[Receiver]:
    receiver = Receiver(list(statuses))
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(receiver.answer(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@asynccontextmanager
async def delivering(
    alert_store: AlertStore,
    url: str,
    clock: Callable[[], float] = lambda: NOW,
    *,
    secret: dict[str, Any] | None = None,
    **limits: float,
) -> AsyncIterator[Webhook]:
    alert_store.sinks = ("webhook:pager",)
    given = WebhookSettings.model_validate({"url": url, **({"secret": SECRET} if secret is None else secret)})
    webhook = Webhook("pager", given, alert_store, clock, first_pause_s=0.01, **limits)
    task = asyncio.create_task(webhook.run())
    try:
        yield webhook
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def alert_store(tmp_path: Path) -> AlertStore:
    return AlertStore(tmp_path / "alerts.sqlite")


def signed_by(request: Request, key: bytes) -> bool:
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return request.headers["webhook-signature"] == "v1," + expected


async def test_an_event_is_posted_signed(alert_store: AlertStore) -> None:
    async with receiving() as receiver, delivering(alert_store, receiver.url) as webhook:
        commit(alert_store, event(1), b"a picture that stays here")
        await until(lambda: webhook.num_delivered == 1)
    (request,) = receiver.requests
    assert request.body == event(1).payload()
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "a1-on"
    assert request.headers["webhook-timestamp"] == str(int(NOW))
    assert signed_by(request, SECRET.encode())
    assert not signed_by(request, b"another secret....")
    assert webhook.problem is None


async def test_failed_deliveries_are_retried_in_order(alert_store: AlertStore) -> None:
    async with receiving(500, 0, 429, 302) as receiver, delivering(alert_store, receiver.url) as webhook:
        for number in range(3):
            commit(alert_store, event(number))
        await until(lambda: alert_store.outbox.count(webhook.sink) == 0)  # changes after num_delivered
    assert webhook.num_delivered == 3
    assert receiver.ids == ["a0-on"] * 5 + ["a1-on", "a2-on"]
    assert len({request.body for request in receiver.requests[:5]}) == 1
    assert all(signed_by(request, SECRET.encode()) for request in receiver.requests)


async def test_events_wait_for_an_absent_receiver_across_a_restart(alert_store: AlertStore, tmp_path: Path) -> None:
    async with receiving() as receiver:
        pass
    async with delivering(alert_store, receiver.url) as webhook:
        commit(alert_store, event(1))
        await until(lambda: "cannot be reached" in (webhook.problem or ""))
    alert_store.close()
    again = AlertStore(tmp_path / "alerts.sqlite")
    async with receiving() as receiver, delivering(again, receiver.url) as webhook:
        await until(lambda: webhook.num_delivered == 1)
    assert receiver.ids == ["a1-on"]


@pytest.mark.parametrize(
    ("wish", "seconds"),
    [
        ("7", 7.0),
        ("99999", 300.0),
        ("9" * 5000, 300.0),
        ("soon", 0.0),
        ("-1", 0.0),
        (format_datetime(datetime.fromtimestamp(NOW + 9, UTC), usegmt=True), 9.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 300.0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after_is_respected(wish: str, seconds: float) -> None:
    outcome = _judged(httpx.Response(503, headers={"Retry-After": wish}), NOW)
    assert outcome == _Outcome("the receiver answers 503", never=False, after_s=seconds)


async def test_an_event_that_the_receiver_rejects_is_dropped(alert_store: AlertStore) -> None:
    async with receiving(422) as receiver, delivering(alert_store, receiver.url) as webhook:
        commit(alert_store, event(1))
        commit(alert_store, event(2))
        await until(lambda: webhook.num_delivered == 1)
    assert receiver.ids == ["a1-on", "a2-on"]
    assert alert_store.outbox.num_dropped[webhook.sink, "refused"] == 1


async def test_an_event_that_is_too_old_is_dropped(tmp_path: Path) -> None:
    steady = [1000.0]
    alert_store = AlertStore(tmp_path / "aged.sqlite", steady=lambda: steady[0])
    async with receiving(*[500] * 1000) as receiver, delivering(alert_store, receiver.url, max_age_s=60) as webhook:
        commit(alert_store, event(1))
        await until(lambda: webhook.problem is not None)
        steady[0] += 62
        await until(lambda: alert_store.outbox.count(webhook.sink) == 0)
    assert alert_store.outbox.num_dropped[webhook.sink, "expired"] == 1


async def test_a_clock_that_is_set_to_another_year_makes_no_event_old(alert_store: AlertStore) -> None:
    now = [START]
    async with (
        receiving(500, 500, 500) as receiver,
        delivering(alert_store, receiver.url, clock=lambda: now[0], max_age_s=60) as webhook,
    ):
        commit(alert_store, event(1))
        await until(lambda: webhook.problem is not None)
        now[0] += 14 * 365 * 86_400
        commit(alert_store, event(2))
        await until(lambda: webhook.num_delivered == 2)
    assert receiver.ids[-1] == "a2-on"
    assert not alert_store.outbox.num_dropped[webhook.sink, "expired"]


async def test_after_a_restart_with_a_clock_set_wrong_an_event_gets_a_try(
    alert_store: AlertStore, tmp_path: Path
) -> None:
    alert_store.sinks = ("webhook:pager",)
    for number in range(3):
        commit(alert_store, event(number))
    alert_store.close()
    again = AlertStore(tmp_path / "alerts.sqlite")
    later = START + 14 * 365 * 86_400
    async with receiving() as receiver, delivering(again, receiver.url, clock=lambda: later, max_age_s=60) as webhook:
        await until(lambda: webhook.num_delivered == 3)
    assert receiver.ids == ["a0-on", "a1-on", "a2-on"]


async def test_after_a_restart_old_events_are_dropped_when_the_receiver_is_away(
    alert_store: AlertStore, tmp_path: Path
) -> None:
    alert_store.sinks = ("webhook:pager",)
    for number in range(3):
        commit(alert_store, event(number))
    alert_store.close()
    again = AlertStore(tmp_path / "alerts.sqlite")
    async with (
        receiving(503) as receiver,
        delivering(again, receiver.url, clock=lambda: START + 9999, max_age_s=60) as webhook,
    ):
        await until(lambda: again.outbox.count(webhook.sink) == 0)
    assert receiver.ids == ["a0-on"]
    assert again.outbox.num_dropped[webhook.sink, "expired"] == 3


async def test_a_silent_receiver_times_out(alert_store: AlertStore) -> None:
    gone, writers = asyncio.Event(), []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.read()  # until the client gives up
        writer.close()
        gone.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with delivering(alert_store, url, timeout_s=0.2) as webhook:
        commit(alert_store, event(1))
        await until(lambda: "within 0.2 s" in (webhook.problem or ""))
    await gone.wait()
    server.close()
    for writer in writers:  # the next try may have just begun
        writer.transport.abort()
    await server.wait_closed()


async def test_without_a_secret_nothing_is_signed(alert_store: AlertStore) -> None:
    async with receiving() as receiver, delivering(alert_store, receiver.url, secret={}) as webhook:
        commit(alert_store, event(1))
        await until(lambda: webhook.num_delivered == 1)
    assert "webhook-signature" not in receiver.requests[0].headers


async def test_a_missing_secret_file_is_reported(alert_store: AlertStore, tmp_path: Path) -> None:
    async with (
        receiving() as receiver,
        delivering(alert_store, receiver.url, secret={"secret_file": tmp_path / "gone"}) as webhook,
    ):
        commit(alert_store, event(1))
        await until(lambda: "secret cannot be read" in (webhook.problem or ""))
    assert receiver.requests == []


# --- receivers that misbehave ---


@asynccontextmanager
async def answering(head: bytes, *, endless: bool = False, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Run a receiver that answers every request with these bytes, and sends more for ever if `endless`."""
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(OSError, EOFError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            while endless:
                writer.write(b"x" * 65_536)
                await writer.drain()
            await reader.read()  # until the client closes
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 X\r\nContent-Length: 1073741824\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\nContent-Length: 1073741824\r\n\r\n",
    ],
)
@pytest.mark.parametrize("endless", [True, False])
async def test_response_bodies_are_not_read(alert_store: AlertStore, head: bytes, endless: bool) -> None:
    """A huge, missing or compressed body does not matter: only the head of the response counts."""
    async with answering(head, endless=endless) as url, delivering(alert_store, url) as webhook:
        commit(alert_store, event(1))
        commit(alert_store, event(2))
        await until(lambda: webhook.num_delivered == 2)


async def test_no_compressed_responses_are_requested(alert_store: AlertStore) -> None:
    async with receiving() as receiver, delivering(alert_store, receiver.url) as webhook:
        commit(alert_store, event(1))
        await until(lambda: webhook.num_delivered == 1)
    assert receiver.requests[0].headers["accept-encoding"] == "identity"


async def test_an_endless_response_head_is_abandoned(alert_store: AlertStore) -> None:
    async with answering(b"HTTP/1.1 200 X\r\nA: ", endless=True) as url, delivering(alert_store, url) as webhook:
        commit(alert_store, event(1))
        await until(lambda: "cannot be reached" in (webhook.problem or ""))


@pytest.mark.parametrize(
    ("status", "words"),
    [(302, "set its url to where it redirects"), (401, "its url"), (404, "its url"), (503, "answers 503")],
)
async def test_answers_are_explained(alert_store: AlertStore, status: int, words: str) -> None:
    head = f"HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".encode()
    async with answering(head) as url, delivering(alert_store, url) as webhook:
        commit(alert_store, event(1))
        await until(lambda: words in (webhook.problem or ""))


async def test_failures_of_tls_are_explained(alert_store: AlertStore, tmp_path: Path) -> None:
    _, server, _ = authority(tmp_path, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.cert, server.key)

    async def eager(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 X\r\n\r\n")
        writer.close()

    async with answering(b"", context=context) as url, delivering(alert_store, url) as webhook:
        commit(alert_store, event(1))
        await until(lambda: "authority that is not trusted" in (webhook.problem or ""))
    async with await asyncio.start_server(eager, "127.0.0.1", 0) as plain:
        url = f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}/"
        async with delivering(alert_store, url) as webhook:
            await until(lambda: "does not speak TLS" in (webhook.problem or ""))


async def test_a_dead_receiver_delays_no_other(alert_store: AlertStore) -> None:
    """One receiver hangs, one refuses, one accepts everything."""
    async with receiving() as good, receiving(*[500] * 1000) as bad, answering(b"") as silent:
        urls = {"good": good.url, "bad": bad.url, "silent": silent}
        hooks = [
            Webhook(name, WebhookSettings.model_validate({"url": url}), alert_store, lambda: NOW)
            for name, url in urls.items()
        ]
        alert_store.sinks = tuple(hook.sink for hook in hooks)
        tasks = [asyncio.create_task(hook.run()) for hook in hooks]
        for number in range(5):
            commit(alert_store, event(number))
        await until(lambda: hooks[0].num_delivered == 5)
        assert [hook.num_delivered for hook in hooks[1:]] == [0, 0]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_event_that_no_request_can_carry_is_dropped(alert_store: AlertStore) -> None:
    async with receiving() as receiver, delivering(alert_store, receiver.url) as webhook:
        with alert_store.lock:
            alert_store.outbox.put(
                webhook.sink, "a\r\nX-Injected: 1", "yard", "bag", "on", event(1).payload(), None, NOW
            )
        commit(alert_store, event(2))
        await until(lambda: webhook.num_delivered == 1)
    assert receiver.ids == ["a2-on"]
    assert alert_store.outbox.num_dropped[webhook.sink, "refused"] == 1


# --- the disk and bugs ---


async def test_a_failing_disk_causes_no_duplicates(alert_store: AlertStore, caplog: pytest.LogCaptureFixture) -> None:
    """An event delivered while the disk fails is not sent again, and is removed once the disk works."""
    async with receiving() as receiver, delivering(alert_store, receiver.url) as webhook:
        commit(alert_store, event(1))
        commit(alert_store, event(2))
        await until(lambda: alert_store.outbox.count(webhook.sink) == 0)
        alert_store.sinks = ()
        with alert_store.lock:
            for number in (3, 4):
                alert_store.outbox.put(
                    webhook.sink, f"a{number}-on", "yard", "bag", "on", event(number).payload(), None, NOW
                )
            alert_store.connection.execute("PRAGMA query_only = ON")
        webhook._wake.set()
        await until(lambda: "cannot be recorded" in (webhook.problem or ""))
        for _ in range(3):  # one round each; the disk refuses again
            caplog.clear()
            webhook._wake.set()
            await until(lambda: "the disk refuses" in caplog.text)
        with alert_store.lock:
            alert_store.connection.execute("PRAGMA query_only = OFF")
        webhook._wake.set()
        await until(lambda: alert_store.outbox.count(webhook.sink) == 0 and webhook.problem is None)
    assert receiver.ids == ["a1-on", "a2-on", "a3-on", "a4-on"]


async def test_run_can_be_repeated_after_a_bug(alert_store: AlertStore) -> None:
    async with receiving() as receiver:
        hook = Webhook("pager", WebhookSettings.model_validate({"url": receiver.url}), alert_store, lambda: NOW)
        alert_store.sinks = (hook.sink,)
        commit(alert_store, event(1))
        judged = hook._is_too_old
        hook._is_too_old = lambda entry: {}[entry.seq]  # type: ignore[method-assign]
        with pytest.raises(KeyError):
            await asyncio.wait_for(hook.run(), 10)
        hook._is_too_old = judged  # type: ignore[method-assign]
        task = asyncio.create_task(hook.run())
        await until(lambda: hook.num_delivered == 1)
        assert len(alert_store._listeners) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert alert_store._listeners == []
    assert receiver.ids == ["a1-on"]
