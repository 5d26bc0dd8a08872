"""Frames of a window: which are chosen for a question, the newest, their pictures, and what is said of them as evidence.

Blocking where it reads; knows no model.
"""

import logging
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agent.ask.question import Evidence, Seen
from agent.ingest.jpeg import decode_jpeg
from agent.settings.settings import AnsweringSettings
from memory.errors import FrameGone
from memory.window import Window
from model.pointing import Box
from model.select import Keyframes, QueryCandidates, select_keyframes

if TYPE_CHECKING:
    from model.features import Defaults

log = logging.getLogger(__name__)

SENDS_NO_MORE_S = 60.0
RHYTHM_FRAMES = 16
CHUNK_ROWS = 8192


def choose(
    window: Window,
    query: NDArray[np.float32],
    settings: AnsweringSettings,
    defaults: "Defaults",
    *,
    num_keyframes: int | None,
    recent: int | None,
    most: int | None,
) -> Keyframes:
    """The keyframes of a question, query (D,) unit: as asked for, else as configured, else as the checkpoint wants; `most`:
    pictures that a server takes."""
    relative = (settings.redundancy or defaults.redundancy) == "background"
    num_keyframes = num_keyframes or settings.num_keyframes or defaults.num_keyframes
    if recent is None:
        recent = defaults.recent
    if most is not None and num_keyframes > most:
        num_keyframes = most
        recent = min(recent, num_keyframes // 2)  # few pictures, and still room for what was asked about
    return select_keyframes(
        QueryCandidates(window, query),
        num_keyframes=num_keyframes,
        tau=defaults.tau,
        floor=defaults.floor,
        recent=recent,
        fill=defaults.fill,
        background=window.background() if relative else None,
        background_floor=defaults.background_floor,
        group_sizes=np.bincount(window.camera_index, minlength=len(window.cameras)).tolist(),
    )


def relevance(window: Window, query: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) cosine of every frame with query (D,) unit."""
    scores = np.empty(window.num_frames, np.float32)
    for start in range(0, window.num_frames, CHUNK_ROWS):
        rows = np.arange(start, min(start + CHUNK_ROWS, window.num_frames))
        scores[rows] = window.embeddings(rows) @ query
    return scores


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


def seen(window: Window, keyframes: Keyframes, boxes: Mapping[int, tuple[Box, ...]] | None = None) -> Seen:
    """What the answer is going to rest on. boxes: by row, around what is asked about."""
    evidence = tuple(
        Evidence(
            frame_id=int(window.frame_ids[row]),
            camera=window.cameras[int(window.camera_index[row])],
            time=float(window.times[row]),
            score=float(score),
            kind=kind,
            metadata=window.metadata(int(row)),
            boxes=(boxes or {}).get(int(row), ()),
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
