"""Convert decoded video frames to RGB arrays: upright, with square pixels, not interlaced, no larger than asked.

The calls block, so use a worker thread. If a frame's metadata about colours, shape or orientation is invalid, the
result is still a picture, or a MediaError is raised.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType

from streaming.errors import MediaUnreadable, PictureTooLarge, in_words

MAX_PIXELS = 64_000_000  # no camera sends larger frames
MAX_PIXEL_ASPECT = 8.0  # width of a pixel divided by its height, or the reverse; more is a mistake

# What swscale can convert (AVColorSpace, AVColorRange). It refuses other values, and guesses well for "unspecified".
_KNOWN_MATRICES = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
_KNOWN_RANGES = frozenset({0, 1, 2})
_UNSPECIFIED_MATRIX, _UNSPECIFIED_RANGE = 2, 0

_MATRIX = struct.Struct("=9i")  # row by row, in 16.16 fixed point except for the last column
_MAX_TILT = 0.5  # smaller by larger element of a row of the matrix: about 27 degrees
_MAX_STRETCH = 64.0

# PyAV 18 cannot list the side data of a frame if it does not know one of the kinds, such as the Exif data of a JPEG.
# Map unknown kinds to one that is never used here.
SideDataType._missing_ = classmethod(lambda cls, value: cls.REPLAYGAIN)  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight ways to store a picture. To show it upright, transpose it, then mirror, then flip."""

    transposed: bool = False  # rows become columns
    mirrored: bool = False  # swap left and right
    flipped: bool = False  # swap top and bottom

    def upright(self, image: np.ndarray) -> np.ndarray:
        """Return the stored `image` (H, W, 3) upright. The result is (W, H, 3) if the orientation is transposed."""
        if self.transposed:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(image[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1])


UPRIGHT = Orientation()


def fitted_size(width: int, height: int, max_width: int, max_height: int) -> tuple[int, int]:
    """Return the largest (width, height) inside the limits with the same aspect ratio. A picture is never enlarged.

    1920x1080 in 960x960 -> 960x540; 640x480 in 1920x1080 -> 640x480.
    """
    scale = min(1.0, max_width / width, max_height / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def squared_size(width: int, height: int, pixel_aspect: float) -> tuple[int, int]:
    """Return the (width, height) with square pixels. The picture is stretched, never shrunk, so that no detail is lost.

    720x576 with pixels 16/11 as wide as high -> 1047x576; 1920x1080 with 1/2 -> 1920x2160.
    """
    return max(1, round(width * max(1.0, pixel_aspect))), max(1, round(height * max(1.0, 1.0 / pixel_aspect)))


def to_rgb(
    frame: av.VideoFrame, max_width: int, max_height: int, pixel_aspect: float = 1.0,
    remarks: dict[str, str] | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the frame as uint8 (H, W, 3) RGB, upright, with square pixels, within the size limits. Takes about 1 ms.

    An interlaced frame is deinterlaced.

    `pixel_aspect`: width of a pixel divided by its height. `remarks["picture"]` is set to a sentence if the frame's
    metadata is implausible and was ignored. Raises PictureTooLarge, or MediaUnreadable if it cannot be converted.
    """
    if frame.width * frame.height > MAX_PIXELS:
        raise PictureTooLarge(f"{frame.width}x{frame.height} is more than {MAX_PIXELS} pixels; lower the resolution")
    remarks = {} if remarks is None else remarks
    kind = f"a picture of {frame.width}x{frame.height} pixels in the format {_format_of(frame)} cannot be converted"
    if _would_abort(frame):
        raise MediaUnreadable(f"{kind}; send another format, such as yuv420p")
    with in_words(kind):
        orientation = orientation_of(frame, remarks)
        if orientation.transposed:
            max_width, max_height = max_height, max_width
        if not 1.0 / MAX_PIXEL_ASPECT <= pixel_aspect <= MAX_PIXEL_ASPECT:
            remarks["picture"] = f"its pixels are said to be {pixel_aspect:g} times as wide as high: ignored"
            pixel_aspect = 1.0
        width, height = fitted_size(*squared_size(frame.width, frame.height, pixel_aspect), max_width, max_height)
        _forget_unknown_colours(frame)
        if frame.interlaced_frame:
            frame = _deinterlaced(frame)
        # by default, each conversion starts as many threads as there are cores, for a millisecond of work
        image: np.ndarray = frame.reformat(width=width, height=height, format="rgb24", threads=1).to_ndarray()
    return image if orientation == UPRIGHT else orientation.upright(image)


def orientation_of(frame: av.VideoFrame, remarks: dict[str, str]) -> Orientation:
    """Return the orientation in which the frame is stored, from its display matrix.

    Without a matrix, or with an implausible one, the frame counts as upright.
    """
    data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    if data is None:
        return UPRIGHT
    orientation = _orientation(bytes(data))
    if orientation is None:
        remarks["picture"] = "its display matrix makes no sense: ignored, the picture is shown as it is stored"
    return orientation or UPRIGHT


def _orientation(data: bytes) -> Orientation | None:
    """Return the orientation that a display matrix describes, None if it is not close to any of the eight.

    The matrix shows the point (p, q) of the stored picture at (a p + c q, b p + d q).
    """
    if len(data) < _MATRIX.size:
        return None
    a, b, _, c, d, *_ = _MATRIX.unpack_from(data)
    first, second = max(abs(a), abs(b)), max(abs(c), abs(d))
    if not first or not second or not 1 / _MAX_STRETCH <= first / second <= _MAX_STRETCH:
        return None
    if min(abs(a), abs(b)) > _MAX_TILT * first or min(abs(c), abs(d)) > _MAX_TILT * second:
        return None
    if (abs(a) == first) != (abs(d) == second):
        return None  # both axes map to the same one
    transposed = abs(b) > abs(a)
    return Orientation(transposed, (c if transposed else a) < 0, (b if transposed else d) < 0)


def _format_of(frame: av.VideoFrame) -> str:
    return "unknown" if frame.format is None else str(frame.format.name)


def _would_abort(frame: av.VideoFrame) -> bool:
    """Return whether converting the frame would make FFmpeg's swscale abort the whole process (FFmpeg 8.0)."""
    name = _format_of(frame)
    return name.startswith("yaf32") or (name.startswith("bayer_") and frame.height < 2)


def _deinterlaced(frame: av.VideoFrame) -> av.VideoFrame:
    """Return the first of the two fields of an interlaced frame, with the lines between computed. Takes about 4 ms."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25))
    deinterlace, sink = graph.add("yadif", "deint=interlaced"), graph.add("buffersink")
    source.link_to(deinterlace)
    deinterlace.link_to(sink)
    graph.configure()
    graph.push(frame)
    graph.push(None)
    return graph.pull()


def _forget_unknown_colours(frame: av.VideoFrame) -> None:
    if frame.colorspace not in _KNOWN_MATRICES:
        frame.colorspace = _UNSPECIFIED_MATRIX
    if frame.color_range not in _KNOWN_RANGES:
        frame.color_range = _UNSPECIFIED_RANGE


class PixelAspect:
    """The pixel shape of a track: as its container declares, or as its stream declares after a change in the stream."""

    def __init__(self, track: av.VideoStream) -> None:
        self._context = track.codec_context
        self._declared: Fraction | None = track.sample_aspect_ratio
        self._first: Fraction | None = None
        self._decoded = False

    def now(self) -> float:
        """Return the width of a pixel divided by its height, for the frame that was just decoded.

        It is 1 if nothing is declared.
        """
        current = self._context.sample_aspect_ratio
        if not self._decoded:
            self._first, self._decoded = current, True
        aspect = current if current != self._first else self._declared or current
        return float(aspect) if aspect else 1.0
