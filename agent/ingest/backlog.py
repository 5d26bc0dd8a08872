"""The bounded list of frames that wait for the encoder, oldest first. Used from the event loop only.

It holds ids of frames that are stored already. Overload policy: a full backlog rejects the new id and counts it as
deferred; the frame is pending on disk, and is found there once the backlog is empty. A slow encoder thus delays frames but
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
        self.behind = True  # frames may be pending on disk that are not listed, as after every start
        self.mark = 0  # rises whenever the disk must be searched again
        self._frame_ids: deque[int] = deque()
        self._more = asyncio.Event()

    def __len__(self) -> int:
        return len(self._frame_ids)

    def put(self, frame_id: int) -> bool:
        """Add the newest frame. Return False if it is deferred, to be found on disk later.

        Nothing is added while unlisted frames are pending on disk, so that the oldest stays first.
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
        """Search the disk again: frames may be pending there that are not listed."""
        self.behind = True
        self.mark += 1
        self._more.set()

    def caught_up(self, mark: int) -> None:
        """Note that the encoder searched the disk and found nothing pending.

        `mark`: its value before the search. A frame deferred during the search may have been missed, which calls for
        another search.
        """
        self.behind = self.mark != mark

    async def wait(self) -> None:
        """Wait until something was put in since the last wait."""
        await self._more.wait()
        self._more.clear()
