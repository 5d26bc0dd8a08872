"""JPEG pictures over HTTP: a stream of them (Motion JPEG), or a still picture that is fetched again and again.

Pictures are found by their own markers, so that the boundaries between them, if there are any, do not matter. FFmpeg
would need seconds of a slow stream to recognise it.
"""

import io
import re
import time
from collections.abc import Callable, Iterator
from functools import cached_property

import av

from streaming.errors import FAULTS, MediaLost, MediaUnreadable, reason, shown
from streaming.http_input import HttpFile, HttpOpener
from streaming.picture import MAX_PIXELS

MAX_PICTURE_BYTES = 32 << 20
_READ_BYTES = 64 << 10
_START = b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # neither data nor a restart marker, which have no length
_END, _START_AGAIN = 0xD9, 0xD8
_FORMATS = "jpeg_pipe,png_pipe,webp_pipe,bmp_pipe"
_MAGIC = (b"\xff\xd8", b"\x89PNG\r\n", b"BM")


class Splitter:
    """Takes the pieces of a byte stream and returns the JPEG pictures in it, without what lies between them."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._place = 0  # up to here, the picture has been searched for its end

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the pictures that end in this piece."""
        self._data += piece
        while (end := self._end()) is not None:
            yield bytes(self._data[:end])
            self._restart(end)
        if len(self._data) > MAX_PICTURE_BYTES:
            self._restart(len(self._data))

    def _restart(self, place: int) -> None:
        del self._data[:place]
        self._place = 0

    def _end(self) -> int | None:
        """Return where the first picture ends, None if its end has not come yet. Removes what precedes the picture."""
        data = self._data
        if not self._place:
            start = data.find(_START)
            self._restart(max(0, len(data) - 2) if start < 0 else start)
            if start < 0:
                return None
            self._place = 2
        while found := _MARKER.search(data, self._place):
            mark, kind = found.start(), found[0][1]
            if kind == _END:
                return mark + 2
            if kind == _START_AGAIN:  # the picture before was cut off
                self._restart(mark)
                self._place = 2
            elif mark + 4 > len(data):
                self._place = mark
                return None
            else:
                self._place = mark + 2 + int.from_bytes(data[mark + 2 : mark + 4])
        self._place = max(self._place, len(data) - 1)
        return None


class Still:
    """One picture as a `Decoded`, which is decoded when `frame` is first asked for."""

    ticks = media_s = reference = None
    pixel_aspect = 1.0

    def __init__(self, data: bytes) -> None:
        self._data = data

    @cached_property
    def frame(self) -> av.VideoFrame:
        """The decoded picture. Raises MediaUnreadable."""
        try:
            with av.open(io.BytesIO(self._data), options={"format_whitelist": _FORMATS}) as container:
                context = container.streams.video[0].codec_context
                context.options = {"max_pixels": str(MAX_PIXELS)}
                return next(container.decode(video=0))
        except (*FAULTS, StopIteration) as error:
            raise MediaUnreadable(f"a picture of {len(self._data)} bytes cannot be decoded ({reason(error)})") from None


class Pictures:
    """The pictures at an HTTP address, in the form of an `Input`.

    A response with several pictures is a stream. One with a single picture is fetched again every `period_s`.
    """

    live, timed, clock_rate_hz, codec = True, False, 90_000.0, "mjpeg"

    def __init__(
        self, opener: HttpOpener, url: str, body: HttpFile, period_s: float, *,
        now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        """`body`: the first response."""
        self.remarks: dict[str, str] = {}
        self._opener, self._url, self._body = opener, url, body
        self._period_s = period_s
        self._now, self._sleep = now, sleep

    def frames(self) -> Iterator[Still]:
        """Yield each picture as soon as it has arrived. Raises MediaLost at the end of a stream, MediaStalled."""
        due = self._now()
        while True:
            num = 0
            for data in self._pictures():
                num += 1
                self._opener.playing()
                yield Still(data)
            self._body.close()
            if num != 1:
                raise MediaLost(f"{shown(self._url)}: the camera {'ended the stream' if num else 'sent no picture'}")
            due = max(due + self._period_s, self._now())
            self._sleep(due - self._now())
            self._opener.begin()
            self._body = self._opener.open(self._url)

    def _pictures(self) -> Iterator[bytes]:
        if self._body.peek().startswith(_MAGIC[1:]):
            data = b"".join(self._pieces())
            yield from (data,) if len(data) <= MAX_PICTURE_BYTES else ()
            return
        splitter = Splitter()
        for piece in self._pieces():
            yield from splitter.feed(piece)

    def _pieces(self) -> Iterator[bytes]:
        while True:
            self._opener.begin()
            piece = self._body.read(_READ_BYTES)
            if not piece:
                return
            yield piece

    def take_decode_errors(self) -> int:
        """Return 0: a `Still` raises when it cannot be decoded."""
        return 0

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._opener.close()


def has_pictures(body: HttpFile) -> bool:
    """Return whether a response is made of pictures, by its content type or its first bytes."""
    return body.content_type.startswith(("multipart/", "image/")) or body.peek().startswith(_MAGIC)
