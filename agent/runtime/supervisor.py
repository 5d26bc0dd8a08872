"""The supervisor: every long task of the agent runs here, and the failure of one ends no other.

`keep` restarts a task that fails, after a pause that grows; `start` runs a task once. What failed, and why, stands in
`problems()` until the task has worked again for a while. `contained` is the same for a single item of work (one frame, one
verdict), so that one item that cannot be handled does not end the task that handles the others.

This is the only place that catches every exception. A cancellation that the agent itself asked for always goes through;
a CancelledError that a library raised by itself counts as a failure.
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
    """See the module. Make the tasks inside `running`; leaving it cancels them all and waits for their end."""

    def __init__(self, *, first_pause_s: float = FIRST_PAUSE_S, healthy_after_s: float = HEALTHY_AFTER_S) -> None:
        self.num_failures: dict[str, int] = {}  # by task, since the start
        self._first_pause_s = first_pause_s
        self._healthy_after_s = healthy_after_s
        self._failed: dict[str, tuple[str, float | None]] = {}  # by task: words; monotonic time of the restart
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Supervisor"]:
        """The block in which tasks may be started. An exception of the block itself goes through as it is."""
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
        """Run `work` until it returns; after a failure run it again, for ever. `failed` hears of each failure."""
        return self._start(self._restart(name, work, failed), name)

    def start(self, name: str, work: Work, *, failed: Failed | None = None) -> asyncio.Task[None]:
        """Run `work` once. A failure is logged and given to `failed`; it does not stay in `problems`."""

        async def once() -> None:
            with contained(name) as outcome:
                await work()
            _tell(name, failed, outcome.error)

        return self._start(once(), name)

    def problems(self) -> dict[str, str]:
        """By task: why it failed last, in words, until it has worked again for a while."""
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

    error: BaseException | None = None  # None: well, or not yet


@contextmanager
def contained(what: str, *expected: type[Exception]) -> Iterator[Outcome]:
    """Any failure inside ends here: it is logged with its traceback, and stands in the outcome.

    Exceptions that are `expected`, what ends the process (KeyboardInterrupt, SystemExit) and a cancellation of this task go
    through.
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
    """True when somebody has asked the current task to end; False for a CancelledError that came from elsewhere."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def words_of(error: BaseException) -> str:
    """The failure in one line: its kind, and its own words where it has any."""
    try:
        said = redact_text(" ".join(str(error).split()))
    except Exception:  # noqa: BLE001 - a library's error that cannot say what it is
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
