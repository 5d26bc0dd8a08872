"""Words about the rows of a window: when a frame was taken, from when to when a visit lasted, and where it was seen."""

from collections.abc import Callable, Sequence

from agent.ask.pictures import whereabouts
from agent.times import format_clock, format_day, format_span, format_time
from memory.window import Window
from model.visit_search import Visit

LONG_VISIT_S = 60.0  # for visits of at least this length, the answer names the end as well as the beginning


class VisitWords:
    """Says when and where the frames of a window were taken. The camera is named if the question is about several."""

    def __init__(self, window: Window, zone_of: Callable[[str], str]) -> None:
        """zone_of: returns the time zone of a camera."""
        self._window = window
        self._zone_of = zone_of

    def camera(self, row: int) -> str:
        """Return the name of the camera of this row."""
        return self._window.cameras[int(self._window.camera_index[row])]

    def time(self, row: int) -> str:
        """Return the local time of the frame in this row, with the date if the window covers several days."""
        window, zone = self._window, self._zone_of(self.camera(row))
        days = {format_day(float(moment), zone) for moment in (window.times.min(), window.times.max())}
        return (format_clock if len(days) == 1 else format_time)(float(window.times[row]), zone)

    def with_camera(self, row: int, words: str) -> str:
        """Return the words, with the camera of the row if the window has several."""
        return f"{words} (camera {self.camera(row)})" if len(self._window.cameras) > 1 else words

    def at(self, row: int) -> str:
        """Return when the frame of this row was taken, and by which camera if there are several."""
        return self.with_camera(row, self.time(row))

    def is_long(self, visit: Visit) -> bool:
        """Return whether the end of the visit is worth naming."""
        return bool(self._window.times[visit.last] - self._window.times[visit.first] >= LONG_VISIT_S)

    def begin(self, visit: Visit) -> str:
        """Return when a visit began, and for a long one until when it lasted."""
        span = self.time(visit.first) + (f" to {self.time(visit.last)}" if self.is_long(visit) else "")
        return self.with_camera(visit.first, span)

    def span(self, visit: Visit) -> str:
        """Return from when to when a visit lasted: "from 14:03:22 to 14:05:00"."""
        if visit.first == visit.last:
            return f"at {self.at(visit.first)}"
        return self.with_camera(visit.first, f"from {self.time(visit.first)} to {self.time(visit.last)}")

    def total(self, visits: Sequence[Visit]) -> str:
        """Return how long all visits lasted together: "6 min 39 s"; "one frame" if none has a second one."""
        seconds = sum(float(self._window.times[visit.last] - self._window.times[visit.first]) for visit in visits)
        return format_span(seconds) if seconds else "one frame"

    def whereabouts(self, row: int) -> str:
        """Return the place in the frame's metadata; "" if none was sent."""
        return whereabouts(self._window.metadata(row))
