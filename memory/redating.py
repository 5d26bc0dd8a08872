"""Move frames of a camera in time when the clock that stamped them turns out to have been wrong.

Frames keep their order, which is that of their ids, and their times must rise with it. So moving the newest frames back
also moves the frames before them that would otherwise come after.

Moved back by 100 from the time 300 on:
    times 50 210 240 300 301  ->  50 110 140 200 201

Rows change first, in one synced commit, then memory; records in the segment files keep the time they were written
with. Used under the store's locks.
"""

import json

import numpy as np

from memory.camera_log import CameraLog
from memory.codec import load_metadata
from memory.errors import StorageFull
from memory.journal import Journal
from memory.records import Float64, Int64

_STEP_S = 1.0  # between two frames of which only the order is known


def times_of(log: CameraLog) -> Float64:
    """Return the times of all frames of this camera, in the order of their ids."""
    return np.concatenate([np.zeros(0), *(s.times[: s.count] for s in log.segments)])


def first_moved(times: Float64, start: int, shift_s: float) -> int:
    """Return the first frame that must move when those from `start` on move by `shift_s` and order is kept."""
    while start > 0 and times[start - 1] >= times[start] + shift_s:
        start -= 1
    return start


def redate(log: CameraLog, journal: Journal, first_time: float, shift_s: float, clock: str) -> int:
    """Move the frames from `first_time` on, and those that must move with them. Return how many.

    clock: written into their metadata. Raises StorageError if the rows cannot be written; then nothing has moved.
    """
    times = times_of(log)
    start = int(np.searchsorted(times, first_time))
    if start == len(times):
        return 0
    start = first_moved(times, start, shift_s)
    _move(log, journal, start, len(times), shift_s, clock)
    return len(times) - start


def put_in_order(log: CameraLog, journal: Journal, clock: str) -> int:
    """Move back every frame that lies after a later one. Return how many frames moved, usually 0.

    After the journal was rebuilt, frames have the times they were written with.
    """
    num_moved = 0
    while True:
        times = times_of(log)
        wrong = np.flatnonzero(times[1:] <= times[:-1])
        if not len(wrong):
            return num_moved
        stop = int(wrong[-1]) + 1
        shift_s = float(times[stop] - _STEP_S - times[stop - 1])
        start = first_moved(times, stop - 1, shift_s)
        try:
            _move(log, journal, start, stop, shift_s, clock)
        except StorageFull:
            _move(log, None, start, stop, shift_s, clock)  # the next start does the same again
        num_moved += stop - start


def _move(log: CameraLog, journal: Journal | None, start: int, stop: int, shift_s: float, clock: str) -> None:
    ids: Int64 = np.concatenate([s.frame_ids[: s.count] for s in log.segments])[start:stop]

    def marked(metadata: str) -> str:
        return json.dumps({**load_metadata(metadata), "clock": clock}, separators=(",", ":"))

    if journal is not None:
        journal.redate(log.camera, int(ids[0]), int(ids[-1]), lambda time, metadata: (time + shift_s, marked(metadata)))
    first = 0
    for segment in log.segments:
        lo, hi = max(0, start - first), min(segment.count, stop - first)
        first += segment.count
        if lo >= hi:
            continue
        if segment.block is not None:
            segment.block.dissolve()  # it has the old times
        times = segment.times.copy()  # earlier views keep the old times
        times[lo:hi] += shift_s
        segment.times = times
        for slot in range(lo, hi):
            if not segment.gone[slot]:  # erased frames have no metadata
                segment.metadata[slot] = marked(segment.metadata[slot])
