"""Encode pictures with a video codec and decode them again, to get the losses of a camera's video stream.

Input: pictures of one size, in order. Output: as many decoded pictures, in the same order. The bit rate is given per
pixel: a stream of 30 pictures a second at 2 Mbit/s has 0.07 bits per pixel at 720p.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

RATE_HZ = 30  # nominal frame rate; only bits per picture matter here
MIN_BIT_RATE = 20_000
OPTIONS = {
    "h264": {"preset": "veryfast", "tune": "zerolatency", "profile": "baseline", "threads": "1"},
    "vp8": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "error-resilient": "1", "threads": "1"},
}
ENCODERS = {"h264": "libx264", "vp8": "libvpx"}


@dataclass(frozen=True)
class Codec:
    """A video codec, such as H.264, and its bit rate in bits per pixel."""

    kind: Literal["h264", "vp8"] = "h264"
    bits_per_pixel: float = 0.07

    @property
    def name(self) -> str:
        """Name for reports, such as "h264-0.07"."""
        return f"{self.kind}-{self.bits_per_pixel:g}"


def random_codec(rng: np.random.Generator) -> Codec:
    """Return H.264 or VP8 at a random rate from 0.02 (a connection short of bandwidth) to 0.3 bits per pixel."""
    kind: Literal["h264", "vp8"] = "h264" if rng.random() < 0.7 else "vp8"
    return Codec(kind, round(float(np.exp(rng.uniform(np.log(0.02), np.log(0.3)))), 4))


def through_codec(pictures: Iterable[np.ndarray], codec: Codec) -> Iterator[np.ndarray]:
    """Encode pictures with the codec and yield the decoded ones, (height, width, 3) uint8, in the same order.
    Deterministic.

    Raises ValueError if the pictures have different sizes.
    """
    import av  # imported only here, so that drawing works without PyAV

    encoder: Any = None
    decoder: Any = av.CodecContext.create(codec.kind, "r")
    shape = (0, 0)
    for number, picture in enumerate(pictures):
        if encoder is None:
            shape = picture.shape[:2]
            encoder = _encoder(av, codec, *shape)
        elif picture.shape[:2] != shape:
            raise ValueError(f"pictures of {shape} and {picture.shape[:2]} in one stream")
        frame = av.VideoFrame.from_ndarray(_even(picture), format="rgb24").reformat(format="yuv420p")
        frame.pts = number
        yield from (_cut(decoded, shape) for packet in encoder.encode(frame) for decoded in decoder.decode(packet))
    if encoder is not None:
        packets = [*encoder.encode(None), None]
        yield from (_cut(decoded, shape) for packet in packets for decoded in decoder.decode(packet))


def _encoder(av: Any, codec: Codec, height: int, width: int) -> Any:
    encoder = av.CodecContext.create(ENCODERS[codec.kind], "w")
    encoder.width, encoder.height = width + width % 2, height + height % 2
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, RATE_HZ)
    encoder.framerate = Fraction(RATE_HZ)
    encoder.bit_rate = max(MIN_BIT_RATE, round(codec.bits_per_pixel * width * height * RATE_HZ))
    rate = str(encoder.bit_rate)
    encoder.options = OPTIONS[codec.kind] | {"maxrate": rate, "bufsize": rate}
    return encoder


def _even(picture: np.ndarray) -> np.ndarray:
    """Return the picture with even height and width, which codecs need, by repeating the last row or column."""
    height, width = picture.shape[:2]
    return np.ascontiguousarray(np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))


def _cut(frame: Any, shape: tuple[int, int]) -> np.ndarray:
    picture: np.ndarray = frame.to_ndarray(format="rgb24")
    return picture[: shape[0], : shape[1]]
