"""The hand-off: bounded, newest wins, drops counted."""

import asyncio

import pytest

from streaming.handoff import LatestSlot, SlotClosed


async def test_newest_wins_and_the_loss_is_counted() -> None:
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


def test_no_empty_slot() -> None:
    with pytest.raises(ValueError, match="capacity"):
        LatestSlot(0)
