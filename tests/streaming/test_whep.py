"""Viewers get a camera's own encoded pictures: real publishers, a real RTSP camera and real viewers on loopback."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from starlette.applications import Starlette

from streaming.frame import FrameSettings
from streaming.ice import Ice
from streaming.media import open_source
from streaming.publisher import Codec, publish
from streaming.relay import MAX_WAITING, Picture, Relay
from streaming.whep import WhepServer
from streaming.whip_requests import Rejected
from tests.support.rtsp import rtsp_server
from tests.support.streams import TOKEN, Site, authorize, index_of, serve, take, track, whip_site
from tests.support.waiting import until

SDP = {"Content-Type": "application/sdp", "Authorization": f"Bearer {TOKEN}"}


@asynccontextmanager
async def views(relay_of: Callable[[], Relay], **options: int) -> AsyncIterator[tuple[str, WhepServer]]:
    """Serve viewers of a relay. Yield the address of the camera and the server."""
    ice = Ice()
    server = WhepServer(authorize, lambda camera: relay_of(), ice, **options)
    async with serve(Starlette(routes=server.routes())) as base:
        try:
            yield f"{base}/whep/door", server
        finally:
            await server.close()


class Viewer:
    """A WHEP client. `pictures`: the numbers of the pictures it has decoded."""

    def __init__(self) -> None:
        ice = Ice()
        self.peer: RTCPeerConnection = ice.connection()
        self._prepare = ice.prepare
        self.pictures: list[int] = []
        self.status = 0
        self.url = ""

    async def connect(self, url: str) -> "Viewer":
        transceiver = self.peer.addTransceiver("video", direction="recvonly")
        self._prepare(self.peer)
        await self.peer.setLocalDescription(await self.peer.createOffer())
        async with httpx.AsyncClient(timeout=20.0) as http:
            answer = await http.post(url, content=self.peer.localDescription.sdp, headers=SDP)
        self.status = answer.status_code
        if self.status == 201:
            self.url = url.partition("/whep")[0] + answer.headers["location"]
            await self.peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
            self._reading = asyncio.create_task(self._read(transceiver.receiver))
        return self

    async def _read(self, receiver: RTCRtpReceiver) -> None:
        while True:
            frame = await receiver.track.recv()
            self.pictures.append(index_of(frame.to_ndarray(format="rgb24")))

    async def close(self) -> None:
        if self.url:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        await self.peer.close()


async def published(site: Site) -> Relay:
    await until(lambda: bool(site.sources) and site.sources[0].stats.received > 0)
    return site.sources[0].relay  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("codec", ["VP8", "H264"])
async def test_a_viewer_sees_what_a_publisher_sends(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    encoders: set[int] = set()
    for encoder in (Vp8Encoder, H264Encoder):
        encode = encoder.encode

        def counted(self: object, *args: object, encode: Callable[..., object] = encode) -> object:
            encoders.add(id(self))
            return encode(self, *args)

        monkeypatch.setattr(encoder, "encode", counted)
    async with whip_site() as site, publish(site.url(), TOKEN, track(), codec=codec, client=site.client):
        relay = await published(site)
        assert relay.codec == codec
        async with views(lambda: relay) as (url, server):
            viewer = await Viewer().connect(url)
            await until(lambda: len(viewer.pictures) >= 15)
            steps = {
                (later - earlier) % 20 for earlier, later in zip(viewer.pictures, viewer.pictures[1:], strict=False)
            }
            assert steps == {1}  # none is missing, none is repeated
            assert len(encoders) == 1  # the publisher's: nothing is encoded again
            assert server.num_viewers == 1
            async with httpx.AsyncClient() as http:
                assert (await http.delete(viewer.url, headers=SDP)).status_code == 200
                assert (await http.delete(viewer.url, headers=SDP)).status_code == 404
            await until(lambda: server.num_viewers == 0)
            assert not relay.is_watched
            await viewer.close()


async def test_a_viewer_sees_an_rtsp_camera_also_after_it_connected_again() -> None:
    async with rtsp_server(frames_per_connection=60, rate_hz=15.0) as rtsp:
        source = open_source(rtsp.url, "door", FrameSettings(rate_hz=math.inf))
        taking = asyncio.create_task(take(source.frames(), 10_000))
        await until(lambda: source.stats.received > 0)
        relay = source.relay  # type: ignore[union-attr]
        async with views(lambda: relay) as (url, server):
            viewer = await Viewer().connect(url)
            await until(lambda: rtsp.num_connections >= 2 and len(viewer.pictures) >= 60, 60)
            assert server.num_viewers == 1
            await viewer.close()
            await until(lambda: server.num_viewers == 0)
        await source.close()
        await taking


async def test_a_view_ends_with_its_publisher() -> None:
    async with whip_site() as site:
        async with publish(site.url(), TOKEN, track(), client=site.client):
            relay = await published(site)
            served = views(lambda: relay)
            url, server = await served.__aenter__()
            viewer = await Viewer().connect(url)
            await until(lambda: len(viewer.pictures) > 0)
        await until(lambda: server.num_viewers == 0)
        await viewer.close()
        await served.__aexit__(None, None, None)


async def test_the_number_of_viewers_is_limited_and_refusals_are_counted() -> None:
    async with whip_site() as site, publish(site.url(), TOKEN, track(), client=site.client):
        relay = await published(site)
        async with views(lambda: relay, max_viewers=2) as (url, server):
            viewers = [await Viewer().connect(url) for _ in range(3)]
            assert [viewer.status for viewer in viewers] == [201, 201, 503]
            assert (server.num_viewers, server.num_opened, server.rejected[503]) == (2, 2, 1)
            for viewer in viewers:
                await viewer.close()


async def test_requests_that_are_refused() -> None:
    def nothing() -> Relay:
        raise Rejected(409, "the camera sends nothing that can be viewed")

    peer = Ice().connection()
    peer.addTransceiver(track(), direction="sendonly")
    await peer.setLocalDescription(await peer.createOffer())
    async with views(Relay) as (url, _), views(nothing) as (empty, _), httpx.AsyncClient() as http:
        assert (await http.post(url, content="x", headers={**SDP, "Authorization": ""})).status_code == 401
        assert (await http.post(url, content="x", headers=SDP)).status_code == 400
        assert (await http.post(url, content="x", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 415
        assert (await http.post(empty, content="x", headers=SDP)).status_code == 409
        wrong = await http.post(url, content=peer.localDescription.sdp, headers=SDP)
        assert (wrong.status_code, "offer it recvonly" in wrong.text) == (422, True)
        preflight = await http.options(url, headers={"Origin": "https://panel.example"})
        assert preflight.headers["access-control-allow-origin"] == "*"
    await peer.close()


async def test_a_viewer_that_is_too_slow_goes_on_with_the_next_key_frame() -> None:
    relay = Relay()
    view = relay.view()
    relay.wants_key = False
    for number in range(MAX_WAITING + 20):
        relay.put(Picture(b"%d" % number, number * 3000, is_key=number in (0, MAX_WAITING + 10)))
    await asyncio.sleep(0)
    assert [each.data for each in view._waiting] == [b"%d" % (MAX_WAITING + 10 + n) for n in range(10)]
    assert relay.wants_key
    view.close()
    assert not relay.is_watched


async def test_ticks_go_on_when_those_of_the_source_jump() -> None:
    relay = Relay()
    view = relay.view()
    for ticks in (2**32 - 3000, 0, 3000, 900_000_000, 900_003_000, 5):
        relay.put(Picture(b"x", ticks, is_key=True))
    await asyncio.sleep(0)
    got = [await view.get() for _ in range(6)]
    assert [each[1] for each in got if each is not None] == [0, 3000, 6000, 9600, 12600, 16200]
    view.close()
