"""The queue of questions: as many are answered as the answerer takes, a few wait, and more are refused immediately."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from agent.ask.question import Question
from agent.errors import Busy
from agent.runtime.lanes import Priority, TooManyWaiting, Turns
from agent.runtime.stopwatch import Stopwatch

FIRST_GUESS_S = 5.0  # how long an answer takes, before one has been timed
NEWEST_SHARE = 0.3  # weight of the newest answer in the typical duration


class Queue:
    """Limits the number of users' questions, and gives questions their turn in order of priority."""

    def __init__(self, limit: int, concurrency: Callable[[], int]) -> None:
        """limit: the largest number of users' questions at the same time, those being answered included.

        concurrency: returns how many questions may be answered at the same time.
        """
        self.turns = Turns(limit, concurrency)
        self._typical_s = FIRST_GUESS_S

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Context manager: hold one of the queue's places for users' questions.

        Raises Busy, which says after how long to ask again, if no place is free.
        """
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self.turns.place())
            except TooManyWaiting:
                raise Busy(self._typical_s) from None
            yield

    @asynccontextmanager
    async def turn(self, question: Question, watch: Stopwatch, deadline: float) -> AsyncIterator[None]:
        """Context manager: wait for this question's turn, and hold it during the block.

        Raises TimeoutError if the turn does not come before `deadline`, a time of the event loop's clock.
        """
        async with AsyncExitStack() as stack:
            with watch.stage("queue"):
                async with asyncio.timeout_at(deadline):
                    await stack.enter_async_context(self.turns.turn(question.priority))
            yield
            if question.priority is Priority.QUESTION:
                self._typical_s += NEWEST_SHARE * (watch.total_ms() / 1000 - self._typical_s)
