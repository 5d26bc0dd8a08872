"""Work is given up when its client goes; silences are told; cancellation reaches what is waited for."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message

from agent.web.client_gone import unless_gone, with_silences


async def stays() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def test_work_ends_while_the_client_stays() -> None:
    async def work() -> None:
        await asyncio.sleep(0)

    assert await unless_gone(stays, work())


async def test_what_work_raises_is_raised() -> None:
    async def work() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await unless_gone(stays, work())


async def test_work_is_cancelled_when_the_client_goes() -> None:
    cleaned = asyncio.Event()
    told = iter(["http.request", "http.disconnect"])

    async def goes() -> Message:
        await asyncio.sleep(0)
        return {"type": next(told)}

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    assert not await unless_gone(goes, work())
    assert cleaned.is_set()


async def test_silences_come_between_items() -> None:
    go_on = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        yield 1
        await go_on.wait()
        yield 2

    seen: list[int | None] = []
    async for item in with_silences(items(), 0.01):
        seen.append(item)
        if seen.count(None) == 2:
            go_on.set()
    assert (seen[0], seen[-1]) == (1, 2)
    assert set(seen[1:-1]) == {None}


async def test_cancelled_while_waiting_cancels_the_source() -> None:
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def items() -> AsyncIterator[int]:
        try:
            began.set()
            await asyncio.Event().wait()
            yield 1
        finally:
            cancelled.set()

    async def consume() -> None:
        async for _ in with_silences(items(), 10):
            pass

    task = asyncio.create_task(consume())
    await began.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert cancelled.is_set()
