"""The supervisor: no failure of one task ends another; what failed is shown, and tried again."""

import asyncio
from collections.abc import Callable

import pytest

from agent.runtime.supervisor import Supervisor, contained
from tests.support.failing import failures
from tests.support.waiting import until

FAILURES = [*failures(), ExceptionGroup("several", [ValueError("one"), KeyError("two")])]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_a_task_that_fails_runs_again_and_others_go_on(failure: BaseException) -> None:
    steps, tries = 0, 0

    async def steady() -> None:
        nonlocal steps
        while True:
            await asyncio.sleep(0)
            steps += 1

    async def fails_twice() -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise failure
        await asyncio.Event().wait()

    supervisor = Supervisor(first_pause_s=0.001)
    async with supervisor.running():
        supervisor.keep("steady", steady)
        supervisor.keep("odd", fails_twice)
        await until(lambda: tries == 3)
        assert list(supervisor.problems()) == ["odd"]
        assert type(failure).__name__ in supervisor.problems()["odd"]
        assert supervisor.num_failures == {"odd": 2}
        seen = steps
        await until(lambda: steps > seen + 3)


async def test_a_problem_is_over_when_the_task_has_worked_for_a_while() -> None:
    failed = asyncio.Event()

    async def fails_once() -> None:
        if not failed.is_set():
            failed.set()
            raise ValueError("once")
        await asyncio.Event().wait()

    supervisor = Supervisor(first_pause_s=0.001, healthy_after_s=0.05)
    async with supervisor.running():
        supervisor.keep("odd", fails_once)
        await failed.wait()
        await until(lambda: bool(supervisor.problems()))
        await until(lambda: not supervisor.problems())


async def test_one_that_returns_is_not_run_again() -> None:
    runs = 0

    async def ends() -> None:
        nonlocal runs
        runs += 1

    supervisor = Supervisor(first_pause_s=0.0)
    async with supervisor.running():
        await supervisor.keep("ends", ends)
        assert runs == 1
        assert supervisor.problems() == {}


async def test_started_once_it_fails_alone_and_says_so() -> None:
    heard: list[BaseException] = []

    async def fails() -> None:
        raise KeyError("gone")

    supervisor = Supervisor()
    async with supervisor.running():
        await supervisor.start("session", fails, failed=heard.append)
        assert [type(error) for error in heard] == [KeyError]
        assert supervisor.problems() == {}


class Unspeakable(Exception):
    """It cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


async def test_a_listener_that_fails_and_an_error_without_words_end_nothing() -> None:
    heard: list[BaseException] = []

    async def fails() -> None:
        raise Unspeakable

    def listen(error: BaseException) -> None:
        heard.append(error)
        raise KeyError("deaf")

    async with Supervisor(first_pause_s=0.001).running() as supervisor:
        supervisor.keep("kept", fails, failed=listen)
        supervisor.start("once", fails, failed=listen)
        await until(lambda: len(heard) > 3)
        assert supervisor.problems()["kept"] == "failed and is started again: Unspeakable"


async def test_the_end_of_the_block_ends_every_task() -> None:
    ended: list[str] = []

    def waits(name: str) -> Callable[[], object]:
        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(name)

        return work

    supervisor = Supervisor()

    async def block() -> None:
        async with supervisor.running():
            supervisor.keep("a", waits("a"))  # type: ignore[arg-type]
            supervisor.start("b", waits("b"))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await block()
    assert sorted(ended) == ["a", "b"]
    with pytest.raises(RuntimeError, match="not running"):
        supervisor.keep("c", waits("c"))  # type: ignore[arg-type]


async def test_a_cancellation_that_was_asked_for_goes_through() -> None:
    async def holds() -> None:
        with contained("waiting"):
            await asyncio.Event().wait()

    task = asyncio.create_task(holds())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_goes_through(leaving: type[BaseException]) -> None:
    with pytest.raises(leaving), contained("anything"):
        raise leaving
