"""The queue of encoded frames: too large pictures never reach the decoder, and waiting is bounded."""

import fractions
import threading
from collections.abc import Callable
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.encoded import MAX_WAIT_S, MAX_WAITING_BYTES, EncodedQueue, Unreadable, picture_size

VP8, H264 = SimpleNamespace(name="VP8"), SimpleNamespace(name="H264")


def vp8_key_frame(width: int, height: int) -> bytes:
    return b"\x10\x02\x00\x9d\x01\x2a" + width.to_bytes(2, "little") + height.to_bytes(2, "little") + bytes(20)


def exp_golomb(number: int) -> str:
    binary = f"{number + 1:b}"
    return "0" * (len(binary) - 1) + binary


def sps(width: int, height: int, *, order: int = 2, fields: bool = False) -> bytes:
    """An Annex B sequence parameter set, baseline profile."""
    bits = f"{66:08b}{0:08b}{52:08b}" + exp_golomb(0) + exp_golomb(0) + exp_golomb(order)
    if order == 0:
        bits += exp_golomb(2)
    if order == 1:
        bits += "0" + exp_golomb(0) * 2 + exp_golomb(3) + exp_golomb(5) * 3
    rows = height // 32 if fields else height // 16
    bits += (
        exp_golomb(1) + "0" + exp_golomb(width // 16 - 1) + exp_golomb(rows - 1) + ("0" if fields else "1") + "10001"
    )
    bits += "0" * (-len(bits) % 8)
    return b"\x00\x00\x00\x01\x67" + int(bits, 2).to_bytes(len(bits) // 8, "big")


@pytest.mark.parametrize("size", [(160, 120), (1920, 1088), (16383, 16383)])
def test_the_size_of_a_vp8_key_frame(size: tuple[int, int]) -> None:
    assert picture_size("VP8", vp8_key_frame(*size)) == size


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("fields", [False, True])
def test_the_size_of_an_h264_picture(order: int, fields: bool) -> None:
    data = b"\x00\x00\x01\x09\x10" + sps(16384, 8192, order=order, fields=fields) + b"\x00\x00\x00\x01\x65\x88"
    assert picture_size("H264", data) == (16384, 8192)


@pytest.mark.parametrize(
    ("encoder", "name", "options"),
    [
        ("libx264", "H264", {"profile": "baseline"}),
        ("libx264", "H264", {"x264-params": "cqm=jvt:interlaced=1"}),
        ("libvpx", "VP8", {}),
    ],
)
def test_sizes_of_frames_from_real_encoders(encoder: str, name: str, options: dict[str, str]) -> None:
    context = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt, context.time_base = 640, 480, "yuv420p", fractions.Fraction(1, 30)
    context.options = options
    frame = av.VideoFrame.from_ndarray(np.zeros((480, 640, 3), np.uint8), format="rgb24").reformat(format="yuv420p")
    frame.pts = 0
    packets = [*context.encode(frame), *context.encode(None)]
    assert picture_size(name, bytes(packets[0])) == (640, 480)


def test_frames_that_announce_no_size() -> None:
    assert picture_size("VP8", b"\x11\x02\x00" + bytes(20)) is None  # not a key frame
    assert picture_size("VP8", b"") is None
    assert picture_size("H264", b"\x00\x00\x00\x01\x65" + bytes(20)) is None
    with pytest.raises(Unreadable):
        picture_size("VP8", b"\x10\x02\x00\x9d\x01")
    with pytest.raises(Unreadable):
        picture_size("H264", b"\x00\x00\x01\x67\x42\x00")


@given(st.sampled_from(["VP8", "H264"]), st.binary(max_size=60))
def test_any_bytes_give_a_size_or_unreadable(name: str, tail: bytes) -> None:
    for data in (tail, b"\x00\x00\x01\x67" + tail, b"\x00\x00\x01\x67\x64\x00\x1f" + tail):
        try:
            size = picture_size(name, data)
        except Unreadable:
            continue
        assert size is None or min(size) >= 0


class Queue(EncodedQueue):
    """An EncodedQueue with a settable clock that records its callbacks."""

    def __init__(self) -> None:
        self.time, self.shed, self.unreadable = 0.0, 0, 0
        self.refused: list[str] = []
        super().__init__(
            lambda: self.time, on_shed=self._add_shed, on_unreadable=self._add_unreadable,
            on_too_large=self.refused.append,
        )  # fmt: skip

    def _add_shed(self, num: int) -> None:
        self.shed += num

    def _add_unreadable(self) -> None:
        self.unreadable += 1

    def add(self, codec: SimpleNamespace, data: bytes) -> None:
        self.put((codec, SimpleNamespace(data=data)))


@pytest.mark.parametrize(
    ("codec", "make"), [(VP8, vp8_key_frame), (H264, lambda width, height: sps(width // 16 * 16, height // 16 * 16))]
)
def test_large_pictures_never_reach_the_decoder(codec: SimpleNamespace, make: Callable[[int, int], bytes]) -> None:
    queue = Queue()
    queue.add(codec, make(16383, 16383))
    assert queue.qsize() == 0
    assert "more than 36000000 pixels; lower the resolution" in queue.refused[0]
    queue.add(codec, make(8192, 4320))
    assert queue.qsize() == 1
    queue.add(codec, b"\x10\x00" if codec is VP8 else b"\x00\x00\x01\x67")
    assert (queue.qsize(), queue.unreadable) == (1, 1)


def test_the_queue_is_bounded_by_time() -> None:
    queue = Queue()
    for step in range(400):
        queue.time = step * 0.1
        queue.add(VP8, b"\x11" + bytes(100))
        assert queue.qsize() <= MAX_WAIT_S / 0.1 + 2
    assert queue.shed + queue.qsize() == 400


def test_the_queue_is_bounded_by_bytes() -> None:
    queue = Queue()
    frame = b"\x11" + bytes(1 << 20)
    for _ in range(50):
        queue.add(VP8, frame)
        assert queue.qsize() * len(frame) <= MAX_WAITING_BYTES
    assert queue.shed > 0


def test_the_end_of_the_queue_survives_dropped_frames() -> None:
    queue = Queue()
    queue.add(VP8, b"\x11a")
    queue.put(None)
    queue.add(VP8, b"\x11b")  # too late
    assert queue.get()[1].data == b"\x11a"
    assert queue.get() is None
    assert queue.get() is None


def test_abandoning_wakes_the_decoder_and_drops_waiting_frames() -> None:
    queue = Queue()
    got: list[object] = []
    waiting = threading.Thread(target=lambda: got.append(queue.get()))
    waiting.start()
    queue.abandon()
    waiting.join(10)
    assert got == [None]
    queue.add(VP8, b"\x11")
    assert queue.qsize() == 0
