"""A bounded hand-off between a producer that never waits and one consumer.

Overload policy: the newest win. A full slot forgets its oldest item and counts it. Belongs to one event loop; does not
know what it carries.
"""

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class SlotClosed(Exception):
    """The producer has ended and everything was taken."""


class LatestSlot(Generic[T]):
    """Holds the newest `capacity` items (one, unless said otherwise)."""

    def __init__(self, capacity: int = 1) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._changed = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def put(self, item: T) -> bool:
        """Leaves `item`; False if an older one had to make room. After `close` it is ignored."""
        if self._closed:
            return True
        full = len(self._items) >= self._capacity
        if full:
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)
        self._changed.set()
        return not full

    async def get(self) -> T:
        """Waits for the oldest item held. Raises SlotClosed when closed and empty."""
        while not self._items:
            if self._closed:
                raise SlotClosed
            self._changed.clear()
            await self._changed.wait()
        return self._items.popleft()

    def close(self) -> None:
        """Ends the slot; what it holds can still be taken."""
        self._closed = True
        self._changed.set()

    def __len__(self) -> int:
        return len(self._items)
