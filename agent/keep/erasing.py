"""Erase a period of one camera everywhere: frames, alerts, and all other data for which an eraser is added. Blocking.

An eraser is a function that erases one kind of data. A request is written to `erasures.json` in the data folder before
the first eraser runs, and removed after the last. If the process dies or the disk fails in between, `resume` completes
the request at the next start or the next housekeeping: it runs all erasers again, which does no harm. Frames that are
stored after the request are never erased by it, even if its period is open-ended. If the disk is too full to write the
request, the erasers run nevertheless, because they free space.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agent.runtime.files import replace_private
from memory.errors import FULL
from memory.files import sync_folder

log = logging.getLogger(__name__)

ERASURES_FILE = "erasures.json"

Eraser = Callable[[str, float, float], int]
"""(camera, after, before) -> number of things erased. Both bounds are included and may be infinite. Raises OSError."""


class NotErasedYet(Exception):
    """The erasure has begun and will be completed later; until then some of the data may still be on disk."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to erase. Bounds in unix seconds; None: unbounded."""

    camera: str
    after: float | None
    before: float | None

    @property
    def lower(self) -> float:
        return -math.inf if self.after is None else self.after

    @property
    def upper(self) -> float:
        return math.inf if self.before is None else self.before


class Erasing:
    """Erases a period of one camera with a list of functions ("erasers"), each of which erases one kind of data."""

    def __init__(
        self,
        data_dir: Path,
        *,
        clock: Callable[[], float] = time.time,
        newest: Callable[[str], float | None] = lambda camera: None,
    ) -> None:
        """newest: returns the time of a camera's newest frame, which is later than now if the clock was set back."""
        self._clock, self._newest = clock, newest
        self._path = data_dir / ERASURES_FILE
        self._erasers: list[tuple[str, Eraser]] = []
        self._one_at_a_time = threading.Lock()
        self._not_noted: list[Request] = []  # requests that the disk was too full to write
        self.problem: str | None = None  # why an erasure is not complete, as text for the operator

    def add(self, name: str, eraser: Eraser) -> None:
        """Add an eraser, a function that erases one kind of data.

        name: the key of its count in the result of `erase`.
        """
        self._erasers.append((name, eraser))

    def erase(self, request: Request, *, again: bool = False) -> dict[str, int]:
        """Erase the data by calling every eraser. Return how many things each has erased, by the name of the eraser.

        again: keep the request afterwards, so that `resume` of the running agent, which has more erasers, runs it
        again. Raises NotErasedYet if the erasure will be completed later, or OSError if it has not begun.
        """
        with self._one_at_a_time:
            now = max(self._clock(), self._newest(request.camera) or -math.inf)
            request = replace(request, before=min(request.upper, now))  # never erases what is still to come
            self._note(request)
            try:
                counts = self._run(request)
                if not again:
                    self._done([request])
            except OSError as error:
                self.problem = f"not everything could be erased yet, it is tried again: {error}"
                raise NotErasedYet(self.problem) from error
        return counts

    def resume(self) -> None:
        """Complete all unfinished erasures. An error is logged, and the next call tries again."""
        with self._one_at_a_time:
            try:
                waiting = [*read_requests(self._path), *self._not_noted]
                for request in waiting:
                    self._run(request)
                if waiting:
                    self._done(waiting)
            except OSError as error:
                self.problem = f"erasing is not complete, it is tried again: {error}"
                log.error("erasing is not complete", extra={"error": str(error)})
            else:
                self.problem = None

    def _note(self, request: Request) -> None:
        """Write the request to the file of unfinished erasures.

        If the disk is full, hold it only in memory, because erasing frees space.
        """
        try:
            write_requests(self._path, [*read_requests(self._path), request])
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._not_noted.append(request)

    def _done(self, requests: list[Request]) -> None:
        self._not_noted = [each for each in self._not_noted if each not in requests]
        noted = read_requests(self._path)
        left = [each for each in noted if each not in requests]
        if left != noted:
            write_requests(self._path, left)

    def _run(self, request: Request) -> dict[str, int]:
        return {name: eraser(request.camera, request.lower, request.upper) for name, eraser in self._erasers}


def read_requests(path: Path) -> list[Request]:
    """Return the unfinished requests of the file. Raises OSError if it is damaged, which must not be ignored."""
    try:
        return [Request(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise OSError(
            f"{path} is damaged: the erasures it lists cannot be completed; read it, then delete it"
        ) from error


def write_requests(path: Path, requests: list[Request]) -> None:
    """Write these requests in place of the file's, and sync it to disk. Without requests, delete it. Raises OSError."""
    if requests:
        replace_private(path, json.dumps([asdict(each) for each in requests]).encode())
    else:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
