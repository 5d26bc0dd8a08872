"""The times of frames: decide when a change of the system clock is believed, and under which time each frame is stored.

The system clock may be set while the agent runs (by NTP after the start, by hand, by a fault). This is called a step:
the difference between the system clock and the monotonic clock jumps. After a step the agent first continues in the old
time. The step is believed when the system clock has run as fast as the monotonic clock for a while; then the agent
adopts the new time. So a wrong time of a few seconds changes nothing, and a correction is adopted once, in full.

Example with `settle_s` 10: the clock is right until 100 s, then an hour ahead for 6 s, then right again. `now` never
includes that hour. At 200 s the clock is set an hour ahead for good. From 210 s on, `now` is an hour ahead too.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from memory.store import MemoryStore

log = logging.getLogger(__name__)

STEP_S = 2.0  # smaller differences come from NTP slewing, or from reading two clocks one after the other
EARLIEST = 1_704_067_200.0  # 2024-01-01: a clock that shows an earlier time was never set
STAMPS_SETTLE_S = 10.0  # for the times of frames, which can be corrected later
AGES_SETTLE_S = 3600.0  # for the age limit, because deleted frames cannot be brought back
LONG_AGO_S = 30 * 86_400.0  # a newest frame this old at the start means a long pause or a wrong clock

_MIN_STEP_S = 0.001  # smallest difference between the times of two frames of one camera
_FRAME_STEP_S = 1.0  # assumed time between the last frame of an earlier run and the first of this one
_MAX_AHEAD_S = 3.0  # on top of `max_skew_s`: a frame stamped later than that was stamped by a wrong clock
_MAX_AGE_S = 60.0  # an older frame comes from a recording, so its time does not depend on the system clock


def running_s() -> float:
    """Return the seconds of a monotonic clock, which nobody can set and which also runs while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(slots=True)
class _Step:
    """A step of the system clock (it was set to another time) that the agent does not believe yet."""

    offset: float  # system clock minus monotonic clock
    since: float  # monotonic seconds


class SteadyClock:
    """A clock that follows the system clock, but adopts a sudden change ("step") of it only after `settle_s` seconds.

    Its time is the "believed" time.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self.offset: float | None = None  # believed time minus monotonic time
        self._first: float | None = None  # monotonic time of the first reading
        self._step: _Step | None = None

    def now(self, monotonic: float, wall: float) -> float:
        """Return this clock's unix time, the "believed" time, which follows the system clock cautiously.

        monotonic, wall: the current readings of the monotonic and the system clock.

        Call it at least every few seconds, because only these calls detect steps.
        """
        offset = wall - monotonic
        if self.offset is None or self._first is None:
            self.offset, self._first = offset, monotonic
        if abs(offset - self.offset) <= STEP_S:
            self.offset, self._step = offset, None  # a small difference, as when NTP slews the clock
        elif self._step is None or abs(offset - self._step.offset) > STEP_S:
            self._step = _Step(offset, monotonic)
        elif monotonic - self._step.since >= self._settle_s and wall >= EARLIEST:
            self.offset, self._step = offset, None
        else:
            self._step.offset = offset
        return monotonic + self.offset

    def settled(self, monotonic: float) -> bool:
        """Return whether this clock's time can be relied on.

        It can if it agrees with the system clock (no sudden change of that one is waiting to be believed) and was first
        read at least `settle_s` ago. monotonic: the current reading of the monotonic clock.
        """
        return self._step is None and self._first is not None and monotonic - self._first >= self._settle_s

    @property
    def step_s(self) -> float:
        """System clock minus believed time (that of this clock), in seconds; 0.0 while they agree."""
        return 0.0 if self._step is None or self.offset is None else self._step.offset - self.offset


@dataclass(frozen=True, slots=True)
class Moment:
    """A reading of all clocks."""

    time: float  # believed unix time, used for frames
    running: float  # monotonic seconds
    step_s: float  # system clock minus `time`, 0.0 while they agree
    settled: bool  # the system clock is believed, and has been read for long enough
    age_from: float  # unix seconds from which the ages of frames are counted, for the age limit

    @property
    def offset(self) -> float:
        """Believed time (the agent's own clock) minus monotonic time, in seconds.

        It changes by more than STEP_S only when a step is believed.
        """
        return self.time - self.running

    def believed(self, time: float) -> float:
        """Return a frame's time as believed time. time: unix seconds, from the system clock.

        If the clock has made a step that is not believed, the step is subtracted. A time that is nearer to the present
        without that was taken before the step, and is returned unchanged.
        """
        before_step = time - self.step_s
        return before_step if abs(before_step - self.time) < abs(time - self.time) else time


class WallClock:
    """Two clocks, for the times and for the ages of frames, that adopt a new system time only after a while.

    The one for ages waits longer (`ages_settle_s`), because frames deleted by age cannot be brought back. Reads no
    clock: the readings of the system clock and of the monotonic clock are arguments.
    """

    def __init__(
        self,
        newest: float | None = None,
        *,
        stamps_settle_s: float = STAMPS_SETTLE_S,
        ages_settle_s: float = AGES_SETTLE_S,
    ) -> None:
        """newest: unix time of the newest stored frame. A system clock that is far later at the start is not believed
        at once for ages, because the age limit could then delete all frames."""
        self._newest = newest
        self._from_start = False  # the clock was far later than the newest frame at the start, and is not believed yet
        self._stamps = SteadyClock(stamps_settle_s)
        self._ages = SteadyClock(ages_settle_s)
        self._shown_s = ages_settle_s  # how long a short wrong time (glitch) is reported after its end
        self._wall: float | None = None
        self._glitch: tuple[float, float] | None = None  # monotonic time of its end; its size in seconds

    def now(self, monotonic: float, wall: float) -> Moment:
        """Return the moment for these readings. monotonic: seconds of `running_s`. wall: the system clock, unix seconds."""
        self._wall = wall
        believed = self._stamps.now(monotonic, wall)
        if self._newest is not None and wall - self._newest > LONG_AGO_S:
            self._ages.now(monotonic, self._newest)
            self._from_start = True
        self._newest = None  # only the first reading is compared with it
        step_s, before = self._ages.step_s, self._ages.offset
        aged = self._ages.now(monotonic, wall)
        self._from_start = self._from_start and self._ages.step_s > LONG_AGO_S
        if step_s and not self._ages.step_s and before is not None and abs(before + monotonic - aged) <= STEP_S:
            self._glitch = monotonic, step_s
        elif self._glitch is not None and monotonic - self._glitch[0] > self._shown_s:
            self._glitch = None
        age_from = min(wall, believed, aged)
        return Moment(believed, monotonic, self._stamps.step_s, self._stamps.settled(monotonic), age_from)

    @property
    def problem(self) -> str | None:
        """Why times are uncertain, as text for the operator; None while the clock is fine."""
        if self._wall is not None and self._wall < EARLIEST:
            return "the system clock has not been set: frames have wrong times. Set it, or switch NTP on"
        step_s = self._stamps.step_s
        if step_s:
            return (
                f"the system clock was {_set(step_s)}: until it is steady, frames continue in the old time and are marked as "
                "uncertain"
            )
        if self._ages.step_s and self._from_start:
            return (
                f"the system clock is {_amount(self._ages.step_s)} after the newest picture: for an hour no frame is deleted "
                "because of its age. If the clock is wrong, set it and restart"
            )
        if self._ages.step_s:
            return (
                f"the system clock was {_set(self._ages.step_s)}: times around that moment are uncertain, and for an hour no "
                "frame is deleted because of its age. Check NTP"
            )
        if self._glitch is not None:
            return (
                f"the system clock was {_set(self._glitch[1])} for a while and is right again: frames of that time are marked "
                "as uncertain or corrected, and none was deleted. Check NTP"
            )
        return None


class Clock:
    """The agent's clock: reads the system and the monotonic clock. Thread-safe.

    A change of the system clock affects the times it returns only once the change has lasted for a while (`WallClock`).
    """

    def __init__(self, wall: Callable[[], float], running: Callable[[], float], newest: float | None = None) -> None:
        """wall: returns the system clock's unix seconds. running: returns monotonic seconds. newest: see `WallClock`."""
        self._wall, self._running = wall, running
        self._lock = threading.Lock()
        self._believed = WallClock(newest)

    @property
    def problem(self) -> str | None:
        """Why times are uncertain, as text for the operator; None while the clock is fine."""
        return self._believed.problem

    def read(self) -> Moment:
        """Read all clocks. A problem that begins is logged."""
        with self._lock:
            before = self.problem
            moment = self._believed.now(self._running(), self._wall())
            if before is None and self.problem is not None:
                log.warning("clock", extra={"problem": self.problem})
            return moment

    def now(self) -> float:
        """Return the agent's unix time, which is used for the times of frames."""
        return self.read().time


def rising(time: float, last: float) -> float:
    """Return `time`, or 1 ms after `last` when `time` is not later than that.

    The memory needs rising times, and a second publisher's clock may be behind the first one's.
    Example: rising(10.0, 12.0) = 12.001; rising(13.0, 12.0) = 13.0.
    """
    return time if time > last else last + _MIN_STEP_S


@dataclass(frozen=True, slots=True)
class Stamp:
    """The time under which one frame is stored, and where that time comes from. Times in unix seconds."""

    time: float
    clock: str  # stored in the frame's metadata: the clock that `time` comes from, or "uncertain"
    age_from: float  # unix seconds from which the ages of frames are counted, for the age limit
    last_time: float = -math.inf  # time of the camera's newest stored frame


@dataclass(slots=True)
class _Epoch:
    """The frames that live cameras sent between two moments at which the system clock was set forward.

    Only changes of the clock that the agent believed count.
    """

    first_time: float  # of its first frame; an epoch lasts until the next one begins
    offset: float  # the clock that stamped its frames minus the monotonic clock
    moved_back_s: float = 0.0  # how far its frames were moved back, to move them forward again if that was wrong


class Stamper:
    """Stamps the frames of one camera, and corrects the times of stored frames when the system clock was ahead.

    Frames of a camera are stored in the order of their arrival, with rising times. While a step of the system clock is
    not believed, frames get the old time and are marked "uncertain". When a step forward is believed, new frames get
    the new time and begin a new epoch; older frames keep theirs. When a step back is believed, the clock had been
    ahead: the frames of the epochs that were ahead are moved back by the size of the step, and marked "corrected". If a
    step forward follows later, the step back was the mistake, and the frames are moved forward again. Frames that an
    earlier run of the agent stamped in the future are moved to before now and marked "uncertain", because the size of
    that error is unknown.

    Blocking: writes to the memory. One caller at a time.

    Example: the clock is right for an hour, a day ahead for a minute, and right again. The step forward, once believed,
    begins a second epoch. When the step back is believed, the second epoch's frames are moved back by a day and join
    the first epoch, whose frames keep their times.
    """

    def __init__(self, camera: str, store: MemoryStore, read_clock: Callable[[], Moment], max_skew_s: float) -> None:
        self._camera = camera
        self._store = store
        self._read_clock = read_clock
        self._max_ahead_s = max_skew_s + _MAX_AHEAD_S
        self._epochs: list[_Epoch] = []  # oldest first, offsets rising
        self._last_running: float | None = None  # monotonic time of the last live frame

    def stamp(self, time: float, clock: str, last_time: float) -> Stamp:
        """Return the stamp of a new frame: the time under which it is stored, and where that time comes from.

        May correct the times of stored frames first.

        time: unix seconds that the source gives the frame. clock: where that time comes from ("file": a recording).
        last_time: of the camera's newest stored frame; the returned stamp has its value after a correction.
        """
        moment = self._read_clock()
        if clock != "file":
            time = moment.believed(time)
        if clock == "file" or not -_MAX_AGE_S <= time - moment.time <= self._max_ahead_s:
            return Stamp(time, clock, moment.age_from, last_time)
        last_time = self._settled(moment, last_time, live=True)
        if last_time > moment.time + self._max_ahead_s:  # a frame of an earlier run, and the clock is not believed yet
            since_s = 0.0 if self._last_running is None else moment.running - self._last_running
            time, clock = last_time + max(since_s, _MIN_STEP_S), "uncertain"
        else:
            if not self._epochs or moment.offset > self._epochs[-1].offset + STEP_S:
                self._epochs.append(_Epoch(rising(time, last_time), moment.offset))
            clock = "uncertain" if moment.step_s else clock
        self._last_running = moment.running
        return Stamp(time, clock, moment.age_from, last_time)

    def settle(self, last_time: float) -> float:
        """Correct stored times if the clock was set and its new time is believed by now.

        Return the newest frame's time.
        """
        return self._settled(self._read_clock(), last_time, live=False)

    def _settled(self, moment: Moment, last_time: float, *, live: bool) -> float:
        if not self._epochs:
            if not live or not moment.settled or last_time <= moment.time + self._max_ahead_s:
                return last_time
            since_s = _FRAME_STEP_S if self._last_running is None else moment.running - self._last_running
            return self._move(last_time, moment.time - since_s - last_time, "uncertain")
        step_s = moment.offset - self._epochs[-1].offset
        if abs(step_s) <= STEP_S:  # a small difference, as when NTP slews the clock
            for epoch in self._epochs:
                epoch.offset += step_s
        elif step_s > 0:
            last_time = self._undo(min(step_s, self._epochs[-1].moved_back_s), last_time)
        while self._epochs[-1].offset > moment.offset + STEP_S:
            last_time = self._move_back(moment.offset)
        return last_time

    def _move_back(self, offset: float) -> float:
        """Set back the times of the frames since the clock was last set forward. Return the newest frame's time.

        They are moved until they fit `offset` (believed minus monotonic time) or until they follow the frames before
        them.
        """
        newest = self._epochs[-1]
        before = self._epochs[-2].offset if len(self._epochs) > 1 else -math.inf
        if before < offset:
            return self._shift_newest(offset - newest.offset)
        self._epochs.pop()
        return self._move(newest.first_time, before - newest.offset, "corrected")

    def _undo(self, shift_s: float, last_time: float) -> float:
        """Add `shift_s` to the times of frames that had been moved back wrongly.

        Return the newest stored frame's time.
        """
        return last_time if shift_s <= STEP_S else self._shift_newest(shift_s)

    def _shift_newest(self, shift_s: float) -> float:
        newest = self._epochs[-1]
        last_time = self._move(newest.first_time, shift_s, "corrected")
        newest.first_time, newest.offset = newest.first_time + shift_s, newest.offset + shift_s
        newest.moved_back_s -= shift_s
        return last_time

    def _move(self, first_time: float, shift_s: float, clock: str) -> float:
        num_moved = self._store.redate(self._camera, first_time, shift_s, clock)
        details = {"camera": self._camera, "frames": num_moved, "seconds": round(shift_s, 3), "clock": clock}
        log.warning("frame times corrected: the system clock had been wrong", extra=details)
        newest = self._store.stats(self._camera).newest
        return -math.inf if newest is None else newest


def _set(step_s: float) -> str:
    return f"set {'forward' if step_s > 0 else 'back'} by {_amount(step_s)}"


def _amount(step_s: float) -> str:
    seconds = abs(step_s)
    if seconds < 7200:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
