"""The bounded list of frames that wait for the encoder, oldest first. Not thread-safe: use it only on the event loop.

It holds the ids of frames that are stored but not encoded. Overload policy: a full backlog rejects a new id and counts
it as deferred. The encoder finds that frame on disk once the backlog is empty, so a slow encoder delays frames but
loses none.
"""

import asyncio
from collections import deque


class Backlog:
    """At most `capacity` frame ids, in the order in which the frames were stored."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self.num_deferred = 0
        self.behind = True  # frames that are not listed may wait on disk, as after every start
        self.mark = 0  # increased whenever the disk must be searched again
        self._frame_ids: deque[int] = deque()
        self._more = asyncio.Event()

    def __len__(self) -> int:
        return len(self._frame_ids)

    def put(self, frame_id: int) -> bool:
        """Add the newest frame. Return False if it is deferred: the encoder finds it on disk later.

        While frames that are not listed wait on disk, every new frame is deferred, so that the oldest is encoded first.
        """
        self._more.set()
        if len(self._frame_ids) < self.capacity and not self.behind:
            self._frame_ids.append(frame_id)
            return True
        self.num_deferred += 1
        self.look_again()
        return False

    def take(self, limit: int) -> list[int]:
        """Remove and return up to `limit` ids, oldest first."""
        return [self._frame_ids.popleft() for _ in range(min(limit, len(self._frame_ids)))]

    def look_again(self) -> None:
        """Make the encoder search the disk again, for frames that wait but are not in this list."""
        self.behind = True
        self.mark += 1
        self._more.set()

    def caught_up(self, mark: int) -> None:
        """Record that the encoder searched the disk and found no frame that waits.

        mark: the value of the attribute `mark` before the search. If it has changed since, the search may have missed a
        frame, and the disk is searched again.
        """
        self.behind = self.mark != mark

    async def wait(self) -> None:
        """Wait for the next call of `put` or `look_again`. Return immediately if one was called since the last wait."""
        await self._more.wait()
        self._more.clear()
