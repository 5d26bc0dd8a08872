"""One fault at any call of the system or of SQLite: the operation is done or not done, and nothing else changes.

Repeats a short sequence of append, attach, evict, erase and maintain; each time, one of its calls fails before or after
it has its effect. As the agent does, the caller retries after OutOfResources and gives up after other errors. Afterwards
the memory must hold exactly what was acknowledged, also after a restart. The environment variable CRASH_ROUNDS sets the
number of repetitions (`make hardening`: 200).
"""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memory.errors import OutOfResources, StorageError
from memory.store import MemoryStore
from tests.support.memories import features, open_store, picture

CALLS = ("open", "pwrite", "ftruncate", "fdatasync", "fsync", "mkdir", "truncate")
ERRORS: list[Callable[[], Exception]] = [
    lambda: OSError(errno.EIO, "Input/output error"),
    lambda: OSError(errno.ENOSPC, "No space left on device"),
    lambda: OSError(errno.EMFILE, "Too many open files"),
    MemoryError,
]
NUM_CALLS = 290  # a little more than in one life
LIMITS = {"segment_frames": 4, "frames": 14}


class Faults:
    """Counts calls and makes one of them fail."""

    def __init__(self, place: int, make: Callable[[], Exception], *, after: bool) -> None:
        self.left = place
        self.armed = False
        self._make = make
        self._after = after

    def around(self, call: Callable[..., Any], *, sqlite: bool = False) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            if not self.armed:
                return call(*args, **named)
            self.left -= 1
            hit = self.left == 0
            if hit and not self._after:
                raise self._error(sqlite=sqlite)
            result = call(*args, **named)
            if hit and call.__name__ != "open":  # its descriptor would be lost
                del result  # a cursor that a traceback holds would keep its statement in progress
                raise self._error(sqlite=sqlite)
            return result

        return wrapped

    def _error(self, *, sqlite: bool) -> Exception:
        error = self._make()
        if not sqlite or isinstance(error, MemoryError):
            return error
        told = sqlite3.OperationalError("disk I/O error")
        # SQLite says "full" only of what it has not done
        full = getattr(error, "errno", 0) == errno.ENOSPC and not self._after
        told.sqlite_errorcode = sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_IOERR
        told.sqlite_errorname = "SQLITE_IOERR"
        return told


@contextmanager
def injected(faults: Faults) -> Iterator[None]:
    class Connection(sqlite3.Connection):
        def execute(self, *args: Any) -> Any:
            return faults.around(super().execute, sqlite=True)(*args)

        def executemany(self, *args: Any) -> Any:
            return faults.around(super().executemany, sqlite=True)(*args)

    connect = sqlite3.connect
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sqlite3, "connect", lambda *args, **named: connect(*args, **named, factory=Connection))
        for name in CALLS:
            patched.setattr(os, name, faults.around(getattr(os, name)))
        yield


def again(call: Callable[[], Any]) -> Any:
    """Open a store as the agent does. Raises StorageError."""
    for _ in range(5):
        with suppress(OutOfResources):
            return call()
    raise AssertionError("one fault, and refused five times")


class Life:
    """Append, attach and erase, and return what must be stored afterwards: time -> frame id."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}
        self.erased: set[int] = set()
        self.unclear: set[int] = set()  # of an erasure that was refused: it has begun or not

    def live(self, store: MemoryStore) -> None:
        for time in range(1, 23):
            with suppress(StorageError):
                self.held[time] = again(
                    lambda time=time: store.append("a", float(time), picture("a", time), {"x": time})
                )
            if time % 3 and time in self.held:
                frame_id = self.held[time]
                again(lambda frame_id=frame_id: store.attach(frame_id, **features(frame_id)))
            if time in (9, 20):
                self._erase(store, time - 5, time - 3)
            if time % 6 == 0:
                with suppress(StorageError):
                    again(store.maintain)

    def _erase(self, store: MemoryStore, lower: int, upper: int) -> None:
        wanted = {time for time in self.held if lower <= time <= upper}
        try:
            again(lambda: store.erase("a", lower, upper))
        except StorageError:
            self.unclear |= wanted
        else:
            self.erased |= wanted

    def check(self, store: MemoryStore) -> None:
        found = {int(record.time): record.frame_id for record in store.records("a")}
        assert not found.keys() & self.erased
        assert set(found) <= set(self.held)  # nothing that was refused
        newest = sorted(time for time in self.held if time not in self.erased | self.unclear)[-8:]
        assert set(newest) <= set(found)
        assert len(found) <= LIMITS["frames"]
        for time, frame_id in found.items():
            assert frame_id == self.held[time]
            assert store.jpeg(frame_id) == picture("a", time)
            assert store.record(frame_id).metadata == {"x": time}
        window, pending = store.window(["a"]), store.pending(100)
        assert sorted([*window.frame_ids.tolist(), *pending]) == sorted(found.values())
        assert store.stats("a").frames == len(found)
        assert store._logs.of("a").num_frames == len(found)
        assert (store.status().frames_damaged, store.status().vectors_damaged) == (0, 0)


@settings(max_examples=int(os.environ.get("CRASH_ROUNDS", "25")), deadline=None)
@given(place=st.integers(1, NUM_CALLS), kind=st.integers(0, len(ERRORS) - 1), after=st.booleans())
@example(place=10**6, kind=0, after=False)
@example(place=208, kind=0, after=True)  # a transaction that has begun although BEGIN failed
def test_a_fault_at_any_call_loses_no_acknowledged_frame(
    tmp_path_factory: pytest.TempPathFactory, place: int, kind: int, after: bool
) -> None:
    folder = tmp_path_factory.mktemp("faults")
    faults, life = Faults(place, ERRORS[kind], after=after), Life()
    with injected(faults):
        with open_store(folder, **LIMITS) as store:
            faults.armed = True
            life.live(store)
            faults.armed = False
            store.maintain()  # goes on with whatever could not be done
            life.check(store)
        with open_store(folder, **LIMITS) as store:
            life.check(store)
            assert store.append("a", 100.0, picture("a", 100), {"x": 100}) > max(life.held.values(), default=0)
    if place == 10**6:
        assert 0.8 * NUM_CALLS < 10**6 - faults.left < NUM_CALLS
