"""Write RGB pictures with their times to an MP4 video (H.264), which shows each picture until the next one.

The calls block, so use a worker thread. Timestamps count from the first picture and are exact to 1/90000 s. All
pictures get the size of the first: others are scaled to fit, with black borders.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np

from streaming.errors import FAULTS, reason
from streaming.picture import fitted_size

TICKS_PER_S = 90_000
LONGEST_STEP_TICKS = 20_000 * TICKS_PER_S  # MP4 has 31 bits for a step; in a longer gap the last picture is repeated
CODEC = "libx264"


@contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    """Context manager: raise all of FFmpeg's errors in the block as OSError."""
    try:
        yield
    except OSError:
        raise
    except FAULTS as error:
        raise OSError(f"{path}: the video cannot be written ({reason(error)})") from error


class ClipWriter:
    """Writes a video file. Use it as a context manager: leaving the block completes the file. Raises OSError."""

    def __init__(self, path: Path) -> None:
        with _as_os_error(path):
            self._container = av.open(f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"})
        self._path = path
        self._image: np.ndarray | None = None  # the last picture
        self._stream: av.VideoStream | None = None
        self._first = 0.0
        self._last_ticks = -1
        self.width = self.height = 0

    def __enter__(self) -> "ClipWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _as_os_error(self._path):
            try:
                if self._stream is not None and kind is None:
                    self._container.mux(self._stream.encode(None))
            finally:
                self._container.close()

    def add(self, image: np.ndarray, time_s: float) -> float:
        """Append a picture, uint8 (H, W, 3), and return its time in the video, in seconds.

        Times must rise. Two pictures on the same tick (1/90000 s) are written one tick apart.
        """
        with _as_os_error(self._path):
            if self._stream is None:
                self._open(image, time_s)
            ticks = max(self._last_ticks + 1, round((time_s - self._first) * TICKS_PER_S))
            while self._image is not None and ticks - self._last_ticks > LONGEST_STEP_TICKS:
                self._encode(self._image, self._last_ticks + LONGEST_STEP_TICKS)
            self._encode(self._fit(image), ticks)
        return ticks / TICKS_PER_S

    def _encode(self, image: np.ndarray, ticks: int) -> None:
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = ticks, Fraction(1, TICKS_PER_S)
        self._image, self._last_ticks = image, ticks
        if self._stream is not None:
            self._container.mux(self._stream.encode(frame))

    def _open(self, image: np.ndarray, time_s: float) -> None:
        self._first = time_s
        # H.264 with 4:2:0 needs even sizes
        self.width, self.height = image.shape[1] + image.shape[1] % 2, image.shape[0] + image.shape[0] % 2
        self._stream = self._container.add_stream(CODEC, rate=25)  # only a hint: players use the timestamps
        self._stream.width, self._stream.height, self._stream.pix_fmt = self.width, self.height, "yuv420p"
        self._stream.time_base = Fraction(1, TICKS_PER_S)
        self._stream.codec_context.time_base = Fraction(1, TICKS_PER_S)
        # without reordering, presentation times equal decoding times, and no edit list shifts them
        self._stream.options = {"crf": "18", "preset": "veryfast", "bf": "0"}

    def _fit(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        if (height, width) == (self.height, self.width):
            return image
        if height > self.height or width > self.width:
            width, height = fitted_size(width, height, self.width, self.height)
            source = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            image = source.reformat(width=width, height=height).to_ndarray(format="rgb24")
        framed: np.ndarray = np.zeros((self.height, self.width, 3), np.uint8)
        top, left = (self.height - height) // 2, (self.width - width) // 2
        framed[top : top + height, left : left + width] = image
        return framed
