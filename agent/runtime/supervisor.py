"""The supervisor runs every long task of the agent, so that the failure of one task ends no other.

`keep` restarts a task that fails, after a growing pause; `start` runs a task once. `problems` says which tasks failed and
why, until they have worked again for a while. `contained` does the same for one item of work (a frame, a verdict), so that
an item that fails does not end the task that handles the others.

Only this file catches every exception. A cancellation that the agent asked for always passes through; a CancelledError
that a library raised by itself counts as a failure.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

from streaming.backoff import backoff_s
from streaming.redact import redact_text

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 30.0
HEALTHY_AFTER_S = (
    60.0  # a task that ran so long after a failure works again: its problem is over, its pauses begin anew
)

Work = Callable[[], Awaitable[None]]
Failed = Callable[[BaseException], None]


class Supervisor:
    """Runs tasks by name. Start them inside `running`; leaving it cancels all tasks and waits for their end."""

    def __init__(self, *, first_pause_s: float = FIRST_PAUSE_S, healthy_after_s: float = HEALTHY_AFTER_S) -> None:
        self.num_failures: dict[str, int] = {}  # by task, since the start
        self._first_pause_s = first_pause_s
        self._healthy_after_s = healthy_after_s
        self._failed: dict[str, tuple[str, float | None]] = {}  # by task: words; monotonic time of the restart
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Supervisor"]:
        """The block in which tasks may be started. An exception raised in the block itself passes through unchanged."""
        try:
            async with asyncio.TaskGroup() as self._group:
                try:
                    yield self
                finally:
                    for task in self._tasks:
                        task.cancel()
        except BaseExceptionGroup as group:
            if len(group.exceptions) > 1:
                raise
            raise group.exceptions[0] from None
        finally:
            self._group = None

    def keep(self, name: str, work: Work, *, failed: Failed | None = None) -> asyncio.Task[None]:
        """Run `work` until it returns, again after each failure, for ever. `failed` is called with each failure."""
        return self._start(self._restart(name, work, failed), name)

    def start(self, name: str, work: Work, *, failed: Failed | None = None) -> asyncio.Task[None]:
        """Run `work` once. `failed` is called with a failure, which is logged but not listed in `problems`."""

        async def once() -> None:
            with contained(name) as outcome:
                await work()
            _tell(name, failed, outcome.error)

        return self._start(once(), name)

    def problems(self) -> dict[str, str]:
        """Return why each task failed last, in words, until it has worked again for a while."""
        now = monotonic()
        return {
            name: words
            for name, (words, restarted) in list(self._failed.items())
            if restarted is None or now - restarted < self._healthy_after_s
        }

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        if self._group is None:
            work.close()
            raise RuntimeError("the agent is not running")
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _restart(self, name: str, work: Work, failed: Failed | None) -> None:
        attempt = 0
        while True:
            started = monotonic()
            with contained(name) as outcome:
                await work()
            if outcome.error is None:
                self._failed.pop(name, None)
                return
            attempt = 0 if monotonic() - started > self._healthy_after_s else attempt
            pause_s = backoff_s(attempt, random.random(), first_s=self._first_pause_s, longest_s=LAST_PAUSE_S)
            attempt += 1
            self.num_failures[name] = self.num_failures.get(name, 0) + 1
            self._failed[name] = f"failed and is started again: {words_of(outcome.error)}", None
            _tell(name, failed, outcome.error)
            await asyncio.sleep(pause_s)
            self._failed[name] = self._failed[name][0], monotonic()


def _tell(name: str, failed: Failed | None, error: BaseException | None) -> None:
    if failed is not None and error is not None:
        with contained(f"telling that {name} failed"):
            failed(error)


@dataclass(slots=True)
class Outcome:
    """How a contained piece of work ended."""

    error: BaseException | None = None  # None: it succeeded, or still runs


@contextmanager
def contained(what: str, *expected: type[Exception]) -> Iterator[Outcome]:
    """Catch any failure of the block, log it with its traceback, and put it into the outcome.

    `expected` exceptions, those that end the process (KeyboardInterrupt, SystemExit) and the cancellation of this task
    pass through.
    """
    outcome = Outcome()
    try:
        yield outcome
    except asyncio.CancelledError as error:
        if is_cancelling():
            raise
        outcome.error = error
    except expected:
        raise
    except Exception as error:  # noqa: BLE001 - the one place that catches everything; see the module
        outcome.error = error
    if outcome.error is not None:
        log.error("%s failed", what, extra={"task": what, "error": words_of(outcome.error)}, exc_info=outcome.error)


def is_cancelling() -> bool:
    """Return True if the current task was asked to end; False for a CancelledError that a library raised by itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def words_of(error: BaseException) -> str:
    """Return the error in one line: its type, and its message if it has one."""
    try:
        said = redact_text(" ".join(str(error).split()))
    except Exception:  # noqa: BLE001 - a library's error whose text cannot be made
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
