"""Pools of worker threads for blocking work. Each kind of work has its own pool, so that none delays another.

The model's work has its own threads (`agent/runtime/lanes.py`). All threads of a pool are started together, and
`start_all` starts every pool with the agent. If the system refuses a thread, the agent therefore fails at its start
with an explanation, and not later in the middle of its work.
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
_M_ARENA_MAX = -8  # the option's number in glibc's malloc.h

CORES: Final = os.cpu_count() or 1


class NoThreads(Exception):
    """The system refuses to start as many threads as the agent needs. The message tells the operator what to change."""


class Pool:
    """A pool of `size` threads that all callers share. When all are busy, further calls wait in order of arrival."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    async def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in a thread of the pool and return its result.

        A call that has begun runs to its end even if the caller is cancelled. Raises NoThreads if this is the pool's
        first call and its threads cannot be started.
        """
        return await asyncio.wrap_future(self.started().submit(function, *args, **kwargs))

    def started(self) -> ThreadPoolExecutor:
        """Return the pool's executor. The first call starts all its threads. Raises NoThreads."""
        with self._lock:
            if self._threads is None:
                self._threads = start_threads(self.name, self.size)
            return self._threads


def start_threads(name: str, size: int) -> ThreadPoolExecutor:
    """Return an executor of `size` threads that have all been started, so that no later call has to start one.

    Raises NoThreads.
    """
    threads = ThreadPoolExecutor(size, thread_name_prefix=name)
    go = threading.Event()
    try:
        for _ in range(size):  # each keeps one thread busy until all are started
            threads.submit(go.wait)
    except RuntimeError as error:
        raise NoThreads(
            f"the system gives no more threads ({error}): raise the limit of processes (ulimit -u, or TasksMax= of the "
            "systemd unit, or pids_limit of the container)"
        ) from error
    finally:
        go.set()
    return threads


storage: Final = Pool("storage", 8)  # writes frames and features
pictures: Final = Pool("pictures", max(2, CORES))  # reads and decodes frames for the encoder
questions: Final = Pool("questions", 4)  # finds the frames of a question's time window and ranks them
web: Final = Pool("web", 8)  # serves lists, pictures and metrics
alerts: Final = Pool("alerts", 4)  # alert store, MQTT and webhooks
erasing: Final = Pool("erasing", 1)  # erases frames; one request at a time
upkeep: Final = Pool("upkeep", 4)  # work that may take minutes: expiry of old frames, exports, loading

ALL: Final = (storage, pictures, questions, web, alerts, erasing, upkeep)


def start_all() -> None:
    """Limit the number of heaps, then start the threads of every pool. Raises NoThreads."""
    share_heaps()
    for pool in ALL:
        pool.started()


def share_heaps() -> None:
    """Make all threads allocate from at most MAX_HEAPS heaps, if the C library is glibc.

    By default glibc gives each thread its own heap, and a heap keeps the largest amount of memory that its thread ever
    used. Thirty threads that take turns at the same work would slowly grow to thirty times the memory that one needs.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, MAX_HEAPS)
