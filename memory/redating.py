"""Moving frames of a camera in time: the clock that stamped them turned out to be wrong.

Frames never change their order, which is that of their ids, and times rise with it. So whoever moves the newest frames
back moves with them those before them that would otherwise come after: they cannot have been earlier.

Worked example, moved back by 100 from the time 300 on:
    times 50 210 240 300 301  ->  50 110 140 200 201

Rows first, in one synced commit, then memory; the records in the segment files keep the time they were written with.
Under the store's locks. Knows no clock.
"""

import json

import numpy as np

from memory.args import load_metadata
from memory.camera_log import CameraLog
from memory.errors import StorageFull
from memory.journal import Journal
from memory.records import Float64, Int64

_STEP_S = 1.0  # between two frames of which nothing is known but their order


def times_of(log: CameraLog) -> Float64:
    """Of every frame of this camera, in the order of the ids."""
    return np.concatenate([np.zeros(0), *(s.times[: s.count] for s in log.segments)])


def first_moved(times: Float64, start: int, shift_s: float) -> int:
    """Where what is moved begins, so that all stays in order, when the frames from `start` on move by `shift_s`."""
    while start > 0 and times[start - 1] >= times[start] + shift_s:
        start -= 1
    return start


def redate(log: CameraLog, journal: Journal, first_time: float, shift_s: float, clock: str) -> int:
    """Moves the frames from `first_time` on, and those before that must go with them; how many that are.

    `clock`: stands in their metadata from then on. StorageError if the rows cannot be written: nothing is moved then.
    """
    times = times_of(log)
    start = int(np.searchsorted(times, first_time))
    if start == len(times):
        return 0
    start = first_moved(times, start, shift_s)
    _move(log, journal, start, len(times), shift_s, clock)
    return len(times) - start


def put_in_order(log: CameraLog, journal: Journal, clock: str) -> int:
    """Moves back whatever lies after a later frame; how many frames that are, 0 as a rule.

    After a rebuild of the journal, frames have the times that they were written with.
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
            _move(log, None, start, stop, shift_s, clock)  # the next start finds the same again
        num_moved += stop - start


def _move(log: CameraLog, journal: Journal | None, start: int, stop: int, shift_s: float, clock: str) -> None:
    ids: Int64 = np.concatenate([s.frame_ids[: s.count] for s in log.segments])[start:stop]

    def moved(time: float, metadata: str) -> tuple[float, str]:
        return time + shift_s, _marked(metadata, clock)

    if journal is not None:
        journal.redate(log.camera, int(ids[0]), int(ids[-1]), moved)
    first = 0
    for segment in log.segments:
        lo, hi = max(0, start - first), min(segment.count, stop - first)
        first += segment.count
        if lo >= hi:
            continue
        if segment.block is not None:
            segment.block.dissolve()  # its times are of before
        times = segment.times.copy()  # views taken earlier keep the old ones
        times[lo:hi] += shift_s
        segment.times = times
        for slot in range(lo, hi):
            if not segment.gone[slot]:  # what is erased has no metadata any more
                segment.metadata[slot] = _marked(segment.metadata[slot], clock)


def _marked(metadata: str, clock: str) -> str:
    return json.dumps({**load_metadata(metadata), "clock": clock}, separators=(",", ":"))
