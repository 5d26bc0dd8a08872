"""Timestamps of a file to times that rise strictly, whatever the file says. Pure."""

import math

USUAL_INTERVAL_S = 0.04  # 25 frames a second, where nothing better is known
_SLOWEST_S, _FASTEST_S = 3600.0, 0.001  # between two frames: what lies outside is a mistake
_LONGEST_JITTER_S = 1.0
_JITTER = 2.0  # a step back by so many intervals is disorder, not another recording
_GAP = 10.0  # a step forward by so many of the longest interval seen is another recording
_ALIKE = 0.5  # of the step before: pictures taken at an interval, such as a time-lapse
_LONGEST_LAPSE_S = 86_400.0  # between its pictures
_MIN_STEP_S = 0.001
_STUCK = 2  # as often in a row may a timestamp come again before it counts as missing


class FileTimes:
    """Presentation times of a file to unix seconds, strictly rising.

    The first frame is `start`. Frames without a timestamp follow one another by their own duration, or `interval_s`.
    Where timestamps step back, or forward by more than `gap_s` (joined recordings, a clock that was set, broken muxers),
    the frame follows the last one by the usual interval, and so does what comes after it. A gap is not taken for a step
    where the file has shown frames nearly as far apart before.

    start=100, interval 0.04: 5.0, 5.04, None, 5.12, 0.0, 0.04 -> 100, 100.04, 100.08, 100.12, 100.16, 100.2
    """

    def __init__(self, start: float, interval_s: float, *, gap_s: float = 10.0) -> None:
        self.num_joined = 0  # steps that were taken out
        self.longest_step_s = 0.0  # of these
        self._interval_s = sane_interval(interval_s)
        self._gap_s = gap_s
        self._longest_s = self._interval_s  # between two frames so far
        self._start = start
        self._last: float | None = None
        self._last_media_s: float | None = None
        self._num_stuck = 0
        self._offset = 0.0
        self._stepped_s: float | None = None  # forward, right before the last frame
        self._offset_before = 0.0

    def next(self, media_s: float | None, duration_s: float | None = None) -> float:
        """The time of the next frame in presentation order. `duration_s`: how long it is shown, where it says so."""
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
        """Where a frame with this timestamp belongs. Joins it to the last one where it steps."""
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
            if time > self._last:
                return self._resumed(time)
        self.num_joined += 1
        self._stepped_s, self._offset_before = (gap_s if 0 < gap_s <= _LONGEST_LAPSE_S else None), self._offset
        self.longest_step_s = max(self.longest_step_s, abs(gap_s))
        # Not the last frame's own duration: some containers count the step as part of it.
        time = self._last + min(interval_s, self._longest_s)
        self._offset = time - media_s
        return time

    def _resumed(self, time: float) -> float:
        """The step before this one was none: frames come at that interval. Back to the times as the file has them."""
        self.num_joined -= 1
        if self._stepped_s is not None:
            self._longest_s = max(self._longest_s, self._stepped_s)
        self._stepped_s, self._offset = None, self._offset_before
        return time


def sane_interval(interval_s: float | None, otherwise_s: float = USUAL_INTERVAL_S) -> float:
    """`interval_s`, or `otherwise_s` where it is missing or absurd."""
    if interval_s is None or not _FASTEST_S <= interval_s <= _SLOWEST_S:
        return otherwise_s
    return interval_s
