"""At what time is a frame of one camera remembered? Its own, the one that the clocks agree on, or the one after the last.

Memory holds a camera's frames in the order in which they came, with rising times. The system's clock may be set under
them. Then new frames go on in the old time, marked as uncertain, until the clock has kept pace for a while
(`clock.py`); what was stamped since the start is then moved by the same amount, marked as corrected, and new frames
follow it at their right time. What an earlier run of the agent stamped in the future is moved to before now, and marked as
uncertain: by how much its clock was wrong is not known.

Blocking, as it writes to memory. Knows no sources.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from agent.ingest.clock import STEP_S, Moment
from memory.store import MemoryStore

log = logging.getLogger(__name__)

_MIN_STEP_S = 0.001  # a frame is at least this much later than the one before it on its camera
_FRAME_STEP_S = 1.0  # between the last frame of an earlier run and the first of this one
_MAX_AHEAD_S = 3.0  # beyond `max_skew_s`: nothing stamps a frame later than that from now, but a wrong clock
_MAX_AGE_S = 60.0  # an older frame is no live one: a recording, which has times of its own


def rising(time: float, last: float) -> float:
    """`time`, or just after `last` when that would not be later.

    A second publisher whose clock runs behind the first would otherwise break the order that memory relies on. Worked
    example: rising(10.0, 12.0) = 12.001; rising(13.0, 12.0) = 13.0.
    """
    return time if time > last else last + _MIN_STEP_S


@dataclass(frozen=True, slots=True)
class Placed:
    """A frame's place in time. Unix seconds."""

    time: float
    clock: str  # what stands in its metadata: whose clock `time` is of, or "uncertain"
    age_from: float  # the age limit is measured from no later time
    last_time: float = -math.inf  # of the newest frame that is remembered


@dataclass(slots=True)
class _Epoch:
    """Live frames of this run under one setting of the clock."""

    first_time: float  # of its frames; they last until the next epoch
    offset: float  # of the clock that dated them, against the one that only runs
    moved_back_s: float = 0.0  # by so much, in case that this was the error


class Placing:
    """See the module. One caller at a time.

    Worked example: the clock is right for an hour, a day ahead for a minute, and right again. Two epochs; when the second
    step is believed, the minute's frames move back by a day and belong to the first epoch, whose frames stay.
    """

    def __init__(self, camera: str, store: MemoryStore, read_clocks: Callable[[], Moment], max_skew_s: float) -> None:
        self._camera = camera
        self._store = store
        self._read_clocks = read_clocks
        self._max_ahead_s = max_skew_s + _MAX_AHEAD_S
        self._epochs: list[_Epoch] = []  # oldest first, offsets rising
        self._last_running: float | None = None  # monotonic, of the last live frame

    def place(self, time: float, clock: str, last_time: float) -> Placed:
        """Where a frame belongs that its source dates `time`, after the newest one at `last_time`, which may move."""
        moment = self._read_clocks()
        if clock != "file":
            time = moment.believed(time)
        if clock == "file" or not -_MAX_AGE_S <= time - moment.time <= self._max_ahead_s:
            return Placed(time, clock, moment.age_from, last_time)
        last_time = self._settled(moment, last_time, live=True)
        if last_time > moment.time + self._max_ahead_s:  # of an earlier run; the clock has yet to prove itself
            since_s = 0.0 if self._last_running is None else moment.running - self._last_running
            time, clock = last_time + max(since_s, _MIN_STEP_S), "uncertain"
        else:
            if not self._epochs or moment.offset > self._epochs[-1].offset + STEP_S:
                self._epochs.append(_Epoch(rising(time, last_time), moment.offset))
            clock = "uncertain" if moment.step_s else clock
        self._last_running = moment.running
        return Placed(time, clock, moment.age_from, last_time)

    def settle(self, last_time: float) -> float:
        """Moves what is remembered, where a step of the clock has come to be believed; the time of the newest frame."""
        return self._settled(self._read_clocks(), last_time, live=False)

    def _settled(self, moment: Moment, last_time: float, *, live: bool) -> float:
        if not self._epochs:
            if not live or not moment.settled or last_time <= moment.time + self._max_ahead_s:
                return last_time
            since_s = _FRAME_STEP_S if self._last_running is None else moment.running - self._last_running
            return self._move(last_time, moment.time - since_s - last_time, "uncertain")
        step_s = moment.offset - self._epochs[-1].offset
        if abs(step_s) <= STEP_S:  # slewed
            for epoch in self._epochs:
                epoch.offset += step_s
        elif step_s > 0:
            last_time = self._undo(min(step_s, self._epochs[-1].moved_back_s), last_time)
        while self._epochs[-1].offset > moment.offset + STEP_S:
            last_time = self._move_back(moment.offset)
        return last_time

    def _move_back(self, offset: float) -> float:
        """Moves the newest epoch towards `offset`, at most until it is one with the epoch before it."""
        newest = self._epochs[-1]
        before = self._epochs[-2].offset if len(self._epochs) > 1 else -math.inf
        shift_s = max(offset, before) - newest.offset
        last_time = self._move(newest.first_time, shift_s, "corrected")
        if before >= offset:
            self._epochs.pop()
        else:
            newest.first_time, newest.offset = newest.first_time + shift_s, newest.offset + shift_s
            newest.moved_back_s -= shift_s
        return last_time

    def _undo(self, shift_s: float, last_time: float) -> float:
        """The newest epoch had been moved back in error."""
        if shift_s <= STEP_S:
            return last_time
        newest = self._epochs[-1]
        last_time = self._move(newest.first_time, shift_s, "corrected")
        newest.first_time, newest.offset = newest.first_time + shift_s, newest.offset + shift_s
        newest.moved_back_s -= shift_s
        return last_time

    def _move(self, first_time: float, shift_s: float, clock: str) -> float:
        num_moved = self._store.redate(self._camera, first_time, shift_s, clock)
        told = {"camera": self._camera, "frames": num_moved, "seconds": round(shift_s, 3), "clock": clock}
        log.warning("times corrected: the clock had been wrong", extra=told)
        newest = self._store.stats(self._camera).newest
        return -math.inf if newest is None else newest
