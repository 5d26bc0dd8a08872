"""Decoded video frames to RGB arrays, no larger than asked. Blocking: call it in a worker thread."""

import av
import numpy as np

from streaming.errors import PictureTooLarge

MAX_PIXELS = 64_000_000  # a frame beyond this is refused: it is an attack or a mistake, not a camera


def fitted_size(width: int, height: int, max_width: int, max_height: int) -> tuple[int, int]:
    """The size (width, height) that fits inside the limits, same aspect, never enlarged.

    1920x1080 in 960x960 -> 960x540; 640x480 in 1920x1080 -> 640x480.
    """
    scale = min(1.0, max_width / width, max_height / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def to_rgb(frame: av.VideoFrame, max_width: int, max_height: int) -> np.ndarray:
    """uint8 (H, W, 3) RGB, upright. Resized while it is converted, which costs about a millisecond."""
    if frame.width * frame.height > MAX_PIXELS:
        raise PictureTooLarge(f"{frame.width}x{frame.height} is more than {MAX_PIXELS} pixels; lower the resolution")
    quarter_turns = round(frame.rotation / 90) % 4  # phones record upright pictures lying on their side
    if quarter_turns % 2:
        max_width, max_height = max_height, max_width
    width, height = fitted_size(frame.width, frame.height, max_width, max_height)
    image: np.ndarray = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image
