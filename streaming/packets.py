"""Put the RTP packets of one video stream in order, and join them into encoded pictures.

This module reads no clock and no network: times are arguments, in monotonic seconds.
"""

from dataclasses import dataclass

from streaming.clock import ticks_between

PATIENCE_S = 0.7  # how long a missing packet is waited for
NACK_AGAIN_S = 0.15  # between two requests for the same packet
_MAX_WAITING = 4096  # packets behind a hole; 0.7 s at 40 Mbit/s
_MAX_HOLE = 512  # senders keep no more packets for repetition
_MAX_ASKED = 128  # packets in one request
_MAX_LATE = 100  # packets behind the order, one after the other: the sender numbers its packets anew
_NUM_SEQUENCES = 1 << 16

_VP8_BEGINS, _VP8_PARTITION = 0x10, 0x0F
_STAP_A, _FU_A = 24, 28
_FU_BEGINS = 0x80
_SLICES = frozenset({1, 5})
_BEFORE_SLICES = frozenset({6, 7, 8, 9})


@dataclass(frozen=True, slots=True)
class Packet:
    """A received packet. `data`: its part of the encoded picture, empty if it only fills the line.

    `begins`: it is the first one of a picture. `ends`: it is marked as the last one.
    """

    sequence: int  # 16 bits
    ticks: int  # RTP timestamp
    data: bytes
    begins: bool
    ends: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture. `after_loss`: pictures between this one and the one before it were lost."""

    ticks: int
    data: bytes
    after_loss: bool


def begins_picture(codec: str, payload: bytes) -> bool:
    """Return whether an RTP payload is the first of its picture. `codec`: "VP8" (RFC 7741) or "H264" (RFC 6184)."""
    if not payload:
        return False
    if codec.upper() == "VP8":
        return payload[0] & (_VP8_BEGINS | _VP8_PARTITION) == _VP8_BEGINS
    kind, unit = payload[0] & 0x1F, payload[1:]
    if kind == _STAP_A and len(payload) > 3:  # two bytes of size, then the first unit
        kind, unit = payload[3] & 0x1F, payload[4:]
    elif kind == _FU_A and len(payload) > 1:
        if not payload[1] & _FU_BEGINS:
            return False
        kind, unit = payload[1] & 0x1F, payload[2:]
    # a slice begins with the number of its first macroblock; 0 is coded as a single one-bit
    return kind in _BEFORE_SLICES or (kind in _SLICES and bool(unit) and bool(unit[0] & 0x80))


class PacketOrder:
    """Puts packets in order, and knows which ones are missing.

    A picture is complete with its last packet. If a sender marks others as the last one, it is complete with the first
    packet of the next picture.

    Overload policy: if a packet is missing for PATIENCE_S, or too many wait behind it, its picture and those that are
    incomplete for the same reason are dropped.
    """

    def __init__(self) -> None:
        self.num_received = 0
        self.num_lost = 0  # missing when their time was over
        self._next = 0  # the sequence number to be put out next; sequence numbers here do not wrap
        self._newest: int | None = None
        self._waiting: dict[int, tuple[float, Packet]] = {}  # by sequence number, with the time of arrival
        self._missing: dict[int, float] = {}  # sequence number -> when it was requested last
        self._num_late = 0
        self._marks = True  # the sender marks the last packet of a picture, and no other
        self._ended: int | None = None  # the ticks of the last picture, if that was marked
        self._parts: list[Packet] = []  # of the current picture
        self._broken = True  # the rest of the current picture is dropped
        self._after_loss = True  # before the next picture

    def add(self, packet: Packet, now: float) -> list[Picture]:
        """Add a packet. Return the pictures that are complete now."""
        self.num_received += 1
        sequence = self._unwrapped(packet.sequence)
        if self._newest is None:
            self._restart(sequence)
        elif sequence < self._next:
            self._num_late += 1
            if sequence > self._next - _MAX_WAITING and self._num_late < _MAX_LATE:
                return []
            self._restart(sequence)
        self._num_late = 0
        self._missing.pop(sequence, None)
        newest = self._newest if self._newest is not None else sequence
        if sequence - newest <= _MAX_HOLE:
            self._missing.update(dict.fromkeys(range(newest + 1, sequence), -PATIENCE_S))
        self._newest = max(newest, sequence)
        self._waiting[sequence] = (now, packet)
        pictures = self._put_out()
        while self._waiting and self._hole_is_hopeless(now):
            self._skip()
            pictures += self._put_out()
        return pictures

    def missing(self, now: float) -> list[int]:
        """Return which sequence numbers (16 bits) should be requested from the sender now."""
        due = [each for each, asked in self._missing.items() if now - asked >= NACK_AGAIN_S][:_MAX_ASKED]
        self._missing.update(dict.fromkeys(due, now))
        return sorted(each % _NUM_SEQUENCES for each in due)

    def _unwrapped(self, sequence: int) -> int:
        if self._newest is None:
            return sequence
        step = (sequence - self._newest + _NUM_SEQUENCES // 2) % _NUM_SEQUENCES - _NUM_SEQUENCES // 2
        return self._newest + step

    def _restart(self, sequence: int) -> None:
        self._next, self._newest = sequence, sequence
        self._waiting.clear()
        self._missing.clear()
        self._drop_picture()

    def _hole_is_hopeless(self, now: float) -> bool:
        waited_s = now - min(arrival for arrival, _ in self._waiting.values())
        hole = min(self._waiting) - self._next
        return waited_s > PATIENCE_S or hole > _MAX_HOLE or len(self._waiting) > _MAX_WAITING

    def _skip(self) -> None:
        first = min(self._waiting)
        self.num_lost += first - self._next
        for sequence in [each for each in self._missing if each < first]:
            del self._missing[sequence]
        self._next = first
        self._drop_picture()

    def _drop_picture(self) -> None:
        self._parts = []
        self._broken = self._after_loss = True

    def _put_out(self) -> list[Picture]:
        pictures: list[Picture] = []
        while self._next in self._waiting:
            _, packet = self._waiting.pop(self._next)
            self._next += 1
            if not packet.data:
                continue
            if self._parts and ticks_between(packet.ticks, self._parts[0].ticks):
                pictures.append(self._picture())
            elif self._ended == packet.ticks:
                self._marks = False
                self._drop_picture()
            self._ended = None
            if self._broken and not packet.begins:
                continue
            self._broken = False
            self._parts.append(packet)
            if packet.ends and self._marks:
                pictures.append(self._picture())
                self._ended = packet.ticks
        return pictures

    def _picture(self) -> Picture:
        picture = Picture(self._parts[0].ticks, b"".join(part.data for part in self._parts), self._after_loss)
        self._parts, self._after_loss = [], False
        return picture
