"""Use private attributes of aiortc, to read values that it does not expose and to limit its use of time and memory.

No other module uses private attributes of aiortc. This one was read from aiortc 1.16.0 and aioice 0.13.0;
`tests/streaming/test_tap.py` fails if another version changes anything that it uses.

- Accepts publishers whose DTLS certificate has an RSA key, as GStreamer's. aiortc offers ECDSA cipher suites only.
- Counts arriving media as consent. aioice closes a connection whose peer answers no STUN request for half a minute
  (RFC 7675), and FFmpeg's muxer answers none after its handshake.
- Reads the times of RTCP sender reports.
- Replaces the jitter buffer and its requests to the sender by `Reception`. aiortc asks once for a lost packet, waits
  for it until 512 others have come, and asks for no key frame after that.
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
import random
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aioice import ice, stun
from aiortc import RTCCertificate, RTCPeerConnection, RTCRtpReceiver, RTCSctpTransport
from aiortc.rtcrtpparameters import RTCRtpReceiveParameters
from aiortc.rtp import RtcpSrPacket, RtpPacket

from streaming.encoded import EncodedQueue
from streaming.frame import SourceStats
from streaming.packets import Packet, begins_picture
from streaming.reception import Reception
from streaming.relay import Relay

logger = logging.getLogger(__name__)

_NTP_EPOCH_S = 2_208_988_800  # 1900 to 1970
_NTP_FRACTION = 1 << 32
_SCTP_WINDOW_BYTES = 1 << 20
_QUEUE = "_RTCRtpReceiver__decoder_queue"
_ERROR = "_RTCRtpReceiver__decoder_error"
_THREAD = "_RTCRtpReceiver__decoder_thread"
_BUFFER = "_RTCRtpReceiver__jitter_buffer"
_NACKS = "_RTCRtpReceiver__nack_generator"
_CODECS = "_RTCRtpReceiver__codecs"
_CERTIFICATES = "_RTCPeerConnection__certificates"
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA"
_POLL_S = 0.01
_DECODER_LOGGER = "aiortc.rtcrtpreceiver"
_DECODER_MESSAGE = "failed to decode"

OnTooLarge = Callable[[str], None]
OnReport = Callable[[int, float, int], object]


def unix_from_ntp(ntp: int) -> float:
    """Return a 64-bit NTP timestamp in unix seconds: `2208988800 << 32` is 0.0."""
    return (ntp >> 32) - _NTP_EPOCH_S + (ntp % _NTP_FRACTION) / _NTP_FRACTION


class _Certificate(RTCCertificate):
    """A certificate for connections to peers whose own certificate has an ECDSA or an RSA key."""

    def _create_ssl_context(self, srtp_profiles: list[Any]) -> Any:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(_CIPHERS)
        return context


def accept_rsa(peer: RTCPeerConnection) -> None:
    """Let the peer connection accept RSA certificates. To be called before it has a description."""
    setattr(peer, _CERTIFICATES, [_Certificate.generateCertificate()])


def keep_consent(receiver: RTCRtpReceiver, media_age_s: Callable[[], float], on_expired: Callable[[], None]) -> None:
    """Call `on_expired` instead of closing the connection when the peer's consent expires.

    Consent expires after six requests in a row, one about every 5 s, that were not answered while no media arrived.
    `media_age_s`: returns the seconds since media arrived last.
    """
    connection = receiver.transport.transport._connection

    async def ask() -> None:
        unanswered = 0
        while unanswered < ice.CONSENT_FAILURES:
            await asyncio.sleep(ice.CONSENT_INTERVAL * random.uniform(0.8, 1.2))
            for pair in list(connection._nominated.values()):
                request = connection.build_request(pair, nominate=False)
                key = connection.remote_password.encode()
                try:
                    await pair.protocol.request(request, pair.remote_addr, integrity_key=key, retransmissions=0)
                    unanswered = 0
                except stun.TransactionError:
                    unanswered = 0 if media_age_s() < ice.CONSENT_INTERVAL else unanswered + 1
        on_expired()

    connection.query_consent = ask


def watch_reports(receiver: RTCRtpReceiver, on_report: OnReport) -> None:
    """Make the receiver call `on_report(SSRC, unix seconds, RTP ticks)` for each RTCP sender report from now on.

    The transport looks up the handler on the receiver for each packet, so replacing the instance's attribute is enough.
    """
    handle = receiver._handle_rtcp_packet

    async def handle_and_report(packet: object) -> None:
        if isinstance(packet, RtcpSrPacket) and packet.sender_info.packet_count:
            info = packet.sender_info
            on_report(packet.ssrc, unix_from_ntp(info.ntp_timestamp), info.rtp_timestamp)
        await handle(packet)

    receiver._handle_rtcp_packet = handle_and_report


class _DecodeErrors(threading.Event):
    """Replaces the event that aiortc sets in the decoder's thread when decoding fails."""

    def __init__(self, on_error: Callable[[], None]) -> None:
        super().__init__()
        self._on_error = on_error

    def set(self) -> None:
        self._on_error()


class _NotJoined:
    """Replaces the decoder's thread. Its `join` does nothing, so that aiortc does not block the event loop."""

    def join(self) -> None:
        return


class _Order:
    """Replaces aiortc's jitter buffer: passes packets to a `Reception`, and never returns a picture itself."""

    def __init__(self, receiver: RTCRtpReceiver, reception: Reception) -> None:
        self._codecs: dict[int, Any] = getattr(receiver, _CODECS)
        self._reception = reception

    def add(self, packet: Any) -> tuple[bool, None]:
        codec = self._codecs[packet.payload_type]
        begins = begins_picture(codec.name, packet.payload)
        passed = Packet(packet.sequence_number, packet.timestamp, packet._data, begins, bool(packet.marker))
        return self._reception.add(packet.ssrc, codec, passed, time.monotonic()), None


def guard(receiver: RTCRtpReceiver, stats: SourceStats, on_too_large: OnTooLarge, relay: Relay) -> Reception:
    """Replace parts of an aiortc receiver, before it starts to receive. Return what repairs and watches its track.

    `stats.shed` counts dropped frames, `stats.decode_errors` decoding errors. `on_too_large` is called with a sentence
    for each picture whose size is refused. `relay` gets the encoded pictures. All of this is on the event loop.
    """
    loop = asyncio.get_running_loop()

    def lose() -> None:
        reception.lose(time.monotonic())

    def count_error() -> None:
        stats.decode_errors += 1
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(lose)

    def count_shed(num: int) -> None:
        stats.shed += num
        lose()

    errors = _DecodeErrors(count_error)
    waiting = EncodedQueue(time.monotonic, on_shed=count_shed, on_unreadable=errors.set, on_too_large=on_too_large)
    reception = Reception(waiting.put, stats, relay)
    setattr(receiver, _QUEUE, waiting)
    setattr(receiver, _ERROR, errors)
    setattr(receiver, _NACKS, None)
    setattr(receiver, _BUFFER, _Order(receiver, reception))
    receive = receiver.receive

    async def receive_without_join(parameters: RTCRtpReceiveParameters) -> None:
        await receive(parameters)
        thread = getattr(receiver, _THREAD, None)
        if isinstance(thread, threading.Thread):
            waiting.reader = thread
            setattr(receiver, _THREAD, _NotJoined())

    handle = receiver._handle_rtp_packet

    async def handle_and_repair(packet: RtpPacket, arrival_time_ms: int) -> None:
        now = time.monotonic()
        await handle(packet, arrival_time_ms=int(now * 1000))
        missing = reception.missing(packet.ssrc, now)
        if missing:
            await receiver._send_rtcp_nack(packet.ssrc, missing)

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
    receiver._handle_rtp_packet = handle_and_repair
    _count_instead_of_logging()
    return reception


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
