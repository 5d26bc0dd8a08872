"""Change the times of a camera's frames when the clock that gave them their times turns out to have been wrong.

Frames keep their order, which is that of their ids, and times must rise in this order. So if the newest frames are
moved back, earlier frames that would then have later times are moved as well.

Moved back by 100 from the time 300 on:
    times 50 210 240 300 301  ->  50 110 140 200 201

The rows of the journal are changed first, in one commit that waits for the disk, then the frames in memory. The records
in the segment files keep their original times. Used under the store's locks.
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
    """Return the index of the first frame that must move so that order is kept if those from `start` on move."""
    while start > 0 and times[start - 1] >= times[start] + shift_s:
        start -= 1
    return start


def redate(log: CameraLog, journal: Journal, first_time: float, shift_s: float, clock: str) -> int:
    """Shift the times of the frames from `first_time` on by `shift_s` seconds.

    Earlier frames are shifted as well if their times would otherwise be later than those.

    Return the number of moved frames. clock: written into their metadata as the value of "clock". Raises
    StorageError if the rows cannot be written; then no frame has moved.
    """
    times = times_of(log)
    start = int(np.searchsorted(times, first_time))
    if start == len(times):
        return 0
    start = first_moved(times, start, shift_s)
    _move(log, journal, start, len(times), shift_s, clock)
    return len(times) - start


def put_in_order(log: CameraLog, journal: Journal, clock: str) -> int:
    """Where a frame has a later time than one stored after it, set its time back.

    Return how many were changed, usually 0.

    Needed after the journal was rebuilt from the segment files, where frames have their original times.
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
