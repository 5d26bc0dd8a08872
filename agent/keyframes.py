"""Frames of a window: the newest, the pictures of keyframes, and what is said of them as evidence.

Blocking where it reads; knows no model.
"""

import logging

import numpy as np
from numpy.typing import NDArray

from agent.intake import decode_jpeg
from agent.question import Evidence, Seen
from memory.errors import FrameGone
from memory.window import Window
from model.select import Keyframes

log = logging.getLogger(__name__)

SENDS_NO_MORE_S = 60.0  # a camera this far behind the newest frame of all shows nothing of now


def without_patches(window: Window, rows: NDArray[np.int64]) -> list[int]:
    """Those of the rows whose patches are not in memory."""
    return [int(row) for row in rows if not window.read(int(row), int(row) + 1).present[0]]


def pictures_of(window: Window, rows: list[int]) -> dict[int, NDArray[np.uint8]]:
    """By row; one that is damaged, or erased meanwhile, is left out."""
    images = {}
    for row in rows:
        try:
            images[row] = decode_jpeg(window.jpeg(row))
        except (FrameGone, OSError) as error:
            log.warning("keyframe cannot be read", extra={"frame_id": int(window.frame_ids[row]), "error": str(error)})
    return images


def some_of(keyframes: Keyframes, places: list[int]) -> Keyframes:
    """Those at these places among them."""
    kinds = tuple(keyframes.kinds[place] for place in places)
    return Keyframes(keyframes.rows[places], kinds, keyframes.scores[places])


def seen(window: Window, keyframes: Keyframes) -> Seen:
    """What the answer is going to rest on."""
    evidence = tuple(
        Evidence(
            frame_id=int(window.frame_ids[row]),
            camera=window.cameras[int(window.camera_index[row])],
            time=float(window.times[row]),
            score=float(score),
            kind=kind,
            metadata=window.metadata(int(row)),
        )
        for row, kind, score in zip(keyframes.rows, keyframes.kinds, keyframes.scores, strict=True)
    )
    return Seen(evidence, window.num_frames, float(window.times.min()), float(window.times.max()))


def newest_from(window: Window, count: int) -> float:
    """The time from which on every camera that still sends has its newest `count` frames. N >= 1."""
    sending, begins = [], []
    for camera in np.unique(window.camera_index):
        times = np.sort(window.times[window.camera_index == camera])
        sending.append(times[-1])
        begins.append(times[-min(count, len(times))])
    latest = max(sending)
    return float(min(begin for begin, end in zip(begins, sending, strict=True) if end >= latest - SENDS_NO_MORE_S))
