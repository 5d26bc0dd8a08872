"""The worker threads for blocking work: one bounded pool for each kind, so that no kind waits for another.

`storage` writes frames and features; `pictures` reads and decodes them for the encoder; `questions` builds windows and ranks
them; `web` serves lists, pictures and metrics; `alerts` has the alert store, MQTT and webhooks; `erasing` erases, one request
after the other; `upkeep` has all else that may take minutes: expiry, exports, loading. A model's work has threads of its own
(`agent/runtime/lanes.py`).

All threads of a pool start with its first call. A system that refuses threads is thus met at the start of the agent, in
words, and never while a frame is in hand.
"""

import asyncio
import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MAX_HEAPS = 2
_M_ARENA_MAX = -8  # malloc.h

CORES: Final = os.cpu_count() or 1


class NoThreads(Exception):
    """The system gives the agent fewer threads than it needs (the operator's to change)."""


class Pool:
    """At most `size` threads, shared by all callers; calls beyond that wait in order."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    async def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one call in the pool. A caller that is cancelled stops waiting; a call that has begun runs to its end.

        Raises NoThreads when this is the pool's first call and its threads cannot be started.
        """
        return await asyncio.wrap_future(self.started().submit(function, *args, **kwargs))

    def started(self) -> ThreadPoolExecutor:
        """The pool with all its threads running. Raises NoThreads."""
        with self._lock:
            if self._threads is None:
                self._threads = start_threads(self.name, self.size)
            return self._threads


def start_threads(name: str, size: int) -> ThreadPoolExecutor:
    """An executor whose `size` threads all run already, so that no later call has to start one. Raises NoThreads."""
    threads = ThreadPoolExecutor(size, thread_name_prefix=name)
    go = threading.Event()
    try:
        for _ in range(size):  # each of these keeps one thread until all have been started
            threads.submit(go.wait)
    except RuntimeError as error:
        raise NoThreads(
            f"the system gives no more threads ({error}): raise the limit of processes (ulimit -u, or TasksMax= of the "
            "systemd unit, or pids_limit of the container)"
        ) from error
    finally:
        go.set()
    return threads


storage: Final = Pool("storage", 8)
pictures: Final = Pool("pictures", max(2, CORES))
questions: Final = Pool("questions", 4)
web: Final = Pool("web", 8)
alerts: Final = Pool("alerts", 4)
erasing: Final = Pool("erasing", 1)
upkeep: Final = Pool("upkeep", 4)

ALL: Final = (storage, pictures, questions, web, alerts, erasing, upkeep)


def start_all() -> None:
    """Start every pool. Raises NoThreads."""
    share_heaps()
    for pool in ALL:
        pool.started()


def share_heaps() -> None:
    """Let all threads allocate from few heaps, where the C library is glibc.

    It gives each thread a heap of its own, and each keeps the most that its thread ever used: with some thirty threads that
    take turns at the same work, resident memory would creep up for hours to thirty times the need of one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, MAX_HEAPS)
