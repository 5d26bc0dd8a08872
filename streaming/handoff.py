"""Pass values on: `LatestSlot` between tasks of an event loop, `Worker` between the event loop and a thread."""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SlotClosed(Exception):
    """The slot is closed, and all its items have been taken out."""


class LatestSlot(Generic[T]):
    """A bounded queue between a producer, which never waits, and one consumer, in the same event loop.

    Overload policy: a full slot drops its oldest item and counts it, so that it holds the newest `capacity` items.
    """

    def __init__(self, capacity: int = 1) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def put(self, item: T) -> bool:
        """Add `item`. Return False if an older item was dropped for it. After `close`, items are ignored."""
        if self._closed:
            return True
        full = len(self._items) >= self._capacity
        if full:
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)
        self._changed.set()
        return not full

    async def wait_for_room(self) -> None:
        """Wait until an item can be added without dropping one, or the slot is closed."""
        while len(self._items) >= self._capacity and not self._closed:
            self._taken.clear()
            await self._taken.wait()

    async def get(self) -> T:
        """Wait for an item, and remove and return the oldest one. Raises SlotClosed if the slot is closed and empty."""
        while not self._items:
            if self._closed:
                raise SlotClosed
            self._changed.clear()
            await self._changed.wait()
        self._taken.set()
        return self._items.popleft()

    def close(self) -> None:
        """Accept no more items. Items in the slot can still be taken out with `get`."""
        self._closed = True
        self._changed.set()
        self._taken.set()

    def __len__(self) -> int:
        return len(self._items)


class WorkerStopped(Exception):
    """The source was closed while it was being read."""


class Worker:
    """A daemon thread for blocking calls on an object that only one thread may use, such as a PyAV container.

    Callers submit one call at a time and await its result. If the awaiting task is cancelled, a call that has begun
    still runs to its end, but nobody waits for it. The thread starts with the first call.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any] | None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = False

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call` in the thread and return its result, or raise its exception. Raises WorkerStopped after `stop`."""
        if self._stopped:
            raise WorkerStopped
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        future: Future[T] = Future()
        self._calls.put((call, future))
        return await asyncio.wrap_future(future)

    def stop(self, last_call: Callable[[], None]) -> None:
        """End the thread after its current call and then `last_call`, which should release resources.

        Returns immediately.
        """
        if self._stopped:
            return
        self._stopped = True
        if self._thread is not None:
            self._calls.put((last_call, None))

    def _serve(self) -> None:
        while True:
            call, future = self._calls.get()
            if future is None:
                call()
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                value = call()
            except BaseException as error:  # noqa: BLE001 - raised in the awaiting task
                future.set_exception(error)
            else:
                future.set_result(value)
