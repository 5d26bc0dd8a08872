"""Video files made with PyAV: plain clips, raw streams, and clips with wrong or missing timestamps."""

import fractions
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import av
import numpy as np

from tests.support.streams import picture
from tests.support.tiny import make_pictures


def encoded(
    images: Iterable[np.ndarray], *, codec: str = "libx264", rate_hz: int = 25, b_frames: int = 0,
    filters: str | None = None, options: dict[str, str] | None = None,
) -> list[av.Packet]:  # fmt: skip
    """Encode images to packets (H.264: Annex B form), passed through the bitstream filter `filters` if given."""
    context = av.CodecContext.create(codec, "w")
    packets: list[av.Packet] = []
    for index, image in enumerate(images):
        if index == 0:
            context.width, context.height, context.pix_fmt = image.shape[1], image.shape[0], "yuv420p"
            context.time_base, context.framerate = fractions.Fraction(1, rate_hz), fractions.Fraction(rate_hz)
            context.gop_size = rate_hz
            context.max_b_frames = b_frames
            context.options = {"bf": str(b_frames), **(options or {})} if codec == "libx264" else options or {}
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = index, context.time_base
        packets += context.encode(frame)
    packets += context.encode(None)
    if filters is None:
        return packets
    context_of_filter = av.BitStreamFilterContext(filters, in_stream=av.Codec("h264", "r"))
    out: list[av.Packet] = []
    for packet in [*packets, None]:
        out += context_of_filter.filter(packet)
    return out


def write_raw(path: Path, packets: Iterable[av.Packet]) -> Path:
    """Write packets as a raw stream, without container and timestamps."""
    path.write_bytes(b"".join(bytes(packet) for packet in packets))
    return path


def write_timed(
    path: Path, seconds: Sequence[float], *, codec: str = "libx264", size: tuple[int, int] = (160, 120),
    b_frames: int = 0, rate_hz: int | fractions.Fraction = 25, time_base: fractions.Fraction = fractions.Fraction(1, 90_000),
    prepare: Callable[[av.VideoStream], None] = lambda stream: None, options: dict[str, str] | None = None,
) -> Path:  # fmt: skip
    """Write a clip that shows `picture(i)` at `seconds[i]`. The times may step back."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate_hz)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.max_b_frames = b_frames
        stream.gop_size = 10
        if codec == "libx264":
            stream.options = {"bf": str(b_frames)}
        if codec == "libx265":
            stream.options = {"x265-params": "log-level=none"}
        stream.codec_context.time_base = time_base
        prepare(stream)
        for index, second in enumerate(seconds):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            frame.pts, frame.time_base = round(second / time_base), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_video(path: Path, *, num_seconds: int = 6, rate_hz: int = 4) -> Path:
    """Write a clip of different pictures, 64 x 48 pixels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate_hz)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in make_pictures(num_seconds * rate_hz, height=48, width=64):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path
