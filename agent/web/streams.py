"""Work for a client, given up when the client goes away."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, Final, TypeVar

from starlette.types import Receive

T = TypeVar("T")

_END: Final[Any] = object()


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> bool:
    """Run `work` to its end, or cancel it as soon as the client disconnects. True: it ran to its end.

    The request's body must have been read. What `work` raises is raised here.
    """
    working = asyncio.create_task(work, name="answer a client")
    watching = asyncio.create_task(_disconnected(receive), name="watch a client")
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            return True
        return False
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def with_silences(items: AsyncIterator[T], silence_s: float) -> AsyncGenerator[T | None, None]:
    """The items, and None each time nothing has come for `silence_s`."""
    waiting: asyncio.Future[T] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(items, _END))
            done, _ = await asyncio.wait({waiting}, timeout=silence_s)
            if not done:
                yield None
                continue
            item, waiting = waiting.result(), None
            if item is _END:
                return
            yield item
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.wait({waiting})
