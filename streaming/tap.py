"""The only place that looks inside aiortc: what it knows and has no public way to say, and what it must not do.

Read from aiortc 1.16.0. `tests/streaming/test_tap.py` fails when another version keeps any of this elsewhere.

- the RTP times of RTCP sender reports, and the RTP time that a receiver's frames count from;
- the encoded frames that wait for the decoder: its queue is replaced by ours (`encoded.py`), which is bounded;
- packets that could not be decoded: counted instead of logged one by one;
- when packets arrive: aiortc reads the system's clock, and counts every millisecond that it was set forward by, which keeps
  the event loop busy for hours when that is years;
- its receiver reports, which end for good when a jitter does not fit into 32 bits (a clock that was set, a sender that
  jumps); closing then waits for ever;
- the end of the decoder's thread: aiortc joins it on the event loop, which then stands still until a picture is decoded;
- the pieces of unfinished data channel messages.
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

OnReport = Callable[[float, int], None]


def unix_from_ntp(ntp: int) -> float:
    """A 64-bit NTP timestamp as unix seconds: `2208988800 << 32` is 0.0."""
    return (ntp >> 32) - _NTP_EPOCH_S + (ntp % _NTP_FRACTION) / _NTP_FRACTION


def watch_reports(receiver: RTCRtpReceiver, on_report: OnReport) -> None:
    """Calls `on_report(sender's unix seconds, RTP ticks)` for each RTCP sender report that `receiver` gets.

    The transport looks the handler up on the receiver at every packet, so an attribute of the instance is enough.
    """
    handle = getattr(receiver, "_handle_rtcp_packet", None)
    if handle is None:
        return

    async def handle_and_report(packet: object) -> None:
        if isinstance(packet, RtcpSrPacket) and packet.sender_info.packet_count:
            on_report(unix_from_ntp(packet.sender_info.ntp_timestamp), packet.sender_info.rtp_timestamp)
        await handle(packet)

    receiver._handle_rtcp_packet = handle_and_report


def rtp_origin(receiver: RTCRtpReceiver) -> int | None:
    """The RTP time of the frame whose `pts` is 0 (modulo 2**32); None before the first frame."""
    mapper = getattr(receiver, "_RTCRtpReceiver__timestamp_mapper", None)
    origin = getattr(mapper, "_origin", None)
    return origin if isinstance(origin, int) else None


class _DecodeErrors(threading.Event):
    """What aiortc sets when a packet could not be decoded, so that it asks the sender for a key frame."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        super().__init__()
        self._on_error = on_error

    def set(self) -> None:
        self._on_error()
        super().set()

    def ask_for_key_frame(self) -> None:
        """As `set`, where nothing failed to decode."""
        super().set()


class _NotJoined:
    """Stands for the decoder's thread where aiortc would wait for it on the event loop."""

    def join(self) -> None:
        return


def guard(receiver: RTCRtpReceiver, stats: SourceStats, on_too_large: Callable[[str], None]) -> None:
    """Bounds what waits for the decoder of `receiver`, which must not have begun to receive, and what its clock may do.

    `stats` counts what is let go (`shed`) and what cannot be decoded (`decode_errors`). `on_too_large` gets a sentence
    when a picture's size is refused; it is called on the event loop, again for each such picture.
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

    async def receive_and_let_go(parameters: RTCRtpReceiveParameters) -> None:
        await receive(parameters)
        thread = getattr(receiver, _THREAD, None)
        if isinstance(thread, threading.Thread):
            waiting.reader = thread
            setattr(receiver, _THREAD, _NotJoined())

    handle = receiver._handle_rtp_packet

    async def handle_in_time(packet: RtpPacket, arrival_time_ms: int) -> None:
        await handle(packet, arrival_time_ms=int(time.monotonic() * 1000))

    report = receiver._run_rtcp

    async def keep_reporting() -> None:
        while True:
            try:
                await report()
                return
            except struct.error:  # the jitter falls again with each packet that comes in time
                logger.debug("a receiver report could not be written")

    receiver.receive = receive_and_let_go
    receiver._run_rtcp = keep_reporting
    receiver._handle_rtp_packet = handle_in_time
    _count_instead_of_logging()


async def stop_decoder(receiver: RTCRtpReceiver, timeout_s: float) -> bool:
    """Lets go of what is waiting and of what comes out; False if the decoder is still at work after `timeout_s`.

    Does not keep the event loop waiting. A decoder that is at work ends after its picture.
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
            decoded.get_nowait()  # a large picture is not kept until the end
        await asyncio.sleep(_POLL_S)
    if decoded is not None:
        decoded.put_nowait(None)  # whoever else reads the track sees its end
    return thread is None or not thread.is_alive()


class _Counted(logging.Filter):
    """Passes over what `decode_errors` counts: a hostile or lossy sender makes one line a packet."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _DECODER_MESSAGE not in str(record.msg)


_counted = _Counted()


def _count_instead_of_logging() -> None:
    logging.getLogger(_DECODER_LOGGER).addFilter(_counted)  # adding it again changes nothing


def unfinished_bytes(sctp: RTCSctpTransport) -> int:
    """Bytes held of messages whose end has not come. The window that aiortc announces shrinks by them, below 0 for a peer
    that sends on regardless."""
    window = getattr(sctp, "_advertised_rwnd", None)
    return _SCTP_WINDOW_BYTES - window if isinstance(window, int) else 0
