"""Decoded video frames to RGB arrays: upright, with square pixels, no larger than asked.

Blocking: call it in a worker thread. Whatever a frame claims about its colours, shape or orientation, the result is a
picture or a MediaError.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType

from streaming.errors import MediaUnreadable, PictureTooLarge
from streaming.libav import in_words

MAX_PIXELS = 64_000_000  # a frame beyond this is refused: it is an attack or a mistake, not a camera
MAX_PIXEL_ASPECT = 8.0  # width of a pixel by its height, or the reverse: beyond this it is a mistake

# Matrix and range that swscale can convert (AVColorSpace, AVColorRange). It refuses all others, and guesses well where
# nothing is said.
_KNOWN_MATRICES = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
_KNOWN_RANGES = frozenset({0, 1, 2})
_UNSPECIFIED_MATRIX, _UNSPECIFIED_RANGE = 2, 0

_MATRIX = struct.Struct("=9i")  # row by row; 16.16 fixed point but for the last column
_MAX_TILT = 0.5  # of a row of the matrix: the smaller part by the larger one, about 27 degrees
_MAX_STRETCH = 64.0

# PyAV 18 cannot list the side data of a frame that has a kind it does not know, such as the Exif of a JPEG. An unknown
# kind is shown as one that is never looked at here.
SideDataType._missing_ = classmethod(lambda cls, value: cls.REPLAYGAIN)  # type: ignore[assignment]

Remark = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight ways a picture can be stored. Shown upright: first transposed, then mirrored."""

    transposed: bool = False  # rows are columns
    mirrored: bool = False  # left is right, after that
    flipped: bool = False  # top is bottom, after that

    def upright(self, image: np.ndarray) -> np.ndarray:
        """`image` (H, W, 3) as it is to be seen; (W, H, 3) when it is transposed."""
        if self.transposed:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(image[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1])


UPRIGHT = Orientation()


def fitted_size(width: int, height: int, max_width: int, max_height: int) -> tuple[int, int]:
    """The size (width, height) that fits inside the limits, same aspect, never enlarged.

    1920x1080 in 960x960 -> 960x540; 640x480 in 1920x1080 -> 640x480.
    """
    scale = min(1.0, max_width / width, max_height / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def squared_size(width: int, height: int, pixel_aspect: float) -> tuple[int, int]:
    """The size with square pixels: the shorter side of a pixel is stretched, so that no detail is lost.

    720x576 with pixels 16/11 as wide as high -> 1047x576; 1920x1080 with 1/2 -> 1920x2160.
    """
    return max(1, round(width * max(1.0, pixel_aspect))), max(1, round(height * max(1.0, 1.0 / pixel_aspect)))


def to_rgb(
    frame: av.VideoFrame, max_width: int, max_height: int, pixel_aspect: float = 1.0, remark: Remark | None = None
) -> np.ndarray:
    """uint8 (H, W, 3) RGB, upright. Resized while it is converted, which costs about a millisecond.

    `pixel_aspect`: width of a pixel by its height. `remark` hears, in words, what the frame says of itself that is
    nonsense and was ignored. Raises PictureTooLarge, and MediaUnreadable where it cannot be converted.
    """
    if frame.width * frame.height > MAX_PIXELS:
        raise PictureTooLarge(f"{frame.width}x{frame.height} is more than {MAX_PIXELS} pixels; lower the resolution")
    remark = remark or _ignore
    kind = f"a picture of {frame.width}x{frame.height} pixels in the format {_format_of(frame)} cannot be converted"
    if _would_abort(frame):
        raise MediaUnreadable(f"{kind}; send another format, such as yuv420p")
    with in_words(kind):
        orientation = orientation_of(frame, remark)
        if orientation.transposed:
            max_width, max_height = max_height, max_width
        if not 1.0 / MAX_PIXEL_ASPECT <= pixel_aspect <= MAX_PIXEL_ASPECT:
            remark(f"its pixels are said to be {pixel_aspect:g} times as wide as high: ignored")
            pixel_aspect = 1.0
        width, height = fitted_size(*squared_size(frame.width, frame.height, pixel_aspect), max_width, max_height)
        _forget_unknown_colours(frame)
        # One thread: each conversion would else start as many as there are cores, for a millisecond of work.
        image: np.ndarray = frame.reformat(width=width, height=height, format="rgb24", threads=1).to_ndarray()
    return image if orientation == UPRIGHT else orientation.upright(image)


def orientation_of(frame: av.VideoFrame, remark: Remark | None = None) -> Orientation:
    """How the frame is stored, by its display matrix; upright where it has none or one that makes no sense."""
    data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    if data is None:
        return UPRIGHT
    orientation = _orientation(bytes(data))
    if orientation is None:
        (remark or _ignore)("its display matrix makes no sense: ignored, the picture is shown as it is stored")
    return orientation or UPRIGHT


def _orientation(data: bytes) -> Orientation | None:
    """The one of the eight that the matrix is nearest to; None when it is near to none.

    A point (p, q) of the stored picture is shown at (a p + c q, b p + d q).
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
        return None  # both axes fall on one
    transposed = abs(b) > abs(a)
    return Orientation(transposed, (c if transposed else a) < 0, (b if transposed else d) < 0)


def _format_of(frame: av.VideoFrame) -> str:
    return "unknown" if frame.format is None else str(frame.format.name)


def _would_abort(frame: av.VideoFrame) -> bool:
    """True for what makes swscale end the whole process (FFmpeg 8.0)."""
    name = _format_of(frame)
    return name.startswith("yaf32") or (name.startswith("bayer_") and frame.height < 2)


def _forget_unknown_colours(frame: av.VideoFrame) -> None:
    if frame.colorspace not in _KNOWN_MATRICES:
        frame.colorspace = _UNSPECIFIED_MATRIX
    if frame.color_range not in _KNOWN_RANGES:
        frame.color_range = _UNSPECIFIED_RANGE


def _ignore(words: str) -> None:
    """Nobody asked."""
