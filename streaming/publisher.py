"""A WHIP client (RFC 9725) that publishes a video track, for the demo, examples and benchmarks.

    async with publish("http://127.0.0.1:8000/whip/door", token, FramesTrack(pictures, rate_hz=10)) as publication:
        await publication.wait_ended()

Works with any WHIP server.
"""

import asyncio
import fractions
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import urljoin

import av
import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from streaming.errors import MediaError, shown
from streaming.frame import Frame, FrameSettings
from streaming.ice import Ice, IceSettings
from streaming.media import FileSource

Codec = Literal["H264", "VP8"]
_CLOCK_RATE_HZ = 90_000
_MAX_REDIRECTS = 3


class PublishError(Exception):
    """The server refused the video or could not be reached. `status`: the HTTP status, None without a response."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class FramesTrack(MediaStreamTrack):
    """A video track that sends the pictures of an async iterator when they are due, and late ones at once.

    A `Frame` is due by its time relative to the first frame, a uint8 (H, W, 3) RGB array by `rate_hz`. Width and height
    are cut to even numbers, as the codecs require.
    """

    kind = "video"

    def __init__(self, pictures: AsyncIterator[Frame | np.ndarray], *, rate_hz: float = 10.0) -> None:
        super().__init__()
        self._pictures = pictures
        self._rate_hz = rate_hz
        self._started_at: float | None = None
        self._first_time = 0.0
        self.num_sent = 0
        self.error: MediaError | None = None

    async def recv(self) -> av.VideoFrame:
        """Return the next picture when it is due. Raises MediaStreamError after the last one."""
        if self.readyState != "live":
            raise MediaStreamError
        try:
            picture = await anext(self._pictures)
        except StopAsyncIteration:
            self.stop()
            raise MediaStreamError from None
        except MediaError as error:  # `Publication.wait_ended` reports it
            self.error = error
            self.stop()
            raise MediaStreamError from None
        image: np.ndarray = picture.image if isinstance(picture, Frame) else picture
        picture_time = picture.time if isinstance(picture, Frame) else None
        if self._started_at is None:
            self._started_at, self._first_time = time.monotonic(), picture_time or 0.0
        due_s = self.num_sent / self._rate_hz if picture_time is None else picture_time - self._first_time
        await asyncio.sleep(max(0.0, self._started_at + due_s - time.monotonic()))
        self.num_sent += 1
        return _video_frame(image, due_s)


def file_track(path: str, *, rate_hz: float = 15.0, max_width: int = 1280, max_height: int = 720) -> FramesTrack:
    """Return a track that plays a video file at its own speed, with `rate_hz` frames a second."""
    settings = FrameSettings(rate_hz=rate_hz, max_width=max_width, max_height=max_height)
    return FramesTrack(FileSource(path, "publisher", settings, pace="fast", start_time=0.0).frames())


class Publication:
    """A running publication of a video track. `session_url`: the WHIP session at the server, deleted at the end."""

    def __init__(self, peer: RTCPeerConnection, track: MediaStreamTrack, session_url: str) -> None:
        self.session_url = session_url
        self._peer = peer
        self._track = track
        self._connected = asyncio.Event()
        self._ended = asyncio.Event()
        peer.on("connectionstatechange", self._note_state)
        track.on("ended", self._ended.set)
        self._note_state()

    @property
    def state(self) -> str:
        """The connection's state: `new`, `connecting`, `connected`, `failed` or `closed`."""
        return str(self._peer.connectionState)

    async def wait_connected(self, timeout_s: float = 15.0) -> None:
        """Wait until video can flow. Raises PublishError if it cannot (a firewall, no route for UDP)."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError:
            raise PublishError(
                f"no connection for video within {timeout_s:.0f} s: is UDP to the server open, or is TURN needed?"
            ) from None
        if self.state in ("failed", "closed"):
            raise PublishError(f"the video connection {self.state}: is UDP to the server open, or is TURN needed?")

    async def wait_ended(self) -> None:
        """Wait until the track ends or the server closes the connection.

        Raises PublishError if the pictures cannot be read.
        """
        await self._ended.wait()
        if isinstance(self._track, FramesTrack) and self._track.error is not None:
            raise PublishError(str(self._track.error))

    def _note_state(self) -> None:
        if self.state in ("connected", "failed", "closed"):
            self._connected.set()
        if self.state in ("failed", "closed"):
            self._ended.set()


@asynccontextmanager
async def publish(
    url: str, token: str | None, track: MediaStreamTrack, *, codec: Codec | None = None,
    client: httpx.AsyncClient | None = None, verify: bool = True, ice: IceSettings | None = None,
) -> AsyncIterator[Publication]:  # fmt: skip
    """Context manager: publish `track` to the WHIP endpoint `url` during the block, then delete the session.

    `codec=None` offers both codecs and lets the server choose. `verify=False` accepts a self-signed certificate. `ice`:
    such as STUN and TURN servers. Raises PublishError with the server's explanation.
    """
    http = client or httpx.AsyncClient(verify=verify, timeout=20.0)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    gathering = Ice(ice)
    peer = gathering.connection()
    publication: Publication | None = None
    try:
        transceiver = peer.addTransceiver(track, direction="sendonly")
        if codec is not None:
            capabilities = RTCRtpSender.getCapabilities("video").codecs
            transceiver.setCodecPreferences([c for c in capabilities if c.mimeType == f"video/{codec}"])
        gathering.prepare(peer)
        await peer.setLocalDescription(await peer.createOffer())
        answer, session_url = await _post_offer(http, url, headers, peer.localDescription.sdp)
        publication = Publication(peer, track, session_url)
        try:
            await peer.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))
        except (ValueError, AssertionError) as error:
            raise PublishError(f"{shown(url)} answered something that is not a usable SDP answer ({error})") from error
        yield publication
    finally:
        if publication is not None:
            await _delete(http, publication.session_url, headers)
        await peer.close()
        if client is None:
            await http.aclose()


async def _post_offer(http: httpx.AsyncClient, url: str, headers: dict[str, str], offer: str) -> tuple[str, str]:
    """Send the offer, and return the SDP answer and the absolute session URL.

    Follows redirects and sends the token to their addresses as well, as WHIP requires.
    """
    for _ in range(_MAX_REDIRECTS + 1):
        try:
            response = await http.post(url, content=offer, headers={**headers, "Content-Type": "application/sdp"})
        except httpx.HTTPError as error:
            raise PublishError(f"{shown(url)} cannot be reached ({type(error).__name__}: {error})") from error
        if response.status_code in (307, 308) and "location" in response.headers:
            url = urljoin(url, response.headers["location"])
            continue
        if response.status_code != 201:
            raise PublishError(f"{shown(url)} refused: {_explanation(response)}", response.status_code)
        if "location" not in response.headers:
            raise PublishError(f"{shown(url)} gave no session URL; is it a WHIP endpoint?", response.status_code)
        return response.text, urljoin(url, response.headers["location"])
    raise PublishError(f"{shown(url)}: more than {_MAX_REDIRECTS} redirects")


async def _delete(http: httpx.AsyncClient, session_url: str, headers: dict[str, str]) -> None:
    """Delete the session at the server. Errors are ignored, as the session or the server may be gone."""
    try:
        await http.delete(session_url, headers=headers, timeout=5.0)
    except httpx.HTTPError:
        return


def _explanation(response: httpx.Response) -> str:
    try:
        detail = response.json().get("detail", "")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        detail = response.text[:200]
    return f"{response.status_code} {response.reason_phrase}. {detail}".strip()


def _video_frame(image: np.ndarray, due_s: float) -> av.VideoFrame:
    """Return `image`, uint8 (H, W, 3) RGB, as a YUV 4:2:0 frame with the timestamp `due_s`, seconds since the start."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
    frame = rgb.reformat(format="yuv420p")
    frame.pts = round(due_s * _CLOCK_RATE_HZ)
    frame.time_base = fractions.Fraction(1, _CLOCK_RATE_HZ)
    return frame
