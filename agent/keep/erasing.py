"""Erasing a stretch of one camera's time everywhere: the one place that knows all that may hold something of it.

Each part of the agent that keeps something of what cameras saw adds an eraser. A request is written to `erasures.json`
in the data folder before the first of them runs, and taken out after the last: if the process dies or a disk refuses in
between, `resume` goes on with it, at the next start and at every housekeeping. All erasers run again then: erasing what
is gone already is no error. What comes after a request stays, however often it is tried again. A disk too full for the
request is no reason not to begin: the memory goes first and frees space. Blocking; for worker threads. Does not know HTTP.
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
"""(camera, after, before), both bounds included, maybe infinite -> how many things were erased. Raises OSError."""


class NotErasedYet(Exception):
    """The erasure has begun and will be completed; until then something of it may still be on disk."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be erased; None: unbounded."""

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
    """The erasers of one data folder, in the order they run."""

    def __init__(
        self,
        data_dir: Path,
        *,
        clock: Callable[[], float] = time.time,
        newest: Callable[[str], float | None] = lambda camera: None,
    ) -> None:
        """`newest`: time of a camera's newest frame, which a clock that was set back puts after now."""
        self._clock, self._newest = clock, newest
        self._path = data_dir / ERASURES_FILE
        self._erasers: list[tuple[str, Eraser]] = []
        self._one_at_a_time = threading.Lock()
        self._not_noted: list[Request] = []  # the disk was too full to write them down
        self.problem: str | None = None  # in words for an operator, while something is still to be erased

    def add(self, name: str, eraser: Eraser) -> None:
        """`name` is the key of its count in the answer."""
        self._erasers.append((name, eraser))

    def erase(self, request: Request, *, again: bool = False) -> dict[str, int]:
        """How many things of each kind are gone. Raises NotErasedYet; OSError: nothing has begun.

        again: `resume` does it once more, for the sake of erasers that are not here.
        """
        with self._one_at_a_time:
            now = max(self._clock(), self._newest(request.camera) or -math.inf)
            request = replace(request, before=min(request.upper, now))  # what is still to come is never meant
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
        """Goes on with what could not be completed; errors are logged, the next call tries again."""
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
        """Writes the request down. On a full disk it is kept in mind instead: erasing is what frees space."""
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
    """Those that have not been completed. OSError for a file that cannot be read or understood: it must not be passed over."""
    try:
        return [Request(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise OSError(f"{path} is damaged: what it asks for cannot be erased; see it and delete it") from error


def write_requests(path: Path, requests: list[Request]) -> None:
    """The file appears complete or not at all, and is on the disk when this returns; none: no file. Raises OSError."""
    if requests:
        replace_private(path, json.dumps([asdict(each) for each in requests]).encode())
    else:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
