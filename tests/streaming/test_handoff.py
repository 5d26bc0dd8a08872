"""LatestSlot: bounded, the newest win, drops are counted. Worker: values, errors, the end."""

import asyncio
import threading

import pytest

from streaming.handoff import LatestSlot, SlotClosed, Worker, WorkerStopped


async def test_the_newest_item_wins_and_drops_are_counted() -> None:
    slot: LatestSlot[int] = LatestSlot()
    assert slot.put(1)
    assert not slot.put(2)
    assert not slot.put(3)
    assert await slot.get() == 3
    assert slot.dropped == 2
    assert len(slot) == 0


async def test_a_larger_slot_keeps_the_newest_in_order() -> None:
    slot: LatestSlot[int] = LatestSlot(3)
    for item in range(10):
        slot.put(item)
    assert [await slot.get() for _ in range(3)] == [7, 8, 9]
    assert slot.dropped == 7


async def test_get_waits_for_the_next() -> None:
    slot: LatestSlot[str] = LatestSlot()
    waiting = asyncio.create_task(slot.get())
    await asyncio.sleep(0)
    slot.put("a")
    assert await waiting == "a"


async def test_closing_wakes_the_consumer_and_leaves_what_is_held() -> None:
    slot: LatestSlot[int] = LatestSlot()
    waiting = asyncio.create_task(slot.get())
    await asyncio.sleep(0)
    slot.close()
    with pytest.raises(SlotClosed):
        await waiting
    held: LatestSlot[int] = LatestSlot()
    held.put(1)
    held.close()
    held.put(2)
    assert await held.get() == 1
    with pytest.raises(SlotClosed):
        await held.get()


async def test_a_cancelled_get_loses_nothing() -> None:
    slot: LatestSlot[int] = LatestSlot()
    waiting = asyncio.create_task(slot.get())
    await asyncio.sleep(0)
    waiting.cancel()
    slot.put(5)
    assert await slot.get() == 5


def test_capacity_must_be_at_least_one() -> None:
    with pytest.raises(ValueError, match="capacity"):
        LatestSlot(0)


async def test_a_worker_returns_values_and_raises_errors() -> None:
    worker = Worker("test")
    assert await worker.run(lambda: threading.current_thread().name) == "test"
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda: 1 // 0)
    assert await worker.run(lambda: 5) == 5  # it lives on after an error
    released = threading.Event()
    worker.stop(released.set)
    assert await asyncio.to_thread(released.wait, 10)
    with pytest.raises(WorkerStopped):
        await worker.run(lambda: 5)


async def test_a_cancelled_call_leaves_the_worker_usable() -> None:
    worker, go = Worker("test"), threading.Event()
    waiting = asyncio.create_task(worker.run(go.wait))
    queued = asyncio.create_task(worker.run(lambda: pytest.fail("cancelled before it began")))
    await asyncio.sleep(0.05)
    waiting.cancel()
    queued.cancel()
    go.set()
    assert await worker.run(lambda: 5) == 5
    worker.stop(lambda: None)
