"""Webhooks against a real HTTP server: signatures, order, retries, what is given up."""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.alerts.book import Book
from agent.alerts.webhook_settings import WebhookSettings
from agent.alerts.webhooks import Webhook, _judged, _Outcome
from tests.bridges import START, commit, event
from tests.brokers import until

SECRET = "0123456789abcdef"
NOW = START + 60.0  # a minute after the first event, on whatever day the tests run


@dataclass
class Request:
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Answers with the statuses it is given, one after the other, then with 204. 0: it hangs up without a word."""

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
    book: Book, url: str, clock: Callable[[], float] = lambda: NOW, **settings: Any
) -> AsyncIterator[Webhook]:
    book.sinks = ("webhook:pager",)
    given = WebhookSettings.model_validate({"url": url, "secret": SECRET, **settings})
    webhook = Webhook("pager", given, book, clock, first_pause_s=0.01)
    task = asyncio.create_task(webhook.run())
    try:
        yield webhook
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "alerts.sqlite")


def signed_by(request: Request, key: bytes) -> bool:
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return request.headers["webhook-signature"] == "v1," + expected


async def test_an_event_is_posted_signed(book: Book) -> None:
    async with receiving() as receiver, delivering(book, receiver.url) as webhook:
        commit(book, event(1), b"a picture that stays here")
        await until(lambda: webhook.num_delivered == 1)
    (request,) = receiver.requests
    assert request.body == event(1).payload()
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"] == "a1-on"
    assert request.headers["webhook-timestamp"] == str(int(NOW))
    assert signed_by(request, SECRET.encode())
    assert not signed_by(request, b"another secret....")
    assert webhook.problem is None


async def test_a_receiver_that_fails_is_asked_again_and_order_is_kept(book: Book) -> None:
    async with receiving(500, 0, 429, 302) as receiver, delivering(book, receiver.url) as webhook:
        for number in range(3):
            commit(book, event(number))
        await until(lambda: book.outbox.count(webhook.sink) == 0)  # which comes after num_delivered
    assert webhook.num_delivered == 3
    assert receiver.ids == ["a0-on"] * 5 + ["a1-on", "a2-on"]
    assert len({request.body for request in receiver.requests[:5]}) == 1
    assert all(signed_by(request, SECRET.encode()) for request in receiver.requests)


async def test_an_absent_receiver_is_waited_for_also_over_a_restart(book: Book, tmp_path: Path) -> None:
    async with receiving() as receiver:
        pass
    async with delivering(book, receiver.url) as webhook:
        commit(book, event(1))
        await until(lambda: "cannot be reached" in (webhook.problem or ""))
    book.close()
    again = Book(tmp_path / "alerts.sqlite")
    async with receiving() as receiver, delivering(again, receiver.url) as webhook:
        await until(lambda: webhook.num_delivered == 1)
    assert receiver.ids == ["a1-on"]


@pytest.mark.parametrize(("wish", "seconds"), [("7", 7.0), ("99999", 300.0), ("soon", 0.0), ("-1", 0.0)])
def test_a_receiver_may_ask_for_time(wish: str, seconds: float) -> None:
    outcome = _judged(httpx.Response(503, headers={"Retry-After": wish}))
    assert outcome == _Outcome("the receiver answers 503", never=False, after_s=seconds)


async def test_an_event_that_is_not_understood_is_given_up(book: Book) -> None:
    async with receiving(422) as receiver, delivering(book, receiver.url) as webhook:
        commit(book, event(1))
        commit(book, event(2))
        await until(lambda: webhook.num_delivered == 1)
    assert receiver.ids == ["a1-on", "a2-on"]
    assert book.outbox.num_dropped[webhook.sink, "refused"] == 1


async def test_an_event_that_is_too_old_is_given_up(book: Book) -> None:
    now = [START]
    async with (
        receiving(*[500] * 1000) as receiver,
        delivering(book, receiver.url, clock=lambda: now[0], max_age_s=60) as webhook,
    ):
        commit(book, event(1))
        await until(lambda: webhook.problem is not None)
        now[0] += 62
        await until(lambda: book.outbox.count(webhook.sink) == 0)
    assert book.outbox.num_dropped[webhook.sink, "expired"] == 1


async def test_a_silent_receiver_is_given_up_on_in_time(book: Book) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # to the end, which is when the client gives up
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with delivering(book, url, timeout_s=0.2) as webhook:
        commit(book, event(1))
        await until(lambda: "within 0.2 s" in (webhook.problem or ""))
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.1)


async def test_without_a_secret_nothing_is_signed(book: Book) -> None:
    async with receiving() as receiver, delivering(book, receiver.url, secret=None) as webhook:
        commit(book, event(1))
        await until(lambda: webhook.num_delivered == 1)
    assert "webhook-signature" not in receiver.requests[0].headers


async def test_a_secret_file_that_is_gone_is_said(book: Book, tmp_path: Path) -> None:
    async with (
        receiving() as receiver,
        delivering(book, receiver.url, secret=None, secret_file=tmp_path / "gone") as webhook,
    ):
        commit(book, event(1))
        await until(lambda: "secret cannot be read" in (webhook.problem or ""))
    assert receiver.requests == []
