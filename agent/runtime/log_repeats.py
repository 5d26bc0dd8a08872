"""Limits repeated log lines: the first MOST of a kind in a minute are written, the others only counted.

The counts are written once a minute. Two lines are of the same kind if they have the same logger, the same level, the
same unformatted text (apart from numbers), and name the same camera, rule, receiver of alerts ("sink") or task.
Overload policy: after MAX_KINDS kinds in a minute, further lines of the same logger and level count as one kind.
"""

import logging
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TextIO

MOST = 5  # lines of one kind that are written in a window of WINDOW_S
WINDOW_S = 60.0
MAX_KINDS = 500
_NAMED = ("camera", "rule", "sink", "task", "part", "reason")
_NUMBERS = re.compile(r"0x[0-9a-f]+|[0-9]+", re.IGNORECASE)
_MAX_TEMPLATE_CHARS = 120

Kind = tuple[str, int, str, tuple[tuple[str, str], ...]]  # logger, level, template, names of camera, rule and so on


@dataclass(slots=True)
class Window:
    """The number of lines of each kind since `began` (monotonic seconds). Reads no clock. Not thread-safe."""

    began: float
    counts: dict[Kind, int]

    def passes(self, kind: Kind) -> bool:
        """Count one line. Return True if the line should be written, False if it is one of too many repeats."""
        if kind not in self.counts and len(self.counts) >= MAX_KINDS:
            kind = (kind[0], kind[1], "(lines of many kinds)", ())
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return self.counts[kind] <= MOST

    def held(self) -> dict[Kind, int]:
        """Return the number of repeated lines that were not written, by kind of line."""
        return {kind: number - MOST for kind, number in self.counts.items() if number > MOST}


class CountedLines(logging.StreamHandler[TextIO]):
    """Logging handler that writes to a stream. Of lines that repeat, it writes the first MOST and counts the others.

    num_lost: number of lines that could not be written.
    """

    def __init__(self, stream: TextIO, *, window_s: float = WINDOW_S, clock: Callable[[], float] = monotonic) -> None:
        super().__init__(stream)
        self.num_lost = 0
        self._window_s, self._clock = window_s, clock
        self._window = Window(clock(), {})
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, or only count it if it is a repeat. The caller holds the handler's lock."""
        if self._clock() - self._window.began >= self._window_s:
            self.summarise()
        if self._window.passes(kind_of(record)):
            super().emit(record)
        elif self._timer is None:  # the timer writes the counts even if no other line follows
            timer = threading.Timer(self._window_s, self._on_time)
            timer.daemon = True
            with suppress(RuntimeError):  # no thread can be started: the next line writes the counts
                timer.start()
                self._timer = timer

    def _on_time(self) -> None:
        with self.lock or threading.RLock():
            self._timer = None
            self.summarise()

    def summarise(self) -> None:
        """Write, for each kind, how many of its lines were not written. Begin a new window."""
        held = self._window.held()
        self._window = Window(self._clock(), {})
        for (name, level, template, named), number in held.items():
            record = logging.makeLogRecord(
                {"name": name, "levelno": level, "levelname": logging.getLevelName(level), **dict(named)}
            )
            record.msg, record.args = "said %d more times within a minute: %s", (number, template)
            super().emit(record)

    def close(self) -> None:
        """Write the counts of the current window, then close the handler."""
        with self.lock or threading.RLock():
            if self._timer is not None:
                self._timer.cancel()
            self.summarise()
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Count a line that could not be written, because of a full disk or a closed stream, in `num_lost`."""
        self.num_lost += 1


def kind_of(record: logging.LogRecord) -> Kind:
    """Return the kind of a line: two lines with the same kind count as repeats of each other."""
    text = record.msg if isinstance(record.msg, str) else str(record.msg)
    template = _NUMBERS.sub("#", text.partition("\n")[0][:_MAX_TEMPLATE_CHARS])
    named = tuple((name, str(getattr(record, name))[:80]) for name in _NAMED if hasattr(record, name))
    return record.name, record.levelno, template, named
