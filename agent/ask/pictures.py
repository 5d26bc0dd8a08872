"""Decode the pictures of a window's frames, scale them down, and label them with camera, time and place.

A row is a frame's number in its window.
"""

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
    """Return the pictures of these rows, (H, W, 3) RGB, by row. Damaged and erased ones are left out. Blocks."""
    return dict(read_each(window, rows, decode_jpeg))


def read_each(window: Window, rows: Iterable[int], read: Callable[[bytes], T]) -> Iterator[tuple[int, T]]:
    """Yield (row, `read(jpeg)`) for each row. Rows whose picture is damaged or erased are left out. Blocks."""
    for row in rows:
        try:
            yield int(row), read(window.jpeg(int(row)))
        except (FrameGone, OSError) as error:
            frame_id = int(window.frame_ids[row])
            log.warning("keyframe cannot be read", extra={"frame_id": frame_id, "error": str(error)})


def fitted(jpeg: bytes, max_width: int, max_bytes: int) -> bytes:
    """Return `jpeg`, scaled down if it exceeds `max_width` or `max_bytes`. Raises OSError if it is not a picture."""
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
    """Return the text before a picture: the camera, the local time, and the place if it is known.

    For example "door, 2026-11-22 17:04:05 CET, hall:".
    """
    camera = window.cameras[int(window.camera_index[row])]
    parts = [camera, format_time(float(window.times[row]), zone_of(camera)), whereabouts(window.metadata(row))]
    return ", ".join(part for part in parts if part) + ":"


def whereabouts(metadata: Mapping[str, object]) -> str:
    """Return a text that says where a frame was taken, from its metadata.

    {"zone": "hall", "x": 12.5, "y": 3, "heading": 90} -> "hall, x 12.5 m, y 3 m, heading 90 degrees"

    x is used only with y, and y only with x. The zone is put on one line and cut to 60 characters. Other metadata is
    not shown to the model. Returns "" if there is none of these.
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
    """Return the number as text with at most two decimals: "12.5", "3"; "" for other values and huge numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_NUMBER:
        return ""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")  # + 0.0: no minus before a zero
