"""Use private attributes of aiortc, to read values that it does not expose and to limit its use of time and memory.

No other module uses private attributes of aiortc. This one was checked against aiortc 1.16.0;
`tests/streaming/test_tap.py` fails if another version changes anything that it uses.

- Reads the times of RTCP sender reports, and the RTP time from which a receiver's frames count.
- Replaces the decoder's unbounded queue by `EncodedQueue`.
- Counts packets that cannot be decoded, instead of logging each.
- Measures arrival by the monotonic clock. aiortc uses the system clock and loops over every millisecond that it jumps
  forward, which blocks the event loop for hours if it jumps by years.
- Keeps receiver reports going. They end for good when a jitter does not fit into 32 bits (a clock that was set, a sender
  that jumps), and closing then waits for ever.
- Ends the decoder's thread without blocking. aiortc joins it on the event loop, which waits for the current picture.
- Counts the bytes of unfinished data channel messages.
"""

import asyncio
import logging
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from aiortc import RTCRtpReceiver, RTCSctpTransport
from aiortc.rtcrtpparameters import RTCRtpReceiveParameters
from aiortc.rtp import RtcpSrPacket, RtpPacket

from streaming.encoded import EncodedQueue
from streaming.frame import SourceStats

logger = logging.getLogger(__name__)

_NTP_EPOCH_S = 2_208_988_800  # 1900 to 1970
_NTP_FRACTION = 1 << 32
_SCTP_WINDOW_BYTES = 1 << 20
_QUEUE = "_RTCRtpReceiver__decoder_queue"
_ERROR = "_RTCRtpReceiver__decoder_error"
_THREAD = "_RTCRtpReceiver__decoder_thread"
_POLL_S = 0.01
_DECODER_LOGGER = "aiortc.rtcrtpreceiver"
_DECODER_MESSAGE = "failed to decode"

OnReport = Callable[[float, int], object]


def unix_from_ntp(ntp: int) -> float:
    """Return a 64-bit NTP timestamp in unix seconds: `2208988800 << 32` is 0.0."""
    return (ntp >> 32) - _NTP_EPOCH_S + (ntp % _NTP_FRACTION) / _NTP_FRACTION


def watch_reports(receiver: RTCRtpReceiver, on_report: OnReport) -> None:
    """Make the receiver call `on_report(unix seconds, RTP ticks)` for each RTCP sender report from now on.

    The transport looks up the handler on the receiver for each packet, so replacing the instance's attribute is enough.
    """
    handle = receiver._handle_rtcp_packet

    async def handle_and_report(packet: object) -> None:
        if isinstance(packet, RtcpSrPacket) and packet.sender_info.packet_count:
            on_report(unix_from_ntp(packet.sender_info.ntp_timestamp), packet.sender_info.rtp_timestamp)
        await handle(packet)

    receiver._handle_rtcp_packet = handle_and_report


def rtp_origin(receiver: RTCRtpReceiver) -> int | None:
    """Return the RTP timestamp (modulo 2**32) from which aiortc counts the `pts` of frames.

    None before the first frame.
    """
    mapper = getattr(receiver, "_RTCRtpReceiver__timestamp_mapper", None)
    origin = getattr(mapper, "_origin", None)
    return origin if isinstance(origin, int) else None


class _DecodeErrors(threading.Event):
    """Replaces the event that aiortc sets when decoding fails, to request a key frame. Counts how often it is set."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        super().__init__()
        self._on_error = on_error

    def set(self) -> None:
        self._on_error()
        super().set()

    def ask_for_key_frame(self) -> None:
        """Request a key frame without counting an error."""
        super().set()


class _NotJoined:
    """Replaces the decoder's thread. Its `join` does nothing, so that aiortc does not block the event loop."""

    def join(self) -> None:
        return


def guard(receiver: RTCRtpReceiver, stats: SourceStats, on_too_large: Callable[[str], None]) -> None:
    """Replace parts of an aiortc receiver, before it starts to receive, by parts with limits on time and memory.

    Dropped frames are counted in `stats.shed`, decoding errors in `stats.decode_errors`. `on_too_large` is called on
    the event loop for each picture whose size is refused, with a sentence that says so.
    """

    def count_error() -> None:
        stats.decode_errors += 1

    def count_shed(num: int) -> None:
        stats.shed += num
        errors.ask_for_key_frame()

    errors = _DecodeErrors(count_error)
    waiting = EncodedQueue(time.monotonic, on_shed=count_shed, on_unreadable=errors.set, on_too_large=on_too_large)
    setattr(receiver, _QUEUE, waiting)
    setattr(receiver, _ERROR, errors)
    receive = receiver.receive

    async def receive_without_join(parameters: RTCRtpReceiveParameters) -> None:
        await receive(parameters)
        thread = getattr(receiver, _THREAD, None)
        if isinstance(thread, threading.Thread):
            waiting.reader = thread
            setattr(receiver, _THREAD, _NotJoined())

    handle = receiver._handle_rtp_packet

    async def handle_by_monotonic_clock(packet: RtpPacket, arrival_time_ms: int) -> None:
        await handle(packet, arrival_time_ms=int(time.monotonic() * 1000))

    report = receiver._run_rtcp

    async def keep_reporting() -> None:
        while True:
            try:
                await report()
                return
            except struct.error:  # the jitter falls again with every punctual packet
                logger.debug("a receiver report could not be written")

    receiver.receive = receive_without_join
    receiver._run_rtcp = keep_reporting
    receiver._handle_rtp_packet = handle_by_monotonic_clock
    _count_instead_of_logging()


async def stop_decoder(receiver: RTCRtpReceiver, timeout_s: float) -> bool:
    """End the decoder's thread. Return False if it has not ended within `timeout_s`.

    Frames that wait, decoded or not, are dropped. A busy decoder ends after its current picture. The event loop is not
    blocked.
    """
    waiting = getattr(receiver, _QUEUE, None)
    if not isinstance(waiting, EncodedQueue):
        return True
    waiting.abandon()
    thread = waiting.reader
    decoded: asyncio.Queue[Any] | None = getattr(receiver.track, "_queue", None)
    deadline = time.monotonic() + timeout_s
    while thread is not None and thread.is_alive() and time.monotonic() < deadline:
        while decoded is not None and not decoded.empty():
            decoded.get_nowait()  # large pictures are freed at once
        await asyncio.sleep(_POLL_S)
    if decoded is not None:
        decoded.put_nowait(None)  # signals the end to other readers of the track
    return thread is None or not thread.is_alive()


class _Counted(logging.Filter):
    """Hides the line that aiortc logs for each packet it cannot decode, as `decode_errors` counts these packets."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _DECODER_MESSAGE not in str(record.msg)


_counted = _Counted()


def _count_instead_of_logging() -> None:
    logging.getLogger(_DECODER_LOGGER).addFilter(_counted)  # idempotent


def unfinished_bytes(sctp: RTCSctpTransport) -> int:
    """Return the number of bytes that are held of unfinished data channel messages.

    The number is computed from the receive window that aiortc announces to the peer, which these bytes reduce. If the
    peer ignores the window, it becomes negative.
    """
    return _SCTP_WINDOW_BYTES - int(sctp._advertised_rwnd)
