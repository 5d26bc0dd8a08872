"""A lane: one thread in which one kind of blocking model work runs, call after call.

There are two, vision and language, so that a long answer never stops the seeing. Work crosses the thread boundary by
being pulled: an iterator is advanced one item at a time, so a cancelled question stops between two tokens.
`Turns` decides who may use the language lane next, and refuses at once when too many wait.

This file does not know what the work is, and does not read a clock.
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
    """One worker thread; calls run in the order in which they were made, one at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread = start_threads(name, 1)
        self._num_open = 0

    @property
    def depth(self) -> int:
        """Calls running or waiting."""
        return self._num_open

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one call in the lane. A cancelled caller stops waiting; a call that has begun runs to its end, and one
        that has not begun never starts."""
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
        """Items of the iterator that `make` returns, each one advanced in the lane only when it is asked for.

        When the consumer stops early (break, `aclose`, cancellation) the iterator's own `close` runs in the lane, so a
        generator frees what it holds. Wrap in `contextlib.aclosing` to have that happen at once.
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
        """Finish the running call, drop the waiting ones, and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)


class Priority(IntEnum):
    """Who goes first when several wait: people before machines."""

    QUESTION = 0
    JUDGE = 1
    DRY_RUN = 2


class TooManyWaiting(Exception):
    """The queue is full; the caller should come back later."""


class Turns:
    """One holder at a time; the others wait, at most `limit` of them together with the holder, in order of priority
    and then of arrival.

    Overload policy: whoever comes when `limit` are inside is refused at once (`TooManyWaiting`); nobody is pushed out.

    Worked example, limit 3: q1 holds; a judge and q2 wait; q3 is refused. When q1 is done q2 goes, then the judge.
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
        """Reserve a place inside, or raise TooManyWaiting. Take the turn itself with `turn`."""
        if self.num_inside >= self.limit:
            raise TooManyWaiting
        self.num_inside += 1
        try:
            yield
        finally:
            self.num_inside -= 1

    @asynccontextmanager
    async def turn(self, priority: Priority = Priority.QUESTION) -> AsyncIterator[None]:
        """Wait until it is this caller's turn; the next one goes when the block is left, however it is left."""
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
            if called.done() and not called.cancelled():  # called and cancelled in one step: the turn goes on
                self._hand_on()
            raise

    def _hand_on(self) -> None:
        """Call the first who still waits. The turn stays held in between, so nobody slips in before them."""
        while self._waiting:
            called = heapq.heappop(self._waiting)[2]
            if not called.done():
                called.set_result(None)
                return
        self._held = False
