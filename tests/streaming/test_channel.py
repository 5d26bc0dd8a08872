"""The data channel of a publisher's session, with real peers over the real routes, without an agent."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from streaming.channel import LABEL, Channel, ChannelClosed, RateLimit, Refusal
from streaming.frame import FrameSettings
from streaming.sdp import OfferMalformed, OfferUnusable, check_offer
from streaming.tap import unfinished_bytes
from tests.support.robots import Robot, robot
from tests.support.streams import DATA, TOKEN, WITH_DATA, RecordingServer, authorize, serve, take
from tests.support.waiting import until


@dataclass
class Place:
    """A WHIP server whose channels echo text in capitals; "leave" closes the channel, "fail" raises an exception."""

    url: str
    server: RecordingServer
    heard: list[str | Refusal] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)


@asynccontextmanager
async def place(*, listens: bool = True) -> AsyncIterator[Place]:
    async def converse(channel: Channel) -> None:
        number = len(at.ended)  # two run at once until the new session's first frame ends the old session
        at.ended.append("no")
        try:
            async for message in channel.messages():
                at.heard.append(message)
                if message == "leave":
                    return
                if message == "fail":
                    raise RuntimeError("a defect")
                answer = message.reason if isinstance(message, Refusal) else message.upper()
                await channel.send(json.dumps({"type": "echo", "text": answer}))
        except asyncio.CancelledError:
            at.ended[number] = "cancelled"
            raise
        at.ended[number] = "closed"

    server = RecordingServer(
        lambda camera, source: None, authorize,
        frame_settings=lambda camera: FrameSettings(rate_hz=5.0),
        converse=lambda request, camera: converse if listens else None,
    )  # fmt: skip
    async with serve(Starlette(routes=server.routes())) as base:
        at = Place(f"{base}/whip/door", server)
        try:
            yield at
        finally:
            await server.close()


async def echo(it: Robot, text: str) -> str:
    it.channel.send(text)
    return str((await it.hear("echo"))["text"])


async def opened(it: Robot) -> Robot:
    await until(lambda: it.channel.readyState == "open")
    return it


async def test_messages_both_ways_beside_the_video() -> None:
    async with place() as at, robot(at.url, TOKEN) as it:
        await opened(it)
        assert [await echo(it, text) for text in ("one", "two", "dré")] == ["ONE", "TWO", "DRÉ"]
        assert await take(at.server.sources[0].frames(), 2)
        assert at.server.counters.messages == {"taken": 3}


async def test_too_large_and_binary_messages_are_refused() -> None:
    async with place() as at, robot(at.url, TOKEN) as it:
        await opened(it)
        assert await echo(it, "x" * 20_000) == "too_large"
        assert await echo(it, "é" * 10_000) == "too_large"
        it.channel.send(b"\x00\xff")
        assert (await it.hear())["text"] == "not_text"
        assert await echo(it, "x" * 16_384) == "X" * 16_384
        assert at.server.counters.messages == {"too_large": 2, "not_text": 1, "taken": 1}


async def test_messages_beyond_the_rate_are_dropped_and_reported_once() -> None:
    async with place() as at, robot(at.url, TOKEN) as it:
        await opened(it)
        for number in range(1500):
            it.channel.send(str(number))
        counts = at.server.counters.messages
        await until(lambda: counts["taken"] + counts["too_fast"] == 1500)
        assert counts["taken"] < 1500
        assert counts["too_fast"] > 0
        complaints = sum(message == Refusal("too_fast") for message in at.heard)
        assert 1 <= complaints < counts["too_fast"]


async def test_other_labels_second_channels_and_servers_that_do_not_listen_close_them() -> None:
    async with place() as at, robot(at.url, TOKEN) as it:
        await opened(it)
        others = [it.open("chat"), it.open(LABEL)]
        await until(lambda: all(other.readyState == "closed" for other in others))
        assert await echo(it, "still here") == "STILL HERE"
        for _ in range(8):
            with suppress(ConnectionError):
                it.open("more")
        await until(lambda: at.server.num_sessions == 0)  # that is no robot
        assert at.server.counters.closed == {"failed": 1}
    async with place(listens=False) as at, robot(at.url, TOKEN) as it:
        await it.closed()
        assert await take(at.server.sources[0].frames(), 1)


async def test_a_conversation_ends_with_its_channel_and_another_can_begin() -> None:
    async with place() as at, robot(at.url, TOKEN) as it:
        await opened(it)
        assert await echo(it, "hello") == "HELLO"
        it.channel.close()
        await until(lambda: at.ended == ["closed"])
        it.channel = it.open(LABEL)
        await opened(it)
        assert await echo(it, "again") == "AGAIN"
        it.channel.send("leave")
        await it.closed()
        assert at.server.num_sessions == 1


async def test_an_exception_ends_the_channel_and_not_the_video(caplog: pytest.LogCaptureFixture) -> None:
    async with place() as at, robot(at.url, TOKEN) as it:
        await opened(it)
        it.channel.send("fail")
        await it.closed()
        assert await take(at.server.sources[0].frames(), 2)
    assert "the data channel failed" in caplog.text


async def test_a_session_that_ends_or_is_taken_over_cancels_its_conversation() -> None:
    async with place() as at, robot(at.url, TOKEN) as first:
        await opened(first)
        assert await echo(first, "first") == "FIRST"
        async with robot(at.url, TOKEN) as second:
            await opened(second)
            assert await echo(second, "second") == "SECOND"
            await until(lambda: at.ended[0] == "cancelled")
            await first.closed()
            async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
                base = at.url.removesuffix("/whip/door")
                assert (await http.delete(base + second.session_url)).status_code == 200
            assert at.ended == ["cancelled", "cancelled"]
        assert at.server.num_sessions == 0


async def test_a_peer_that_stops_reading_loses_its_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf:
        """Replaces a transport whose peer acknowledges nothing, which real ones notice after half a minute."""

        readyState, bufferedAmount, bufferedAmountLowThreshold = "open", 1 << 20, 0  # noqa: N815

        def on(self, event: str, handler: object) -> None: ...

        def close(self) -> None:
            self.readyState = "closing"

    deaf = Deaf()
    monkeypatch.setattr("streaming.channel.SEND_TIMEOUT_S", 0.05)
    channel = Channel(deaf, Counter(), lambda: 0.0)  # type: ignore[arg-type]
    with pytest.raises(ChannelClosed, match="takes no messages"):
        await channel.send("hello")
    assert deaf.readyState == "closing"
    assert [message async for message in channel.messages()] == []


async def test_bytes_of_unfinished_messages_are_counted() -> None:
    """Fails if a new aiortc hides its receive window from streaming/tap.py."""
    async with place() as at, robot(at.url, TOKEN) as it:
        await opened(it)
        sctp = at.server.sources[0]._peer.sctp  # type: ignore[attr-defined]
        assert await echo(it, "x" * 5000) == "X" * 5000
        assert unfinished_bytes(sctp) == 0
        sctp._advertised_rwnd -= 3 << 20  # as if so much had come without an end
        await until(lambda: at.server.num_sessions == 0)
        assert at.server.counters.closed == {"too_large": 1}


def test_an_offer_as_browsers_make_it() -> None:
    assert check_offer(WITH_DATA).mid == "0"
    assert check_offer(WITH_DATA.replace("a=max-message-size:262144\r\n", "")).mid == "0"


@pytest.mark.parametrize(
    ("offer", "error", "words"),
    [
        (WITH_DATA.replace("BUNDLE 0 1", "BUNDLE 0"), OfferUnusable, "BUNDLE"),
        (WITH_DATA.replace("UDP/DTLS/SCTP webrtc-datachannel", "DTLS/SCTP 5000"), OfferUnusable, "data channel"),
        (WITH_DATA.replace("webrtc-datachannel", "slides"), OfferUnusable, "data channel"),
        (WITH_DATA.replace("a=sctp-port:5000\r\n", ""), OfferMalformed, "sctp-port"),
        (WITH_DATA.replace("port:5000", "port:70000"), OfferMalformed, "sctp-port"),
        (WITH_DATA.replace("size:262144", "size:-1"), OfferMalformed, "max-message-size"),
        (WITH_DATA.replace("size:262144", "size:x"), OfferMalformed, "parsed"),
        (WITH_DATA.replace("0 1", "0 1 2") + DATA.replace("mid:1", "mid:2"), OfferUnusable, "several"),
        (re.sub("m=video.*m=app", "m=app", WITH_DATA, flags=re.DOTALL).replace("0 1", "1"), OfferUnusable, "0 video"),
    ],
)
def test_offers_that_are_refused(offer: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        check_offer(offer)


@given(st.lists(st.floats(0, 10), max_size=60), st.integers(1, 5), st.floats(0.1, 10))
def test_a_rate_limit_holds(steps: list[float], burst: int, rate_hz: float) -> None:
    times = sorted(steps)
    limit = RateLimit(rate_hz, burst)
    passed = [time for time in times if limit.allows(time)]
    for place_, begin in enumerate(passed):
        for num, end in enumerate(passed[place_:], 1):
            assert num <= burst + (end - begin) * rate_hz + 1e-6


def test_a_rate_limit_by_example() -> None:
    limit = RateLimit(1.0, 2)
    assert [limit.allows(now) for now in (0, 0, 0, 1, 1)] == [True, True, False, True, False]
