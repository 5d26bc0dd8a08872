"""Pictures of a window's rows: decode them, scale them down, and label them with camera, time and place."""

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agent.ingest.jpeg import JPEG_QUALITY, decode_jpeg
from agent.times import format_time
from memory.errors import FrameGone
from memory.window import Window

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_ZONE_CHARS = 60
MAX_NUMBER = 1e9
_MIN_WIDTH = 16


def decoded(window: Window, rows: Iterable[int]) -> dict[int, NDArray[np.uint8]]:
    """(H, W, 3) RGB pictures by row. A picture that is damaged or erased is left out. Blocks."""
    return dict(read_each(window, rows, decode_jpeg))


def read_each(window: Window, rows: Iterable[int], read: Callable[[bytes], T]) -> Iterator[tuple[int, T]]:
    """(row, `read` of its JPEG) for each row whose picture can still be read. Blocks."""
    for row in rows:
        try:
            yield int(row), read(window.jpeg(int(row)))
        except (FrameGone, OSError) as error:
            frame_id = int(window.frame_ids[row])
            log.warning("keyframe cannot be read", extra={"frame_id": frame_id, "error": str(error)})


def fitted(jpeg: bytes, max_width: int, max_bytes: int) -> bytes:
    """`jpeg` itself if it is small enough, else scaled down until it is. Raises OSError if it is no picture."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        if picture.width <= max_width and len(jpeg) <= max_bytes:
            picture.load()  # damaged data must not be sent
            return jpeg
        picture.draft("RGB", (max_width, max(1, round(picture.height * max_width / picture.width))))
        image = picture.convert("RGB")
    width = min(image.width, max_width)
    while True:
        height = max(1, round(image.height * width / image.width))
        buffer = io.BytesIO()
        image.resize((width, height)).save(buffer, "JPEG", quality=JPEG_QUALITY)
        if buffer.tell() <= max_bytes or width <= _MIN_WIDTH:
            return buffer.getvalue()
        width //= 2


def label(window: Window, row: int, zone_of: Callable[[str], str]) -> str:
    """ "door, 2026-11-22 17:04:05 CET, hall:": the camera, the local time, and the place if it is known."""
    camera = window.cameras[int(window.camera_index[row])]
    parts = [camera, format_time(float(window.times[row]), zone_of(camera)), whereabouts(window.metadata(row))]
    return ", ".join(part for part in parts if part) + ":"


def whereabouts(metadata: Mapping[str, object]) -> str:
    """Where a frame was taken, from its metadata: {"zone": "hall", "x": 12.5, "y": 3, "heading": 90} ->
    "hall, x 12.5 m, y 3 m, heading 90 degrees".

    x and y count only together. A zone is put on one line and cut at 60 characters. Other fields stay out of the prompt.
    """
    found = [zone] if (zone := _zone(metadata.get("zone"))) else []
    x, y, heading = (_number(metadata.get(name)) for name in ("x", "y", "heading"))
    if x and y:
        found.append(f"x {x} m, y {y} m")
    if heading:
        found.append(f"heading {heading} degrees")
    return ", ".join(found)


def _zone(value: object) -> str:
    if not isinstance(value, str):
        return ""
    printable = "".join(c if c.isprintable() else " " for c in value)
    return " ".join(printable.split())[:MAX_ZONE_CHARS].rstrip()


def _number(value: object) -> str:
    """The number with at most two decimals: "12.5", "3"; "" for other values and huge numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_NUMBER:
        return ""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")  # + 0.0: no minus before a zero
