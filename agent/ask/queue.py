"""The queue of questions: one is answered, a few wait, and any more are refused immediately."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from agent.ask.question import Question
from agent.errors import Busy
from agent.runtime.lanes import Priority, TooManyWaiting, Turns
from agent.runtime.stopwatch import Stopwatch

FIRST_GUESS_S = 5.0  # how long an answer takes, before one has been timed
NEWEST_SHARE = 0.3  # weight of the newest answer in the typical duration


class Queue:
    """Admits users' questions, and gives each question its turn in order of priority."""

    def __init__(self, limit: int) -> None:
        """limit: users' questions that are answered or wait at the same time."""
        self.turns = Turns(limit)
        self._typical_s = FIRST_GUESS_S

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a user's place in the queue. Raises Busy, with the time after which to ask again, if none is free."""
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self.turns.place())
            except TooManyWaiting:
                raise Busy(self._typical_s) from None
            yield

    @asynccontextmanager
    async def turn(self, question: Question, watch: Stopwatch, deadline: float) -> AsyncIterator[None]:
        """Wait for the question's turn and hold it. Raises TimeoutError at `deadline`, on the event loop's clock."""
        async with AsyncExitStack() as stack:
            with watch.stage("queue"):
                async with asyncio.timeout_at(deadline):
                    await stack.enter_async_context(self.turns.turn(question.priority))
            yield
            if question.priority is Priority.QUESTION:
                self._typical_s += NEWEST_SHARE * (watch.total_ms() / 1000 - self._typical_s)
