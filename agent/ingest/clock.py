"""Is the system's clock to be believed? It is compared with a clock that only runs.

A clock that is set (by NTP after the start, by hand, by a fault) steps against the monotonic clock. Until it has kept pace
with that for a while after a step, time goes on as if it had not stepped. So a glitch of seconds changes nothing, and a
correction is followed once, by its whole amount.

Worked example with `settle_s` 10: right until 100 s, then the clock is an hour ahead for 6 s and right again: `now` never
showed the hour. Then it is set ahead for good at 200 s: from 210 s on `now` shows the hour, too.

Pure: both clocks come in as arguments. Knows neither cameras nor memory.
"""

import time
from dataclasses import dataclass

STEP_S = 2.0  # less is what NTP slews and what two readings one after the other may differ by
EARLIEST = 1_704_067_200.0  # 2024-01-01: a clock before it has never been set
STAMPS_SETTLE_S = 10.0  # for the times of frames, which can be corrected later
LONG_AGO_S = 30 * 86_400.0  # the newest frame at the start: either nobody recorded for so long, or the clock is wrong
AGES_SETTLE_S = 3600.0  # for what is forgotten by age, which cannot be brought back


def running_s() -> float:
    """Seconds of a clock that only runs, also while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(slots=True)
class _Step:
    """The system's clock has left the believed one."""

    offset: float  # its own, against the monotonic clock
    since: float  # monotonic


class SteadyClock:
    """Believed time out of two clocks. `settle_s`: how long a stepped clock must keep pace before it is believed."""

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self.offset: float | None = None  # believed time - monotonic time
        self._first: float | None = None  # monotonic, of the first reading
        self._step: _Step | None = None

    def now(self, monotonic: float, wall: float) -> float:
        """The believed time, unix seconds. To be called every few seconds at least: steps are seen here."""
        offset = wall - monotonic
        if self.offset is None or self._first is None:
            self.offset, self._first = offset, monotonic
        if abs(offset - self.offset) <= STEP_S:
            self.offset, self._step = offset, None  # slewed
        elif self._step is None or abs(offset - self._step.offset) > STEP_S:
            self._step = _Step(offset, monotonic)
        elif monotonic - self._step.since >= self._settle_s and wall >= EARLIEST:
            self.offset, self._step = offset, None
        else:
            self._step.offset = offset
        return monotonic + self.offset

    def settled(self, monotonic: float) -> bool:
        """Whether the clock has kept pace since the first reading, or since its last step, for long enough."""
        return self._step is None and self._first is not None and monotonic - self._first >= self._settle_s

    @property
    def step_s(self) -> float:
        """By how much the system's clock is ahead of the believed one, and behind it where negative; 0.0: not at all."""
        return 0.0 if self._step is None or self.offset is None else self._step.offset - self.offset


@dataclass(frozen=True, slots=True)
class Moment:
    """A reading of all clocks. Unix seconds."""

    time: float  # believed, for the times of frames
    running: float  # monotonic seconds
    step_s: float  # the system's clock minus `time`, 0.0 while they agree
    settled: bool  # the clock has kept pace for long enough
    age_from: float  # what is older than this by the age limit may be forgotten

    @property
    def offset(self) -> float:
        """Changes only when a step is believed."""
        return self.time - self.running

    def believed(self, time: float) -> float:
        """`time` as the believed clock has it, where the system's clock stamped it after a step."""
        before_step = time - self.step_s
        return before_step if abs(before_step - self.time) < abs(time - self.time) else time


class WallClock:
    """The clocks of the agent: one for the times of frames, one that is slower to believe for their age."""

    def __init__(
        self,
        newest: float | None = None,
        *,
        stamps_settle_s: float = STAMPS_SETTLE_S,
        ages_settle_s: float = AGES_SETTLE_S,
    ) -> None:
        """`newest`: time of the newest frame that is remembered. A clock that is far from it at the start is not believed
        at once where that would forget everything."""
        self._newest = newest
        self._from_start = False  # the clock was far from the newest frame, and has not proved itself yet
        self._stamps = SteadyClock(stamps_settle_s)
        self._ages = SteadyClock(ages_settle_s)
        self._said_s = ages_settle_s  # for so long is a glitch that is over told of
        self._wall: float | None = None
        self._glitch: tuple[float, float] | None = None  # monotonic when it was over; by how much it was off

    def now(self, monotonic: float, wall: float) -> Moment:
        """Reads both. `monotonic`: seconds that only run; `wall`: the system's clock."""
        self._wall = wall
        believed = self._stamps.now(monotonic, wall)
        if self._newest is not None and wall - self._newest > LONG_AGO_S:
            self._ages.now(monotonic, self._newest)
            self._from_start = True
        self._newest = None  # that was the start
        step_s, before = self._ages.step_s, self._ages.offset
        aged = self._ages.now(monotonic, wall)
        self._from_start = self._from_start and self._ages.step_s > LONG_AGO_S
        if step_s and not self._ages.step_s and before is not None and abs(before + monotonic - aged) <= STEP_S:
            self._glitch = monotonic, step_s
        elif self._glitch is not None and monotonic - self._glitch[0] > self._said_s:
            self._glitch = None
        age_from = min(wall, believed, aged)
        return Moment(believed, monotonic, self._stamps.step_s, self._stamps.settled(monotonic), age_from)

    @property
    def problem(self) -> str | None:
        """Why times are uncertain, in words for an operator; None: the clock is as it should be."""
        if self._wall is not None and self._wall < EARLIEST:
            return "the system's clock has not been set: frames have wrong times. Set it, or switch NTP on"
        step_s = self._stamps.step_s
        if step_s:
            return (
                f"the system's clock was {_set(step_s)}: until it is steady, frames go on in the time before and are "
                "marked as uncertain"
            )
        if self._ages.step_s and self._from_start:
            return (
                f"the system's clock is {_amount(self._ages.step_s)} after the newest picture: for an hour nothing is "
                "forgotten by age. If that is not so, set the clock and restart"
            )
        if self._ages.step_s:
            return (
                f"the system's clock was {_set(self._ages.step_s)}: times around that moment are uncertain, and for an "
                "hour nothing is forgotten by the new time. Check NTP"
            )
        if self._glitch is not None:
            return (
                f"the system's clock was {_set(self._glitch[1])} for a while and is as before again: frames of that while "
                "are marked as uncertain or corrected, nothing was forgotten by it. Check NTP"
            )
        return None


def _set(step_s: float) -> str:
    return f"set {'forward' if step_s > 0 else 'back'} by {_amount(step_s)}"


def _amount(step_s: float) -> str:
    seconds = abs(step_s)
    if seconds < 7200:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
