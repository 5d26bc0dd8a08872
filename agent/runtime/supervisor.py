"""The supervisor runs every long task of the agent, so that the failure of one task ends no other.

`Supervisor.keep` restarts a task that fails, after a growing pause; `start` runs a task once. `problems` lists the
tasks that failed, until they have run again for `healthy_after_s`. `contained` catches the failure of a single item of
work (a frame, a judge's verdict), so that the task that handles the items goes on with the next one.

Only this file catches every exception. Cancelling a task always works: its CancelledError is never caught. A
CancelledError that a library raised although the task was not cancelled counts as a failure.
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
    60.0  # a task that ran this long after a failure is healthy: it leaves `problems`, its next pause is the shortest
)

Work = Callable[[], Awaitable[None]]
Failed = Callable[[BaseException], None]


class Supervisor:
    """Runs named tasks. They are started in the block of `running`, and cancelled when that block ends."""

    def __init__(self, *, first_pause_s: float = FIRST_PAUSE_S, healthy_after_s: float = HEALTHY_AFTER_S) -> None:
        self.num_failures: dict[str, int] = {}  # by task, since the agent started
        self._first_pause_s = first_pause_s
        self._healthy_after_s = healthy_after_s
        self._failed: dict[str, tuple[str, float | None]] = {}  # by task: why; monotonic time of its restart
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Supervisor"]:
        """Context manager: tasks may be started in the block. On exit, cancel all tasks and wait for their end.

        An exception raised in the block is raised as it is, not wrapped in an ExceptionGroup.
        """
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
        """Return a task that runs `work`, and runs it again after each failure until it returns normally.

        `failed` is called with the exception of each failure.
        """
        return self._start(self._restart(name, work, failed), name)

    def start(self, name: str, work: Work, *, failed: Failed | None = None) -> asyncio.Task[None]:
        """Return a task that runs `work` once. A failure is logged, but not listed in `problems`.

        `failed` is called with its exception.
        """

        async def once() -> None:
            with contained(name) as outcome:
                await work()
            _tell(name, failed, outcome.error)

        return self._start(once(), name)

    def problems(self) -> dict[str, str]:
        """Return, by task name, why a task last failed. A task that has since run for `healthy_after_s` is left out."""
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
    """The result of a `contained` block."""

    error: BaseException | None = None  # None: the block succeeded, or is still running


@contextmanager
def contained(what: str, *expected: type[Exception]) -> Iterator[Outcome]:
    """Context manager: catch any failure of the block, log it with its traceback, and store it in the yielded Outcome.

    what: name of the work, for the log. Not caught are exceptions of the types in `expected` (the further arguments),
    those that end the process (KeyboardInterrupt, SystemExit), and the cancellation of this task.
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
    """Return True if the current task has been cancelled. If not, a CancelledError in it comes from a library."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def words_of(error: BaseException) -> str:
    """Return a one-line description of the error: its type, and its message (passwords redacted) if it has one."""
    try:
        said = redact_text(" ".join(str(error).split()))
    except Exception:  # noqa: BLE001 - a library's error may fail to format its message
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
