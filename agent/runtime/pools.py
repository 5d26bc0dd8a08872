"""Pools of worker threads for blocking work: one bounded pool for each kind, so that no kind waits for another.

The model's work has threads of its own (`agent/runtime/lanes.py`). All threads of a pool start with its first call. If the
system refuses threads, the agent therefore fails at its start with an explanation, and not later with a frame in hand.
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
    """The system gives the agent fewer threads than it needs. The message tells the operator what to change."""


class Pool:
    """At most `size` threads, shared by all callers. Further calls wait in order."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    async def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call in the pool and return its result. A call that has begun runs to its end even if the caller is cancelled.

        Raises NoThreads if this is the pool's first call and its threads cannot be started.
        """
        return await asyncio.wrap_future(self.started().submit(function, *args, **kwargs))

    def started(self) -> ThreadPoolExecutor:
        """Return the executor with all its threads running. Raises NoThreads."""
        with self._lock:
            if self._threads is None:
                self._threads = start_threads(self.name, self.size)
            return self._threads


def start_threads(name: str, size: int) -> ThreadPoolExecutor:
    """Return an executor whose threads all run already, so that no later call has to start one. Raises NoThreads."""
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
questions: Final = Pool("questions", 4)  # builds windows and ranks frames
web: Final = Pool("web", 8)  # serves lists, pictures and metrics
alerts: Final = Pool("alerts", 4)  # alert store, MQTT and webhooks
erasing: Final = Pool("erasing", 1)  # one request after the other
upkeep: Final = Pool("upkeep", 4)  # what may take minutes: expiry, exports, loading

ALL: Final = (storage, pictures, questions, web, alerts, erasing, upkeep)


def start_all() -> None:
    """Start every pool. Raises NoThreads."""
    share_heaps()
    for pool in ALL:
        pool.started()


def share_heaps() -> None:
    """Let all threads allocate from MAX_HEAPS heaps, if the C library is glibc.

    By default glibc gives each thread a heap, which keeps the most that its thread ever used. With thirty threads taking
    turns at the same work, resident memory would grow for hours to thirty times what one needs.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, MAX_HEAPS)
