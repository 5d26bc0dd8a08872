"""When was this frame captured? Media ticks (RTP) to unix seconds.

Pure: arrival times come in as arguments. Does not know RTP packets, only ticks and pairs (wall clock, ticks) that a
sender reports (RTCP sender reports, or the reference times FFmpeg makes of them).
"""

from streaming.frame import ClockName

_WRAP_TICKS = 1 << 32  # RTP timestamps are 32 bits
_MIN_STEP_S = 0.001
_MAX_STEP_S = 1.0
_MAX_AHEAD_S = 3.0  # beyond `max_skew_s`: a last frame later than that from now was stamped by a clock that was wrong


def ticks_between(later: int, earlier: int) -> int:
    """Signed difference of two RTP timestamps across the wrap: `ticks_between(5, 2**32 - 5) == 10`."""
    difference = (later - earlier) % _WRAP_TICKS
    return difference - _WRAP_TICKS if difference >= _WRAP_TICKS // 2 else difference


class CaptureClock:
    """Maps each frame to its capture time, strictly rising while our own clock is not set back.

    A sender's report is believed if its wall clock lies within `max_skew_s` of ours; a frame mapped by it is believed
    if it arrived at most `max_delay_s` after and `max_skew_s` before its capture. All others get their arrival time.
    When the time would step back (a first report, another publisher) it goes on at half speed until it has been caught
    up with, so the order of frames and the sampling survive. That is a matter of seconds: when the last frame lies further
    in the future than any of this explains, our clock was set back, and a new epoch begins at its time.
    """

    def __init__(
        self, *, clock_rate_hz: float = 90_000.0, max_skew_s: float = 2.0, max_delay_s: float = 30.0,
        after: float | None = None,
    ) -> None:  # fmt: skip
        """`after`: unix seconds that all times must lie after (the camera's last frame, from an earlier session)."""
        self._rate_hz = clock_rate_hz
        self._max_skew_s = max_skew_s
        self._max_delay_s = max_delay_s
        self._report: tuple[float, int] | None = None  # (unix seconds, ticks)
        self._last = after
        self._last_wanted: float | None = None
        self.rejected_reports = 0

    def restart(self, clock_rate_hz: float) -> None:
        """The sender connected anew: its ticks start anew and old reports mean nothing; time still only rises."""
        self._rate_hz, self._report = clock_rate_hz, None

    def report(self, sender_time: float, ticks: int, arrival: float) -> bool:
        """Notes that the sender's clock said `sender_time` at `ticks`. False (counted) if it is too far from ours."""
        if abs(sender_time - arrival) > self._max_skew_s:
            self.rejected_reports += 1
            self._report = None
            return False
        self._report = (sender_time, ticks)
        return True

    def capture_time(self, ticks: int | None, arrival: float) -> tuple[float, ClockName]:
        """The frame's time in unix seconds, later than the last one or in a new epoch, and whose clock it came from."""
        if self._last is not None and self._last > arrival + self._max_skew_s + _MAX_AHEAD_S:
            self._last = self._last_wanted = None
        wanted, clock = self._wanted(ticks, arrival)
        time = wanted
        if self._last is not None and wanted <= self._last:
            advance_s = 0.0 if self._last_wanted is None else wanted - self._last_wanted
            time = self._last + min(max(advance_s / 2, _MIN_STEP_S), _MAX_STEP_S)
        self._last, self._last_wanted = time, wanted
        return time, clock

    def _wanted(self, ticks: int | None, arrival: float) -> tuple[float, ClockName]:
        if ticks is not None and self._report is not None:
            sender_time, report_ticks = self._report
            time = sender_time + ticks_between(ticks, report_ticks) / self._rate_hz
            if -self._max_skew_s <= arrival - time <= self._max_delay_s:
                return time, "sender"
        return arrival, "arrival"
