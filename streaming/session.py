"""A WebRTC publisher's session: a peer connection, a task that reads its video track, and one for its data channel.

Overload policy: frames are read as they come, and only those that the sampler keeps are converted. The newest
`handoff_frames` kept frames wait for the consumer; older ones are dropped and counted.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import av
from aiortc import RTCDataChannel, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from aiortc.sdp import candidate_from_sdp

from streaming.channel import LABEL, Channel, Converse
from streaming.clock import CaptureClock, Sampler
from streaming.errors import MediaError, PictureTooLarge
from streaming.frame import ClockName, EndedSession, Frame, FrameSettings, SourceStats
from streaming.handoff import LatestSlot, SlotClosed
from streaming.ice import Ice
from streaming.picture import to_rgb
from streaming.reception import Reception, Told
from streaming.relay import Relay
from streaming.tap import accept_rsa, guard, keep_consent, stop_decoder, unfinished_bytes, watch_reports

logger = logging.getLogger(__name__)

CloseReason = Literal[
    "deleted", "replaced", "stalled", "ice_failed", "dtls_failed", "no_media", "consent_expired", "ended", "failed",
    "too_large", "gave_way", "shutdown",
]  # fmt: skip
"""Why a session ended. Each is explained in docs/operations.md."""
_MAX_REFUSED_CHANNELS = 8
_MAX_UNFINISHED_BYTES = 2 << 20  # of data channel messages; twice what the announced window allows
_CHECK_UNFINISHED_S = 0.5
_CLOCK_RATE_HZ = 90_000.0  # of RTP timestamps of video
_MAX_CLOSING_S = 5.0  # limit for each of two steps: closing the connection, and ending the decoder


@dataclass(frozen=True, slots=True)
class _Raw:
    """A frame that the sampler keeps, before its conversion to RGB."""

    frame: av.VideoFrame
    time: float
    clock: ClockName
    damaged: bool


class WebRtcSession:
    """A publisher's WebRTC session, from offer to end. While it runs, it is the camera's Source.

    `negotiate` starts it. `on_first_frame()` is called when the first picture has been decoded; it returns the time of
    the camera's last frame in an earlier session, so that all frame times will be later. `on_closed(session, reason)`
    is called once, whatever ends the session.
    """

    def __init__(
        self, camera: str, settings: FrameSettings, *, connect_timeout_s: float = 20.0,
        now: Callable[[], float] = time.time, converse: Converse | None = None, messages: Counter[str] | None = None,
        ice: Ice | None = None,
    ) -> None:  # fmt: skip
        """`ice`: how addresses are gathered.

        `converse`: the coroutine function that serves a data channel, one at a time; without it, data channels are
        closed. `messages`: counts their messages by outcome.
        """
        self.camera = camera
        self.stats = SourceStats()
        self.relay = Relay()
        self.on_first_frame: Callable[[], float | None] = lambda: None
        self.on_closed: Callable[[WebRtcSession, CloseReason], None] = lambda session, reason: None
        self._settings = settings
        self._connect_timeout_s = connect_timeout_s
        self._now = now
        self._started = now()
        self._ice = ice or Ice()
        self._peer = self._ice.connection()
        accept_rsa(self._peer)
        self._sampler = Sampler(settings.rate_hz)
        self._clock = CaptureClock(max_skew_s=settings.max_skew_s)
        self._slot: LatestSlot[_Raw] = LatestSlot(settings.handoff_frames)
        self._layer: int | None = None  # SSRC of the last frame
        self._reader: asyncio.Task[CloseReason] | None = None
        self._converse = converse
        self._messages: Counter[str] = Counter() if messages is None else messages
        self._num_refused_channels = 0
        self._conversation: asyncio.Task[None] | None = None
        self._channel_guard: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._adding: set[asyncio.Task[None]] = set()

    async def negotiate(self, offer_sdp: str) -> str:
        """Start the session, and return the SDP answer to a checked offer (`sdp.py`), with all candidates.

        If the offer cannot be used although it passed the check, aiortc's error is raised, and the session is closed.
        """
        self._peer.on("datachannel", self._channel_opened)
        try:
            await self._peer.setRemoteDescription(RTCSessionDescription(sdp=offer_sdp, type="offer"))
            for transceiver in self._peer.getTransceivers():
                if transceiver.kind != "video":
                    transceiver.direction = "inactive"  # decline sound, which nobody would read
            receiver = next(each.receiver for each in self._peer.getTransceivers() if each.kind == "video")
            reception = guard(receiver, self.stats, self._refuse_size, self.relay)
            keep_consent(receiver, lambda: time.monotonic() - reception.heard_at, self._consent_expired)
            self._ice.prepare(self._peer)
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        except BaseException:
            await self._peer.close()
            raise
        self._peer.on("connectionstatechange", self._connection_changed)
        self._reader = asyncio.create_task(self._read(receiver, reception), name=f"read-{self.camera}")
        self._reader.add_done_callback(self._reader_done)
        if self._peer.sctp is not None:
            self._channel_guard = asyncio.create_task(self._guard_channel(), name=f"guard-{self.camera}")
        answer: str = self._peer.localDescription.sdp
        return answer

    def add_candidates(self, candidates: Iterable[str], mid: str) -> None:
        """Add ICE candidates (the values after `candidate:`) in the background, all at the same time.

        An mDNS name that does not resolve takes a second.
        """
        adding = asyncio.create_task(self._add(candidates, mid), name=f"candidates-{self.camera}")
        self._adding.add(adding)
        adding.add_done_callback(self._adding.discard)

    async def _add(self, candidates: Iterable[str], mid: str) -> None:
        parsed = [candidate_from_sdp(candidate) for candidate in candidates]
        for candidate in parsed:
            candidate.sdpMid = mid
        adding = (self._peer.addIceCandidate(candidate) for candidate in parsed)
        for error in await asyncio.gather(*adding, return_exceptions=True):
            if error is not None:
                logger.info("camera %s: a candidate is not used: %s", self.camera, error)

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield the frames that the sampler keeps, until the session ends. A worker thread converts them one by one."""
        with suppress(SlotClosed):
            while True:
                raw = await self._slot.get()
                try:
                    image = await asyncio.to_thread(
                        partial(to_rgb, raw.frame, self._settings.max_width, self._settings.max_height)
                    )
                except MediaError as error:
                    self.stats.detail = str(error)
                    logger.warning("camera %s: %s", self.camera, error)
                    self.end("too_large" if isinstance(error, PictureTooLarge) else "failed")
                    return
                yield Frame(raw.time, image, raw.clock, raw.damaged)

    async def close(self, reason: CloseReason = "shutdown") -> None:
        """End the session and wait until it has ended. Idempotent; a repeated call waits as well."""
        self.end(reason)
        if self._closing is not None:
            await asyncio.shield(self._closing)

    def end(self, reason: CloseReason) -> None:
        """Begin to end the session, without waiting for it. Idempotent."""
        if self._closing is not None:
            return
        self.stats.state = "stalled" if reason == "stalled" else "closed"
        self.stats.stalls += reason == "stalled"
        self._slot.close()
        self.relay.close()
        self._closing = asyncio.create_task(self._shut_down(), name=f"close-{self.camera}")
        self.on_closed(self, reason)

    def ended(self, client: str, end: CloseReason) -> EndedSession:
        """Return what is remembered of the session. `client`: its publisher's program."""
        stats = self.stats
        return EndedSession(
            client=client, started=self._started, ended=self._now(), end=end, detail=stats.detail, codec=stats.codec,
            width=stats.width, height=stats.height, received=stats.received, kept=stats.kept, damaged=stats.damaged,
            packets_received=stats.packets_received, packets_lost=stats.packets_lost,
        )  # fmt: skip

    async def _shut_down(self) -> None:
        """Close the connection and end the decoder, each within `_MAX_CLOSING_S`, without blocking the event loop."""
        tasks = (self._conversation, self._reader, self._channel_guard, *self._adding)
        ending = [task for task in tasks if task is not None and not task.done()]
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)
        receivers = [transceiver.receiver for transceiver in self._peer.getTransceivers()]
        stopping = asyncio.gather(*(stop_decoder(receiver, _MAX_CLOSING_S) for receiver in receivers))
        if not await _in_time(self._peer.close()):
            logger.error("camera %s: the connection did not close within %g s", self.camera, _MAX_CLOSING_S)
            for receiver in receivers:  # closes the sockets at least
                await _in_time(receiver.transport.transport.stop())
        if not all(await stopping):
            logger.error("camera %s: the decoder did not end within %g s", self.camera, _MAX_CLOSING_S)
        if self.stats.decode_errors or self.stats.shed:
            counts = (self.camera, self.stats.decode_errors, self.stats.shed)
            logger.warning("camera %s: %d packets could not be decoded, %d frames were dropped undecoded", *counts)

    def _connection_changed(self) -> None:
        if self._peer.connectionState in ("failed", "closed"):
            self.end("ended" if self.stats.received else self._what_failed())

    def _what_failed(self) -> CloseReason:
        """Return which step towards the first picture was not completed."""
        if self._peer.iceConnectionState not in ("completed", "closed"):
            return "ice_failed"
        transports = {each.receiver.transport.state for each in self._peer.getTransceivers()}
        return "no_media" if transports & {"connected", "closed"} else "dtls_failed"

    def _consent_expired(self) -> None:
        self.end("consent_expired")

    def _reader_done(self, reader: "asyncio.Task[CloseReason]") -> None:
        if reader.cancelled():
            return
        error = reader.exception()
        if error is not None:  # a session that is not read must not stay open after a bug
            logger.error("camera %s: reading failed", self.camera, exc_info=error)
        self.end("failed" if error is not None else reader.result())

    def _channel_opened(self, opened: RTCDataChannel) -> None:
        busy = self._conversation is not None and not self._conversation.done()
        if self._converse is None or opened.label != LABEL or busy or self._closing is not None:
            opened.close()
            self._num_refused_channels += 1
            if self._num_refused_channels > _MAX_REFUSED_CHANNELS:
                self.end("failed")
            return
        channel = Channel(opened, self._messages, time.monotonic)
        self._conversation = asyncio.create_task(self._converse(channel), name=f"converse-{self.camera}")
        self._conversation.add_done_callback(lambda conversation: self._conversation_done(conversation, channel))

    def _conversation_done(self, conversation: asyncio.Task[None], channel: Channel) -> None:
        channel.close()
        error = None if conversation.cancelled() else conversation.exception()
        if error is not None:  # the video goes on
            logger.error("camera %s: the data channel failed", self.camera, exc_info=error)

    def _refuse_size(self, why: str) -> None:
        self.stats.detail = why
        self.end("too_large")

    async def _guard_channel(self) -> None:
        """End the session of a peer that sends messages without ever finishing one."""
        while True:
            await asyncio.sleep(_CHECK_UNFINISHED_S)
            if self._peer.sctp is not None and unfinished_bytes(self._peer.sctp) > _MAX_UNFINISHED_BYTES:
                self.end("too_large")
                return

    async def _read(self, receiver: RTCRtpReceiver, reception: Reception) -> CloseReason:
        """Read the track until it ends or no frame has come for too long. Return the reason for closing the session.

        ICE alone would notice a dead peer only after 30 s.
        """

        def report(layer: int, sender_time: float, ticks: int) -> None:
            if layer == reception.taken:
                arrival = self._now()
                self.stats.sender_clock_s = sender_time - arrival
                self._clock.report(sender_time, ticks, arrival)

        watch_reports(receiver, report)
        timeout_s = self._connect_timeout_s
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    frame = await receiver.track.recv()
            except TimeoutError:
                return "stalled" if self.stats.received else self._what_failed()
            except MediaStreamError:
                return "ended"
            timeout_s = self._settings.stall_timeout_s
            self._take(frame, reception.decoded(frame.pts))

    def _take(self, frame: av.VideoFrame, told: Told | None) -> None:
        if self._closing is None and told is not None and not self.stats.received:
            self._clock.continue_after(self.on_first_frame())  # may end this session
        if self._closing is not None or told is None:
            return
        if told.layer != self._layer:
            if self._layer is not None:
                self._clock.restart(_CLOCK_RATE_HZ)
            self._layer = told.layer
        frame_time, clock = self._clock.capture_time(told.ticks, self._now())
        stats = self.stats
        stats.state = "live"
        stats.count(frame_time)
        stats.clock = clock
        stats.width, stats.height = frame.width, frame.height
        if told.damaged and not told.kept_anyway:
            return
        if self._sampler.keep(frame_time):
            stats.kept += 1
            if not self._slot.put(_Raw(frame, frame_time, clock, told.damaged)):
                stats.dropped += 1


async def _in_time(closing: Coroutine[Any, Any, None]) -> bool:
    """Wait for the coroutine `closing`, and return whether it finished within `_MAX_CLOSING_S` seconds."""
    try:
        async with asyncio.timeout(_MAX_CLOSING_S):
            await closing
    except TimeoutError:
        return False
    return True
