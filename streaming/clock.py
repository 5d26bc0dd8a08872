"""Compute when a live camera captured its frames and when a file shows its frames, and choose which frames to keep.

This module reads no clock: arrival times are arguments.
"""

import math
from collections import deque
from fractions import Fraction
from statistics import median

import av

from streaming.frame import ClockName

_WRAP_TICKS = 1 << 32  # RTP timestamps have 32 bits
_MIN_STEP_S = 0.001
_MAX_STEP_S = 1.0
_FEWEST_REPORTS, _REPORTS = 3, 5  # so many count
_REPORTS_DIFFER_S = 0.08  # from their median, when they agree
_REPORT_INTERVAL_S = 0.5  # between two reports that are compared
_MAX_AHEAD_S = 3.0  # beyond `max_skew_s`: a last frame further in the future was stamped by a wrong clock

_SOON_S = 2.0  # a sender's clock may be ahead of ours by so much
_LONGEST_LAG_S = 60.0  # between capture and arrival
_LONGEST_BURST_S = 30.0  # longest segment, and longest gap between two timestamps
_DISORDER_S = 1.0
_DRIFT = 0.001  # more than any two clocks differ

USUAL_INTERVAL_S = 0.04  # 25 frames a second, if the file declares no rate
_SLOWEST_S, _FASTEST_S = 3600.0, 0.001  # plausible intervals between two frames
_LONGEST_JITTER_S = 1.0
_JITTER = 2.0  # a step back by at most so many intervals is disorder, not another recording
_GAP = 10.0  # a step forward by more than so many of the longest interval seen is another recording
_ALIKE = 0.5  # steps this similar, relative to the first, are the interval of a time-lapse
_LONGEST_LAPSE_S = 86_400.0  # between the pictures of a time-lapse
_STUCK = 2  # a timestamp repeated so often in a row counts as missing


def ticks_between(later: int, earlier: int) -> int:
    """Return the signed difference of two RTP timestamps, which wrap at 2**32: `ticks_between(5, 2**32 - 5) == 10`."""
    difference = (later - earlier) % _WRAP_TICKS
    return difference - _WRAP_TICKS if difference >= _WRAP_TICKS // 2 else difference


class CaptureClock:
    """Maps each frame of a live camera to its capture time, strictly rising while our clock is not set back.

    Our clock is the system clock of this machine, by which arrival times are given. Cameras send reports of their own
    clock: its time at a certain RTP timestamp (in ticks). A report is used if its time differs from our clock by at
    most `max_skew_s`. Three or more give the capture time of each frame from the frame's ticks, if they agree: between
    them, ticks must advance at the clock rate. Then the median of the last ones counts while most of them agree, as a
    sender may read its clock late at times. This time is used if the frame arrived at most `max_delay_s` after it and
    at most `max_skew_s` before it. All other frames get their arrival time.

    If times would step back (at a first report, or with another publisher), they advance at half speed for a few
    seconds until they are right again, so that the order of frames and the sampling are kept. If the last frame's time
    is further in the future than this can explain, our clock was set back, and times restart at the arrival time.
    """

    def __init__(
        self, *, clock_rate_hz: float = 90_000.0, max_skew_s: float = 2.0, max_delay_s: float = 30.0,
    ) -> None:  # fmt: skip
        self._rate_hz = clock_rate_hz
        self._max_skew_s = max_skew_s
        self._max_delay_s = max_delay_s
        self._reports: deque[tuple[float, int, float]] = deque(maxlen=_REPORTS)  # (unix seconds, ticks, arrival)
        self._agreed: tuple[float, int] | None = None  # (unix seconds, ticks)
        self._last: float | None = None
        self._last_wanted: float | None = None

    def continue_after(self, last: float | None) -> None:
        """Make all times later than `last`, the camera's last frame in an earlier session, in unix seconds."""
        self._last = last

    def restart(self, clock_rate_hz: float) -> None:
        """Begin a new connection: forget the camera's report of its clock, as RTP timestamps start anew.

        Times continue to rise.
        """
        self._rate_hz, self._agreed = clock_rate_hz, None
        self._reports.clear()

    def report(self, sender_time: float, ticks: int, arrival: float) -> bool:
        """Store a report: the sender's clock showed `sender_time` at the RTP timestamp `ticks`.

        Return whether frames get their time from the sender's clock from now on.
        """
        if abs(sender_time - arrival) > self._max_skew_s:
            self._reports.clear()
        elif not self._reports or not 0 <= arrival - self._reports[-1][2] < _REPORT_INTERVAL_S:
            self._reports.append((sender_time, ticks, arrival))
        self._agreed = self._agreement(ticks)
        return self._agreed is not None

    def _agreement(self, ticks: int) -> tuple[float, int] | None:
        """Return the sender's time at `ticks`, the median of all reports; None if they are too few or contradictory."""
        times = [time + ticks_between(ticks, then) / self._rate_hz for time, then, _ in self._reports]
        if len(times) < _FEWEST_REPORTS:
            return None
        middle = median(times)
        num_near = sum(abs(time - middle) <= _REPORTS_DIFFER_S for time in times)
        agree = num_near == len(times) or (self._agreed is not None and 2 * num_near > len(times))
        return (middle, ticks) if agree else None

    def capture_time(self, ticks: int | None, arrival: float) -> tuple[float, ClockName]:
        """Return the frame's time in unix seconds, and which clock gave it: "sender" or "arrival"."""
        wanted, clock = self._wanted(ticks, arrival)
        return self.rising(wanted, arrival), clock

    def rising(self, wanted: float, arrival: float) -> float:
        """Return `wanted`, the capture time of a frame by other means, in unix seconds, so that times rise strictly."""
        if self._last is not None and self._last > arrival + self._max_skew_s + _MAX_AHEAD_S:
            self._last = self._last_wanted = None
        time = wanted
        if self._last is not None and wanted <= self._last:
            advance_s = 0.0 if self._last_wanted is None else wanted - self._last_wanted
            time = self._last + min(max(advance_s / 2, _MIN_STEP_S), _MAX_STEP_S)
        self._last, self._last_wanted = time, wanted
        return time

    def _wanted(self, ticks: int | None, arrival: float) -> tuple[float, ClockName]:
        if ticks is not None and self._agreed is not None:
            sender_time, report_ticks = self._agreed
            time = sender_time + ticks_between(ticks, report_ticks) / self._rate_hz
            if -self._max_skew_s <= arrival - time <= self._max_delay_s:
                return time, "sender"
        return arrival, "arrival"


class BurstClock:
    """Maps the timestamps of a live stream that arrives in bursts to unix seconds, such as HLS.

    A frame's time is its timestamp plus an offset: the smallest difference between arrival and timestamp, because the
    last frame of a burst is the one that waited least. The offset slowly rises again, in case the sender's clock runs
    slower than ours. If the timestamps jump, it starts anew.

    Frames of 0, 1, 2 s that all arrive at 102.0, then of 3, 4, 5 s at 105.0 -> 100, 101, 102, 103, 104, 105 if the stream
    began at 100.0.
    """

    def __init__(self, began: float, *, declared: float | None = None) -> None:
        """`began`: unix seconds, the earliest possible time of the first frame. `declared`: the first frame's time, by
        the sender; it is used if it is plausible.
        """
        self._offset: float | None = None
        self._began = began
        self._declared = declared
        self._last = 0.0, 0.0  # (arrival, timestamp)

    def time(self, media_s: float, arrival: float) -> tuple[float, ClockName]:
        """Return the capture time of a frame with this timestamp, and which clock gave it: "sender" or "arrival"."""
        if self._offset is None:
            if self._declared is not None and not -_SOON_S <= arrival - self._declared <= _LONGEST_LAG_S:
                self._declared = None
            self._offset = (self._began if self._declared is None else self._declared) - media_s
        else:
            passed_s, played_s = arrival - self._last[0], media_s - self._last[1]
            jumped = not -_DISORDER_S <= played_s <= _LONGEST_BURST_S or passed_s - played_s > _LONGEST_LAG_S
            if jumped or media_s + self._offset < arrival - _LONGEST_LAG_S:
                self._offset, self._declared = arrival - media_s, None
            elif self._declared is None:
                self._offset = min(arrival - media_s, self._offset + _DRIFT * max(0.0, passed_s))
        self._last = arrival, media_s
        return media_s + self._offset, "arrival" if self._declared is None else "sender"


class FileTimes:
    """Maps presentation timestamps of a file to unix seconds, which rise strictly even if the timestamps do not.

    The first frame is at `start`. A frame without a timestamp follows the one before it by that one's duration, or by
    `interval_s` if that is unknown. Timestamps may step back, or forward by more than `gap_s`: in joined recordings,
    after a clock was set, or because of a faulty muxer. After such a step, the frame follows the last one by the usual
    interval, and all later frames are shifted with it. A gap does not count as a step if the file has shown frames
    nearly as far apart before.

    start=100, interval 0.04: 5.0, 5.04, None, 5.12, 0.0, 0.04 -> 100, 100.04, 100.08, 100.12, 100.16, 100.2
    """

    def __init__(self, start: float, interval_s: float, *, gap_s: float = 10.0) -> None:
        self.num_joined = 0  # steps that were removed
        self.longest_step_s = 0.0  # the longest of them
        self._interval_s = sane_interval(interval_s)
        self._gap_s = gap_s
        self._longest_s = self._interval_s  # longest interval between two frames so far
        self._start = start
        self._last: float | None = None
        self._last_media_s: float | None = None
        self._num_stuck = 0
        self._offset = 0.0
        self._stepped_s: float | None = None  # size of the step forward right before the last frame
        self._offset_before = 0.0

    def next(self, media_s: float | None, duration_s: float | None = None) -> float:
        """Return the time of the next frame in presentation order, in unix seconds.

        `media_s`: its timestamp in the file, None if missing. `duration_s`: how long it is shown, if known.
        """
        interval_s, self._interval_s = self._interval_s, sane_interval(duration_s, self._interval_s)
        if media_s is not None and not math.isfinite(media_s):
            media_s = None
        self._num_stuck = self._num_stuck + 1 if media_s is not None and media_s == self._last_media_s else 0
        if media_s is None or self._num_stuck >= _STUCK:
            time = self._start if self._last is None else self._last + interval_s
        else:
            time = self._placed(media_s, interval_s)
            self._last_media_s = media_s
        self._last = time
        return time

    def _placed(self, media_s: float, interval_s: float) -> float:
        """Return the time of a frame with this timestamp.

        If the timestamp steps back or far forward, it is the last time plus the usual interval.
        """
        if self._last is None or self._last_media_s is None:  # the first timestamp
            time = self._start if self._last is None else self._last + interval_s
            self._offset = time - media_s
            return time
        wanted = media_s + self._offset
        gap_s = wanted - self._last
        if 0 < gap_s <= max(self._gap_s, _GAP * self._longest_s):
            self._stepped_s = None
            self._longest_s = max(self._longest_s, gap_s)
            return wanted
        if -_JITTER * min(interval_s, _LONGEST_JITTER_S) <= gap_s <= 0:
            return self._last + min(_MIN_STEP_S, interval_s / 2)
        if self._stepped_s is not None and abs(gap_s - self._stepped_s) <= _ALIKE * self._stepped_s:
            time = media_s + self._offset_before
            if time > self._last:  # frames regularly come at this interval, so the previous gap was not a step: undo it
                self.num_joined -= 1
                self._longest_s = max(self._longest_s, self._stepped_s)
                self._stepped_s, self._offset = None, self._offset_before
                return time
        self.num_joined += 1
        self._stepped_s, self._offset_before = (gap_s if 0 < gap_s <= _LONGEST_LAPSE_S else None), self._offset
        self.longest_step_s = max(self.longest_step_s, abs(gap_s))
        # not the last frame's own duration: some containers include the step in it
        time = self._last + min(interval_s, self._longest_s)
        self._offset = time - media_s
        return time


class FileClock:
    """Computes when a file shows its frames, in seconds since the first frame.

    Steps of the timestamps are removed (see `FileTimes`); a sentence about them is stored in `remarks["times"]`.
    """

    def __init__(self, rates_hz: list[float], gap_s: float, remarks: dict[str, str]) -> None:
        """`rates_hz`: the frame rates that the file declares. `remarks`: gets the sentence about removed steps.

        `gap_s`: a longer gap counts as a step of the timestamps, unless it is within ten times the declared interval.
        """
        self.covered_s = 0.0  # from the first frame to the last
        self.shown_s = 0.0  # the same, plus how long the last one is shown
        self.reached_s = 0.0  # the largest timestamp in the file
        intervals_s = [sane_interval(1.0 / rate_hz) for rate_hz in rates_hz if rate_hz > 0] or [USUAL_INTERVAL_S]
        self._times = FileTimes(0.0, intervals_s[0], gap_s=max(gap_s, 10 * max(intervals_s)))
        self._remarks = remarks
        self._has_presentation_times = False

    @property
    def joined(self) -> bool:
        """Whether steps of the timestamps have been removed, as in a file of joined recordings."""
        return self._times.num_joined > 0

    def next(self, frame: av.VideoFrame) -> float:
        """Return the time of the next frame in presentation order, in seconds since the first."""
        self._has_presentation_times = self._has_presentation_times or frame.pts is not None
        # containers such as AVI only number the packets; the decoder passes these numbers on in rising order
        ticks = frame.pts if self._has_presentation_times else frame.dts
        return self.place(ticks, frame.duration, frame.time_base)

    def place(self, ticks: int | None, duration: int | None, time_base: Fraction | None) -> float:
        """Return when the file shows the next frame or packet, in seconds since its first frame.

        ticks, duration: its timestamp and duration in units of `time_base`.
        """
        duration_s = in_seconds(duration or None, time_base)
        media_s = in_seconds(ticks, time_base)
        if media_s is not None:
            self.reached_s = max(self.reached_s, media_s)
        elif self.covered_s == 0.0:
            rate_hz = 1.0 / sane_interval(duration_s)
            self._remarks["times"] = f"it has no timestamps: {rate_hz:.4g} frames per second assumed"
        num_joined = self._times.num_joined
        self.covered_s = self._times.next(media_s, duration_s)
        self.shown_s = self.covered_s + sane_interval(duration_s)
        if self._times.num_joined > num_joined:
            self._remarks["times"] = (
                f"its timestamps jump ({self._times.num_joined} times, by up to "
                f"{self._times.longest_step_s:.3g} s): the parts were joined without gaps"
            )
        elif num_joined and not self._times.num_joined:
            self._remarks["times"] = "its pictures are far apart, which first looked like a jump of its timestamps"
        return self.covered_s


def in_seconds(ticks: int | None, time_base: Fraction | None) -> float | None:
    """Return a timestamp in seconds; None if the ticks or the time base are unknown."""
    return None if ticks is None or not time_base else float(ticks * time_base)


def sane_interval(interval_s: float | None, otherwise_s: float = USUAL_INTERVAL_S) -> float:
    """Return `interval_s`, or `otherwise_s` if it is missing or implausible for two consecutive frames."""
    if interval_s is None or not _FASTEST_S <= interval_s <= _SLOWEST_S:
        return otherwise_s
    return interval_s


class Sampler:
    """Chooses about `rate_hz` frames a second from unevenly spaced ones, at most one per point of a fixed time grid.

    As the grid is fixed, the times do not drift. It starts at the first frame. A frame is kept if it is probably the
    nearest one to the next grid point: it comes after the point, or before it by at most half the last gap between
    frames (and at most half a period).

    At 1 Hz, frames every 0.25 s from 100.0 keep 100.0, 101.0, 102.0. A 1 fps camera with jitter, 100.0, 101.03, 101.97,
    103.02, keeps all four, though 101.97 lies before the grid point 102.
    """

    def __init__(self, rate_hz: float = 1.0) -> None:
        if not rate_hz > 0:
            raise ValueError(f"rate_hz must be above 0, not {rate_hz}")
        self._period_s = 0.0 if math.isinf(rate_hz) else 1.0 / rate_hz
        self._origin: float | None = None
        self._cell = 0
        self._last = 0.0

    def keep(self, time: float) -> bool:
        """Return whether to keep the frame captured at `time` (unix seconds). If times step back, the grid restarts."""
        if self._origin is None or time < self._last:
            self._origin, self._last, self._cell = time, time, 0
            return True
        gap, self._last = time - self._last, time
        if self._period_s == 0.0:
            return True
        early = min(gap, self._period_s) / 2
        cell = math.floor((time + early - self._origin) / self._period_s)
        if cell <= self._cell:
            return False
        self._cell = cell
        return True
