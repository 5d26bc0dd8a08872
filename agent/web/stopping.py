"""Answers that are in work when the agent stops: they may end for a while, and are then ended with words for their askers."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agent.errors import AgentStopping

GRACE_S = 3.0


class Stopping:
    """Makes every `work` block raise AgentStopping once the agent stops."""

    def __init__(self) -> None:
        self._is_stopping = False
        self._working: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()

    def stop(self) -> None:
        """Take no new work, and end what is still in work after the grace."""
        self._is_stopping = True
        asyncio.get_running_loop().call_later(GRACE_S, self._end)

    @contextmanager
    def work(self) -> Iterator[None]:
        """Work of the current task. Raises AgentStopping, also in the midst of it; a cancellation of others goes through."""
        task = asyncio.current_task()
        if self._is_stopping or task is None:
            raise AgentStopping
        self._working.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise AgentStopping from None
        finally:
            self._working.discard(task)
            self._ended.discard(task)

    def _end(self) -> None:
        for task in self._working:
            self._ended.add(task)
            task.cancel()
