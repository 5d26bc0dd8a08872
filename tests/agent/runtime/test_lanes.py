"""Lanes: one thread each, pulled item by item; turns: bounded, in order, handed on whatever happens."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from random import Random

import pytest

from agent.runtime.lanes import Lane, Priority, TooManyWaiting, Turns


@pytest.fixture
async def lane() -> AsyncIterator[Lane]:
    lane = Lane("test")
    yield lane
    await asyncio.to_thread(lane.close)


async def test_calls_run_in_one_thread_in_order(lane: Lane) -> None:
    seen: list[tuple[int, int]] = []
    await asyncio.gather(*(lane.run(lambda n=n: seen.append((n, threading.get_ident()))) for n in range(20)))
    assert [n for n, _ in seen] == list(range(20))
    assert {thread for _, thread in seen} == {seen[0][1]}
    assert seen[0][1] != threading.get_ident()


async def test_what_a_call_raises_reaches_the_caller_and_the_lane_goes_on(lane: Lane) -> None:
    with pytest.raises(ZeroDivisionError):
        await lane.run(lambda: 1 / 0)
    assert await lane.run(lambda: 3) == 3
    await asyncio.sleep(0)
    assert lane.depth == 0


async def test_pull_advances_only_when_asked(lane: Lane) -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for n in range(100):
            made.append(n)
            yield n

    async with aclosing(lane.pull(numbers)) as items:
        assert [await anext(items) for _ in range(3)] == [0, 1, 2]
    assert made == [0, 1, 2]
    assert [n async for n in lane.pull(lambda: iter(range(4)))] == [0, 1, 2, 3]


@pytest.mark.parametrize("how", ["break", "cancel"])
async def test_stopping_early_closes_the_generator_in_the_lane(lane: Lane, how: str) -> None:
    closed_in: list[str] = []
    began = asyncio.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed_in.append(threading.current_thread().name)

    async def consume() -> None:
        async with aclosing(lane.pull(endless)) as items:
            async for _ in items:
                if how == "break":
                    return
                began.set()
                await asyncio.sleep(0)

    task = asyncio.create_task(consume())
    if how == "cancel":
        await began.wait()
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await lane.run(lambda: None)  # whatever was queued before has run
    assert len(closed_in) == 1
    assert closed_in[0].startswith("test")


async def test_a_cancelled_call_that_has_not_begun_never_runs(lane: Lane) -> None:
    gate = threading.Event()
    ran: list[str] = []
    blocking = asyncio.create_task(lane.run(gate.wait))
    waiting = asyncio.create_task(lane.run(lambda: ran.append("no")))
    while lane.depth < 2:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    gate.set()
    await blocking
    await lane.run(lambda: None)
    assert ran == []


async def test_turns_worked_example() -> None:
    turns = Turns(3)
    order: list[str] = []
    leave_first = asyncio.Event()

    async def come(name: str, priority: Priority, leave: asyncio.Event | None = None) -> None:
        async with turns.place(), turns.turn(priority):
            order.append(name)
            if leave is not None:
                await leave.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(come("q1", Priority.QUESTION, leave_first))
        await asyncio.sleep(0)
        group.create_task(come("judge", Priority.JUDGE))
        await asyncio.sleep(0)
        group.create_task(come("q2", Priority.QUESTION))
        await asyncio.sleep(0)
        with pytest.raises(TooManyWaiting):
            await come("q3", Priority.QUESTION)
        leave_first.set()
    assert order == ["q1", "q2", "judge"]
    assert turns.num_inside == 0


@pytest.mark.parametrize("steps_before_cancel", range(4))
async def test_a_cancelled_waiter_never_keeps_the_turn(steps_before_cancel: int) -> None:
    turns = Turns(10)
    gate = asyncio.Event()

    async def come(wait_for: asyncio.Event | None = None) -> None:
        async with turns.place(), turns.turn():
            if wait_for is not None:
                await wait_for.wait()

    holder = asyncio.create_task(come(gate))
    await asyncio.sleep(0)
    waiter, last = asyncio.create_task(come()), asyncio.create_task(come())
    await asyncio.sleep(0)
    gate.set()
    for _ in range(steps_before_cancel):
        await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.gather(holder, waiter, return_exceptions=True)
    await asyncio.wait_for(last, 5)
    assert turns.num_inside == 0


async def test_several_turns_at_once_and_one_is_kept_for_people() -> None:
    capacity = 3
    turns = Turns(10, lambda: capacity)
    inside: list[str] = []
    ends = asyncio.Event()

    async def come(name: str, priority: Priority) -> None:
        async with turns.place(), turns.turn(priority):
            inside.append(name)
            await ends.wait()

    async with asyncio.TaskGroup() as group:
        for name in ("j1", "j2", "j3"):
            group.create_task(come(name, Priority.JUDGE))
        await asyncio.sleep(0)
        assert inside == ["j1", "j2"]  # one place is kept
        group.create_task(come("q1", Priority.QUESTION))
        group.create_task(come("q2", Priority.QUESTION))
        await asyncio.sleep(0)
        assert inside == ["j1", "j2", "q1"]
        ends.set()
    assert inside == ["j1", "j2", "q1", "q2", "j3"]
    capacity = 1
    async with asyncio.timeout(5), turns.turn():
        assert turns.num_inside == 0


@pytest.mark.parametrize("seed", range(20))
async def test_never_more_turns_than_the_capacity_whoever_is_cancelled(seed: int) -> None:
    random = Random(seed)
    turns, running, most = Turns(100, lambda: 3), 0, 0

    async def come(priority: Priority) -> None:
        nonlocal running, most
        async with turns.place(), turns.turn(priority):
            running += 1
            most = max(most, running)
            try:
                for _ in range(random.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                running -= 1

    tasks = []
    for _ in range(40):
        tasks.append(asyncio.create_task(come(random.choice(list(Priority)))))
        for _ in range(random.randrange(3)):
            await asyncio.sleep(0)
        if random.random() < 0.3:
            random.choice(tasks).cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert (most, running, turns.num_inside) == (3, 0, 0)
    async with asyncio.timeout(5), turns.turn(Priority.DRY_RUN):
        assert turns.num_inside == 0
