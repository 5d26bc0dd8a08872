"""Real video from an aiortc peer through the real routes: VP8, H.264, changing sizes, vanishing peers."""

import asyncio
import itertools
import time

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription

from streaming.frame import Frame, FrameSettings
from streaming.publisher import FramesTrack, publish
from streaming.session import WebRtcSession
from tests.support.streams import TOKEN, index_of, pictures, take, track, whip_site
from tests.support.waiting import until


def receiver_of(session: WebRtcSession):
    return next(t.receiver for t in session._peer.getTransceivers() if t.kind == "video")


@pytest.mark.parametrize("codec", ["VP8", "H264"])
async def test_video_arrives_in_order_with_wall_clock_times(codec: str) -> None:
    async with whip_site(frames=FrameSettings(rate_hz=5.0)) as site:
        before = time.time()
        async with publish(site.url(), TOKEN, track(rate_hz=15.0), codec=codec, client=site.client) as publication:
            await publication.wait_connected()
            source = site.sources[0]
            frames = await take(source.frames(), 6)
        assert all(frame.image.shape == (120, 160, 3) and frame.image.dtype.name == "uint8" for frame in frames)
        assert before < frames[0].time
        assert frames[-1].time <= time.time() + 0.1
        assert all(later.time > earlier.time for earlier, later in itertools.pairwise(frames))
        # Sampled 3 to 1: the pictures follow each other in order, with about three steps between.
        steps = [(index_of(b.image) - index_of(a.image)) % 20 for a, b in itertools.pairwise(frames)]
        assert all(1 <= step <= 8 for step in steps)
        red = frames[-1].image[:, 120:].reshape(-1, 3).mean(axis=0)
        assert red[0] > 150 > 80 > max(red[1], red[2])  # RGB, not BGR
        stats = source.stats
        assert stats.received > stats.kept >= 6
        assert (stats.width, stats.height) == (160, 120)
        await until(lambda: stats.state == "closed")


async def test_frames_carry_the_senders_clock_once_it_has_reported() -> None:
    """Fails if a new aiortc hides RTCP reports or RTP times from streaming/tap.py."""
    async with (
        whip_site(frames=FrameSettings(rate_hz=30.0)) as site,
        publish(site.url(), TOKEN, track(), client=site.client),
    ):
        clocks = []
        async for frame in site.sources[0].frames():
            clocks.append(frame.clock)
            if frame.clock == "sender":
                assert abs(frame.time - time.time()) < 2.0
                break
        assert clocks[0] == "arrival"
        assert clocks[-1] == "sender"


async def test_resolution_changes_mid_stream() -> None:
    """The picture grows, shrinks and rotates; above the size limit it is scaled down."""
    sizes = [(160, 120), (320, 240), (120, 160), (640, 360)]
    settings = FrameSettings(rate_hz=30.0, max_width=320, max_height=320)
    async with whip_site(frames=settings) as site:
        changing = FramesTrack(pictures(1000, lambda index: sizes[index // 8 % 4]), rate_hz=15.0)
        async with publish(site.url(), TOKEN, changing, codec="VP8", client=site.client):
            seen: list[tuple[int, ...]] = []
            async for frame in site.sources[0].frames():
                if frame.image.shape[:2] not in seen:
                    seen.append(frame.image.shape[:2])
                if len(seen) == 4:
                    break
        assert set(seen) == {(120, 160), (240, 320), (160, 120), (180, 320)}


async def test_a_publisher_that_falls_silent_is_closed_and_counted() -> None:
    """ICE would notice after half a minute; the session does after `stall_timeout_s`."""
    async with whip_site(frames=FrameSettings(rate_hz=30.0, stall_timeout_s=0.5)) as site:
        silent = asyncio.Event()

        async def then_nothing():
            async for image in pictures(8):
                yield image
            await silent.wait()

        async with publish(site.url(), TOKEN, FramesTrack(then_nothing(), rate_hz=15.0), client=site.client):
            frames = [frame async for frame in site.sources[0].frames()]
        assert frames
        assert site.sources[0].stats.state == "stalled"
        assert site.sources[0].stats.stalls == 1
        assert site.server.counters.closed == {"stalled": 1}
        assert site.server.num_sessions == 0


async def test_a_publisher_that_disconnects_ends_the_stream() -> None:
    async with whip_site(frames=FrameSettings(rate_hz=30.0)) as site:
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        peer.addTransceiver(track(), direction="sendonly")
        await peer.setLocalDescription(await peer.createOffer())
        headers = {"Content-Type": "application/sdp"}
        response = await site.client.post(site.url(), content=peer.localDescription.sdp, headers=headers)
        await peer.setRemoteDescription(RTCSessionDescription(response.text, "answer"))
        frames = site.sources[0].frames()
        assert await take(frames, 1)
        await peer.close()  # without DELETE
        async for _ in site.sources[0].frames():
            pass
        assert site.server.counters.closed == {"ended": 1}


async def test_a_slow_consumer_loses_frames_but_uses_no_memory() -> None:
    async with (
        whip_site(frames=FrameSettings(rate_hz=60.0, handoff_frames=1)) as site,
        publish(site.url(), TOKEN, track(rate_hz=30.0), client=site.client),
    ):
        source = site.sources[0]
        assert isinstance(source, WebRtcSession)
        frames = source.frames()
        first = await anext(frames)
        await until(lambda: source.stats.dropped >= 30)
        assert receiver_of(source).track._queue.qsize() <= 2
        assert len(source._slot) == 1
        newest = await anext(frames)
        assert source.stats.kept <= source.stats.dropped + 4
        assert newest.time - first.time > 0.5  # what waited was the newest, not the oldest


async def test_closing_while_a_frame_is_awaited() -> None:
    async with whip_site() as site:
        async with publish(site.url(), TOKEN, track(), client=site.client):
            waiting = asyncio.create_task(take(site.sources[0].frames(), 10_000))
            await until(lambda: site.sources[0].stats.kept > 0)
            await site.sources[0].close()
            await site.sources[0].close()
            assert all(isinstance(frame, Frame) for frame in await waiting)
        assert site.server.num_sessions == 0


async def test_two_cameras_at_once_do_not_mix() -> None:
    async with whip_site() as site:
        wide = FramesTrack(pictures(1000, lambda index: (320, 120)), rate_hz=10.0)
        async with (
            publish(site.url("a"), TOKEN, track(rate_hz=10.0), client=site.client),
            publish(site.url("b"), TOKEN, wide, client=site.client),
        ):
            by_camera = {source.camera: source for source in site.sources}
            a, b = await asyncio.gather(take(by_camera["a"].frames(), 3), take(by_camera["b"].frames(), 3))
        assert {frame.image.shape for frame in a} == {(120, 160, 3)}
        assert {frame.image.shape for frame in b} == {(120, 320, 3)}


async def test_an_error_while_reading_ends_the_session() -> None:
    async with whip_site() as site, publish(site.url(), TOKEN, track(), client=site.client):
        session = site.sources[0]
        assert isinstance(session, WebRtcSession)
        del session._sampler
        await until(lambda: site.server.num_sessions == 0)
        assert site.server.counters.closed == {"failed": 1}


def test_aiortc_sends_the_requested_codec() -> None:
    names = {codec.mimeType for codec in RTCRtpSender.getCapabilities("video").codecs}
    assert {"video/VP8", "video/H264"} <= names
