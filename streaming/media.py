"""Video files, RTSP and HTTP cameras, and webcams as sources, decoded by PyAV.

A file's frames are decoded when the consumer asks for them, so no frame is lost and none waits in a queue. A live
camera's frames are decoded all the time, and the newest ones wait for the consumer. A sampler decides which frames are
kept (`FrameSettings`). A source uses one thread while `frames()` is iterated.
"""

import asyncio
import itertools
import logging
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Literal, Protocol
from urllib.parse import unquote

import av

from streaming.backoff import backoff_s
from streaming.clock import BurstClock, CaptureClock, Sampler
from streaming.decoder import Input, direct_formats
from streaming.errors import (
    AddressUnknown,
    MediaDamaged,
    MediaError,
    MediaLost,
    MediaStalled,
    MediaUnreadable,
    shown,
)
from streaming.frame import ClockName, Frame, FrameSettings, SourceStats
from streaming.handoff import LatestSlot, SlotClosed, Worker, WorkerStopped
from streaming.http_input import HttpOpener, Newest, is_playlist
from streaming.jpegs import Pictures, has_pictures
from streaming.picture import to_rgb
from streaming.redact import redact
from streaming.relay import Relay

logger = logging.getLogger(__name__)

Pace = Literal["timestamps", "fast"]
Transport = Literal["auto", "tcp", "udp"]
_LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "http", "https"})
_SHORTEST_POLL_S = 0.1  # of a still picture
_HEALTHY_AFTER_S = 30.0  # after a connection of this length, pauses between retries start small again


def open_source(
    url: str, camera: str, settings: FrameSettings | None = None, *, pace: Pace = "timestamps",
    start_time: float | None = None, transport: Transport = "auto", other_hosts: bool = False,
) -> "FileSource | LiveSource":  # fmt: skip
    """Return the source for `rtsp://...`, `http://...`, `webcam:0`, `webcam:/dev/video0`, `file:///...` or a path.

    It is opened when `frames()` is iterated. `pace` and `start_time` (unix seconds of the first frame; default: the
    time of opening) apply to files. `transport`: of RTSP; "auto" tries TCP and UDP in turn until frames come.
    `other_hosts`: redirects and playlists of an HTTP camera may lead to other hosts. Raises AddressUnknown (also a
    ValueError) for other addresses.
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
        return LiveSource(url, camera, settings, connect=partial(_open_http, url, settings, other_hosts))
    transports = ("tcp", "udp") if transport == "auto" else (transport,)
    return LiveSource(url, camera, settings, options=tuple(map(_rtsp_options, transports)))


def _open_http(url: str, settings: FrameSettings, other_hosts: bool) -> "tuple[Medium, Newest | None]":
    """Open an HTTP address: pictures, a live stream or a file. Return it, and its newest segment if it has segments."""
    opener = HttpOpener(url, timeout_s=settings.stall_timeout_s, other_hosts=other_hosts)
    try:
        body = opener.open(url)
        if has_pictures(body):
            period_s = max(_SHORTEST_POLL_S, 1.0 / settings.rate_hz)
            return Pictures(opener, url, body, period_s), opener.newest
    except BaseException:
        opener.close()
        raise
    live = False if body.is_whole and not is_playlist(url) else None
    return Input(url, live=live, options=_http_options(url), opener=opener), opener.newest


def _http_options(url: str) -> dict[str, str]:
    """Return FFmpeg options that allow a playlist only if the address itself is that of a playlist."""
    options = {"protocol_whitelist": "http,https,tcp,tls,crypto"}
    if not is_playlist(url):
        return {**options, "format_whitelist": direct_formats()}
    hls = {"http_persistent": "0", "http_multiple": "0", "live_start_index": "-1"}  # begin with the newest segment
    return {**options, "format_whitelist": direct_formats("hls"), **hls}


def _rtsp_options(transport: str) -> dict[str, str]:
    """Return FFmpeg options for RTSP. Their whitelist prevents a hostile camera from making FFmpeg read local files."""
    return {"rtsp_transport": transport, "fflags": "nobuffer", "protocol_whitelist": "rtsp,rtsps,rtp,udp,tcp,tls"}


class Picture(Protocol):
    """A frame of a medium, decoded or not. See `Decoded`."""

    @property
    def frame(self) -> av.VideoFrame: ...
    @property
    def ticks(self) -> int | None: ...
    @property
    def media_s(self) -> float | None: ...
    @property
    def pixel_aspect(self) -> float: ...
    @property
    def reference(self) -> tuple[float, int] | None: ...


class Medium(Protocol):
    """What a source reads: an `Input`, or `Pictures`."""

    live: bool
    remarks: dict[str, str]

    @property
    def timed(self) -> bool: ...
    @property
    def codec(self) -> str: ...
    @property
    def clock_rate_hz(self) -> float: ...
    def frames(self) -> Iterator[Picture]: ...
    def take_decode_errors(self) -> int: ...
    def close(self) -> None: ...


class _DecodedSource:
    """Base of both sources: reads a `Medium` in a worker thread, samples its frames and converts the kept ones."""

    def __init__(self, camera: str, settings: FrameSettings | None, stats: SourceStats, worker: str) -> None:
        self.camera = camera
        self.stats = stats
        self._settings = settings or FrameSettings()
        self._sampler = Sampler(self._settings.rate_hz)
        self._worker = Worker(f"{worker}-{camera}")
        self._medium: Medium | None = None
        self._kept: Iterator[Frame] = iter(())

    async def _next(self) -> Frame | None:
        """Return the next frame that the sampler keeps, None at the end."""
        return await self._worker.run(partial(next, self._kept, None))

    def _release(self) -> None:
        if self._medium is not None:
            self._medium.close()
            self._medium = None

    def _keep(self, medium: Medium, time_of: Callable[[Picture], tuple[float, ClockName]]) -> Iterator[Frame]:
        """Decode frames, and yield those that the sampler keeps. Runs in the worker thread.

        time_of: returns a frame's time in unix seconds, and the clock that gave it.
        """
        settings, stats = self._settings, self.stats
        size = settings.max_width, settings.max_height
        for picture in medium.frames():
            frame_time, stats.clock = time_of(picture)
            stats.count(frame_time)
            stats.decode_errors += medium.take_decode_errors()
            self._note_remarks(medium.remarks)
            if not self._sampler.keep(frame_time):
                continue
            try:
                frame = picture.frame
            except MediaUnreadable as error:
                stats.decode_errors += 1
                stats.detail = str(error)
                continue
            stats.codec, stats.width, stats.height = medium.codec, frame.width, frame.height
            stats.kept += 1
            yield Frame(frame_time, to_rgb(frame, *size, picture.pixel_aspect, medium.remarks), stats.clock)

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
        self._medium = Input(self._path, live=False)
        self._kept = self._keep(self._medium, lambda picture: (start + (picture.media_s or 0.0), "file"))


class LiveSource(_DecodedSource):
    """The frames of an RTSP or HTTP camera or of a webcam. A lost connection is made again, for ever.

    A frame's time is given by the camera's clock if the camera reports its clock (RTCP) and it agrees with ours;
    otherwise it is the arrival time, over HTTP smoothed by the stream's timestamps. If an HTTP address turns out to be a
    file, it is played once at its own speed, and nothing is dropped. `frames()` then raises MediaDamaged after the last
    good frame of a damaged file. Overload policy: decoding continues even if the consumer is slow. The newest
    `handoff_frames` kept frames wait for it, and older ones are dropped.
    """

    def __init__(
        self, url: str, camera: str, settings: FrameSettings | None = None, *, format: str | None = None,  # noqa: A002
        options: Sequence[Mapping[str, str]] = ({},), now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, fraction: Callable[[], float] = random.random,
        connect: Callable[[], tuple[Medium, Newest | None]] | None = None,
    ) -> None:  # fmt: skip
        """`options`: of FFmpeg; after a connection without a frame, the next ones are used, and so on in turn.

        `connect`: opens the medium instead of FFmpeg, and returns it with its newest segment.

        `fraction`: returns a random number from [0, 1), for the pauses before reconnecting.
        """
        super().__init__(camera, settings, SourceStats(), "live")
        self.relay = Relay()  # of RTSP
        self._connect = connect
        self._url = url
        self._format = format
        self._options = itertools.cycle(options)
        self._chosen = next(self._options)
        self._now = now
        self._sleep = sleep
        self._fraction = fraction
        self._clock = CaptureClock(max_skew_s=self._settings.max_skew_s)
        self._bursts: BurstClock | None = None
        self._was_live = False
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
        if self.stats.state not in ("ended", "failed"):
            self.stats.state = "closed"
        self._slot.close()
        self.relay.close()
        self._worker.stop(self._release)
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
            self._pump = None

    async def _connect_for_ever(self) -> None:
        attempt = 0
        while True:
            connected_at, num_received = self._now(), self.stats.received
            try:
                await self._drain()
                return
            except MediaDamaged as error:
                self.stats.state, self.stats.detail = "failed", str(error)
                raise
            except MediaError as error:
                self.stats.state, self.stats.detail = "reconnecting", str(error)
                self.stats.stalls += isinstance(error, MediaStalled)
                logger.warning("camera %s: %s; connecting again", self.camera, error)
            if self.stats.received == num_received:
                self._chosen = next(self._options)
            attempt = 0 if self._now() - connected_at > _HEALTHY_AFTER_S else attempt
            await self._sleep(backoff_s(attempt, self._fraction()))
            attempt += 1
            self.stats.reconnects += 1

    async def _drain(self) -> None:
        """Decode the frames of one connection, and put those to keep into the slot that the consumer reads.

        Returns at the end of a file. Raises MediaError when the connection is lost.
        """
        is_file = await self._worker.run(self._open)
        self.stats.detail = ""
        while (frame := await self._next()) is not None:
            if is_file:
                await self._sleep(max(0.0, frame.time - self._now()))
                await self._slot.wait_for_room()
            self.stats.state = "live"
            if not self._slot.put(frame):
                self.stats.dropped += 1
        self.stats.state = "ended"

    def _open(self) -> bool:
        """Connect. Return whether the medium is a file."""
        self._release()
        began, newest = self._now(), None
        if self._connect is not None:
            medium, newest = self._connect()
        else:
            timeout_s = self._settings.stall_timeout_s
            medium = Input(
                self._url, live=True, format=self._format, options=self._chosen, timeout_s=timeout_s, relay=self.relay
            )
        self._medium = medium
        if self._was_live and not medium.live:
            raise MediaLost(f"{shown(self._url)}: the live stream has become a file, so it has ended")
        self._was_live = medium.live
        # ticks restart with every connection, but times must go on rising: keep the clock, forget the report
        self._clock.restart(medium.clock_rate_hz)
        is_burst = self._connect is not None and medium.timed
        newest = newest or Newest()
        self._bursts = BurstClock(began - newest.length_s, declared=newest.begins) if is_burst else None
        self._kept = self._keep(medium, self._time_of if medium.live else partial(self._time_in_file, self._now()))
        return not medium.live

    def _time_of(self, picture: Picture) -> tuple[float, ClockName]:
        arrival = self._now()
        if self._bursts is not None and picture.media_s is not None:
            wanted, clock = self._bursts.time(picture.media_s, arrival)
            return self._clock.rising(wanted, arrival), clock
        if picture.reference is not None:
            self.stats.sender_clock_s = picture.reference[0] - arrival
            self._clock.report(*picture.reference, arrival)
        return self._clock.capture_time(picture.ticks, arrival)

    def _time_in_file(self, start: float, picture: Picture) -> tuple[float, ClockName]:
        return self._clock.rising(start + (picture.media_s or 0.0), self._now()), "file"
