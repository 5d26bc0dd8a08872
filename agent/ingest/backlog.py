"""The bounded list of frames that wait for the encoder, oldest first.

It holds ids only: a frame is remembered before its id comes here. Overload policy: a full backlog turns the new id away
and counts it as deferred; the frame itself stays on disk as pending, and is found there once the backlog has run empty.
An encoder that is too slow therefore costs delay, never history.

Knows nothing of memory, models or threads; used from the event loop only.
"""

import asyncio
from collections import deque


class Backlog:
    """Frame ids in the order they were remembered, at most `capacity` of them."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self.num_deferred = 0
        self.behind = True  # pending frames may lie on disk that are not listed here; so it is after every start
        self.mark = 0  # rises whenever another look on disk becomes necessary
        self._frame_ids: deque[int] = deque()
        self._more = asyncio.Event()

    def __len__(self) -> int:
        return len(self._frame_ids)

    def put(self, frame_id: int) -> bool:
        """Add the newest frame. False: turned away, to be found on disk later.

        While frames lie unlisted on disk nothing is added, so that the oldest stays first.
        """
        self._more.set()
        if len(self._frame_ids) < self.capacity and not self.behind:
            self._frame_ids.append(frame_id)
            return True
        self.num_deferred += 1
        self.look_again()
        return False

    def take(self, limit: int) -> list[int]:
        """Up to `limit` ids, oldest first; they are no longer listed here."""
        return [self._frame_ids.popleft() for _ in range(min(limit, len(self._frame_ids)))]

    def look_again(self) -> None:
        """Frames may lie on disk that are not listed here."""
        self.behind = True
        self.mark += 1
        self._more.set()

    def caught_up(self, mark: int) -> None:
        """Said by the encoder when it looked on disk and found nothing pending.

        `mark` is as it was before the look: a frame turned away during the look may have been remembered too late to be
        seen, and calls for another look.
        """
        self.behind = self.mark != mark

    async def wait(self) -> None:
        """Until something was put in since the last wait."""
        await self._more.wait()
        self._more.clear()
