"""Frames of a window: the newest, the pictures of keyframes, and what is said of them as evidence.

Blocking where it reads; knows no model.
"""

import logging
import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from agent.intake import decode_jpeg
from agent.question import Evidence, Seen
from memory.errors import FrameGone
from memory.window import Window
from model.select import Keyframes

log = logging.getLogger(__name__)

SENDS_NO_MORE_S = 60.0
RHYTHM_FRAMES = 16


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


def newest_from(window: Window, count: int) -> list[float]:
    """For each camera of the window the time of its last frame but count - 1; infinity for one that sends no more.

    A camera sends no more when the newest frame of all is further ahead of its own than a minute and than thrice the usual
    distance of its last frames: it shows nothing of now. N >= 1.
    """
    ends = np.cumsum(np.bincount(window.camera_index, minlength=len(window.cameras)))
    latest, begins = float(window.times.max()), []
    for first, end in pairwise([0, *ends.tolist()]):
        times = window.times[first:end]  # rising, within one camera
        usual_s = float(np.median(np.diff(times[-RHYTHM_FRAMES:]))) if len(times) > 1 else 0.0
        sends = len(times) > 0 and times[-1] >= latest - max(SENDS_NO_MORE_S, 3 * usual_s)
        begins.append(float(times[-min(count, len(times))]) if sends else math.inf)
    return begins
