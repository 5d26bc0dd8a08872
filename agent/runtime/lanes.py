"""Lanes: a lane is one worker thread that runs blocking calls of the model, one at a time.

There are two lanes, vision and language, so that a long answer does not stop the encoding of frames. A lane advances an
iterator one item at a time, so that a cancelled question stops between two tokens. `Turns` is the queue for the
language lane: it decides who goes next, and refuses a caller immediately when too many are waiting.
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
        """The number of calls that are running or waiting in this lane (worker thread)."""
        return self._num_open

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in the lane's thread and return its result.

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
        """Yield the items of the iterator that `make` returns.

        The lane's thread computes each item when it is requested.

        If the consumer stops early (break, `aclose`, cancellation), the iterator's `close` runs in the lane, so that a
        generator frees its resources. After a `break` this happens immediately only if the call is wrapped in
        `contextlib.aclosing`.
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
        """Wait for the running call, cancel the waiting calls, and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)


class Priority(IntEnum):
    """Who goes first: a user's question, then the judging of live alert rules, then dry runs of rules on history."""

    QUESTION = 0
    JUDGE = 1
    DRY_RUN = 2


class TooManyWaiting(Exception):
    """The queue is full. The caller may try again later."""


def _one() -> int:
    return 1


class Turns:
    """A queue in which `capacity` callers at a time have the turn. It admits at most `limit` callers, counting those.

    The others wait, ordered by priority and then by arrival. Overload policy: when `limit` callers are admitted, the
    next one is refused immediately with TooManyWaiting.

    Example, limit 3: question q1 has the turn; a rule's judge and question q2 wait; question q3 is refused. When q1
    ends, q2 goes next, then the judge.
    """

    def __init__(self, limit: int, capacity: Callable[[], int] = _one) -> None:
        """capacity: returns how many callers may have the turn at the same time, which may change.

        Of several, one is left free for users' questions.
        """
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        self.limit = limit
        self.num_inside = 0
        self._capacity = capacity
        self._num_held = 0
        self._order = count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Context manager: occupy one of the queue's `limit` places during the block.

        Raises TooManyWaiting if none is free.

        Inside the block, wait for the turn itself with `turn`.
        """
        if self.num_inside >= self.limit:
            raise TooManyWaiting
        self.num_inside += 1
        try:
            yield
        finally:
            self.num_inside -= 1

    @asynccontextmanager
    async def turn(self, priority: Priority = Priority.QUESTION) -> AsyncIterator[None]:
        """Context manager: wait for this caller's turn on entry, and end the turn on exit."""
        if self._is_free(priority):
            self._num_held += 1
        else:
            await self._wait(priority)
        try:
            yield
        finally:
            self._hand_on()

    def _is_free(self, priority: int) -> bool:
        capacity = self._capacity()
        return self._num_held < (capacity if priority == Priority.QUESTION else max(1, capacity - 1))

    async def _wait(self, priority: Priority) -> None:
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._order), called))
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():  # cancelled just after it got the turn: pass it on
                self._hand_on()
            raise

    def _hand_on(self) -> None:
        """End a turn, and give it to the first caller who still waits.

        It counts as held from now on, so that a caller who arrives in between cannot take it.
        """
        self._num_held -= 1
        while self._waiting and self._is_free(self._waiting[0][0]):
            called = heapq.heappop(self._waiting)[2]
            if not called.done():
                called.set_result(None)
                self._num_held += 1
