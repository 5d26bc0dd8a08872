"""The queue of encoded frames in front of the decoder, and the picture size that a frame declares.

A decoder allocates and fills whatever size a key frame declares: a few bytes that say 16383x16383 cost 400 MB and
seconds. So the size is read here first, from the VP8 frame header or the H.264 sequence parameter set (SPS), and larger
pictures never reach the decoder.

Overload policy: once the oldest waiting frame has waited for MAX_WAIT_S, or more than MAX_WAITING_BYTES wait, all
waiting frames are dropped and counted, and a key frame is requested.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

MAX_PIXELS = 36_000_000  # allows 8192x4320; several pictures are held at once, with 1.5 bytes a pixel
MAX_WAIT_S = 3.0
MAX_WAITING_BYTES = 16 << 20  # 3 s at 40 Mbit/s

_VP8_START = b"\x9d\x01\x2a"
_H264_IDR, _H264_SEI, _H264_SPS = 5, 6, 7
_SEI_RECOVERY_POINT = 6
_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244})
_MAX_POC_CYCLE = 255
_MAX_EXP_GOLOMB_BITS = 32
_SPS_BYTES = 512  # read at most; even with scaling lists an SPS is far shorter


class Codec(Protocol):
    """The part of an aiortc codec that is used here."""

    name: str


class EncodedFrame(Protocol):
    """The part of an aiortc encoded frame, from the jitter buffer, that is used here."""

    data: bytes


Item = tuple[Codec, EncodedFrame]


class Unreadable(Exception):
    """The frame's header is invalid, so the frame must not be decoded."""


def picture_size(codec: str, data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of the largest picture that an encoded frame declares. None if it declares no size.

    `codec`: "VP8" or "H264" (with start codes). Raises Unreadable.
    """
    if codec.upper() == "VP8":
        return _vp8_size(data)
    if codec.upper() == "H264":
        sizes = [_sps_size(unit) for unit in _sps_units(data)]
        return max(sizes, key=lambda size: size[0] * size[1], default=None)
    return None


def is_key(codec: str, data: bytes) -> bool:
    """Return whether an encoded picture can be decoded without earlier ones: a key frame or, for H.264, a recovery point.

    `codec`: "VP8" or "H264" (with start codes).
    """
    if codec.upper() == "VP8":
        return bool(data) and not data[0] & 1
    start = data.find(b"\x00\x00\x01")
    while 0 <= start < len(data) - 4:
        kind, following = data[start + 3] & 0x1F, data[start + 4]
        if kind == _H264_IDR or (kind == _H264_SEI and following == _SEI_RECOVERY_POINT):
            return True
        start = data.find(b"\x00\x00\x01", start + 3)
    return False


def _vp8_size(data: bytes) -> tuple[int, int] | None:
    """Return the size that a VP8 key frame declares, None for other frames.

    A key frame begins with 3 bytes of frame tag, a start code, and 14 bits each of width and height (RFC 6386 section
    9.1).
    """
    if not data or data[0] & 1:  # not a key frame
        return None
    if len(data) < 10 or data[3:6] != _VP8_START:
        raise Unreadable("a VP8 key frame without its start code")
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return width, height


def _sps_units(data: bytes) -> list[bytes]:
    """Return the first bytes of each SPS in an H.264 stream with start codes (Annex B), without its header byte."""
    units: list[bytes] = []
    start = data.find(b"\x00\x00\x01")
    while start >= 0:
        begin = start + 3
        start = data.find(b"\x00\x00\x01", begin)
        if begin < len(data) and data[begin] & 0x1F == _H264_SPS:
            end = min(len(data) if start < 0 else start, begin + _SPS_BYTES)
            units.append(data[begin + 1 : end].replace(b"\x00\x00\x03", b"\x00\x00"))
    return units


class _Bits:
    """Reads bits from left to right. Raises Unreadable past the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, num: int) -> int:
        self._left -= num
        if self._left < 0:
            raise Unreadable("a sequence parameter set that ends early")
        return (self._value >> self._left) & ((1 << num) - 1)

    def unsigned(self) -> int:
        """Read and return an unsigned Exp-Golomb number: n zeros, a one, n bits."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > _MAX_EXP_GOLOMB_BITS:
                raise Unreadable("a number in a sequence parameter set that is too long")
        return (1 << zeros) - 1 + self.read(zeros)

    def signed(self) -> int:
        """Read and return a signed Exp-Golomb number. The codes stand for 0, 1, -1, 2, -2 and so on."""
        number = self.unsigned()
        return (number + 1) // 2 if number % 2 else -(number // 2)


def _sps_size(unit: bytes) -> tuple[int, int]:
    """Return the size coded in an SPS (H.264 section 7.3.2.1.1), before cropping. A decoder allocates this size."""
    bits = _Bits(unit)
    profile = bits.read(8)
    bits.read(16)  # constraint flags, level
    bits.unsigned()  # id
    if profile in _HIGH_PROFILES:
        _skip_high_profile(bits)
    bits.unsigned()  # log2_max_frame_num
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.read(1)
        bits.signed()
        bits.signed()
        for _ in range(min(bits.unsigned(), _MAX_POC_CYCLE)):
            bits.signed()
    bits.unsigned()  # reference frames
    bits.read(1)
    width, height = 16 * (bits.unsigned() + 1), 16 * (bits.unsigned() + 1)
    fields = not bits.read(1)  # the height counts pairs of rows
    return width, height * (2 if fields else 1)


def _skip_high_profile(bits: _Bits) -> None:
    chroma = bits.unsigned()
    if chroma == 3:
        bits.read(1)
    bits.unsigned()  # bit depths
    bits.unsigned()
    bits.read(1)
    if not bits.read(1):
        return
    for number in range(12 if chroma == 3 else 8):
        if not bits.read(1):
            continue
        last = following = 8
        for _ in range(16 if number < 6 else 64):
            if following:
                following = (last + bits.signed()) % 256
            last = following or last


class EncodedQueue:
    """A bounded queue of encoded frames, from the network to the decoder's thread. Adding to it never blocks."""

    def __init__(
        self, now: Callable[[], float], *, on_shed: Callable[[int], None], on_unreadable: Callable[[], None],
        on_too_large: Callable[[str], None],
    ) -> None:  # fmt: skip
        """now: returns monotonic seconds. The three callbacks run in the thread that calls `put`.

        on_shed: called when waiting frames are dropped because the decoder is too slow, with their number.
        on_unreadable: called for each frame that `put` refuses because its header, with the picture size, is invalid.
        on_too_large: called for each frame that `put` refuses for its size, with a sentence that names the size.
        """
        self.reader: threading.Thread | None = None  # the decoder's thread, once it has started
        self._now = now
        self._on_shed = on_shed
        self._on_unreadable = on_unreadable
        self._on_too_large = on_too_large
        self._items: deque[tuple[float, Item, int]] = deque()  # (arrival, item, bytes)
        self._num_bytes = 0
        self._ended = False
        self._changed = threading.Condition()

    def put(self, item: Item | None) -> None:
        """Add a frame with its codec. None ends the queue: `get` returns the frames that wait, then None for ever."""
        if item is None:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            return
        codec, frame = item
        if not self._may_decode(codec.name, frame.data):
            return
        now = self._now()
        num_shed = 0
        with self._changed:
            if self._ended:
                return
            waiting_bytes = self._num_bytes + len(frame.data)
            if self._items and (now - self._items[0][0] > MAX_WAIT_S or waiting_bytes > MAX_WAITING_BYTES):
                num_shed = self._clear()
            self._items.append((now, item, len(frame.data)))
            self._num_bytes += len(frame.data)
            self._changed.notify()
        if num_shed:
            self._on_shed(num_shed)

    def get(self) -> Item | None:
        """Wait for a frame; remove the oldest and return it with its codec. Return None after the end of the queue."""
        with self._changed:
            while not self._items and not self._ended:
                self._changed.wait()
            if not self._items:
                return None
            _, item, num_bytes = self._items.popleft()
            self._num_bytes -= num_bytes
            return item

    def abandon(self) -> None:
        """End the queue and drop the frames that wait."""
        with self._changed:
            self._clear()
            self._ended = True
            self._changed.notify_all()

    def qsize(self) -> int:
        """Return the number of waiting frames."""
        return len(self._items)

    def _clear(self) -> int:
        num = len(self._items)
        self._items.clear()
        self._num_bytes = 0
        return num

    def _may_decode(self, codec: str, data: bytes) -> bool:
        try:
            size = picture_size(codec, data)
        except Unreadable:
            self._on_unreadable()
            return False
        if size is not None and size[0] * size[1] > MAX_PIXELS:
            self._on_too_large(f"{size[0]}x{size[1]} is more than {MAX_PIXELS} pixels; lower the resolution")
            return False
        return True
