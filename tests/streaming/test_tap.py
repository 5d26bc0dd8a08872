"""The replaced parts of aiortc, with hostile publishers over real connections. Fails when aiortc changes them."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import aiortc.rtcrtpreceiver
import pytest
from aiortc import RTCPeerConnection
from aiortc.codecs.vpx import Vp8Encoder

from streaming.encoded import EncodedQueue
from streaming.frame import FrameSettings, SourceStats
from streaming.publisher import publish
from streaming.relay import Relay
from streaming.session import WebRtcSession
from streaming.tap import guard, stop_decoder, unfinished_bytes
from tests.support.streams import TOKEN, track, whip_site
from tests.support.waiting import until


async def test_aiortc_has_the_private_attributes_that_are_used() -> None:
    peer = RTCPeerConnection()
    receiver = peer.addTransceiver("video", direction="recvonly").receiver
    for name in ("decoder_queue", "decoder_error", "decoder_thread", "jitter_buffer", "nack_generator", "codecs"):
        assert hasattr(receiver, f"_RTCRtpReceiver__{name}"), "aiortc has changed: read streaming/tap.py again"
    assert hasattr(peer, "_RTCPeerConnection__certificates")
    assert hasattr(receiver.transport.transport._connection, "query_consent")
    assert hasattr(receiver, "_handle_rtcp_packet")
    assert hasattr(receiver, "_handle_rtp_packet")
    assert hasattr(receiver, "_run_rtcp")
    peer.createDataChannel("vilamp")
    assert unfinished_bytes(peer.sctp) == 0
    guard(receiver, SourceStats(), lambda why: None, Relay())
    assert isinstance(receiver._RTCRtpReceiver__decoder_queue, EncodedQueue)
    assert await stop_decoder(receiver, 1.0)  # it was never started
    await peer.close()


async def test_arrival_is_measured_by_the_monotonic_clock() -> None:
    """aiortc loops over every millisecond that the system clock jumps forward: an hour, or fourteen years."""
    async with whip_site() as site, publish(site.url(), TOKEN, track(), client=site.client):
        session = site.sources[0]
        assert isinstance(session, WebRtcSession)
        await until(lambda: session.stats.received > 3)
        receiver = next(t.receiver for t in session._peer.getTransceivers() if t.kind == "video")
        counted = receiver._RTCRtpReceiver__remote_bitrate_estimator.incoming_bitrate
        assert abs(counted._origin_ms - time.monotonic() * 1000) < 600_000


async def test_a_huge_jitter_does_not_end_receiver_reports(caplog: pytest.LogCaptureFixture) -> None:
    """As after a jump of the sender's times or of a clock. A session whose reports ended would never close."""
    async with whip_site() as site, publish(site.url(), TOKEN, track(), client=site.client) as publication:
        session = site.sources[0]
        assert isinstance(session, WebRtcSession)
        await until(lambda: session.stats.received > 3)
        receiver = next(t.receiver for t in session._peer.getTransceivers() if t.kind == "video")
        (statistics,) = receiver._RTCRtpReceiver__remote_streams.values()
        statistics._jitter_q4 = 1 << 90
        sender = publication._peer.getSenders()[0]
        loop = asyncio.get_running_loop()
        until_time = loop.time() + 2.0  # a report comes every 0.5 to 1.5 s
        await until(lambda: loop.time() > until_time)
        statistics._jitter_q4 = 0
        stats = sender._RTCRtpSender__stats
        stats.clear()
        await until(lambda: "remote-inbound-rtp" in {each.type for each in stats.values()})
    assert "did not close" not in caplog.text


def patched(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Pass the publisher's VP8 packets through `change(payload, index)`."""
    encode = Vp8Encoder.encode

    def encode_and_change(self: Vp8Encoder, *args: Any, **kwargs: Any) -> Any:
        payloads, timestamp = encode(self, *args, **kwargs)
        return [change(payload, index) for index, payload in enumerate(payloads)], timestamp

    monkeypatch.setattr(Vp8Encoder, "encode", encode_and_change)


async def test_key_frames_of_a_huge_size_end_the_session_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def huge(payload: bytes, index: int) -> bytes:
        at = payload.find(b"\x9d\x01\x2a")
        return payload if at < 0 else payload[: at + 3] + b"\xff\x3f\xff\x3f" + payload[at + 7 :]

    patched(monkeypatch, huge)
    async with whip_site() as site, publish(site.url(), TOKEN, track(), codec="VP8", client=site.client):
        await until(lambda: site.server.num_sessions == 0)
        assert site.server.counters.closed == {"too_large": 1}
        assert site.sources[0].stats.received == 0
        assert "16383x16383" in site.sources[0].stats.detail


async def test_undecodable_packets_are_counted_but_not_logged_each(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(payload: bytes, index: int) -> bytes:  # the first partition is cut away, the header stays
        return payload[:14] if b"\x9d\x01\x2a" in payload else payload[:4] + b"\xff" * 40

    patched(monkeypatch, broken)
    with caplog.at_level(logging.WARNING):
        async with whip_site() as site, publish(site.url(), TOKEN, track(), codec="VP8", client=site.client):
            stats = site.sources[0].stats
            await until(lambda: stats.decode_errors > 5)
    assert not [record for record in caplog.records if record.name.startswith("aiortc")]
    (told,) = [record for record in caplog.records if "could not be decoded" in record.message]
    assert told.levelno == logging.WARNING


@pytest.fixture
def held_decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A decoder that is busy until the event is set."""
    release = threading.Event()
    left_alone: list[bool] = []

    class Held:
        def decode(self, frame: object) -> list[object]:
            left_alone.append(not release.wait(10))
            return []

    monkeypatch.setattr(aiortc.rtcrtpreceiver, "get_decoder", lambda codec: Held())
    yield release
    release.set()
    assert not any(left_alone)


@pytest.mark.parametrize("way", ["delete", "goodbye", "shutdown"])
async def test_the_event_loop_never_waits_for_the_decoder(held_decoder: threading.Event, way: str) -> None:
    async with (
        whip_site(frames=FrameSettings(rate_hz=5.0)) as site,
        publish(site.url(), TOKEN, track(rate_hz=30.0), client=site.client) as publication,
    ):
        session = site.sources[0]
        assert isinstance(session, WebRtcSession)
        receiver = next(t.receiver for t in session._peer.getTransceivers() if t.kind == "video")
        await until(lambda: receiver._RTCRtpReceiver__decoder_queue.qsize() > 2)
        if way == "delete":
            closing = asyncio.create_task(site.client.delete(publication.session_url))
        elif way == "goodbye":
            closing = asyncio.create_task(publication._peer.close())
        else:
            closing = asyncio.create_task(site.server.close())
        for _ in range(20):  # only a free loop gets to the end of this
            await asyncio.sleep(0.01)
        assert not held_decoder.is_set()
        thread = next(each for each in threading.enumerate() if each.name == "video-decoder")
        held_decoder.set()
        await closing
        await session.close()
        assert not thread.is_alive()  # else it would speak to a loop that is closed
        await until(lambda: site.server.num_sessions == 0)
