"""Video files, RTSP and HTTP cameras, and webcams as sources, decoded by PyAV.

A file's frames are decoded when the consumer asks for them, so no frame is lost and none waits in a queue. A live
camera's frames are decoded all the time, and the newest ones wait for the consumer. A sampler decides which frames are
kept (`FrameSettings`). A source uses one thread while `frames()` is iterated.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Literal
from urllib.parse import unquote

from streaming.backoff import backoff_s
from streaming.clock import CaptureClock, Sampler
from streaming.decoder import Decoded, Input, direct_formats
from streaming.errors import AddressUnknown, MediaError, MediaStalled
from streaming.frame import ClockName, Frame, FrameSettings, SourceStats
from streaming.handoff import LatestSlot, SlotClosed, Worker, WorkerStopped
from streaming.http_input import HttpOpener, is_playlist
from streaming.picture import to_rgb
from streaming.redact import redact

logger = logging.getLogger(__name__)

Pace = Literal["timestamps", "fast"]
_LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "http", "https"})
_HEALTHY_AFTER_S = 30.0  # after a connection of this length, pauses between retries start small again


def open_source(
    url: str, camera: str, settings: FrameSettings | None = None, *, pace: Pace = "timestamps",
    start_time: float | None = None, transport: Literal["tcp", "udp"] = "tcp", other_hosts: bool = False,
) -> "FileSource | LiveSource":  # fmt: skip
    """Return the source for `rtsp://...`, `http://...`, `webcam:0`, `webcam:/dev/video0`, `file:///...` or a path.

    It is opened when `frames()` is iterated. `pace` and `start_time` (unix seconds of the first frame; default: the
    time of opening) apply to files. `other_hosts`: redirects and playlists of an HTTP camera may lead to other hosts.
    Raises AddressUnknown (also a ValueError) for other addresses.
    """
    settings = settings or FrameSettings()
    if device := re.match(r"(?i)webcam:(.+)", url):
        device_path = f"/dev/video{device[1]}" if re.fullmatch("[0-9]+", device[1]) else device[1]
        return LiveSource(device_path, camera, settings, format="v4l2")
    if path := re.match(r"(?i)file:(?://[^/]*)?(/.*)", url, re.DOTALL):
        return FileSource(unquote(path[1]), camera, settings, pace=pace, start_time=start_time)
    address = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+)://", url)
    if address is None:  # "12:30.mp4" and "rtsp:x.mp4" are file names
        return FileSource(url, camera, settings, pace=pace, start_time=start_time)
    scheme = address[1].lower()
    if scheme not in _LIVE_SCHEMES:
        raise AddressUnknown(f"{redact(url)}: use rtsp://, http://, file://, webcam:0 or the path of a file")
    url = scheme + url[len(scheme) :]  # FFmpeg accepts lower case only
    if scheme in ("http", "https"):
        opener = partial(HttpOpener, url, timeout_s=settings.stall_timeout_s, other_hosts=other_hosts)
        return LiveSource(url, camera, settings, options=_http_options(url), opener=opener)
    return LiveSource(url, camera, settings, options=_rtsp_options(transport))


def _http_options(url: str) -> dict[str, str]:
    """Return FFmpeg options that allow a playlist only if the address itself is that of a playlist."""
    options = {"protocol_whitelist": "http,https,tcp,tls,crypto"}
    if is_playlist(url):
        return {**options, "format_whitelist": direct_formats("hls"), "http_persistent": "0", "http_multiple": "0"}
    return {**options, "format_whitelist": direct_formats()}


def _rtsp_options(transport: str) -> dict[str, str]:
    """Return FFmpeg options for RTSP. Their whitelist prevents a hostile camera from making FFmpeg read local files."""
    return {"rtsp_transport": transport, "fflags": "nobuffer", "protocol_whitelist": "rtsp,rtsps,rtp,udp,tcp,tls"}


class _DecodedSource:
    """Base of both sources: reads an `Input` in a worker thread, samples its frames and converts the kept ones."""

    def __init__(self, camera: str, settings: FrameSettings | None, stats: SourceStats, worker: str) -> None:
        self.camera = camera
        self.stats = stats
        self._settings = settings or FrameSettings()
        self._sampler = Sampler(self._settings.rate_hz)
        self._worker = Worker(f"{worker}-{camera}")
        self._input: Input | None = None
        self._kept: Iterator[Frame] = iter(())

    async def _next(self) -> Frame | None:
        """Return the next frame that the sampler keeps, None at the end."""
        return await self._worker.run(partial(next, self._kept, None))

    def _release(self) -> None:
        if self._input is not None:
            self._input.close()
            self._input = None

    def _keep(self, medium: Input, time_of: Callable[[Decoded], tuple[float, ClockName]]) -> Iterator[Frame]:
        """Decode frames, and yield those that the sampler keeps. Runs in the worker thread.

        time_of: returns a decoded frame's time in unix seconds, and the clock that gave it.
        """
        settings, stats = self._settings, self.stats
        for decoded in medium.frames():
            frame = decoded.frame
            frame_time, stats.clock = time_of(decoded)
            stats.count(frame_time)
            stats.decode_errors += medium.take_decode_errors()
            stats.codec, stats.width, stats.height = medium.codec, frame.width, frame.height
            self._note_remarks(medium.remarks)
            if self._sampler.keep(frame_time):
                stats.kept += 1
                size = settings.max_width, settings.max_height
                yield Frame(frame_time, to_rgb(frame, *size, decoded.pixel_aspect, medium.remarks), stats.clock)

    def _note_remarks(self, remarks: dict[str, str]) -> None:
        for about, words in remarks.items():
            if about not in self.stats.remarks:  # once, not for each frame
                logger.warning("camera %s: %s", self.camera, words)
        if remarks:
            self.stats.remarks = {**self.stats.remarks, **remarks}  # replaced, as other threads read it


class FileSource(_DecodedSource):
    """The frames of a video file.

    `frames()` raises MediaUnreadable before the first frame, or MediaDamaged after the last good one.

    With `pace="timestamps"`, each frame is yielded when it is due by the file's timestamps, or later if the consumer is
    late. With `pace="fast"`, it is yielded as soon as the consumer asks for it. No kept frame is dropped.
    """

    def __init__(
        self, path: str, camera: str, settings: FrameSettings | None = None, *, pace: Pace = "timestamps",
        start_time: float | None = None, now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:  # fmt: skip
        super().__init__(camera, settings, SourceStats(clock="file"), "file")
        self._path = path
        self._pace = pace
        self._start_time = start_time
        self._now = now
        self._sleep = sleep

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield the frames that the sampler keeps, until the end of the file."""
        opened_at = self._now()
        start = opened_at if self._start_time is None else self._start_time
        try:
            await self._worker.run(partial(self._open, start))
            self.stats.state = "live"
            while (frame := await self._next()) is not None:
                if self._pace == "timestamps":
                    await self._sleep(max(0.0, frame.time - start - (self._now() - opened_at)))
                yield frame
            self.stats.state = "ended"
        except MediaError as error:
            self.stats.state, self.stats.detail = "failed", str(error)
            raise
        except WorkerStopped:
            self.stats.state = "closed"
        finally:
            self._worker.stop(self._release)

    async def close(self) -> None:
        """End the iteration of `frames()` once the frame that is being decoded is done."""
        self._worker.stop(self._release)

    def _open(self, start: float) -> None:
        self._input = Input(self._path, live=False)
        self._kept = self._keep(self._input, lambda decoded: (start + (decoded.media_s or 0.0), "file"))


class LiveSource(_DecodedSource):
    """The frames of an RTSP or HTTP camera or of a webcam. A lost connection is made again, for ever.

    A frame's time is given by the camera's clock if the camera reports its clock (RTCP) and it agrees with ours;
    otherwise it is the arrival time. Overload policy: decoding continues even if the consumer is slow. The newest
    `handoff_frames` kept frames wait for it, and older ones are dropped.
    """

    def __init__(
        self, url: str, camera: str, settings: FrameSettings | None = None, *, format: str | None = None,  # noqa: A002
        options: Mapping[str, str] | None = None, now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, fraction: Callable[[], float] = random.random,
        opener: Callable[[], HttpOpener] | None = None,
    ) -> None:  # fmt: skip
        """`opener`: called for each connection. It returns an object that fetches addresses instead of FFmpeg.

        `fraction`: returns a random number from [0, 1), for the pauses before reconnecting.
        """
        super().__init__(camera, settings, SourceStats(), "live")
        self._opener = opener
        self._url = url
        self._format = format
        self._options = options
        self._now = now
        self._sleep = sleep
        self._fraction = fraction
        self._clock = CaptureClock(max_skew_s=self._settings.max_skew_s)
        self._slot: LatestSlot[Frame] = LatestSlot(self._settings.handoff_frames)
        self._pump: asyncio.Task[None] | None = None

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield the frames that the sampler keeps, until `close` is called."""
        pump = self._pump = asyncio.create_task(self._connect_for_ever(), name=f"pump-{self.camera}")
        pump.add_done_callback(lambda _: self._slot.close())
        try:
            with suppress(SlotClosed):
                while True:
                    yield await self._slot.get()
            if pump.done() and not pump.cancelled():
                pump.result()
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop delivering frames. Return without waiting for the worker thread.

        The thread ends when FFmpeg's current call returns, at most `stall_timeout_s` later.
        """
        self.stats.state = "closed"
        self._slot.close()
        self._worker.stop(self._release)
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
            self._pump = None

    async def _connect_for_ever(self) -> None:
        attempt = 0
        while True:
            connected_at = self._now()
            try:
                await self._drain()
            except MediaError as error:
                self.stats.state, self.stats.detail = "reconnecting", str(error)
                self.stats.stalls += isinstance(error, MediaStalled)
                logger.warning("camera %s: %s; connecting again", self.camera, error)
            attempt = 0 if self._now() - connected_at > _HEALTHY_AFTER_S else attempt
            await self._sleep(backoff_s(attempt, self._fraction()))
            attempt += 1
            self.stats.reconnects += 1

    async def _drain(self) -> None:
        """Decode the frames of one connection, and put those to keep into the slot that the consumer reads.

        Raises MediaError when the connection is lost.
        """
        await self._worker.run(self._open)
        self.stats.detail = ""
        while (frame := await self._next()) is not None:
            self.stats.state = "live"
            if not self._slot.put(frame):
                self.stats.dropped += 1

    def _open(self) -> None:
        self._release()
        self._input = Input(
            self._url, live=True, format=self._format, options=self._options, timeout_s=self._settings.stall_timeout_s,
            opener=self._opener() if self._opener is not None else None,
        )  # fmt: skip
        # ticks restart with every connection, but times must go on rising: keep the clock, forget the report
        self._clock.restart(self._input.clock_rate_hz)
        self._kept = self._keep(self._input, self._time_of)

    def _time_of(self, decoded: Decoded) -> tuple[float, ClockName]:
        arrival = self._now()
        if decoded.reference is not None:
            self.stats.sender_clock_s = decoded.reference[0] - arrival
            self._clock.report(*decoded.reference, arrival)
        return self._clock.capture_time(decoded.ticks, arrival)
