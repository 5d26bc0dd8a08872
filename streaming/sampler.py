"""Which frames to keep: a target rate out of uneven timestamps.

Pure: time comes in as an argument, no clock is read. Does not know what a frame is.
"""

import math


class Sampler:
    """Keeps about `rate_hz` frames a second, at most one in each period of a fixed grid, so it never drifts.

    The grid starts at the first frame. A frame is kept when it is the nearest one to the next grid point as far as the
    last gap between frames tells: half that gap (at most half a period) counts as "early enough".

    Worked example, 1 Hz: frames every 0.25 s from 100.0 keep 100.0, 101.0, 102.0. A 1 fps camera with jitter,
    100.0, 101.03, 101.97, 103.02, keeps all four, though 101.97 lies before the grid point 102.
    """

    def __init__(self, rate_hz: float = 1.0) -> None:
        if not rate_hz > 0:
            raise ValueError(f"rate_hz must be above 0, not {rate_hz}")
        self._period_s = 0.0 if math.isinf(rate_hz) else 1.0 / rate_hz
        self._origin: float | None = None
        self._cell = 0
        self._last = 0.0

    def keep(self, time: float) -> bool:
        """True if the frame captured at `time` (unix seconds) is to be kept. A step back restarts the grid."""
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
