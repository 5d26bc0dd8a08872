"""Streams for tests: a WHIP server on loopback, numbered pictures, and clips written by PyAV."""

import asyncio
import fractions
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import httpx
import ifaddr
import numpy as np
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streaming.frame import Frame, FrameSettings, Source
from streaming.publisher import FramesTrack
from streaming.sdp import Offer
from streaming.session import WebRtcSession
from streaming.whip import Rejected, WhipServer, WhipSettings

LOOPBACK_ALONE = all(ip.nice_name == "lo" for adapter in ifaddr.get_adapters() for ip in adapter.ips)
TOKEN = "t-door"  # may publish any camera but "other"
# A session description with one video section, and an audio section to add to it.
OFFER = """v=0
o=- 1 1 IN IP4 0.0.0.0
s=-
t=0 0
a=group:BUNDLE 0
m=video 9 UDP/TLS/RTP/SAVPF 97 98 99
c=IN IP4 0.0.0.0
a=sendonly
a=mid:0
a=rtcp-mux
a=rtpmap:97 VP8/90000
a=rtpmap:98 rtx/90000
a=fmtp:98 apt=97
a=rtpmap:99 H264/90000
a=fmtp:99 packetization-mode=1;profile-level-id=42e01f
a=ice-ufrag:abcd
a=ice-pwd:abcdefghijklmnopqrstuv
a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F
a=setup:actpass
""".replace("\n", "\r\n")
AUDIO = """m=audio 9 UDP/TLS/RTP/SAVPF 111
c=IN IP4 0.0.0.0
a=sendonly
a=mid:1
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=ice-ufrag:abcd
a=ice-pwd:abcdefghijklmnopqrstuv
a=fingerprint:sha-256 00:01
a=setup:actpass
""".replace("\n", "\r\n")
DATA = """m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=ice-ufrag:abcd
a=ice-pwd:abcdefghijklmnopqrstuv
a=fingerprint:sha-256 00:01
a=setup:actpass
a=mid:1
a=sctp-port:5000
a=max-message-size:262144
""".replace("\n", "\r\n")
WITH_DATA = OFFER.replace("BUNDLE 0", "BUNDLE 0 1") + DATA  # in the form of Chrome's


def picture(index: int, width: int = 160, height: int = 120) -> np.ndarray:
    """Draw a numbered picture, uint8 (H, W, 3): the left half has the brightness 40 + 10 * (index % 20), the right is red."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2] = 40 + 10 * (index % 20)
    image[:, width // 2 :] = (200, 30, 30)
    return image


def index_of(image: np.ndarray) -> int:
    """Return the number of a picture, modulo 20."""
    return round((float(image[:, : image.shape[1] // 4].mean()) - 40) / 10)


async def pictures(num: int, size: Callable[[int], tuple[int, int]] = lambda index: (160, 120)) -> AsyncIterator:
    for index in range(num):
        yield picture(index, *size(index))


def track(num: int = 10_000, rate_hz: float = 15.0, **options: object) -> FramesTrack:
    return FramesTrack(pictures(num, **options), rate_hz=rate_hz)  # type: ignore[arg-type]


def write_clip(
    path: Path, *, num: int = 40, rate_hz: int = 10, codec: str = "libx264", size: tuple[int, int] = (160, 120),
    options: dict[str, str] | None = None,
) -> Path:  # fmt: skip
    """Write a clip that shows `picture(i)` at `i / rate_hz` seconds, without B-frames, with a key frame each second."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate_hz)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.gop_size = rate_hz
        stream.max_b_frames = 0
        if codec == "libx265":
            stream.options = {"x265-params": "log-level=none"}
        for index in range(num):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            frame.pts, frame.time_base = index, fractions.Fraction(1, rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def authorize(request: Request, camera: str) -> None:
    if camera == "unknown":
        raise Rejected(404, "no such camera; see GET /v1/cameras")
    if request.headers.get("authorization") != f"Bearer {TOKEN}":
        raise Rejected(401, "send a token")
    if camera == "other":
        raise Rejected(403, "this token is for other cameras")


class RecordingServer(WhipServer):
    """A WHIP server that lists the sessions of all accepted offers in `sources`, connected or not."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sources: list[Source] = []

    def _adopt(self, session: WebRtcSession, offer: Offer, owner: str, client: str) -> str:
        self.sources.append(session)
        return super()._adopt(session, offer, owner, client)


@dataclass
class Site:
    """A running WHIP server. `sources`: the sessions of all accepted offers, in order, connected or not."""

    base: str
    server: WhipServer
    client: httpx.AsyncClient
    sources: list[Source] = field(default_factory=list)

    def url(self, camera: str = "door") -> str:
        return f"{self.base}/whip/{camera}"


@asynccontextmanager
async def serve(app: Starlette) -> AsyncIterator[str]:
    """Serve an application on a free port of 127.0.0.1 and return its base URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def whip_site(
    settings: WhipSettings | None = None, frames: FrameSettings | None = None,
    locate: Callable[[str], str | None] = lambda camera: None,
    owner_of: Callable[[Request], str] = lambda request: "",
    pages: Mapping[str, Callable[[Request], Awaitable[Response]]] | None = None,
) -> AsyncIterator[Site]:  # fmt: skip
    others = [Route(path, page) for path, page in (pages or {}).items()]
    server = RecordingServer(
        lambda camera, source: None, authorize, settings=settings,
        frame_settings=lambda camera: frames or FrameSettings(rate_hz=5.0), locate=locate,
        owner_of=owner_of,
    )  # fmt: skip
    async with serve(Starlette(routes=[*server.routes(), *others])) as base, httpx.AsyncClient(timeout=20.0) as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        try:
            yield Site(base, server, client, server.sources)
        finally:
            await server.close()


async def take(frames: AsyncIterator[Frame], num: int) -> list[Frame]:
    """Return the first `num` frames, or fewer if the stream ends."""
    taken: list[Frame] = []
    async for frame in frames:
        taken.append(frame)
        if len(taken) == num:
            break
    return taken


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def jpeg(index: int) -> bytes:
    """Encode `picture(index)` as a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture(index)).save(buffer, "JPEG")
    return buffer.getvalue()
