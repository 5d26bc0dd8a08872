"""Lanes: worker threads for the blocking work of the model, one call at a time in each.

There are two, vision and language, so that a long answer does not stop the encoding of frames. An iterator is advanced in
the lane one item at a time, so that a cancelled question stops between two tokens. `Turns` decides who uses the language
lane next, and refuses at once when too many wait.
"""

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from enum import IntEnum
from itertools import count
from typing import Any, Final, ParamSpec, TypeVar

from agent.runtime.pools import start_threads

P = ParamSpec("P")
T = TypeVar("T")

_END: Final[Any] = object()


class Lane:
    """One worker thread. Calls run one at a time, in the order in which they were made."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread = start_threads(name, 1)
        self._num_open = 0

    @property
    def depth(self) -> int:
        """Number of calls that run or wait."""
        return self._num_open

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call in the lane and return its result.

        If the caller is cancelled, a call that has begun still runs to its end; one that has not begun never starts.
        """
        loop = asyncio.get_running_loop()
        self._num_open += 1
        future = self._thread.submit(lambda: function(*args, **kwargs))
        future.add_done_callback(lambda _: self._closed_one(loop))
        return await asyncio.wrap_future(future)

    def _closed_one(self, loop: asyncio.AbstractEventLoop) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._count_down)

    def _count_down(self) -> None:
        self._num_open -= 1

    async def pull(self, make: Callable[[], Iterator[T]]) -> AsyncGenerator[T, None]:
        """Yield the items of the iterator that `make` returns. Each is computed in the lane when it is asked for.

        If the consumer stops early (break, `aclose`, cancellation), the iterator's `close` runs in the lane, so that a
        generator frees what it holds. Wrap the call in `contextlib.aclosing` to have that happen at once.
        """
        iterator = await self.run(make)
        try:
            while (item := await self.run(next, iterator, _END)) is not _END:
                yield item
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                self._thread.submit(close)

    def close(self) -> None:
        """Wait for the running call, drop the waiting ones, and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)


class Priority(IntEnum):
    """Order of those who wait: people before rules, rules before dry runs."""

    QUESTION = 0
    JUDGE = 1
    DRY_RUN = 2


class TooManyWaiting(Exception):
    """The queue is full: try again later."""


class Turns:
    """A queue with one turn at a time. At most `limit` callers are inside, including the one whose turn it is.

    Those who wait go in order of priority, then of arrival. Overload policy: when `limit` are inside, the next caller is
    refused at once with TooManyWaiting.

    Example, limit 3: q1 has the turn; a judge and q2 wait; q3 is refused. After q1 comes q2, then the judge.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self.limit = limit
        self.num_inside = 0
        self._held = False
        self._order = count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Reserve a place inside; take the turn itself with `turn`. Raises TooManyWaiting."""
        if self.num_inside >= self.limit:
            raise TooManyWaiting
        self.num_inside += 1
        try:
            yield
        finally:
            self.num_inside -= 1

    @asynccontextmanager
    async def turn(self, priority: Priority = Priority.QUESTION) -> AsyncIterator[None]:
        """Wait for this caller's turn, which lasts until the block is left."""
        if self._held:
            await self._wait(priority)
        self._held = True
        try:
            yield
        finally:
            self._hand_on()

    async def _wait(self, priority: Priority) -> None:
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._order), called))
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():  # cancelled in the moment of its turn: pass it on
                self._hand_on()
            raise

    def _hand_on(self) -> None:
        """Give the turn to the first who still waits. It stays taken meanwhile, so that no newcomer takes it."""
        while self._waiting:
            called = heapq.heappop(self._waiting)[2]
            if not called.done():
                called.set_result(None)
                return
        self._held = False
