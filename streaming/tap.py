"""The only place that looks inside aiortc (1.16): what it knows and has no public way to say.

Four things: the RTP times of RTCP sender reports, the RTP time that a receiver's frames count from, the encoded frames
that wait for the decoder, and the pieces of unfinished data channel messages. Should a later aiortc keep them elsewhere,
then frames carry their arrival time (`clock` says so) and those waits are not bounded: nothing else breaks, and a test
says which.
"""

import queue
from collections.abc import Callable

from aiortc import RTCRtpReceiver, RTCSctpTransport
from aiortc.rtp import RtcpSrPacket

_NTP_EPOCH_S = 2_208_988_800  # 1900 to 1970
_NTP_FRACTION = 1 << 32
_SCTP_WINDOW_BYTES = 1 << 20

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


def shed_backlog(receiver: RTCRtpReceiver, limit: int) -> int:
    """Forgets all encoded frames waiting for the decoder if there are more than `limit`; how many it forgot.

    The decoder then asks the sender for a key frame. Without this a sender faster than our CPU would fill the memory.
    """
    waiting = getattr(receiver, "_RTCRtpReceiver__decoder_queue", None)
    decode_error = getattr(receiver, "_RTCRtpReceiver__decoder_error", None)
    if not isinstance(waiting, queue.Queue) or waiting.qsize() <= limit:
        return 0
    num_shed = 0
    ending = False
    while True:
        try:
            item = waiting.get_nowait()
        except queue.Empty:
            break
        ending = ending or item is None
        num_shed += item is not None
    if ending:
        waiting.put(None)  # the order to stop must survive
    if decode_error is not None:
        decode_error.set()
    return num_shed


def unfinished_bytes(sctp: RTCSctpTransport) -> int:
    """Bytes held of messages whose end has not come. The window that aiortc announces shrinks by them, below 0 for a peer
    that sends on regardless."""
    window = getattr(sctp, "_advertised_rwnd", None)
    return _SCTP_WINDOW_BYTES - window if isinstance(window, int) else 0
